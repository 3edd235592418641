"""Exercises of notebook 03: discard filtering."""

from __future__ import annotations

from typing import Any

import torch

from ..methods import discard_lowest
from . import judge
from .alike import same


def check_entries_left(answer: Any) -> None:
    """Check how many of 145² entries keep their value at ratio 0.98, `A[0, 0]` among the lowest.

    Example:
        >>> check_entries_left(20604)
        ✗ That many are among the lowest. How many are left?
    """
    judge(
        answer,
        lambda count: same(count, 422),
        [
            (lambda count: same(count, 421), "One entry among the lowest stays all the same."),
            (lambda count: same(count, 420), "⌊ρT²⌋ is rounded down, and one entry stays."),
            (
                lambda count: same(count, 20604) or same(count, 20603),
                "That many are among the lowest. How many are left?",
            ),
            (
                lambda count: same(count, 435),
                "That is one threshold per row, three entries each. The rule has one per matrix.",
            ),
        ],
    )


def check_chance(answer: Any) -> None:
    """Check the mean share on the thing asked for of a map that does not know the question.

    Example:
        >>> check_chance(0.5)
        ✗ That is right for two things. A third of the scenes have three.
    """
    judge(
        answer,
        lambda share: same(share, 60 / 140, 2e-3),
        [
            (
                lambda share: same(share, 0.5, 2e-3),
                "That is right for two things. A third of the scenes have three.",
            ),
            (
                lambda share: same(share, 4 / 9, 2e-3),
                "You averaged over scenes. Marks are averaged over questions, and a scene with "
                "three things is asked three times.",
            ),
            (
                lambda share: same(share, 1 / 8, 2e-3),
                "The model has eight classes, but only things that are there are asked for.",
            ),
        ],
    )


def check_keep_sums(answer: Any) -> None:
    """Check a function `(fused [T, T], ratio)` that discards, then makes each row sum to 1 again.

    A row that has lost everything stays empty.

    Example:
        >>> check_keep_sums(lambda fused, ratio: fused)
        ✗ Nothing is discarded.
    """
    fused = torch.rand(6, 6, generator=torch.manual_seed(0)) + 0.1
    fused[2] /= 50  # a row that a single threshold empties
    kept = discard_lowest(fused[None], 0.5)[0]
    sums = kept.sum(-1, keepdim=True)
    judge(
        answer,
        lambda function: same(function(fused, 0.5), kept / sums.where(sums > 0, 1)),
        [
            (
                lambda function: bool(function(fused, 0.5).isnan().any()),
                "NaN: an empty row has nothing to divide by.",
            ),
            (lambda function: same(function(fused, 0.5), fused), "Nothing is discarded."),
            (
                lambda function: same(function(fused, 0.5), kept),
                "What is left of each row still sums to less than before.",
            ),
            (
                lambda function: same(function(fused, 0.5), kept / kept.sum(-2, keepdim=True)),
                "Now columns sum to 1; the residual is added to rows.",
            ),
            (
                lambda function: same(function(fused, 0.5), kept / kept.sum()),
                "One sum for the whole matrix: each row must sum to 1 by itself.",
            ),
        ],
    )
