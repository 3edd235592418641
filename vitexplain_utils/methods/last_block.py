"""Last block: its attention alone, the naive baseline that every method should beat."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .head_fusion import fuse_heads
from .method import Method


@dataclass(frozen=True, kw_only=True)
class LastAttention(Method):
    """What the tokens that the head reads attend to in the last block (of the range)."""

    name = "last_attention"
    label = "attention of one block"
    by_rows = True

    head_fusion: str = "mean"

    def weigh(self, attention: Tensor, gradient: Tensor | None) -> Tensor:
        """Fuse the heads."""
        return fuse_heads(attention, self.head_fusion)

    def carry(self, row: Tensor, matrix: Tensor) -> Tensor:
        """No residual: `row · A`."""
        return (row.unsqueeze(1) @ matrix).squeeze(1)  # [B, 1, T] @ [B, T, T] -> [B, T]

    def span(self, count: int) -> tuple[int, int]:
        """The last block of the range alone."""
        _, last = super().span(count)
        return last, last
