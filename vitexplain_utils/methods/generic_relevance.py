"""Generic relevance: the other way to carry gradient-weighted attention through the blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .gradient_attention_rollout import product
from .method import GradientMethod


@dataclass(frozen=True, kw_only=True)
class Relevance(GradientMethod):
    """`relevance` as a method; in the paper the attention is not held: `hold_attention=False`."""

    name = "relevance"
    label = "relevance"
    by_rows = True

    def weigh(self, attention: Tensor, gradient: Tensor | None) -> Tensor:
        """`E_h[(A ⊙ G)⁺]`."""
        return product(attention, gradient).clamp_(min=0).mean(1)

    def carry(self, row: Tensor, matrix: Tensor) -> Tensor:
        """Through `I + Ā`."""
        row = row.unsqueeze(1)  # [B, T] -> [B, 1, T]
        return torch.baddbmm(row, row, matrix).squeeze(1)  # [B, 1, T] -> [B, T]


def relevance(
    attention: Sequence[Tensor], gradient: Sequence[Tensor], *, start: Tensor | None = None
) -> Tensor:
    """Generic attention relevance (Chefer, Gur & Wolf 2021, arXiv:2103.15679).

    `R ← R + E_h[(A ⊙ ∂y/∂A)⁺] R` from the first block to the last, from `R = I`. Negatives are set
    to 0 in each head, before the mean, and nothing is normalised. Only the row that is asked for
    is propagated: `start · (I + Ā_L) · … · (I + Ā_1)`.

    Args:
        attention: one `[B, H, T, T]` per block, first block first.
        gradient: `∂y/∂A` of the same blocks in the same order.
        start: weights over the tokens of the last block, `[T]` or `[B, T]`; None is token 0.

    Returns:
        `[B, T]`, non-negative.

    Raises:
        ValueError: shapes that do not match.

    Example:
        >>> import torch
        >>> uniform = torch.full((1, 1, 2, 2), 0.5)
        >>> grad = torch.tensor([[[[0.0, 2.0], [-2.0, 0.0]]]])
        >>> relevance([uniform], [grad])
        tensor([[1., 1.]])
    """
    return Relevance().carry_tensors(attention, gradient, start=start)
