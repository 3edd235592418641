"""Targets: which scalar of the output is explained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .library import Library

Target = int | Sequence[int] | Tensor | Callable[[Tensor], Tensor] | None
Chosen = Tensor | Callable[[Tensor], Tensor] | None


def choose_target(library: Library, logits: Tensor, target: Target, needed: bool) -> Chosen:
    """What a target means for these logits: a class for each image `[B]`, or the callable.

    None for a model without a classifier, unless a scalar is `needed`.

    Raises:
        ValueError: see `explain`.

    Example:
        >>> logits = torch.tensor([[1.0, 5.0], [3.0, 2.0]])
        >>> choose_target(Library(torch.nn.Identity()), logits, target=None, needed=True)
        tensor([1, 0])
    """
    if logits.ndim != 2 or len(logits) == 0:
        raise ValueError(f"the model must return logits [B, C], got {tuple(logits.shape)}")
    if callable(target):
        return target
    if library.regresses and logits.shape[1] > 1 and needed and target is None:
        raise ValueError(f"{library.what} gives {logits.shape[1]} numbers: target must say which")
    if library.classes == 0:
        if needed or target is not None:
            raise ValueError(
                f"{library.what} has no classifier, so target={target!r} means nothing: give a "
                "callable features → [B], or method='rollout' with no target"
            )
        return None
    return _class_index(logits, target)


def split_target(target: Target, count: int, size: int) -> list[Target]:
    """What is asked of each part of a batch of `count` images, parts of at most `size`.

    Raises:
        ValueError: not one class per image.

    Example:
        >>> split_target([4, 0, 2], count=3, size=2)
        [[4, 0], [2]]
    """
    firsts = range(0, count, size)
    if len(firsts) == 1 or target is None or callable(target) or isinstance(target, int):
        return [target] * len(firsts)
    if isinstance(target, Tensor) and target.ndim == 0:
        return [target] * len(firsts)
    if not hasattr(target, "__len__") or len(target) != count:
        raise ValueError(f"target must be one class, or one per image of {count}; got {target!r}")
    return [target[first : first + size] for first in firsts]


def score(logits: Tensor, chosen: Chosen) -> Tensor:
    """The scalar of each image, `[B]`.

    Raises:
        ValueError: a callable gives something else.

    Example:
        >>> score(torch.tensor([[1.0, 5.0], [3.0, 2.0]]), torch.tensor([1, 0]))
        tensor([5., 3.])
    """
    if isinstance(chosen, Tensor):
        return logits.gather(1, chosen[:, None])[:, 0]
    assert chosen is not None  # a scalar that is needed is chosen
    values = chosen(logits)
    if not isinstance(values, Tensor) or values.shape != logits.shape[:1]:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"target must map logits [B, C] to a tensor [B], got {got}")
    return values


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
