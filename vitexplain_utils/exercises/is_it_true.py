"""Checks of notebook 07: what a blind map, an empty map and a baseline of your own can score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..truth import rank_correlation
from . import Hint, judge
from .compare import compare


def check_ceiling(answer: Any) -> None:
    """Ten scenes with two things, five with three: the most right peaks of a map that is blind.

    Args:
        answer: a share of the questions.

    Example:
        >>> check_ceiling((10 / 2 + 5 / 3) / 15)
        ✗ Questions count alike, not scenes: a scene with three things is asked three times.
    """
    scenes, questions = 10 + 5, 10 * 2 + 5 * 3
    wrong = [
        ((10 / 2 + 5 / 3) / 15,
         "Questions count alike, not scenes: a scene with three things is asked three times."),
        (0.4, "That is the ceiling of the garden's test set. This set has other scenes."),
        (1 / 2, "That would be right if all scenes had two things."),
        (1 / 3, "That would be right if all scenes had three things."),
        (scenes, "So many peaks can be right. Of how many questions?"),
        (1.0, "One map has one peak, and a scene is asked more than once."),
    ]  # fmt: skip
    compare(answer, scenes / questions, wrong, tolerance=5e-3)


def check_floor(answer: Any) -> None:
    """A thing covers a tenth of the picture: what do an even and an empty map score?

    Args:
        answer: the energy inside of an even map, and the pixel accuracy of an empty one.

    Example:
        >>> check_floor((0.1, 0.1))
        ✗ The second: an empty map calls every pixel ground. How many are?
    """
    wrong = [
        ((0.1, 0.1), "The second: an empty map calls every pixel ground. How many are?"),
        ((0.1, 0.5), "The second: an empty map calls every pixel ground. How many are?"),
        ((0.1, 0.0), "The second: an empty map is right about the ground, which counts too."),
        ((0.0, 0.9), "The first: an even map is not empty. Some of its sum lies on the thing."),
        ((0.5, 0.5), "Neither is a coin's toss: it depends on how much the thing covers."),
        ((0.9, 0.1), "The two are swapped."),
    ]
    compare(answer, (0.1, 0.9), wrong, tolerance=5e-3)


def check_unusual(answer: Any) -> None:
    """How unusual is a patch's colour: its distance from the mean colour of its picture.

    Args:
        answer: a function from pictures `[B, 3, 96, 96]` to maps `[B, 12, 12]`.

    Example:
        >>> check_unusual(lambda x: x.mean(1))
        ✗ A map has one value for each patch of 8 × 8 pixels: [B, 12, 12].
    """
    torch.manual_seed(0)
    x = torch.rand(3, 3, 12, 12) + 2 * torch.rand(3, 3, 1, 1)  # pictures of different tints
    x = x.repeat_interleave(8, 2).repeat_interleave(8, 3) + 0.1 * torch.rand(3, 3, 96, 96)
    colour = x.unfold(2, 8, 8).unfold(3, 8, 8).mean((-1, -2))  # [3, 3, 12, 12]
    grey = colour.mean(1, keepdim=True)

    def like(wanted: Tensor) -> Callable[[Any], bool]:
        """Whether a function's maps order the patches so, whatever distance it takes."""
        wanted = (wanted if wanted.shape[1] == 1 else wanted.norm(dim=1, keepdim=True))[:, 0].abs()
        return lambda function: bool((rank_correlation(function(x), wanted) > 0.95).all())

    right = like(colour - colour.mean((2, 3), keepdim=True))
    hints: list[Hint] = [
        (lambda function: function(x).shape != (3, 12, 12),
         "A map has one value for each patch of 8 × 8 pixels: [B, 12, 12]."),
        (lambda function: bool((function(x) < 0).any()),
         "A distance is never negative: differences of colours must not cancel."),
        (like(colour - colour.mean((0, 2, 3), keepdim=True)),
         "That mean is of all pictures together; each picture has a mean colour of its own."),
        (like(grey - grey.mean((2, 3), keepdim=True)),
         "That is brightness. A red and a green of one brightness differ as well."),
        (like(colour), "That is the distance from black, not from the picture's mean colour."),
    ]  # fmt: skip

    def fits(function: Any) -> bool:
        return not any(wrong(function) for wrong, _ in hints[:2]) and right(function)

    judge(answer, fits, hints)
