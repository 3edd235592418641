"""Films: frames to an animation that loops, small enough for a web page."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..checks import (
    check_count,
    check_finite,
    check_number,
    check_numbers,
    check_path,
    check_picture,
    check_sequence,
)
from .files import write_whole
from .overlays import overlay
from .pictures import to_rgb

_GAP = 8  # pixels between pictures side by side
_DITHER = 6  # levels of 255: smooths the steps between neighbouring colours of the palette
_TOLERANCES = (4, 8, 12, 16)  # a pixel keeps its colour while it is off by no more than this
_SAMPLE = 200_000  # pixels that are enough to choose a palette


def sweep_frames(
    image: Image.Image,
    heatmaps: Tensor,
    discard_ratios: Sequence[float],
    *,
    names: Sequence[str] | None = None,
    text: str = "discard ratio {:.2f}",
    colormap: str = "plasma",
    opacity: float = 0.8,
    box: Sequence[float] | None = None,
) -> list[Image.Image]:
    """The frames of a sweep: one overlay for each ratio, with the ratio below it.

    The colour scale stays the same from the first frame to the last: the highest colour is the
    highest value of *all* frames. A map that weakens is seen to weaken, and what changes on the
    screen has changed in the map. Pictures side by side have one such scale each.

    Args:
        image: the photograph.
        heatmaps: `[R, rows, cols]`, or `[R, B, rows, cols]` as from `discard_sweep` for `B`
            pictures side by side.
        discard_ratios: the `R` ratios.
        names: a label for each of the pictures side by side.
        text: the label of a frame, a format string for its ratio.
        colormap: as in `overlay`.
        opacity: as in `overlay`.
        box: as in `overlay`.

    Returns:
        `R` RGB images of one size.

    Raises:
        ValueError: the numbers of maps, ratios and names do not fit, or as `overlay`.

    Example:
        >>> import torch
        >>> maps = torch.rand(3, 2, 12, 12)
        >>> frames = sweep_frames(Image.new("RGB", (96, 96)), maps, [0, 0.5, 0.9])
        >>> len(frames), frames[0].size
        (3, (200, 114))
    """
    check_sequence("discard_ratios", discard_ratios, "ratios")
    for ratio in discard_ratios:
        check_number("each of discard_ratios", ratio, 0, 1)
    if not isinstance(heatmaps, Tensor) or heatmaps.ndim not in (3, 4):
        check_numbers("heatmaps", heatmaps, 4, "[R, rows, cols] or [R, B, rows, cols]")
    check_finite("heatmaps", heatmaps)
    if heatmaps.ndim == 3:
        heatmaps = heatmaps.unsqueeze(1)
    if 0 in heatmaps.shape or len(heatmaps) != len(discard_ratios):
        raise ValueError(
            "heatmaps must be [R, rows, cols] or [R, B, rows, cols] for R discard_ratios, got "
            f"{tuple(heatmaps.shape)} for {len(discard_ratios)}"
        )
    if names is not None:
        check_sequence("names", names, "labels")
    if names is not None and len(names) != heatmaps.shape[1]:
        raise ValueError(f"names must be {heatmaps.shape[1]}, one per picture, got {len(names)}")
    try:
        labels = [text.format(ratio) for ratio in discard_ratios]
    except (AttributeError, IndexError, KeyError, ValueError) as error:
        raise ValueError(
            f"text must be a format string for one ratio, as 'ratio {{:.2f}}', got {text!r}"
        ) from error
    scales = heatmaps.transpose(0, 1).flatten(1).amax(1).tolist()  # one per picture
    frames = []
    for maps, label in zip(heatmaps, labels, strict=True):
        pictures = [
            overlay(image, heatmap, colormap=colormap, opacity=opacity, vmax=scale, box=box)
            for heatmap, scale in zip(maps, scales, strict=True)
        ]
        if names is not None:
            pictures = [label_frame(p, name) for p, name in zip(pictures, names, strict=True)]
        frames.append(label_frame(_side_by_side(pictures), label))
    return frames


def label_frame(image: Image.Image, text: str) -> Image.Image:
    """The picture with a line of text below it, for a frame of an animation.

    Args:
        image: a PIL image.
        text: one line; it gets smaller where the picture is too narrow for it.

    Returns:
        An RGB image, higher by the label.

    Example:
        >>> label_frame(Image.new("RGB", (300, 300)), "discard ratio 0.90").size
        (300, 326)
    """
    check_picture("image", image)
    if not isinstance(text, str) or len(text.splitlines()) > 1:
        raise ValueError(f"text must be one line, got {text!r}")
    height = min(max(18, round(image.width * 0.088)), 28)
    framed = Image.new("RGB", (image.width, image.height + height), "white")
    framed.paste(to_rgb(image))
    font = ImageFont.load_default(size=round(height * 0.66))
    room = max(image.width - 4, 1)
    if font.getlength(text) > room:
        font = ImageFont.load_default(size=max(height * 0.66 * room / font.getlength(text), 1))
    middle = (image.width / 2, image.height + height / 2)
    ImageDraw.Draw(framed).text(middle, text, fill="black", font=font, anchor="mm")
    return framed


def save_gif(
    frames: Sequence[Image.Image],
    path: str | os.PathLike[str],
    *,
    duration: float = 150.0,
    loop: int = 0,
    colors: int = 255,
    max_bytes: int = 500_000,
) -> Path:
    """Write frames as a looping GIF of as many frames, with one palette made for all of them.

    Frames that have no more than `colors` colours together are kept exactly. Others get a palette
    and an ordered dither that lies still, so that smooth maps show no bands and still pixels do
    not flicker; and a pixel keeps its colour until it is off by more than a few levels of 255,
    as few as `max_bytes` allows.

    Args:
        frames: PIL images of one size.
        path: where to; an existing file is replaced only by a complete one.
        duration: of each frame, in milliseconds, at least 20 (browsers slow down shorter ones);
            the file holds hundredths of a second.
        loop: the file's loop count; 0 is for ever.
        colors: size of the palette, 2 to 255.
        max_bytes: the largest file allowed.

    Returns:
        The path.

    Raises:
        TypeError: a frame is not a PIL image.
        ValueError: no frames, different sizes, an argument out of its range, or the file would be
            larger than `max_bytes`; nothing is written then.
        FileNotFoundError: the folder does not exist.

    Example:
        >>> import tempfile
        >>> frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in (0, 90, 180)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_gif(frames, Path(folder, "red.gif")).stat().st_size < 1000
        True
    """
    path = _checked(path, ".gif", duration, loop, max_bytes)
    check_number("colors", colors, 2, 255, whole=True)
    originals = _arrays(frames)
    palette = _palette(originals, colors)
    for tolerance in _TOLERANCES:
        shown = originals if palette is None else list(_still(originals, palette, tolerance))
        content = iio.imwrite(
            "<bytes>", _distinct(shown), extension=".gif", duration=duration, loop=loop
        )
        if len(content) <= max_bytes:
            write_whole(path, content)
            return path
        if palette is None:
            break
    raise ValueError(
        f"the GIF would have {len(content)} bytes, more than max_bytes={max_bytes}: give fewer or "
        "smaller frames, or fewer colors"
    )


def save_webp(
    frames: Sequence[Image.Image],
    path: str | os.PathLike[str],
    *,
    duration: float = 150.0,
    loop: int = 0,
    quality: int = 80,
    max_bytes: int = 500_000,
) -> Path:
    """Write frames as a looping animated WebP: all colours, and about a third of a GIF's size.

    Browsers, GitHub and JupyterLab show it; older viewers may want the GIF. Frames that are alike
    become one that stays as long as both.

    Args:
        frames: as in `save_gif`.
        path: as in `save_gif`.
        duration: of each frame, in milliseconds, at least 20.
        loop: as in `save_gif`.
        quality: 1 to 100, of a lossy file.
        max_bytes: the largest file allowed.

    Returns:
        The path.

    Raises:
        TypeError, ValueError, FileNotFoundError: as `save_gif`.

    Example:
        >>> import tempfile
        >>> frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in (0, 90, 180)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_webp(frames, Path(folder, "red.webp")).read_bytes()[8:12]
        b'WEBP'
    """
    path = _checked(path, ".webp", duration, loop, max_bytes)
    check_number("quality", quality, 1, 100, whole=True)
    shown = [Image.fromarray(array) for array in _arrays(frames)]
    how = {"duration": round(duration), "loop": loop, "quality": quality, "method": 6}
    content = io.BytesIO()
    shown[0].save(content, "WEBP", save_all=True, append_images=shown[1:], **how)
    if content.tell() > max_bytes:
        raise ValueError(
            f"the WebP would have {content.tell()} bytes, more than max_bytes={max_bytes}: use "
            "fewer or smaller frames, or a lower quality"
        )
    write_whole(path, content.getvalue())
    return path


def _checked(path: Any, suffix: str, duration: float, loop: int, max_bytes: int) -> Path:
    """The path of a film, after a look at what all films have."""
    check_path("path", path)
    if Path(path).suffix.lower() != suffix:
        raise ValueError(f"path must end in {suffix}, got {str(path)!r}")
    check_number("duration", duration, 20, 655_350)
    check_number("loop", loop, 0, 65_535, whole=True)
    check_count("max_bytes", max_bytes)
    return Path(path)


def _arrays(frames: Sequence[Image.Image]) -> list[np.ndarray]:
    check_sequence("frames", frames, "PIL images")
    for frame in frames:
        check_picture("each of frames", frame)
    sizes = sorted({frame.size for frame in frames})
    if len(sizes) != 1:
        raise ValueError(f"frames must hold pictures of one size, got {sizes or 'no frames'}")
    return [np.asarray(to_rgb(frame)) for frame in frames]


def _palette(arrays: list[np.ndarray], colors: int) -> Image.Image | None:
    """A picture with the palette for all frames; None if they have few enough colours."""
    levels = np.stack(arrays).astype(np.int32) @ np.array([65_536, 256, 1], dtype=np.int32)
    if len(np.unique(levels)) <= colors:
        return None
    step = int(np.sqrt(levels.size / _SAMPLE)) or 1
    sample = Image.fromarray(np.concatenate([array[::step, ::step] for array in arrays]))
    # It spends colours on what is rare too, as the few pixels at the peak of a map.
    return sample.quantize(colors, Image.Quantize.MAXCOVERAGE, kmeans=1)


def _still(arrays: list[np.ndarray], palette: Image.Image, tolerance: int) -> Iterator[np.ndarray]:
    """The frames in the palette's colours; a pixel changes only if it is off by more than that."""
    height, width = arrays[0].shape[:2]
    bayer = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
    tile = (bayer + 0.5) / 16 - 0.5  # in -0.5..0.5, the same in every frame
    dither = _DITHER * np.tile(tile, (height // 4 + 1, width // 4 + 1))[:height, :width, None]
    shown = None
    for array in arrays:
        room = np.minimum(array, 255 - array) / _DITHER  # none where it is black or white
        wanted = np.rint(array + dither * np.minimum(room, 1)).astype(np.uint8)
        nearest = Image.fromarray(wanted).quantize(palette=palette, dither=Image.Dither.NONE)
        colours = np.asarray(nearest.convert("RGB"))
        if shown is not None:
            off = np.abs(shown.astype(np.int16) - wanted).max(-1, keepdims=True)
            colours = np.where(off <= tolerance, shown, colours)
        shown = colours
        yield shown


def _distinct(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The frames, each unlike the one before it: Pillow would merge equal ones.

    In a repeated frame the last pixel's blue differs by 1 of 255, which nobody sees.
    """
    distinct: list[np.ndarray] = []
    for array in arrays:
        if distinct and np.array_equal(array, distinct[-1]):
            array = array.copy()
            array[-1, -1, 2] ^= 1
        distinct.append(array)
    return distinct


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    width, height = pictures[0].size
    row = Image.new("RGB", (len(pictures) * (width + _GAP) - _GAP, height), "white")
    for index, picture in enumerate(pictures):
        row.paste(picture, (index * (width + _GAP), 0))
    return row
