"""Classes: what a model's logits mean."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ..checks import check_count, check_finite, check_numbers
from .library import library_of


def class_names(model: nn.Module) -> list[str]:
    """The name of each class, from the model's configuration or ImageNet's word lists.

    Example:
        >>> from vitexplain_utils import load_model
        >>> class_names(load_model("garden"))[-1]
        'snail'
    """
    library = library_of(model)
    count = library.classes or 0
    names = library.class_names() if count else None
    return names or [f"class {index}" for index in range(count)]


def class_index(model: nn.Module, name: str, logits: Tensor | None = None) -> int:
    """The class of this name, or the only one that has it as a word, or the only one with it.

    Args:
        model: whose classes they are.
        name: a name, one of its synonyms, or a part of one.
        logits: the model's answer to a picture, `[C]` or `[1, C]`: what the error suggests is in
            this order then.

    Raises:
        ValueError: no class, or several, match; it suggests some by their short names.

    Example:
        >>> from vitexplain_utils import load_model
        >>> class_index(load_model("garden"), "Bee")
        1
    """
    if not isinstance(name, str):
        raise ValueError(f"target must be a class name, got {name!r}")
    own = class_names(model)
    wanted, names = name.strip().lower(), [full.lower() for full in own]
    found = _matching(wanted, names)
    if len(found) == 1:
        return found[0]
    close = found or _close(wanted, names)
    if logits is not None:
        close.sort(key=logits.flatten().tolist().__getitem__, reverse=True)
    shown = "; ".join(f"{short_name(own[index])} ({index})" for index in close[:5])
    raise ValueError(
        f"target {name!r} matches {len(found)} classes; "
        + (f"did you mean one of: {shown}?" if shown else "none is close")
    )


def short_name(name: str) -> str:
    """The first synonym of a class name.

    Example:
        >>> short_name("great grey owl, great gray owl, Strix nebulosa")
        'great grey owl'
    """
    return name.split(",")[0]


def _matching(wanted: str, names: list[str]) -> list[int]:
    """The classes of this very name; if there is none, those with these words; or this part."""
    words = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")
    tests: tuple[Callable[[str], object], ...] = (
        lambda full: wanted in (full, *full.split(", ")),
        words.search,
        lambda full: wanted in full,
    )
    found = ([index for index, full in enumerate(names) if test(full)] for test in tests)
    return next(filter(None, found), []) if wanted else []


def _close(wanted: str, names: list[str]) -> list[int]:
    """The classes with a synonym that is spelt alike, the most alike first."""
    owners = {word: index for index, full in enumerate(names) for word in full.split(", ")}
    return list(dict.fromkeys(owners[w] for w in difflib.get_close_matches(wanted, owners, n=5)))


@dataclass(frozen=True)
class TopClass:
    """A class that a model sees: index, name and probability."""

    index: int
    name: str
    probability: float


def top_classes(model: nn.Module, logits: Tensor, k: int = 5) -> list[list[TopClass]]:
    """The `k` most probable classes of each image, best first.

    Probabilities are a softmax over the logits, or, for a model that gives several labels to one
    image (as `garden`), one sigmoid each.

    Args:
        model: the model that gave the logits.
        logits: `[B, C]`.
        k: how many; at most all.

    Returns:
        One list of `TopClass` per image.

    Raises:
        ValueError: the model has no classifier, or gives numbers (regression), or `logits` does
            not fit it.

    Example:
        >>> import torch
        >>> from vitexplain_utils import load_model
        >>> top_classes(load_model("garden"), torch.eye(8)[:1], k=1)[0][0].name
        'ladybird'
    """
    names, library = class_names(model), library_of(model)
    if library.regresses:
        raise ValueError(f"{library.what} gives numbers, not classes: see its logits")
    check_count("k", k)
    check_numbers("logits", logits, 2, f"[B, {len(names)}]")
    if not names or logits.shape[1] != len(names):
        raise ValueError(f"logits must be [B, {len(names)}], got {tuple(logits.shape)}")
    check_finite("logits", logits)
    logits = logits.detach().float()
    best = library.probabilities(logits).topk(min(k, len(names)), dim=1)
    return [
        [TopClass(i, names[i], p) for i, p in zip(indices, values, strict=True)]
        for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
