"""Classes: what a model's logits mean."""

from __future__ import annotations

import difflib
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


def class_index(model: nn.Module, name: str) -> int:
    """The class whose name is `name`, or one of its synonyms, or holds it as the only one.

    Raises:
        ValueError: no class, or several, match.

    Example:
        >>> from vitexplain_utils import load_model
        >>> class_index(load_model("garden"), "Bee")
        1
    """
    if not isinstance(name, str):
        raise ValueError(f"target must be a class name, got {name!r}")
    wanted = name.strip().lower()
    names = [full.lower() for full in class_names(model)]
    exact = [i for i, full in enumerate(names) if wanted in (full, *full.split(", "))]
    found = exact or [i for i, full in enumerate(names) if wanted and wanted in full]
    if len(found) == 1:
        return found[0]
    close = [names[i] for i in found] or difflib.get_close_matches(wanted, names, n=5)
    raise ValueError(
        f"target {name!r} matches {len(found)} classes; "
        + (f"did you mean one of: {'; '.join(close[:5])}?" if close else "none is close")
    )


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
