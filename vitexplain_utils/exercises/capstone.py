"""Exercises of notebook 12: four maps, four claims, a verdict and a number for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..explanation import explain
from ..garden import THINGS, Scene, garden_model, garden_test_set, hero_scene
from ..models import class_index, load_model, preprocess
from ..truth import replace_patches, without_detail
from . import judge
from .alike import same

VERDICTS = ("holds", "fails", "not shown")
FADED, BEE, STRANGERS, SEED = 34, 4, 1, 0  # scenes of claims A, B and C; random weights of C


def _judge_claim(
    answer: Any, verdict: str, number: float, no: Mapping[str, str], evidence: str
) -> None:
    """Judge a pair of a verdict and the number that bears it out.

    Args:
        answer: `(verdict, number)`.
        verdict: the right one.
        number: the right one, to a hundredth.
        no: what to say of each wrong verdict.
        evidence: what to say of a wrong number.
    """

    def says(wrong: str) -> Any:
        return lambda pair: pair[0] == wrong

    judge(
        answer,
        lambda pair: pair[0] == verdict and same(float(pair[1]), number, 0.01),
        [
            (
                lambda pair: not isinstance(pair, tuple) or len(pair) != 2,
                "The answer is a pair: (verdict, number).",
            ),
            (
                lambda pair: pair[0] not in VERDICTS,
                f"A verdict is one of: {', '.join(VERDICTS)}.",
            ),
            *((says(wrong), said) for wrong, said in no.items()),
            (lambda pair: not same(float(pair[1]), number, 0.01), evidence),
        ],
    )


def _found(scene: Scene, *, blurred: bool = False, seed: int | None = None) -> torch.Tensor:
    """The probabilities of the eight things, with what is bright in the bee's map blurred or not.

    With a seed it is the model of random weights that is asked.
    """
    model = load_model("garden")
    x = preprocess(model, scene.image)
    if blurred:
        heatmap = explain(model, x, target=class_index(model, "bee")).heatmap
        x = replace_patches(x, without_detail(x, "blur"), heatmap > heatmap.max() / 10)
    if seed is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = garden_model(weights=False)
    with torch.no_grad():
        return model(x)[0].sigmoid()


def check_claim_a(answer: Any) -> None:
    """Check claim A, "the model has overlooked the leaf": a verdict and the leaf's probability.

    Example:
        >>> check_claim_a(("holds", 0.05))
        ✗ Faint in a map is not overlooked: ask the model itself.
    """
    _judge_claim(
        answer,
        "fails",
        float(_found(garden_test_set()[FADED])[THINGS.index("leaf")]),
        {
            "holds": "Faint in a map is not overlooked: ask the model itself.",
            "not shown": "More can be said: the model can be asked whether a leaf is there.",
        },
        "The verdict, yes. The number wanted is the probability that the model gives to leaf.",
    )


def check_claim_b(answer: Any) -> None:
    """Check claim B, "from there the model takes the bee": a verdict and what blurring leaves.

    Example:
        >>> check_claim_b(("not shown", 0.0))
        ✗ It can be shown: take away what is bright, and ask again.
    """
    _judge_claim(
        answer,
        "holds",
        float(_found(hero_scene(BEE), blurred=True)[THINGS.index("bee")]),
        {
            "fails": "Take away what is bright, and ask again. Is the bee still found?",
            "not shown": "It can be shown: take away what is bright, and ask again.",
        },
        "The verdict, yes. The number wanted is the bee's probability with the bright patches "
        "blurred.",
    )


def check_claim_c(answer: Any) -> None:
    """Check claim C, "this model knows what things look like": a verdict and how far it tells.

    Example:
        >>> check_claim_c(("holds", 0.4))
        ✗ A map on things is no knowledge of things: does the model tell which are there?
    """
    scene = hero_scene(STRANGERS)
    found = _found(scene, seed=SEED)
    there = torch.tensor([name in scene.labels for name in THINGS])
    _judge_claim(
        answer,
        "fails",
        float(found[there].mean() - found[~there].mean()),
        {
            "holds": "A map on things is no knowledge of things: does the model tell which are "
            "there?",
            "not shown": "More can be said: compare what the model says of things that are there "
            "and of things that are not.",
        },
        "The verdict, yes. The number wanted is the mean probability of the things that are there "
        "minus that of the things that are not.",
    )


def check_claim_d(answer: Any) -> None:
    """Check claim D, "the ladybird counts most": a verdict, and how the map heeds the question.

    Example:
        >>> check_claim_d(("fails", 0.0))
        ✗ Perhaps the ladybird does count most. Can this map tell?
    """
    _judge_claim(
        answer,
        "not shown",
        0.0,
        {
            "holds": "Ask for the other thing with the same rule. What does the map do?",
            "fails": "Perhaps the ladybird does count most. Can this map tell?",
        },
        "The verdict, yes. The number wanted is the largest difference between the map for the "
        "one thing and the map for the other.",
    )
