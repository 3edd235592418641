"""Attention rollout: the row of tokens that the head reads, followed down through all blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .head_fusion import fuse_heads
from .method import Method


@dataclass(frozen=True, kw_only=True)
class Rollout(Method):
    """`rollout` as a method; its settings are that function's."""

    name = "rollout"
    label = "rollout"
    by_rows = True

    head_fusion: str = "mean"
    discard_ratio: float = 0.0
    residual_weight: float = 0.5

    def weigh(self, attention: Tensor, gradient: Tensor | None) -> Tensor:
        """Fuse the heads."""
        return fuse_heads(attention, self.head_fusion)

    def carry(self, row: Tensor, matrix: Tensor) -> Tensor:
        """Through `rownorm((1 − w) A + w I)`, without that sum being formed."""
        residual = self.residual_weight / (1 - self.residual_weight)  # beside 1 for the matrix
        norm = matrix.sum(-1).add_(residual)  # [B, T]
        if residual == 0:
            norm = norm.where(norm > 0, 1)  # an empty row passes nothing on
        row = (row / norm).unsqueeze(1)  # [B, T] -> [B, 1, T]
        return torch.baddbmm(row, row, matrix, beta=residual).squeeze(1)  # [B, 1, T] -> [B, T]


def rollout(
    attention: Sequence[Tensor],
    *,
    head_fusion: str = "mean",
    discard_ratio: float = 0.0,
    residual_weight: float = 0.5,
    start: Tensor | None = None,
    class_token: bool = True,
) -> Tensor:
    """Attention rollout (Abnar & Zuidema 2020, arXiv:2005.00928).

    `Â = rownorm((1 − w) fuse(A) + w I)` for each block, with the residual's weight `w`, and
    `R = Â_L … Â_1`. Only the row that is asked for is propagated: `start · Â_L · … · Â_1`.

    Args:
        attention: one `[B, H, T, T]` per block, first block first.
        head_fusion: `"mean"` (published), `"max"` or `"min"`.
        discard_ratio: share of the lowest entries set to 0 in each fused matrix, in [0, 1).
        residual_weight: `w` in [0, 1); ½ as published.
        start: weights over the tokens of the last block, `[T]` or `[B, T]`; None is token 0.
        class_token: token 0 is a class token (see `discard_lowest`).

    Returns:
        `[B, T]`, non-negative: how much of each input token arrives. It sums to what `start` does.

    Raises:
        ValueError: an argument is out of its range or of the wrong shape.

    Example:
        >>> import torch
        >>> uniform = torch.full((1, 1, 2, 2), 0.5)
        >>> rollout([uniform, uniform])
        tensor([[0.6250, 0.3750]])
    """
    method = Rollout(
        head_fusion=head_fusion, discard_ratio=discard_ratio, residual_weight=residual_weight
    )
    return method.carry_tensors(attention, start=start, class_token=class_token)
