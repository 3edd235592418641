"""Exercises: checks that say what is wrong with an answer, without giving the right one away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Hint = tuple[Callable[[Any], bool], str]  # whether a misconception explains the answer; what to say


def judge(answer: Any, right: Callable[[Any], bool], hints: Sequence[Hint] = ()) -> None:
    """Print whether an answer is right; if not, the first hint that fits it.

    Args:
        answer: a value, or a function that the check calls; `...` is an answer not given yet.
        right: whether it is right; what it raises is taken as the answer's fault.
        hints: the usual misconceptions, most telling first.

    Example:
        >>> judge(..., lambda answer: answer == 4)
        ○ Nothing filled in yet: replace the `...`.
        >>> judge(2, lambda answer: answer == 4, [(lambda answer: answer == 2, "Count both.")])
        ✗ Count both.
    """
    if answer is ...:
        print("○ Nothing filled in yet: replace the `...`.")
        return
    try:
        if right(answer):
            print("✓ Right.")
            return
        said = next((said for fits, said in hints if fits(answer)), "Not yet: read it once more.")
    except Exception as error:  # a reader's own function may raise anything
        said = f"It raises {type(error).__name__}: {error}"
    print(f"✗ {said}")
