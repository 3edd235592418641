"""Sweep: one capture, many discard ratios."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .discard import check_discard_ratio, discard_each
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
    """The heat maps of `explain` for many discard ratios, from one capture.

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
    with torch.no_grad():
        fused = fused_blocks(captured.attention, captured.gradient, head_fusion)
        start = start_of(captured, method, head_fusion)
        blocks = len(captured.attention)
        kept = discard_each(fused, discard_ratios, class_token=has_class_token(model))
        rows = [roll_down(matrices, blocks, residual_weight, start) for matrices in kept]
    return torch.stack([captured.grid.to_grid(row) for row in rows])
