"""Checks of notebook 11: what a dream's noise costs, what it asks for, and what is enough."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from ..dreaming import total_variation
from . import Hint, judge
from .compare import compare


def check_variation(answer: Any) -> None:
    """How much neighbouring pixels differ: the mean across, and added to it the mean down.

    Args:
        answer: a function from pictures `[B, 3, H, W]` to numbers `[B]`.

    Example:
        >>> check_variation(lambda x: x.diff(dim=3).abs().mean((1, 2, 3)))
        ✗ That is one direction. A pixel has neighbours across and down.
    """
    torch.manual_seed(0)
    x = torch.rand(3, 3, 5, 9, dtype=torch.float64)
    across, down = x.diff(dim=3), x.diff(dim=2)
    each = (1, 2, 3)
    one_way = "That is one direction. A pixel has neighbours across and down."
    wrong = [
        (across.abs().mean(each), one_way),
        (down.abs().mean(each), one_way),
        (across.abs().mean() + down.abs().mean(), "Each picture pays for itself: [B]."),
        (across.mean(each) + down.mean(each),
         "Steps up and steps down cancel: a step costs, whatever its sign."),
        (across.square().mean(each) + down.square().mean(each),
         "With squares one edge costs more than much faint noise. Take them as they are."),
        (across.abs().sum(each) + down.abs().sum(each),
         "A sum grows with the picture. The price should not: take means."),
        ((across.abs().mean(each) + down.abs().mean(each)) / 2,
         "Half of it: the two means are added."),
    ]  # fmt: skip
    compare(answer, total_variation(x), wrong, lambda function: function(x))


def check_alone(answer: Any) -> None:
    """The logarithm of the probability of "a bee, and nothing else"; the bee is class 1 of 8.

    Args:
        answer: a function from logits `[B, 8]` to numbers `[B]`.

    Example:
        >>> check_alone(lambda y: y[:, 1])
        ✗ Nothing there forbids the other things.
    """
    torch.manual_seed(0)
    y = 3 * torch.randn(5, 8, dtype=torch.float64)
    there, not_there = functional.logsigmoid(y), functional.logsigmoid(-y)
    others = not_there.sum(1) - not_there[:, 1]
    right = there[:, 1] + others
    competing = "Softmax makes the things share one probability. Here each has its own."
    bee = "Nothing there forbids the other things."
    wrong = [
        (y[:, 1], bee),
        (there[:, 1], bee),
        (
            right.exp(),
            "The logarithm of it: on grey the probability's slope is nearly 0.",
        ),
        (y.log_softmax(1)[:, 1], competing),
        (y.softmax(1)[:, 1], competing),
        (there.sum(1), "That asks for all eight things at once."),
        (not_there.sum(1), "That asks for an empty picture."),
        (others, "All others are forbidden. And the bee?"),
        (right.sum(), "Each dream has a score of its own: [B]."),
        (right.mean(), "Each dream has a score of its own: [B]."),
    ]
    compare(answer, right, wrong, lambda function: function(y))


PARTS = {"stem", "gills", "cap", "dots"}
ENOUGH = {"cap", "dots"}  # of a mushroom: found in 24 of 24 scenes


def check_enough(answer: Any) -> None:
    """The fewest parts of a mushroom with which, and nothing else of it, the model finds it.

    Args:
        answer: a set of names out of "stem", "gills", "cap" and "dots".

    Example:
        >>> check_enough({"stem", "gills"})
        ✗ Not enough: paint these alone, and count.
    """
    hints: list[Hint] = [
        (lambda parts: isinstance(parts, str) or not PARTS.issuperset(parts),
         "A set of parts; their names are in the exercise."),
        (lambda parts: set(parts) > ENOUGH,
         "Enough, but not the fewest: leave one out, and count."),
        (lambda parts: len(set(parts)) == 1 and set(parts) < ENOUGH,
         "Needed, and yet not enough: paint it alone, and count."),
        (lambda parts: True, "Not enough: paint these alone, and count."),
    ]  # fmt: skip
    judge(answer, lambda parts: not isinstance(parts, str) and set(parts) == ENOUGH, hints)
