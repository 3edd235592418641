"""Exercises of notebook 04: gradient rollout and attribution."""

from __future__ import annotations

from typing import Any

import torch

from . import judge
from .alike import same


def check_weigh(answer: Any) -> None:
    """Check a function from `A` and `G`, `[H, T, T]`, to gradient rollout's matrix of a block.

    Example:
        >>> check_weigh(lambda A, G: (A * G).clamp(min=0).mean(0))
        ✗ That is relevance's: here heads may cancel before negatives go.
    """
    generator = torch.Generator().manual_seed(0)
    A = torch.rand(3, 5, 5, generator=generator).softmax(-1)
    G = torch.randn(3, 5, 5, generator=generator)
    judge(
        answer,
        lambda function: same(function(A, G), (A * G).mean(0).clamp(min=0)),
        [
            (
                lambda function: same(function(A, G), (A * G).clamp(min=0).mean(0)),
                "That is relevance's: here heads may cancel before negatives go.",
            ),
            (
                lambda function: same(function(A, G), (A * G).mean(0)),
                "It still holds what speaks against the class.",
            ),
            (
                lambda function: same(function(A, G), (A * G).mean(0).abs()),
                "abs turns what speaks against the class into what speaks for it.",
            ),
            (
                lambda function: same(function(A, G), (A.mean(0) * G.mean(0)).clamp(min=0)),
                "Each head's attention must meet its own gradient: multiply before the mean.",
            ),
        ],
    )


def check_rather(answer: Any) -> None:
    """Check a target, logits `[B, C]` to `[B]`, that asks "why a bee rather than a ladybird?".

    Example:
        >>> check_rather(lambda y: y[:, 0] - y[:, 1])
        ✗ That asks why a ladybird rather than a bee.
    """
    y = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    ladybird, bee = y[:, 0], y[:, 1]
    odds = y.sigmoid()
    shares = y.softmax(-1)
    judge(
        answer,
        lambda target: same(target(y), bee - ladybird),
        [
            (
                lambda target: same(target(y), ladybird - bee),
                "That asks why a ladybird rather than a bee.",
            ),
            (
                lambda target: same(target(y), bee),
                "That asks why a bee, whatever is said of the ladybird.",
            ),
            (
                lambda target: same(target(y), y[1] - y[0]),
                "The first axis counts pictures, the second classes.",
            ),
            (
                lambda target: same(target(y), (bee - ladybird).sum()),
                "One number for the whole batch; each picture needs its own.",
            ),
            (
                lambda target: (
                    same(target(y), odds[:, 1] - odds[:, 0])
                    or same(target(y), shares[:, 1] - shares[:, 0])
                ),
                "Probabilities saturate, and their gradient vanishes: take the logits.",
            ),
        ],
    )


def check_pairs(answer: Any) -> None:
    """Check a function that pairs attention, first block first, with gradients as hooks give them.

    Example:
        >>> check_pairs(lambda attention, hooked: list(zip(attention, hooked)))
        ✗ Block 0's attention meets the last block's gradient: when does a backward hook fire?
    """
    attention, hooked = ["A0", "A1", "A2"], ["G2", "G1", "G0"]
    own = [("A0", "G0"), ("A1", "G1"), ("A2", "G2")]

    def gives(pairs: list[tuple[str, str]]) -> Any:
        return lambda pair: list(pair(list(attention), list(hooked))) == pairs

    judge(
        answer,
        gives(own),
        [
            (
                gives(list(zip(attention, hooked, strict=True))),
                "Block 0's attention meets the last block's gradient: when does a backward hook "
                "fire?",
            ),
            (
                gives(own[::-1]),
                "Each block meets its own gradient, but the list begins with the last block, and "
                "R would be multiplied in reverse.",
            ),
            (
                gives([(gradient, weights) for weights, gradient in own]),
                "The attention comes first in each pair.",
            ),
        ],
    )
