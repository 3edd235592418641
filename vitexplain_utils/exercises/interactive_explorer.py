"""Checks of notebook 08: a thing that vanishes, the heads of the fish, and a thing not there."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from ..explorer.choice import Choice, heatmap_for
from ..explorer.draw import head_maps
from ..explorer.state import ExplorerState
from ..garden import hero_scene
from ..truth import energy_inside
from . import judge
from .compare import compare


@cache
def _state() -> ExplorerState:
    return ExplorerState("garden", hero_scene(8))


def _left(choice: Choice, name: str) -> float:
    """The brightest patch on a thing, as a share of the map's maximum."""
    mask = torch.from_numpy(hero_scene(8).masks[name])
    on = mask.unflatten(0, (12, 8)).unflatten(2, (12, 8)).double().mean((1, 3)) > 0.3
    heatmap = heatmap_for(_state().capture_for(choice), choice)[0]
    return float(heatmap[on].max() / heatmap.max().clamp(min=1e-12))


def check_vanished(answer: Any) -> None:
    """Settings of rollout with which the leaf has vanished and the bee has not.

    Args:
        answer: a `Choice`.

    Example:
        >>> check_vanished(Choice("rollout", "mean", 0.8))
        ✗ The leaf is still there. Which fusion lets one head alone speak least?
    """

    def right(choice: Choice) -> bool:
        rolled = isinstance(choice, Choice) and choice.method == "rollout"
        return rolled and _left(choice, "leaf") < 0.1 <= _left(choice, "bee")

    hints = [
        (lambda choice: not isinstance(choice, Choice),
         'Write the settings as section 2 does: Choice("rollout", …, …).'),
        (lambda choice: choice.method != "rollout",
         "Another method answers another question: stay with rollout."),
        (lambda choice: _left(choice, "leaf") >= 0.1,
         "The leaf is still there. Which fusion lets one head alone speak least?"),
        (lambda choice: _left(choice, "bee") < 0.1,
         "The leaf has vanished, and the bee with it: that is too much."),
    ]  # fmt: skip
    judge(answer, right, hints)


def check_fish_heads(answer: Any) -> None:
    """The heads with more than half of the class token's attention to patches on the fish.

    Args:
        answer: a set of pairs, block and head.

    Example:
        >>> check_fish_heads({(2, 2)})
        ✗ That head looks at the leaf.
    """
    capture = _state().capture()
    truth = torch.from_numpy(hero_scene(8).masks["fish"])[None].expand(3, -1, -1)
    inside = torch.stack([energy_inside(head_maps(capture, block), truth) for block in range(6)])
    right = {(block, head) for block, head in (inside > 0.5).nonzero().tolist()}
    swapped = {(head, block) for block, head in right}
    hints = [
        (lambda found: (2, 2) in set(found), "That head looks at the leaf."),
        (lambda found: set(found) <= swapped, "Block first, then head."),
        (lambda found: set(found) < right, "Yes, and not it alone: go through all blocks."),
        (lambda found: bool(set(found) - right),
         "One of these gives the fish less than half of its attention."),
    ]  # fmt: skip
    judge(answer, lambda found: set(found) == right, hints)


def check_snail(answer: Any) -> None:
    """How high is the map of a snail that is not there, as a share of the bee's?

    Args:
        answer: the maximum of the snail's map divided by that of the bee's; gradient rollout.

    Example:
        >>> check_snail(1.0)
        ✗ Each picture is scaled to its own maximum; the numbers behind them are not.
    """

    def highest(name: str, method: str = "gradient_rollout") -> float:
        choice = Choice(method, target=_state().find_class(name))
        return float(heatmap_for(_state().capture_for(choice), choice).max())

    snail, bee, leaf = (highest(name) for name in ("snail", "bee", "leaf"))
    asked = _state().class_of(_state().find_class("snail"))
    wrong = [
        (1.0, "Each picture is scaled to its own maximum; the numbers behind them are not."),
        (bee / snail, "The other way round: the snail's as a share of the bee's."),
        (snail / leaf, "That is the share of the leaf's."),
        (snail, "That is the snail's maximum. What is the bee's?"),
        (asked.probability if asked else 0.0, "That is the snail's probability, not its map."),
    ]
    compare(answer, snail / bee, wrong, tolerance=5e-3)
