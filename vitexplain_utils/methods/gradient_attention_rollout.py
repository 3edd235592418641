"""Gradient attention rollout: rollout of what speaks for the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..recording import at_least_float32
from .attention_rollout import Rollout
from .head_fusion import fuse_heads
from .method import GradientMethod


@dataclass(frozen=True, kw_only=True)
class GradientRollout(GradientMethod, Rollout):
    """`gradient_rollout` as a method: it carries a row as rollout does, and weighs otherwise."""

    name = "gradient_rollout"
    label = "gradient rollout"

    def weigh(self, attention: Tensor, gradient: Tensor | None) -> Tensor:
        """`max(0, fuse(A ⊙ G))`."""
        return fuse_heads(product(attention, gradient), self.head_fusion).clamp_(min=0)


def product(attention: Tensor, gradient: Tensor | None) -> Tensor:
    """`A ⊙ G` of one block, in at least float32."""
    assert gradient is not None  # a gradient method is given one
    return at_least_float32(attention) * at_least_float32(gradient)


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

    It depends on the unit of `y`, because `A ⊙ ∂y/∂A` is weighed against a residual that has none:
    with the garden's logits times 0.01, 0.1, 1, 10 and 100 its energy inside the thing asked for is
    0.83, 0.83, 0.76, 0.49 and 0.17 (`benchmarks/results/garden.json`). A residual weight `w` does
    the same as a factor `(1 − w) / w` on `y`.

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
    method = GradientRollout(
        head_fusion=head_fusion, discard_ratio=discard_ratio, residual_weight=residual_weight
    )
    return method.carry_tensors(attention, gradient, start=start, class_token=class_token)
