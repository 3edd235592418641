"""Overlays: a heat map over its photograph."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..checks import check_number, check_picture, check_sequence
from .pictures import to_rgb

_PIXELS = 1_000_000  # of a strip: all of a large photograph would take a hundred bytes a pixel
_NOT_REAL = (torch.complex64, torch.complex128, np.complex64, np.complex128, object)
_SMOOTH = Image.Resampling.BILINEAR


def overlay(
    image: Image.Image,
    heatmap: Tensor | np.ndarray,
    *,
    colormap: str = "plasma",
    opacity: float = 0.8,
    vmin: float = 0.0,
    vmax: float | None = None,
    box: Sequence[float] | None = None,
) -> Image.Image:
    """Lay a heat map over the photograph it explains.

    The map is stretched over the part of the photograph that the model saw, bilinearly between the
    centres of its patches, and coloured between `vmin` and `vmax`; its opacity grows with the root
    of the value. The photograph beneath is in light grey, so that every colour is the map's; what
    the model did not see is darkened.

    Args:
        image: the photograph, of any size.
        heatmap: one map `[rows, cols]`, finite; one element of a batch.
        colormap: any matplotlib colour map.
        opacity: of the map where it is highest, in [0, 1].
        vmin: value of the lowest colour.
        vmax: value of the highest colour; None is the map's maximum. Set both to compare maps.
        box: left, upper, right and lower edge of what the model saw, in pixels of the photograph
            (see `crop_box`); None is all of it.

    Returns:
        An RGB image of the photograph's size.

    Raises:
        ValueError: a batch instead of one map, a value that is not finite, or an argument out of
            its range.

    Example:
        >>> picture = overlay(Image.new("RGB", (300, 200)), torch.rand(14, 14))
        >>> picture.size, picture.mode
        ((300, 200), 'RGB')
    """
    check_picture("image", image)
    values = _one_map(heatmap)
    vmax = float(values.max()) if vmax is None else vmax
    for name, value in (("vmin", vmin), ("vmax", vmax)):
        check_number(name, value, -1e300, 1e300)
    if vmax < vmin:
        raise ValueError(f"vmin must be at most vmax, got {vmin!r}, {vmax!r}")
    check_number("opacity", opacity, 0, 1)
    if not isinstance(colormap, str) or colormap not in matplotlib.colormaps:
        raise ValueError(f"colormap must be one of matplotlib's, got {colormap!r}")
    scaled = np.clip((values - vmin) / (vmax - vmin or 1), 0, 1)  # one value everywhere: 0 or 1
    heat, seen = _place(scaled, image.size, box)
    grey = np.asarray(to_rgb(image).convert("L"))
    laid = np.empty((*grey.shape, 3), np.uint8)
    size = max(1, _PIXELS // image.width)
    for rows in (slice(first, first + size) for first in range(0, image.height, size)):
        values = heat[rows].astype(float)
        colours = matplotlib.colormaps[colormap](values)[..., :3] * 255
        light = np.where(seen[rows], 0.7 * grey[rows] + 60, 0.4 * grey[rows])[..., None]
        weight = opacity * np.sqrt(values)[..., None]
        laid[rows] = (light * (1 - weight) + colours * weight).round()
    return Image.fromarray(laid)


def _one_map(heatmap: Tensor | np.ndarray) -> np.ndarray:
    if not isinstance(heatmap, Tensor | np.ndarray) or heatmap.dtype in _NOT_REAL:
        kind = getattr(heatmap, "dtype", type(heatmap).__name__)
        raise ValueError(f"heatmap must be one map [rows, cols] of numbers, got {kind}")
    values = torch.as_tensor(heatmap).detach().double().cpu().numpy()
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"heatmap must be one map [rows, cols], got shape {values.shape}; of a batch take one "
            "element, as in explanation.heatmap[0]"
        )
    if not np.isfinite(values).all():
        raise ValueError("heatmap holds NaN or inf")
    return values


def _place(
    scaled: np.ndarray, size: tuple[int, int], box: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The map resized to its box in a picture, `[height, width]`, and where that box is."""
    width, height = size
    if box is not None:
        check_sequence("box", box, "four edges")
        for edge in box:
            check_number("each edge of box", edge, 0, max(size))
        if len(box) != 4:
            raise ValueError(f"box must be left, upper, right and lower edge, got {box!r}")
    left, upper, right, lower = box if box is not None else (0, 0, width, height)
    if not (0 <= left < right <= width and 0 <= upper < lower <= height):
        raise ValueError(f"box must lie in the picture of {width}×{height}, got {box!r}")
    left, upper, right, lower = (round(edge) for edge in (left, upper, right, lower))
    shape = (max(right - left, 1), max(lower - upper, 1))
    resized = Image.fromarray(scaled.astype(np.float32)).resize(shape, _SMOOTH)
    heat, seen = np.zeros((height, width), np.float32), np.zeros((height, width), bool)
    heat[upper : upper + shape[1], left : left + shape[0]] = np.asarray(resized)
    seen[upper : upper + shape[1], left : left + shape[0]] = True
    return heat, seen
