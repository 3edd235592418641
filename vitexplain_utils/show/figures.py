"""Figures: the figures of the notebooks, all in one style; they are returned, never shown."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import figure as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from PIL import Image
from torch import Tensor

from .overlays import overlay
from .pictures import to_rgb

COLORMAP = "plasma"
_DPI = 90
_MANY = 10_000  # colours that no plot has
_TITLE_SIZE = 10
_TALLEST = 4  # times its width: a picture that is higher is drawn smaller
_LARGE = 288  # pixels: small pictures are enlarged to this before a map is laid over them


class Figure(mpl.Figure):
    """A matplotlib figure that a notebook shows without pyplot, with the same bytes every time."""

    def png(self, dpi: float = _DPI) -> bytes:
        """The figure as a PNG file with a palette of 256 colours, dithered: a third of the size."""
        return _palette_png(self._drawn(dpi))

    def webp(self, dpi: float = 2 * _DPI) -> bytes:
        """The figure as a WebP file with all its colours: photographs, smaller than as a PNG."""
        content = io.BytesIO()
        Image.fromarray(self._drawn(dpi)).save(content, "WEBP", quality=85)
        return content.getvalue()

    def _drawn(self, dpi: float) -> np.ndarray:
        canvas = FigureCanvasAgg(self)
        self.draw_without_rendering()
        self.set_layout_engine("none")  # laid out once: another round would shift everything a bit
        self.set_dpi(dpi)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3]

    def alt(self) -> str:
        """Its own words, titles, axes and legends, for those who do not see it."""
        words = []
        for ax in self.axes:
            legend = ax.get_legend()
            names = [text.get_text() for text in legend.get_texts()] if legend else []
            words += [ax.get_title(), ax.get_ylabel(), ax.get_xlabel(), *names]
        words.append(self.get_supxlabel())
        said = dict.fromkeys(" ".join(text.split()) for text in words if text.strip())
        return f"Figure: {'; '.join(said)}"

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
        """For a notebook: a PNG, or of photographs a JPEG with twice the pixels, and its words."""
        pixels, about = self._drawn(_DPI), {"alt": self.alt()}
        small = Image.fromarray(pixels)
        if small.getcolors(_MANY) is not None:
            return {"image/png": _palette_png(pixels)}, {"image/png": about}
        content = io.BytesIO()
        large = Image.fromarray(self._drawn(2 * _DPI))
        large.save(content, "JPEG", quality=80, optimize=True)
        return {"image/jpeg": content.getvalue()}, {"image/jpeg": {**about, "width": small.width}}


def enlarge(image: Image.Image, side: int = _LARGE) -> Image.Image:
    """The picture with its longer side at least `side` pixels, so that maps over it are smooth."""
    scale = side / max(image.size)
    if scale <= 1:
        return to_rgb(image)
    width, height = (round(edge * scale) for edge in image.size)
    return to_rgb(image).resize((width, height), Image.Resampling.BICUBIC)


def signed_picture(values: Tensor, side: int = _LARGE) -> Image.Image:
    """Values of both signs as a picture: red above 0, blue below, white at 0.

    The strongest red and blue are the largest absolute value.

    Args:
        values: `[rows, cols]`, finite.
        side: the longer side of the picture in pixels, if the cells are smaller.

    Returns:
        An RGB picture whose cells are not smoothed.

    Example:
        >>> signed_picture(torch.tensor([[-1.0, 0.0, 1.0]]), side=3).getpixel((1, 0))
        (247, 246, 246)
    """
    numbers = values.detach().double().cpu().numpy()
    scaled = (numbers / (np.abs(numbers).max() or 1) + 1) / 2
    colours = matplotlib.colormaps["RdBu_r"](scaled)[..., :3] * 255
    picture = Image.fromarray(colours.round().astype(np.uint8))
    times = max(1, round(side / max(picture.size)))
    width, height = picture.size
    return picture.resize((times * width, times * height), Image.Resampling.NEAREST)


def show_pictures(
    pictures: Sequence[Image.Image],
    titles: Sequence[str],
    *,
    columns: int | None = None,
    size: float = 2.1,
    outlines: Sequence[np.ndarray | None] | None = None,
) -> Figure:
    """Pictures side by side, each with its title.

    Args:
        pictures: PIL images.
        titles: one for each.
        columns: pictures per row; None is all in one row.
        size: width of one picture, in inches.
        outlines: for each picture None or a mask of all of it, of any size, drawn as a line.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: as many titles (and outlines) as pictures are needed, and at least one.

    Example:
        >>> len(show_pictures([Image.new("RGB", (9, 9))] * 2, ["a", "b"]).axes)
        2
    """
    outlines = [None] * len(pictures) if outlines is None else outlines
    if not len(pictures) == len(titles) == len(outlines) > 0:
        raise ValueError(
            "pictures, titles and outlines must be as many as each other and not none; "
            f"got {len(pictures)}, {len(titles)}, {len(outlines)}"
        )
    ratios = [picture.height / picture.width for picture in pictures]
    figure, axes = _grid(ratios, columns, size)
    for ax, picture, title, mask in zip(axes, pictures, titles, outlines, strict=True):
        extent = (0, picture.width, picture.height, 0)
        ax.imshow(np.asarray(to_rgb(picture)), extent=extent)
        if mask is not None:
            rows, cols = mask.shape
            x = (np.arange(cols) + 0.5) * picture.width / cols
            y = (np.arange(rows) + 0.5) * picture.height / rows
            ax.contour(x, y, mask, levels=[0.5], colors="white", linewidths=1.2)
        ax.set_title(title, fontsize=_TITLE_SIZE, parse_math=False)
    return figure


def show_maps(
    image: Image.Image,
    heatmaps: Sequence[Tensor] | Tensor,
    titles: Sequence[str],
    *,
    picture_title: str | None = None,
    columns: int | None = None,
    size: float = 2.1,
    vmax: float | None = None,
    mask: np.ndarray | Sequence[np.ndarray | None] | None = None,
) -> Figure:
    """Heat maps over one picture, side by side; each is scaled to its own maximum or to `vmax`.

    Args:
        image: the picture.
        heatmaps: maps `[rows, cols]`.
        titles: one for each map.
        picture_title: show the picture itself first, under this title.
        columns: pictures per row; None is all in one row.
        size: width of one picture, in inches.
        vmax: the value of the highest colour in every map; None is each map's own maximum.
        mask: outline of the right answer, for all maps or one for each.

    Returns:
        A matplotlib figure.

    Example:
        >>> image = Image.new("RGB", (96, 96))
        >>> figure = show_maps(image, torch.rand(2, 12, 12), ["a", "b"], picture_title="scene")
        >>> [ax.get_title() for ax in figure.axes]
        ['scene', 'a', 'b']
    """
    large = enlarge(image)
    masks = [mask] * len(heatmaps) if mask is None or isinstance(mask, np.ndarray) else list(mask)
    pictures = [overlay(large, heatmap, colormap=COLORMAP, vmax=vmax) for heatmap in heatmaps]
    names = list(titles)
    if picture_title is not None:
        pictures, names, masks = [large, *pictures], [picture_title, *names], [None, *masks]
    return show_pictures(pictures, names, columns=columns, size=size, outlines=masks)


def show_matrices(
    matrices: Sequence[Tensor] | Tensor,
    titles: Sequence[str],
    *,
    columns: int | None = None,
    size: float = 2.4,
    vmax: float | None = None,
    labels: tuple[str, str] = ("key", "query"),
) -> Figure:
    """Matrices (or raw maps) as pictures, rows downwards; light is high, by the root of the value.

    Args:
        matrices: `[rows, cols]` each.
        titles: one for each.
        columns: matrices per row of the figure; None is all in one row.
        size: width of one matrix, in inches.
        vmax: the value of the highest colour in all of them; None is each one's own maximum.
        labels: what lies along x and along y; empty strings for none.

    Returns:
        A matplotlib figure.

    Example:
        >>> len(show_matrices(torch.rand(3, 5, 5), ["a", "b", "c"]).axes)
        3
    """
    figure, axes = _grid([m.shape[0] / m.shape[1] for m in matrices], columns, size)
    for ax, matrix, title in zip(axes, matrices, titles, strict=True):
        values = torch.as_tensor(matrix).detach().float().cpu().numpy()
        norm = PowerNorm(0.5, vmin=0, vmax=vmax or float(values.max()) or 1)
        ax.imshow(values, cmap=COLORMAP, norm=norm, interpolation="nearest")
        ax.set_title(title, fontsize=_TITLE_SIZE, parse_math=False)
        ax.set_xlabel(labels[0], fontsize=8)
        ax.set_ylabel(labels[1], fontsize=8)
    return figure


def show_heads(maps: Tensor, *, size: float = 1.3, shared: bool = False) -> Figure:
    """A sheet of raw maps: blocks downwards, heads across.

    Args:
        maps: `[L, H, rows, cols]`.
        size: width of one map, in inches.
        shared: one colour scale for the whole sheet instead of one for each map.

    Returns:
        A matplotlib figure.

    Example:
        >>> len(show_heads(torch.rand(6, 3, 12, 12)).axes)
        18
    """
    blocks, heads, rows, cols = maps.shape
    figure, axes = _grid([rows / cols] * (blocks * heads), heads, size, title=0.05)
    vmax = float(maps.max()) if shared else None
    for index, ax in enumerate(axes):
        block, head = divmod(index, heads)
        values = maps[block, head].detach().float().cpu().numpy()
        ax.imshow(values, cmap=COLORMAP, vmin=0, vmax=vmax, interpolation="nearest")
        if block == 0:
            ax.set_title(f"head {head}", fontsize=8)
        if head == 0:
            ax.set_ylabel(f"block {block}", fontsize=8)
    return figure


def show_curves(
    x: Sequence[float] | Sequence[str],
    curves: Mapping[str, Sequence[float] | Tensor],
    *,
    xlabel: str,
    ylabel: str,
    ylim: tuple[float, float] = (0, 1),
    level: tuple[str, float] | None = None,
) -> Figure:
    """Curves in one plot, with their names beside it.

    Args:
        x: what lies along x, numbers or names.
        curves: values for each name, as many as `x`.
        xlabel: what `x` is.
        ylabel: what the values are.
        ylim: lowest and highest value shown.
        level: name and height of a dotted line to compare with.

    Returns:
        A matplotlib figure.

    Example:
        >>> figure = show_curves([0, 1], {"a": [0.2, 0.4]}, xlabel="ratio", ylabel="energy")
        >>> figure.axes[0].get_xlabel()
        'ratio'
    """
    figure = Figure((6.4, 3.3), dpi=_DPI, layout="constrained")
    ax = figure.subplots()
    for name, values in curves.items():
        ax.plot(x, torch.as_tensor(values).tolist(), label=name)
    if level is not None:
        ax.axhline(level[1], color="grey", linestyle=":", label=level[0])
    ax.set_ylim(*ylim)
    ax.set_xlabel(xlabel, fontsize=_TITLE_SIZE, parse_math=False)
    ax.set_ylabel(ylabel, fontsize=_TITLE_SIZE, parse_math=False)
    ax.tick_params(labelsize=8, rotation=30 if isinstance(x[0], str) else 0)
    ax.tick_params(axis="y", rotation=0)
    ax.spines[["top", "right"]].set_visible(False)
    legend = ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    for text in legend.get_texts():
        text.set_parse_math(False)  # names may hold dollar signs
    return figure


def show_intervals(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    xlabel: str,
    level: float = 0.0,
    width: float = 1.75,
) -> Figure:
    """A forest plot: for each row a point and its interval, panels side by side.

    Points whose interval does not reach the level are filled.

    Args:
        panels: for each panel's title its rows, `name: (value, low, high)`; a row that a panel
            lacks stays empty there.
        xlabel: what the values are.
        level: where a dotted line stands.
        width: inches of each panel.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: no panel, or no row.

    Example:
        >>> figure = show_intervals({"a": {"x": (0.2, 0.1, 0.3)}}, xlabel="difference")
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['x']
    """
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    if not names:
        raise ValueError("panels must hold at least one row")
    inches = 0.065 * max(map(len, names))  # of the names
    size = (inches + width * len(panels), 0.6 + 0.23 * len(names))
    figure = Figure(size, dpi=_DPI, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        ax.axvline(level, color="grey", linestyle=":")
        for name, (value, low, high) in rows.items():
            place, clear = names.index(name), not low <= level <= high
            ax.plot([low, high], [place, place], color="tab:blue", linewidth=1.5)
            ax.plot(value, place, "o", color="tab:blue", mfc="tab:blue" if clear else "white", ms=5)
        ax.set_title(title, fontsize=_TITLE_SIZE, parse_math=False)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(names)), names, parse_math=False)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(xlabel, fontsize=_TITLE_SIZE, parse_math=False)
    return figure


def _palette_png(pixels: np.ndarray) -> bytes:
    """Pixels `[H, W, 3]` as `Figure.png` says."""
    picture = Image.fromarray(pixels)
    palette = picture.quantize(255, Image.Quantize.MEDIANCUT, kmeans=1)
    dithered = np.array(picture.quantize(255, palette=palette))
    dithered[(pixels == 255).all(-1)] = 255  # the paper stays white
    small = Image.fromarray(dithered)
    small.putpalette([*(palette.getpalette() or [])[: 3 * 255], 255, 255, 255])
    content = io.BytesIO()
    small.save(content, "PNG", optimize=True)
    return content.getvalue()


def _grid(
    ratios: Sequence[float], columns: int | None, width: float, title: float = 0.2
) -> tuple[Figure, list[Axes]]:
    """One axis for each height-to-width ratio; rows are as high as their highest picture."""
    columns = min(columns or len(ratios), len(ratios))
    rows = [ratios[first : first + columns] for first in range(0, len(ratios), columns)]
    heights = [min(max(row), _TALLEST) * width + title for row in rows]  # inches
    figure = Figure((columns * width, sum(heights)), dpi=_DPI, layout="constrained")
    axes = figure.subplots(
        len(rows), columns, squeeze=False, gridspec_kw={"height_ratios": heights}
    ).ravel()
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_visible(False)
    for ax in axes[len(ratios) :]:
        ax.remove()
    return figure, axes[: len(ratios)].tolist()
