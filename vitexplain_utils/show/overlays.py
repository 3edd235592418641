"""Overlays: a heat map over its photograph."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .pictures import to_rgb

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
    values = _one_map(heatmap)
    if vmax is None:
        vmax = float(values.max())
    if not np.isfinite([vmin, vmax]).all() or vmax < vmin:
        raise ValueError(f"vmin and vmax must be finite with vmin <= vmax, got {vmin!r}, {vmax!r}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be in [0, 1], got {opacity!r}")
    if colormap not in matplotlib.colormaps:
        raise ValueError(f"colormap must be one of matplotlib's, got {colormap!r}")
    scaled = np.clip((values - vmin) / (vmax - vmin or 1), 0, 1)  # one value everywhere: 0 or 1
    heat, seen = _place(scaled, image.size, box)
    colours = matplotlib.colormaps[colormap](heat)[..., :3] * 255
    grey = np.asarray(to_rgb(image).convert("L"), dtype=float)[..., None]
    grey = np.where(seen[..., None], 0.7 * grey + 60, 0.4 * grey)
    weight = opacity * np.sqrt(heat)[..., None]
    return Image.fromarray((grey * (1 - weight) + colours * weight).round().astype(np.uint8))


def _one_map(heatmap: Tensor | np.ndarray) -> np.ndarray:
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
    left, upper, right, lower = box if box is not None else (0, 0, width, height)
    if not (0 <= left < right <= width and 0 <= upper < lower <= height):
        raise ValueError(f"box must lie in the picture of {width}×{height}, got {box!r}")
    left, upper, right, lower = (round(edge) for edge in (left, upper, right, lower))
    shape = (max(right - left, 1), max(lower - upper, 1))
    resized = Image.fromarray(scaled.astype(np.float32)).resize(shape, _SMOOTH)
    heat, seen = np.zeros((height, width)), np.zeros((height, width), dtype=bool)
    heat[upper : upper + shape[1], left : left + shape[0]] = np.asarray(resized)
    seen[upper : upper + shape[1], left : left + shape[0]] = True
    return heat, seen
