"""Target: which scalar of the output is explained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Target = int | Sequence[int] | Tensor | Callable[[Tensor], Tensor] | None


def score_target(
    model: nn.Module, logits: Tensor, target: Target, needed: bool
) -> tuple[Tensor | None, Tensor | Callable[[Tensor], Tensor] | None]:
    """The scalar `y` of each image, `[B]` (None if not `needed`), and the target it belongs to.

    Raises:
        ValueError: see `explain`.

    Example:
        >>> logits = torch.tensor([[1.0, 5.0], [3.0, 2.0]])
        >>> score_target(nn.Identity(), logits, target=None, needed=True)
        (tensor([5., 3.]), tensor([1, 0]))
    """
    if logits.ndim != 2:
        raise ValueError(f"the model must return logits [B, C], got {tuple(logits.shape)}")
    if callable(target):
        score = target(logits)
        if not isinstance(score, Tensor) or score.shape != logits.shape[:1]:
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(f"target must map logits [B, C] to a tensor [B], got {got}")
        return (score if needed else None), target
    if getattr(model, "num_classes", None) == 0:
        if needed or target is not None:
            raise ValueError(
                f"model {type(model).__name__} has no classifier, so target={target!r} means "
                "nothing: give a callable features → [B], or method='rollout' with no target"
            )
        return None, None
    index = _class_index(logits, target)
    return (logits.gather(1, index[:, None])[:, 0] if needed else None), index


def _class_index(logits: Tensor, target: int | Sequence[int] | Tensor | None) -> Tensor:
    batch, classes = logits.shape
    if target is None:
        return logits.detach().argmax(1)
    try:
        index = torch.as_tensor(target, device=logits.device)
        if index.dtype == torch.bool or index.is_floating_point() or index.is_complex():
            raise TypeError
        index = index.long().expand(batch) if index.ndim == 0 else index.long()
        good = index.shape == (batch,) and bool(((index >= 0) & (index < classes)).all())
    except (TypeError, ValueError, RuntimeError):
        good = False
    if not good:
        raise ValueError(
            f"target must be a class index in [0, {classes}), one per image of {batch}, a callable "
            f"or None; got {target!r}"
        )
    return index
