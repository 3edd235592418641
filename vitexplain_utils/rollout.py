"""Roll out: follow one row of tokens down through all blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .discard import discard_lowest
from .head_fusion import at_least_float32, fuse_heads


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
    fused = fused_blocks(attention, None, head_fusion)
    kept = discard_lowest(fused, discard_ratio, class_token=class_token)
    return roll_down(kept, len(attention), residual_weight, start)


def gradient_rollout(
    attention: Sequence[Tensor],
    gradient: Sequence[Tensor],
    *,
    head_fusion: str = "mean",
    discard_ratio: float = 0.0,
    residual_weight: float = 0.5,
    start: Tensor | None = None,
    class_token: bool = True,
) -> Tensor:
    """Gradient rollout: rollout of `max(0, fuse(A ⊙ ∂y/∂A))`, so that the map belongs to `y`.

    Gildenblat's vit-explain (2020) made it known as gradient attention rollout; here the gradient
    is the one of the post-softmax attention, and each block meets its own.

    Args:
        attention: one `[B, H, T, T]` per block, first block first.
        gradient: `∂y/∂A` of the same blocks in the same order.
        head_fusion: as in `rollout`, of the product.
        discard_ratio: as in `rollout`, after negatives are set to 0.
        residual_weight: as in `rollout`.
        start: as in `rollout`.
        class_token: as in `rollout`.

    Returns:
        `[B, T]`, non-negative.

    Raises:
        ValueError: as in `rollout`, or `gradient` does not match `attention`.

    Example:
        >>> import torch
        >>> uniform = torch.full((1, 1, 2, 2), 0.5)
        >>> grad = torch.tensor([[[[0.0, 2.0], [-2.0, 0.0]]]])
        >>> gradient_rollout([uniform], [grad])
        tensor([[0.5000, 0.5000]])
    """
    fused = fused_blocks(attention, gradient, head_fusion)
    kept = discard_lowest(fused, discard_ratio, class_token=class_token)
    return roll_down(kept, len(attention), residual_weight, start)


def fused_blocks(
    attention: Sequence[Tensor], gradient: Sequence[Tensor] | None, head_fusion: str
) -> Tensor:
    """What a rollout rolls out, all blocks in one tensor: `[L*B, T, T]`, first block first."""
    if gradient is None:
        _check_blocks("attention", attention)
        return torch.cat([fuse_heads(a, head_fusion) for a in attention])
    weighted = products(attention, gradient)
    return torch.cat([fuse_heads(product, head_fusion).clamp(min=0) for product in weighted])


def roll_down(
    fused: Tensor, blocks: int, residual_weight: float, start: Tensor | None = None
) -> Tensor:
    """One row from above the last block to below the first: `[L*B, T, T]` to `[B, T]`.

    The row meets `rownorm((1 − w) A + w I)` in each block, without that sum being formed.
    """
    check_residual_weight(residual_weight)
    matrices = fused.chunk(blocks)
    row = start_row(matrices[-1], start)
    norms = (1 - residual_weight) * fused.sum(-1) + residual_weight  # [L*B, T]
    norms = norms.where(norms > 0, 1)  # an empty row (w = 0) passes nothing on
    for matrix, norm in zip(reversed(matrices), reversed(norms.chunk(blocks)), strict=True):
        row = row / norm
        through = (row.unsqueeze(-2) @ matrix).squeeze(-2)  # [B, 1, T] @ [B, T, T] -> [B, T]
        row = (1 - residual_weight) * through + residual_weight * row
    return row


def start_row(like: Tensor, start: Tensor | None) -> Tensor:
    """`start` as `[B, T]` for matrices `[B, T, T]`; None is a one at token 0."""
    batch, tokens = like.shape[:2]
    if start is None:
        start = torch.zeros(tokens, dtype=like.dtype, device=like.device)
        start[0] = 1
    if start.shape not in ((tokens,), (batch, tokens)):
        raise ValueError(
            f"start must be [T] or [B, T] with T = {tokens}, B = {batch}; got {tuple(start.shape)}"
        )
    return start.to(like).expand(batch, tokens)


def products(attention: Sequence[Tensor], gradient: Sequence[Tensor]) -> list[Tensor]:
    """`A ⊙ ∂y/∂A` for each block, in at least float32."""
    _check_blocks("attention", attention)
    if [a.shape for a in attention] != [g.shape for g in gradient]:
        raise ValueError(
            "gradient must match attention block by block; got shapes "
            f"{[tuple(g.shape) for g in gradient]} for {[tuple(a.shape) for a in attention]}"
        )
    pairs = zip(attention, gradient, strict=True)
    return [at_least_float32(a) * at_least_float32(g) for a, g in pairs]


def check_residual_weight(residual_weight: float) -> None:
    """Raise a ValueError unless `residual_weight` is a number in [0, 1)."""
    if not 0 <= residual_weight < 1:
        raise ValueError(f"residual_weight must be in [0, 1), got {residual_weight!r}")


def _check_blocks(name: str, blocks: Sequence[Tensor]) -> None:
    shapes = {tuple(block.shape) for block in blocks}
    if len(shapes) != 1 or any(len(s) != 4 or s[2] != s[3] for s in shapes):
        raise ValueError(
            f"{name} must hold one [B, H, T, T] per block, all of one shape; got {sorted(shapes)}"
        )
