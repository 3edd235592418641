"""Exercises of notebook 05: discard-ratio GIFs."""

from __future__ import annotations

from typing import Any

import torch

from . import judge
from .alike import same


def check_forth_and_back(answer: Any) -> None:
    """Check a function from frames to a film that runs forth and back, again and again.

    Example:
        >>> check_forth_and_back(lambda frames: frames + frames[::-1])
        ✗ The last frame stands twice, and so does the first when the film starts again.
    """
    frames = list("abcd")

    def gives(film: str) -> Any:
        return lambda function: list(function(list(frames))) == list(film)

    judge(
        answer,
        gives("abcdcb"),
        [
            (
                gives("abcddcba"),
                "The last frame stands twice, and so does the first when the film starts again.",
            ),
            (gives("abcdcba"), "When the film starts again, the first frame stands twice."),
            (gives("abcddcb"), "The last frame stands twice."),
            (gives("dcba"), "That is the way back alone."),
            (gives("abcd"), "That is the way forth alone."),
        ],
    )


def check_one_scale(answer: Any) -> None:
    """Check a function from the maps of a film, `[R, rows, cols]`, to values from 0 to 1.

    Example:
        >>> check_one_scale(lambda maps: maps / maps.amax((1, 2), keepdim=True))
        ✗ Each map has its own scale: a faint one looks as sure as any.
    """
    maps = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)) + 0.1
    maps *= torch.tensor([0.5, 1.0, 0.1])[:, None, None]
    low = maps.amin((1, 2), keepdim=True)
    judge(
        answer,
        lambda function: same(function(maps), maps / maps.max()),
        [
            (
                lambda function: same(function(maps), maps / maps.amax((1, 2), keepdim=True)),
                "Each map has its own scale: a faint one looks as sure as any.",
            ),
            (
                lambda function: same(
                    function(maps), (maps - low) / (maps - low).amax((1, 2), keepdim=True)
                ),
                "Each map has its own scale, and its own zero.",
            ),
            (
                lambda function: same(
                    function(maps), (maps - maps.min()) / (maps.max() - maps.min())
                ),
                "One scale, but its zero has moved: an even map's haze would vanish.",
            ),
            (
                lambda function: same(function(maps), maps / maps[0].max()),
                "The first map's maximum need not be the film's: values may be above 1.",
            ),
            (
                lambda function: same(function(maps), maps / maps.sum((1, 2), keepdim=True)),
                "Each map is divided by its own sum: how much is left of it cannot be seen.",
            ),
        ],
    )


def check_zeros(answer: Any) -> None:
    """Check how many of 16 equal entries become 0 at ratio ½, by rank and by a threshold.

    Example:
        >>> check_zeros((8, 8))
        ✗ All entries are equal: which of them are not above the eighth?
    """
    judge(
        answer,
        lambda pair: same(pair, (7, 15)),
        [
            (lambda pair: same(pair, (8, 16)), "The class token's attention to itself stays."),
            (
                lambda pair: same(pair, (8, 8)) or same(pair, (7, 7)),
                "All entries are equal: which of them are not above the eighth?",
            ),
            (lambda pair: same(pair, (15, 7)), "The other way round: by rank comes first."),
            (
                lambda pair: same(pair, (8, 15)) or same(pair, (7, 16)),
                "The class token's attention to itself stays under both rules.",
            ),
        ],
    )
