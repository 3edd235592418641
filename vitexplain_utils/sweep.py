"""Sweep: one capture, many discard ratios."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import threshold

from .discard import check_discard_ratio
from .explain import CLASS_SPECIFIC, Target, capture_attention, check_settings, start_of
from .rollout import fused_blocks, roll_down
from .token_grid import has_class_token


def discard_sweep(
    model: nn.Module,
    x: Tensor,
    discard_ratios: Sequence[float],
    *,
    method: str = "gradient_rollout",
    target: Target = None,
    head_fusion: str = "mean",
    residual_weight: float = 0.5,
) -> Tensor:
    """The heat maps of `explain` for many discard ratios, from one capture, exactly.

    Args:
        model: a timm ViT.
        x: its input, `[B, 3, H, W]`.
        discard_ratios: `R` ratios, each in [0, 1), in any order.
        method: `"rollout"` or `"gradient_rollout"`, the two that discard.
        target: as in `explain`.
        head_fusion: as in `explain`.
        residual_weight: as in `explain`.

    Returns:
        `[R, B, rows, cols]`, in the order of `discard_ratios`.

    Raises:
        ValueError: as `explain`, or a method that does not discard, or no ratios.

    Example:
        >>> import timm, torch
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=(32, 64), depth=2).eval()
        >>> discard_sweep(model, torch.zeros(3, 3, 32, 64), [0, 0.5, 0.9]).shape
        torch.Size([3, 3, 2, 4])
    """
    if method not in ("rollout", "gradient_rollout"):
        raise ValueError(f"method must be 'rollout' or 'gradient_rollout', got {method!r}")
    if len(discard_ratios) == 0:
        raise ValueError("discard_ratios must hold at least one ratio")
    for discard_ratio in discard_ratios:
        check_discard_ratio(discard_ratio)
    check_settings(method, head_fusion, discard_ratios[0], residual_weight)
    captured = capture_attention(model, x, target=target, gradient=method in CLASS_SPECIFIC)
    rising = sorted(range(len(discard_ratios)), key=lambda index: discard_ratios[index])
    maps: dict[int, Tensor] = {}
    with torch.no_grad():
        fused = fused_blocks(captured.attention, captured.gradient, head_fusion)
        start = start_of(captured, method, head_fusion)
        in_turn = _discard_in_turn(
            fused, [discard_ratios[index] for index in rising], has_class_token(model)
        )
        for index, kept in zip(rising, in_turn, strict=True):
            row = roll_down(kept, len(captured.attention), residual_weight, start)
            maps[index] = captured.grid.to_grid(row)
    heatmaps = torch.stack([maps[index] for index in range(len(maps))])
    if not bool(heatmaps.isfinite().all()):
        raise ValueError("the attention or its gradient is not finite: x or the weights overflow")
    return heatmaps


def _discard_in_turn(fused: Tensor, rising: Sequence[float], class_token: bool) -> Iterator[Tensor]:
    """`discard_lowest` for rising ratios; each tensor holds only until the next one is made.

    The entries are sorted once. What one ratio discards, a higher one discards too, so a single
    copy is thinned out in place.
    """
    flat = fused.flatten(1)  # [L*B, T, T] -> [L*B, T*T]
    ordered = np.sort(flat.cpu().numpy(), axis=1)  # faster than sorting with indices
    left = flat.clone()
    for discard_ratio in rising:
        count = int(discard_ratio * flat.shape[1])
        if count:
            for thinned, matrix, values in zip(left, flat, ordered, strict=True):
                _thin_out(thinned, matrix, values, count)
        if class_token:
            left[:, 0] = flat[:, 0]
        yield left.view_as(fused)


def _thin_out(thinned: Tensor, matrix: Tensor, values: np.ndarray, count: int) -> None:
    """Set to 0 the `count` lowest entries of `matrix`, whose sorted entries are `values`."""
    highest = values[count - 1]  # of those to discard
    if values[count] > highest or highest == 0:  # zeros may as well be discarded
        threshold(thinned, float(highest), 0, inplace=True)
        return
    # Of the entries of this very value the earlier ones go and the others stay.
    threshold(thinned, float(np.nextafter(highest, highest.dtype.type(0))), 0, inplace=True)
    equal = (matrix == float(highest)).nonzero()[:, 0]
    thinned[equal[: count - int(np.searchsorted(values, highest))]] = 0
