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
        ValueError: shapes that do not fit, a negative or non-finite map, or an empty mask.

    Example:
        >>> mask = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> mask[:, :2, :2] = True
        >>> pointing_game(torch.tensor([[[3.0, 1.0], [1.0, 1.0]]]), mask)
        tensor([True])
    """
    _check(heatmap, mask)
    size = mask.shape[1:]
    large = functional.interpolate(heatmap[:, None].double(), size=size, mode="bilinear")
    peak = large.flatten(1).argmax(1, keepdim=True)
    return mask.flatten(1).gather(1, peak)[:, 0] & (heatmap.flatten(1).amax(1) > 0)


def energy_inside(heatmap: Tensor, mask: Tensor) -> Tensor:
    """Share of the map's sum that lies inside the mask (Wang et al. 2020, arXiv:1910.01279).

    Each cell's value is spread evenly over its own patch, so a patch half inside counts half.

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
    _check(heatmap, mask)
    covered = functional.adaptive_avg_pool2d(mask.double(), (heatmap.shape[1], heatmap.shape[2]))
    heatmap = heatmap.double()
    total = heatmap.sum((1, 2))
    return (heatmap * covered).sum((1, 2)) / total.where(total > 0, 1)


def share_on_target(heatmap: Tensor, mask: Tensor, others: Tensor) -> Tensor:
    """Share of the asked-for thing in the energy on all things: class discrimination.

    `energy_inside(mask) / (energy_inside(mask) + energy_inside(others))`; what lies on the
    background does not count.

    Args:
        heatmap: `[B, rows, cols]`, non-negative.
        mask: `[B, H, W]`, bool: the thing asked for.
        others: `[B, H, W]`, bool: all other things together.

    Returns:
        `[B]`, float64, in [0, 1]; 0 where the map has nothing on any thing.

    Raises:
        ValueError: as `pointing_game`, for either mask.

    Example:
        >>> mask = torch.tensor([[[True, False], [False, False]]])
        >>> share_on_target(torch.tensor([[[3.0, 1.0], [1.0, 1.0]]]), mask, mask.flip(2))
        tensor([0.7500], dtype=torch.float64)
    """
    on_target, on_others = energy_inside(heatmap, mask), energy_inside(heatmap, others)
    both = on_target + on_others
    return on_target / both.where(both > 0, 1)


def _check(heatmap: Tensor, mask: Tensor) -> None:
    if heatmap.ndim != 3 or mask.ndim != 3 or len(heatmap) != len(mask):
        raise ValueError(
            "heatmap must be [B, rows, cols] and mask [B, H, W] with the same B; got "
            f"{tuple(heatmap.shape)} and {tuple(mask.shape)}"
        )
    if mask.dtype != torch.bool or not bool(mask.flatten(1).any(1).all()):
        raise ValueError("mask must be bool and mark at least one pixel in every image")
    if not bool((heatmap.isfinite() & (heatmap >= 0)).all()):
        raise ValueError("heatmap must be finite and non-negative")
