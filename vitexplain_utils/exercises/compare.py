"""Exercises whose answer is a number or an array: the right one against the usual wrong ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import Hint, judge
from .alike import same


def compare(
    answer: Any,
    right: Any,
    wrong: Sequence[tuple[Any, str]],
    found: Callable[[Any], Any] = lambda answer: answer,
    tolerance: float = 1e-4,
) -> None:
    """`judge` by value.

    Args:
        answer: as in `judge`.
        right: the value wanted.
        wrong: values that come of a misconception, each with what to say.
        found: what is compared, made of the answer; the answer itself unless said.
        tolerance: how far apart two values may be, in part and in themselves.

    Example:
        >>> compare(3, 4, [(3, "Count from 1.")])
        ✗ Count from 1.
    """

    def gives(value: Any) -> Callable[[Any], bool]:
        return lambda answer: same(found(answer), value, tolerance)

    hints: list[Hint] = [(gives(value), said) for value, said in wrong]
    judge(answer, gives(right), hints)
