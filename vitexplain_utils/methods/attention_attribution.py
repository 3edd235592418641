"""Attention attribution: what the class token takes from each token, added up over all blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..capture import Capture
from .gradient_attention_rollout import product
from .method import GradientMethod, check_blocks, check_match, start_row


@dataclass(frozen=True, kw_only=True)
class Attribution(GradientMethod):
    """`attribution` as a method."""

    name = "attribution"
    label = "attribution"
    by_rows = True

    def weigh(self, attention: Tensor, gradient: Tensor | None) -> Tensor:
        """`Σ_h A ⊙ G`, signed."""
        return product(attention, gradient).sum(1)

    def weigh_block(self, capture: Capture, index: int) -> Tensor:
        """What is taken from each token by those that the head reads: a row `[B, T]`, no matrix."""
        strips = self.strips(_read_rows(capture))
        parts = [self.weigh_rows(capture, index, rows).sum(1) for rows in strips]
        return torch.stack(parts).sum(0)

    def start(self, capture: Capture) -> Tensor:
        """Nothing yet."""
        return torch.zeros_like(start_row(capture.blocks[-1].q, None))

    def carry(self, row: Tensor, matrix: Tensor) -> Tensor:
        """Add what this block gives."""
        return row + matrix


def _read_rows(capture: Capture) -> slice:
    """The class token, or class and distillation token; all tokens where the head reads patches."""
    weights = capture.library.reads(capture.grid)
    last = capture.grid.tokens if weights is None else int(weights.nonzero().max())
    return slice(capture.grid.tokens if last >= capture.grid.prefix else last + 1)


def attribution(
    attention: Sequence[Tensor], gradient: Sequence[Tensor], *, rows: slice = slice(1)
) -> Tensor:
    """Attention attribution: what the class token reads, with the effect on `y` that it has.

    For each block `c_l[s] = Σ_h A_l[h, 0, s] G_l[h, 0, s]` with `G = ∂y/∂A`: to first order what
    `y` owes to what the class token takes from token `s`. The row is `max(0, Σ_l c_l)`: signs
    cancel between heads and blocks *before* negatives go. No matrix is multiplied, and scaling `y`
    scales the row. `capture_attention` takes `G` with the attention held (Ali et al. 2022,
    arXiv:2202.07304); relatives are attention attribution in language (Hao et al. 2021,
    arXiv:2004.11207, integrated), AG-CAM (Leem & Seo 2024, arXiv:2402.04563) and LeGrad (Bousselham
    et al. 2024, arXiv:2404.03214), both with positive gradients only.

    Where the head reads patches (average and attention pooling) all rows of all blocks are added
    up: in garden models trained so, that has energy 0.89 and 0.76 inside the thing asked for, the
    last block's rows 0.59 and 0.32, patch tokens' gradient × input at the end 0.24 and 0.14, and
    with the pool's own row 0.58; gradient rollout 0.06 and 0.19 (`benchmarks/results/pools.json`).

    Args:
        attention: one `[B, H, T, T]` per block, first block first.
        gradient: `∂y/∂A` of the same blocks in the same order.
        rows: those to add up: token 0 is a class token, a distilled model's are `slice(2)`.

    Returns:
        `[B, T]`, non-negative.

    Raises:
        ValueError: shapes that do not match.

    Example:
        >>> uniform = torch.full((1, 1, 2, 2), 0.5)
        >>> grad = torch.tensor([[[[-1.0, 2.0], [0.0, 4.0]]]])
        >>> attribution([uniform, uniform], [grad, grad])
        tensor([[0., 2.]])
    """
    check_blocks(attention)
    check_match(attention, gradient)
    if not isinstance(rows, slice):
        raise ValueError(f"rows must be a slice, got {rows!r}")
    method = Attribution()
    pairs = zip(attention, gradient, strict=True)
    given = [method.weigh(a[:, :, rows], g[:, :, rows]).sum(1) for a, g in pairs]
    return torch.stack(given).sum(0).clamp(min=0)
