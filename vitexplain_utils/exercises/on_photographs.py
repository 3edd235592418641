"""Checks of notebook 09: what a blind map scores in a mosaic, and a difference with its error."""

from __future__ import annotations

from typing import Any

import torch

from .compare import compare


def check_quarters(answer: Any) -> None:
    """The energies of a map that is 1 on the upper half of a mosaic and 0 on the lower.

    Args:
        answer: four numbers, for the quarters in reading order.

    Example:
        >>> check_quarters([1, 1, 0, 0])
        ✗ Energy is a share of the map's sum, and the map has one sum.
    """
    wrong = [
        ([1, 1, 0, 0], "Energy is a share of the map's sum, and the map has one sum."),
        ([0.25] * 4, "That is the mean over the questions. What does each of the four get?"),
        ([0.5, 0, 0.5, 0], "Reading order: the two upper quarters come first."),
        (0.25, "Four questions, four numbers."),
        (0.5, "Four questions, four numbers."),
    ]
    compare(answer, [0.5, 0.5, 0, 0], wrong, tolerance=5e-3)


def check_nine(answer: Any) -> None:
    """A mosaic of 3 × 3 photographs: a blind map's mean energy, and its share of right peaks.

    Args:
        answer: two numbers.

    Example:
        >>> check_nine((1 / 4, 1 / 4))
        ✗ That is the mosaic of four.
    """
    ninth = "One map, nine questions: its nine energies sum to 1, and it has one peak."
    wrong = [
        ((1 / 4, 1 / 4), "That is the mosaic of four."),
        ((1 / 3, 1 / 3), "Three in a row, and three rows."),
        ((1 / 9, 1.0), ninth),
        ((1.0, 1 / 9), ninth),
        ((1 / 9, 0.0), ninth),
    ]
    compare(answer, (1 / 9, 1 / 9), wrong, tolerance=5e-3)


def check_paired(answer: Any) -> None:
    """Two methods' marks on the same questions: the mean difference and its standard error.

    Args:
        answer: a function from two tensors `[N]` to the two numbers.

    Example:
        >>> check_paired(lambda a, b: ((a - b).mean(), (a - b).std()))
        ✗ That is the spread of one question's difference. How sure is the mean of N?
    """
    torch.manual_seed(0)
    easy = torch.rand(50, dtype=torch.float64)  # some questions are easier, for both methods
    a, b = (easy + gain + 0.1 * torch.randn(50, dtype=torch.float64) for gain in (0.1, 0.0))
    d, n = a - b, 50
    apart = ((a.var() + b.var()) / n).sqrt()
    wrong = [
        ((d.mean(), d.std()),
         "That is the spread of one question's difference. How sure is the mean of N?"),
        ((d.mean(), d.std() / n), "The error of a mean falls with the root of N."),
        ((d.mean(), apart),
         "That takes a and b for other questions each: what is hard for both counts as noise."),
        ((-d.mean(), d.std() / n**0.5), "First minus second: the sign says which is ahead."),
    ]  # fmt: skip

    def found(function: Any) -> list[float]:
        return [float(value) for value in function(a, b)]

    # Dividing by N or by N - 1 is no misconception.
    compare(answer, (d.mean(), d.std() / n**0.5), wrong, found, tolerance=3e-4)
