"""Measures: how much of a heat map lies where the answer is known to be."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def pointing_game(heatmap: Tensor, mask: Tensor) -> Tensor:
    """Whether the map's peak lies inside the mask (Zhang et al. 2018, the pointing game).

    The map is enlarged bilinearly to the mask's size, as `overlay` draws it; no tolerance around
    the mask is given. The first of equal peaks counts. A map of zeros only points nowhere.

    Args:
        heatmap: `[B, rows, cols]`, non-negative.
        mask: `[B, H, W]`, bool, not empty.

    Returns:
        `[B]`, bool.

    Raises:
        ValueError: shapes or devices that do not fit, a negative or non-finite map, or an empty
            mask.

    Example:
        >>> mask = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> mask[:, :2, :2] = True
        >>> pointing_game(torch.tensor([[[3.0, 1.0], [1.0, 1.0]]]), mask)
        tensor([True])
    """
    large = _enlarged(heatmap, mask).flatten(1)
    peak = large.argmax(1, keepdim=True)
    return mask.flatten(1).gather(1, peak)[:, 0] & (large.amax(1) > 0)


def energy_inside(heatmap: Tensor, mask: Tensor) -> Tensor:
    """Share of the map's sum that lies inside the mask (Wang et al. 2020, arXiv:1910.01279).

    Each cell's value is spread evenly over its own patch, so a patch half inside counts half. Where
    a border between patches crosses a pixel, the pixel belongs to both.

    Args:
        heatmap: `[B, rows, cols]`, non-negative.
        mask: `[B, H, W]`, bool, not empty.

    Returns:
        `[B]`, float64, in [0, 1]; 0 for a map of zeros only.

    Raises:
        ValueError: as `pointing_game`.

    Example:
        >>> mask = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> mask[:, :2, :2] = True
        >>> energy_inside(torch.tensor([[[3.0, 1.0], [1.0, 1.0]]]), mask)
        tensor([0.5000], dtype=torch.float64)
    """
    return _energy(heatmap, mask, "mask")


def share_on_target(heatmap: Tensor, mask: Tensor, others: Tensor) -> Tensor:
    """Share of the asked-for thing in the energy on all things: class discrimination.

    `energy_inside(mask) / (energy_inside(mask) + energy_inside(others))`; what lies on the
    background does not count.

    Args:
        heatmap: `[B, rows, cols]`, non-negative.
        mask: `[B, H, W]`, bool: the thing asked for.
        others: `[B, H, W]`, bool, not empty: all other things together.

    Returns:
        `[B]`, float64, in [0, 1]; 0 where the map has nothing on any thing.

    Raises:
        ValueError: as `pointing_game`, for either mask.

    Example:
        >>> mask = torch.tensor([[[True, False], [False, False]]])
        >>> share_on_target(torch.tensor([[[3.0, 1.0], [1.0, 1.0]]]), mask, mask.flip(2))
        tensor([0.7500], dtype=torch.float64)
    """
    on_target, on_others = _energy(heatmap, mask, "mask"), _energy(heatmap, others, "others")
    both = on_target + on_others
    return on_target / both.where(both > 0, 1)


def mean_iou(heatmap: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union of the map above its mean, averaged over thing and background.

    The protocol of Chefer et al. 2021 (arXiv:2012.09838, their segmentation test): the map is
    enlarged bilinearly, and what is above its own mean is its answer. They add up the pixels of
    all images before dividing; here each image has its own number.

    Args:
        heatmap: `[B, rows, cols]`, non-negative.
        mask: `[B, H, W]`, bool, not empty.

    Returns:
        `[B]`, float64, in [0, 1). A map without a value above its mean finds nothing.

    Raises:
        ValueError: as `pointing_game`.

    Example:
        >>> mask = torch.tensor([[[True, False], [False, False]]])
        >>> mean_iou(torch.tensor([[[4.0, 3.0], [0.0, 0.0]]]), mask)  # (1/2 + 2/3) / 2
        tensor([0.5833], dtype=torch.float64)
    """
    answer = _above_mean(heatmap, mask)
    found, truth = torch.stack([answer, ~answer]), torch.stack([mask, ~mask])
    # no union is empty: a mask marks something, and not all pixels are above their mean
    iou = (found & truth).sum((2, 3)).double() / (found | truth).sum((2, 3))
    return iou.mean(0)


def pixel_accuracy(heatmap: Tensor, mask: Tensor) -> Tensor:
    """Share of pixels on the right side of the map's mean (Chefer et al. 2021, arXiv:2012.09838).

    Args:
        heatmap: `[B, rows, cols]`, non-negative.
        mask: `[B, H, W]`, bool, not empty.

    Returns:
        `[B]`, float64, in [0, 1]. Where things are small, an empty answer scores high.

    Raises:
        ValueError: as `pointing_game`.

    Example:
        >>> mask = torch.tensor([[[True, False], [False, False]]])
        >>> pixel_accuracy(torch.tensor([[[4.0, 3.0], [0.0, 0.0]]]), mask)
        tensor([0.7500], dtype=torch.float64)
    """
    return (_above_mean(heatmap, mask) == mask).double().mean((1, 2))


def average_precision(heatmap: Tensor, mask: Tensor) -> Tensor:
    """Area under precision over recall of the map's pixels, from the highest down, as a ranking.

    `Σ_n (R_n − R_{n−1}) P_n` over the distinct values of the enlarged map; pixels of one value
    come together. The mAP of Chefer et al. 2021 (arXiv:2012.09838) is its mean over images with the
    background as a second class; here it is the thing's alone.

    Args:
        heatmap: `[B, rows, cols]`, non-negative.
        mask: `[B, H, W]`, bool, not empty.

    Returns:
        `[B]`, float64, in (0, 1]; for a constant map the share of the picture that is mask.

    Raises:
        ValueError: as `pointing_game`.

    Example:
        >>> mask = torch.tensor([[[True, False], [False, True]]])
        >>> average_precision(torch.tensor([[[4.0, 3.0], [0.0, 2.0]]]), mask)  # (1/1 + 2/3) / 2
        tensor([0.8333], dtype=torch.float64)
    """
    values, order = _enlarged(heatmap, mask).flatten(1).sort(1, descending=True)
    found = mask.flatten(1).gather(1, order)
    count = found.shape[1]
    place = torch.arange(count, device=heatmap.device).expand_as(found)
    ends = functional.pad(values[:, 1:] != values[:, :-1], (0, 1), value=True)
    last = place.where(ends, count).flip(1).cummin(1).values.flip(1)  # of each pixel's equals
    precision = found.cumsum(1).gather(1, last).double() / (last + 1)
    return (precision * found).sum(1) / found.sum(1)


def _energy(heatmap: Tensor, mask: Tensor, name: str) -> Tensor:
    heatmap = _scaled(heatmap, mask, name)
    covered = functional.adaptive_avg_pool2d(mask.double(), (heatmap.shape[1], heatmap.shape[2]))
    total = heatmap.sum((1, 2))
    return (heatmap * covered).sum((1, 2)) / total.where(total > 0, 1)


def _scaled(heatmap: Tensor, mask: Tensor, name: str = "mask") -> Tensor:
    """The checked map in float64, its highest value 1: the scale of a map never matters."""
    _check(heatmap, mask, name)
    heatmap = heatmap.double()
    top = heatmap.amax((1, 2), keepdim=True)
    return heatmap / top.where(top > 0, 1)


def _enlarged(heatmap: Tensor, mask: Tensor) -> Tensor:
    """The map at the mask's size; rounded to 1e-9 of its peak, so that equal values stay equal."""
    heatmap = _scaled(heatmap, mask)[:, None]
    large = functional.interpolate(heatmap, size=mask.shape[1:], mode="bilinear")[:, 0]
    return large.round(decimals=9)


def _above_mean(heatmap: Tensor, mask: Tensor) -> Tensor:
    large = _enlarged(heatmap, mask)
    return large > large.mean((1, 2), keepdim=True) + 1e-9  # not the mean itself, rounded


def _check(heatmap: Tensor, mask: Tensor, name: str) -> None:
    for argument, value in (("heatmap", heatmap), (name, mask)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{argument} must be a tensor, got {type(value).__name__}")
    shape, size = tuple(heatmap.shape), tuple(mask.shape)
    fits = len(shape) == len(size) == 3 and shape[0] == size[0]
    if not fits or 0 in shape or size[1] < shape[1] or size[2] < shape[2]:
        raise ValueError(
            f"heatmap must be [B, rows, cols] and {name} [B, H, W] with the same B, H >= rows and "
            f"W >= cols; got {shape} and {size}"
        )
    if heatmap.device != mask.device:
        raise ValueError(
            f"heatmap is on {heatmap.device}, {name} on {mask.device}: move one of them"
        )
    if mask.dtype != torch.bool:
        raise ValueError(f"{name} must be bool, got {mask.dtype}")
    empty = ~mask.flatten(1).any(1)
    if bool(empty.any()):
        raise ValueError(
            f"{name} must mark at least one pixel in every image; nothing is marked in "
            f"{empty.nonzero()[:, 0].tolist()} of {len(mask)}"
        )
    bad = heatmap[~(heatmap.isfinite() & (heatmap >= 0))]
    if len(bad):
        raise ValueError(f"heatmap must be finite and non-negative, got {bad[0].item()}")
