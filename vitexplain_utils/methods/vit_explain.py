"""vit-explain: gradient rollout as it is often copied, to see what each of its mistakes does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..capture import Capture
from .gradient_attention_rollout import product
from .head_fusion import fuse_heads
from .method import GradientMethod, start_row

MISTAKES = ("pre_softmax", "reversed_blocks", "columns")


@dataclass(frozen=True, kw_only=True)
class VitExplain(GradientMethod):
    """Gradient rollout with the mistakes of vit-explain (Gildenblat 2020), from the class token.

    Two were reported in its issues, the reversed blocks in #6 and the columns in #16. A fourth is
    not built here: its lists of attentions and gradients are never reset, so a second call of one
    object mixes two pictures. When discarding, the class token's attention to itself stays here;
    vit-explain's gradient version may drop it.

    Attributes:
        mistakes: any of `"pre_softmax"` (the gradient of the scores before the softmax),
            `"reversed_blocks"` (each block meets the gradient of the block counted from the other
            end) and `"columns"` (the row sums divide columns); none is the right computation.
        discard_ratio: as in `gradient_rollout`.
        hold_attention: False as in vit-explain; held, the scores have no gradient.
    """

    name = "vit_explain"
    label = "vit-explain's rule"
    by_rows = True
    needs_class_token = True
    offered = False

    mistakes: tuple[str, ...] = MISTAKES
    discard_ratio: float = 0.0
    hold_attention: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = set(self.mistakes) - set(MISTAKES)
        if unknown:
            raise ValueError(f"mistakes must be among {MISTAKES}, got {sorted(unknown)}")

    def weigh(self, attention: Tensor, gradient: Tensor | None) -> Tensor:
        """`max(0, mean_h(A ⊙ G))`."""
        return fuse_heads(product(attention, gradient)).clamp_(min=0)

    def weigh_rows(self, capture: Capture, index: int, rows: slice) -> Tensor:
        """The attention of one block and what is taken for its gradient."""
        reverse = "reversed_blocks" in self.mistakes
        other = capture.blocks[len(capture.blocks) - 1 - index if reverse else index]
        gradient = self.taken_for_gradient(other.attention(rows), other.gradient(rows))
        return self.weigh(capture.blocks[index].attention(rows), gradient)

    def taken_for_gradient(self, attention: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of a block's attention, or with that mistake of its scores."""
        if "pre_softmax" in self.mistakes:
            return pre_softmax_gradient(attention, gradient)
        return gradient

    def start(self, capture: Capture) -> Tensor:
        """Token 0, whatever the head reads."""
        return start_row(capture.blocks[-1].q, None)

    def carry(self, row: Tensor, matrix: Tensor) -> Tensor:
        """Through ½ A + ½ I, its rows, or its columns, divided by the sums of its rows."""
        sums = matrix.sum(-1) / 2 + 0.5  # [B, T]
        row = row if "columns" in self.mistakes else row / sums
        row = torch.baddbmm(row[:, None], row[:, None], matrix, beta=0.5, alpha=0.5)[:, 0]
        return row / sums if "columns" in self.mistakes else row


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
    mistakes: Sequence[str] = MISTAKES,
    *,
    discard_ratio: float = 0.0,
) -> Tensor:
    """Gradient rollout, with mean fusion, and with some of vit-explain's mistakes.

    Args:
        attention: one `[B, H, T, T]` per block, first block first.
        gradient: `∂y/∂A` of the same blocks in the same order.
        mistakes: as in `VitExplain`.
        discard_ratio: as in `gradient_rollout`.

    Returns:
        `[B, T]`, the class token's row.

    Raises:
        ValueError: an unknown mistake, a ratio outside [0, 1), or shapes that do not match.

    Example:
        >>> uniform, grad = torch.full((1, 1, 2, 2), 0.5), torch.ones(1, 1, 2, 2)
        >>> mistaken_gradient_rollout([uniform], [grad], ["pre_softmax"])
        tensor([[1., 0.]])
    """
    method = VitExplain(mistakes=tuple(mistakes), discard_ratio=discard_ratio)
    pairs = zip(attention, gradient, strict=True)
    taken = [method.taken_for_gradient(*pair) for pair in pairs]
    step = -1 if "reversed_blocks" in mistakes else 1
    return method.carry_tensors(attention, taken[::step])
