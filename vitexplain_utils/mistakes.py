"""Mistakes: gradient rollout as it is often copied, one mistake at a time, to see what each does.

The three mistakes are those of vit-explain (2020). Only the explorer uses this module.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .discard import discard_lowest
from .head_fusion import fuse_heads
from .rollout import products, start_row

MISTAKES = ("pre_softmax", "reversed_blocks", "columns")


def pre_softmax_gradient(attention: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of the scores before the softmax, from that of the attention after it.

    `∂y/∂S = A ⊙ (G − Σ_k A_k G_k)` with `G = ∂y/∂A`; each of its rows sums to 0.

    Example:
        >>> attention, grad = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[1.0, 0.0]]]])
        >>> pre_softmax_gradient(attention, grad)
        tensor([[[[ 0.2500, -0.2500]]]])
    """
    return attention * (gradient - (attention * gradient).sum(-1, keepdim=True))


def mistaken_gradient_rollout(
    attention: Sequence[Tensor],
    gradient: Sequence[Tensor],
    mistakes: Sequence[str],
    *,
    discard_ratio: float = 0.0,
) -> Tensor:
    """Gradient rollout, with mean fusion, and with some of the three mistakes.

    Args:
        attention: one `[B, H, T, T]` per block, first block first.
        gradient: `∂y/∂A` of the same blocks in the same order.
        mistakes: any of `"pre_softmax"` (the gradient of the scores before the softmax),
            `"reversed_blocks"` (each block meets the gradient of the block counted from the other
            end) and `"columns"` (the row sums divide columns); none is the right computation.
        discard_ratio: as in `gradient_rollout`.

    Returns:
        `[B, T]`, the class token's row.

    Raises:
        ValueError: an unknown mistake, or a ratio outside [0, 1).

    Example:
        >>> uniform, grad = torch.full((1, 1, 2, 2), 0.5), torch.ones(1, 1, 2, 2)
        >>> mistaken_gradient_rollout([uniform], [grad], ["pre_softmax"])
        tensor([[1., 0.]])
    """
    unknown = set(mistakes) - set(MISTAKES)
    if unknown:
        raise ValueError(f"mistakes must be among {MISTAKES}, got {sorted(unknown)}")
    if "pre_softmax" in mistakes:
        pairs = zip(attention, gradient, strict=True)
        gradient = [pre_softmax_gradient(a, g) for a, g in pairs]
    if "reversed_blocks" in mistakes:
        gradient = list(gradient)[::-1]
    fused = [fuse_heads(product).clamp(min=0) for product in products(attention, gradient)]
    row = start_row(fused[-1], None)
    for whole in reversed(fused):
        matrix = discard_lowest(whole, discard_ratio)
        identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        mixed = (matrix + identity) / 2
        sums = mixed.sum(-1, keepdim=True)  # [B, T, 1] scales rows, [B, 1, T] columns
        mixed = mixed / (sums.transpose(1, 2) if "columns" in mistakes else sums)
        row = (row.unsqueeze(-2) @ mixed).squeeze(-2)
    return row
