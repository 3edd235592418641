"""Exercises of notebook 02: head fusion and rollout."""

from __future__ import annotations

from typing import Any

import torch

from . import judge
from .alike import same


def check_residual_share(answer: Any) -> None:
    """Check what the residual weighs where the rows of a fused matrix sum to a quarter.

    Example:
        >>> check_residual_share(0.5)
        ✗ Half and half holds while the rows sum to 1. These sum to less before the division.
    """
    judge(
        answer,
        lambda share: same(share, 0.8, 1e-3),
        [
            (
                lambda share: same(share, 0.5, 1e-3),
                "Half and half holds while the rows sum to 1. These sum to less before the "
                "division.",
            ),
            (lambda share: same(share, 0.2, 1e-3), "That is what attention weighs."),
            (
                lambda share: same(share, 0.75, 1e-3),
                "1 − s leaves out the ½ on both sides, and the division by the whole row's sum.",
            ),
            (
                lambda share: same(share, 0.625, 1e-3),
                "That is the sum of a row of ½ A + ½ I. The residual's part of it is asked for.",
            ),
        ],
    )


def check_normalise(answer: Any) -> None:
    """Check a function that divides each row of `[B, T, T]` by its sum.

    Example:
        >>> check_normalise(lambda a: a / a.sum(-1))
        ✗ It divides column s by the sum of row s. Look at the shape of the sums.
    """
    batches = [torch.rand(size, 3, 3, generator=torch.manual_seed(size)) for size in (1, 2, 3)]
    one = batches[0]
    judge(
        answer,
        lambda function: all(same(function(a), a / a.sum(-1, keepdim=True)) for a in batches),
        [
            (
                lambda function: same(function(one), one / one.sum(-1)),
                "It divides column s by the sum of row s. Look at the shape of the sums.",
            ),
            (
                lambda function: same(function(one), one / one.sum(-2, keepdim=True)),
                "Now columns sum to 1. What does a row say, and what a column?",
            ),
            (
                lambda function: same(function(one), one / one.sum()),
                "It divides by the sum of the whole matrix: each row must sum to 1 by itself.",
            ),
            (
                lambda function: same(function(one), one.softmax(-1)),
                "A softmax makes rows sum to 1, but it changes the shares as well.",
            ),
        ],
    )


def check_rollout_of(answer: Any) -> None:
    """Check a function from fused matrices `[T, T]`, first block first, to the class token's row.

    Example:
        >>> check_rollout_of(lambda matrices: torch.eye(4)[0])
        ✗ Not yet: read it once more.
    """
    fused = [torch.rand(4, 4, generator=torch.manual_seed(seed)) for seed in range(3)]

    def rolled(reverse: bool = False, residual: float = 0.5, normal: bool = True) -> torch.Tensor:
        product = torch.eye(4)
        for matrix in reversed(fused) if reverse else fused:
            mixed = (1 - residual) * matrix + residual * torch.eye(4)
            product = (mixed / mixed.sum(-1, keepdim=True) if normal else mixed) @ product
        return product

    judge(
        answer,
        lambda function: same(function(fused), rolled()[0]),
        [
            (
                lambda function: same(function(fused), rolled()),
                "That is the whole product. Which of its rows is the class token's?",
            ),
            (
                lambda function: same(function(fused), rolled()[:, 0]),
                "That is a column: where the class token is used. Its own make-up is a row.",
            ),
            (
                lambda function: same(function(fused), rolled(reverse=True)[0]),
                "The blocks are in reverse: the last block must be the leftmost factor.",
            ),
            (
                lambda function: same(function(fused), rolled(residual=0)[0]),
                "The residual is missing: a token keeps half of itself.",
            ),
            (
                lambda function: same(function(fused), rolled(normal=False)[0]),
                "These matrices' rows do not sum to 1. What has to be done after ½ A + ½ I?",
            ),
        ],
    )
