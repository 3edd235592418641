"""The checks of notebooks 06 to 11: right, empty and wrong answers; each misconception is named."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
import torch

from vitexplain_utils import (
    class_index,
    garden_scene,
    hero_scene,
    load_model,
    preprocess,
    record_attention,
)
from vitexplain_utils.exercises import (
    attention_flow,
    dream_the_answer,
    interactive_explorer,
    is_it_true,
    on_photographs,
    your_own_model,
)
from vitexplain_utils.explorer.choice import Choice
from vitexplain_utils.garden.strokes import painted_in_part

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
MODULES = {"06": attention_flow, "07": is_it_true, "08": interactive_explorer,
           "09": on_photographs, "10": your_own_model, "11": dream_the_answer}  # fmt: skip
EMPTY = "○ Nothing filled in yet: replace the `...`."


def checks_of(module: ModuleType) -> list[Callable[[Any], None]]:
    named = inspect.getmembers(module, inspect.isfunction)
    return [f for name, f in named if name.startswith("check_") and f.__module__ == module.__name__]


CHECKS = [check for module in MODULES.values() for check in checks_of(module)]


@pytest.fixture
def says(capsys):
    def said(check: Callable[[Any], None], answer: Any) -> str:
        check(answer)
        return capsys.readouterr().out.strip()

    return said


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_an_empty_answer_is_no_wrong_one(check, says):
    assert says(check, ...) == EMPTY


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("answer", [None, "a bee", object(), lambda: 3, [], {}, 10**9])
def test_nonsense_is_neither_right_nor_an_error(check, answer, says):
    said = says(check, answer)
    assert said.startswith("✗ ") and said.count("\n") == 0 and len(said) > 10


@pytest.mark.parametrize("number", MODULES)
def test_every_check_is_asked_and_solved(number):
    names = {check.__name__ for check in checks_of(MODULES[number])}
    assert 2 <= len(names) <= 3
    paths = {path.parent.name: path for path in NOTEBOOKS.rglob(f"{number}-*.ipynb")}
    for path in paths.values():
        cells = nbformat.read(path, as_version=4).cells
        source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        assert set(re.findall(r"^(check_\w+)\(\w+\)$", source, re.M)) == names
    printed = [
        output.get("text", "")
        for cell in nbformat.read(paths["solutions"], as_version=4).cells
        for output in cell.get("outputs", [])
    ]
    assert sum("✓ Right." in text for text in printed) == len(names)
    assert not any("✗" in text or "○" in text for text in printed)


def wrong(check: Callable[[Any], None], *cases: tuple[Any, str]) -> list[Any]:
    return [pytest.param(check, answer, part, id=f"{check.__name__}-{part}"[:60])
            for answer, part in cases]  # fmt: skip


UPPER, LOWER, SPARE = ("upper", "c", "a"), ("lower", "c", "a"), ("lower", "a", "a")


def a_hat(first: torch.Tensor) -> torch.Tensor:
    return first[0].mean(0) / 2 + torch.eye(first.shape[-1]) / 2


def colours(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(len(x), 3, 12, 8, 12, 8).mean((3, 5))


def distance(x: torch.Tensor, order: float = 2) -> torch.Tensor:
    c = colours(x)
    return (c - c.mean((2, 3), keepdim=True)).abs().pow(order).sum(1).pow(1 / order)


def paired(a, b):
    d = (a - b).tolist()
    mean = sum(d) / len(d)
    variance = sum((value - mean) ** 2 for value in d) / (len(d) - 1)
    return mean, (variance / len(d)) ** 0.5


def steps(x, size=torch.abs, mean=torch.mean):
    return sum(mean(size(one - other), (1, 2, 3)) for one, other in
               ((x[..., 1:], x[..., :-1]), (x[..., 1:, :], x[..., :-1, :])))  # fmt: skip


def nothing_else(y):
    return (1 - y[:, [0, *range(2, 8)]].sigmoid()).prod(1)


def alone(y):
    signs = torch.tensor([-1, 1, -1, -1, -1, -1, -1, -1])
    return (signs * y).sigmoid().log().sum(1)


RIGHT = [
    (attention_flow.check_pipes, {UPPER, LOWER}),
    (attention_flow.check_pipes, [LOWER, UPPER]),
    (attention_flow.check_start, [0] + [1 / 144] * 144),
    (attention_flow.check_bound, lambda first: a_hat(first).sum(0)[1:].clamp(max=1)),
    (is_it_true.check_ceiling, 3 / 7),
    (is_it_true.check_floor, [0.1, 0.9]),
    (is_it_true.check_unusual, distance),
    (is_it_true.check_unusual, partial(distance, order=1)),
    (is_it_true.check_unusual, lambda x: distance(x) ** 2),
    (interactive_explorer.check_vanished, Choice("rollout", "min", 0.2)),
    (interactive_explorer.check_fish_heads, {(0, 2), (4, 0), (5, 0)}),
    (interactive_explorer.check_snail, 0.209),
    (on_photographs.check_quarters, [0.5, 0.5, 0, 0]),
    (on_photographs.check_nine, (1 / 9, 1 / 9)),
    (on_photographs.check_paired, paired),
    (your_own_model.check_peak, (387.5, 162.5)),
    (your_own_model.check_to_map, lambda row: row[:, -256:].unflatten(1, (16, 16))),
    (dream_the_answer.check_variation, steps),
    (dream_the_answer.check_alone, alone),
    (dream_the_answer.check_alone, lambda y: (y[:, 1].sigmoid() * nothing_else(y)).log()),
    (dream_the_answer.check_enough, {"dots", "cap"}),
    (dream_the_answer.check_enough, ("cap", "dots")),
]


@pytest.mark.parametrize(
    ("check", "answer"), RIGHT, ids=lambda value: getattr(value, "__name__", "")
)
def test_right_answers(check, answer, says):
    assert says(check, answer) == "✓ Right."


WRONG = [
    *wrong(
        attention_flow.check_pipes,
        ({UPPER}, "another one"),
        ({LOWER}, "another one"),
        ({UPPER, LOWER, SPARE}, "room to spare"),
        ({("upper", "c", "c")}, "room to spare"),
        ({("lower", "b", "a")}, "No such pipe"),
    ),
    *wrong(
        attention_flow.check_start,
        (torch.full((145,), 1 / 145), "class token is none of them"),
        ([0] + [1] * 144, "at each patch"),
        (torch.ones(145), "at each token"),
        ([1] + [0] * 144, "class token alone"),
        ([1 / 144] * 144, "entry for every token"),
    ),
    *wrong(
        attention_flow.check_bound,
        (lambda first: first[0].mean(0).sum(0)[1:].clamp(max=1), "half residual"),
        (lambda first: first[0].mean(0).sum(0)[1:], "half residual"),
        (lambda first: a_hat(first).sum(0)[1:], "than was poured in"),
        (lambda first: a_hat(first).sum(1)[1:], "sums rows"),
        (lambda first: a_hat(first).sum(0).clamp(max=1), "for each patch"),
        (lambda first: first[0, 1:], "Not yet"),
    ),
    *wrong(
        is_it_true.check_ceiling,
        ((5 + 5 / 3) / 15, "Questions count alike"),
        (0.4, "other scenes"),
        (0.5, "two things"),
        (1 / 3, "three things"),
        (15, "Of how many"),
        (1, "one peak"),
        (0.2, "Not yet"),
    ),
    *wrong(
        is_it_true.check_floor,
        ((0.1, 0.1), "calls every pixel ground"),
        ((0.1, 0.5), "calls every pixel ground"),
        ((0.1, 0), "right about the ground"),
        ((0, 0.9), "an even map is not empty"),
        ((0.5, 0.5), "coin's toss"),
        ((0.9, 0.1), "swapped"),
    ),
    *wrong(
        is_it_true.check_unusual,
        (lambda x: x.mean(1), "12, 12"),
        (lambda x: (colours(x) - colours(x).mean((2, 3), keepdim=True)).sum(1), "never negative"),
        (lambda x: (colours(x) - colours(x).mean((0, 2, 3), keepdim=True)).norm(dim=1),
         "all pictures together"),
        (lambda x: (colours(x).mean(1) - x.mean((1, 2, 3))[:, None, None]).abs(), "brightness"),
        (lambda x: colours(x).norm(dim=1), "from black"),
        (lambda x: torch.ones(len(x), 12, 12), "Not yet"),
    ),
    *wrong(
        interactive_explorer.check_vanished,
        (Choice("rollout", "mean", 0.8), "still there"),
        (Choice("rollout", "min", 0.7), "bee with it"),
        (Choice("gradient_rollout", target=1), "stay with rollout"),
        (("rollout", "min", 0.2), "as section 2 does"),
    ),
    *wrong(
        interactive_explorer.check_fish_heads,
        ({(2, 2)}, "looks at the leaf"),
        ({(2, 0), (0, 4), (0, 5)}, "Block first"),
        ({(0, 2)}, "not it alone"),
        ({(0, 2), (4, 0), (5, 0), (5, 1)}, "less than half"),
    ),
    *wrong(
        interactive_explorer.check_snail,
        (1, "its own maximum"),
        (1 / 0.2088, "other way round"),
        (0.478, "the leaf's"),
        (0.0923, "What is the bee's"),
        (0.0002, "probability"),
        (0.6, "Not yet"),
    ),
    *wrong(
        on_photographs.check_quarters,
        ([1, 1, 0, 0], "one sum"),
        ([0.25] * 4, "mean over the questions"),
        ([0.5, 0, 0.5, 0], "Reading order"),
        (0.25, "four numbers"),
        (0.5, "four numbers"),
    ),
    *wrong(
        on_photographs.check_nine,
        ((0.25, 0.25), "mosaic of four"),
        ((1 / 3, 1 / 3), "three rows"),
        ((1 / 9, 1), "one peak"),
        ((1, 1 / 9), "sum to 1"),
        ((1 / 9, 0), "one peak"),
    ),
    *wrong(
        on_photographs.check_paired,
        (lambda a, b: ((a - b).mean(), (a - b).std()), "spread of one"),
        (lambda a, b: ((a - b).mean(), (a - b).std() / len(a)), "root of N"),
        (lambda a, b: ((a - b).mean(), ((a.var() + b.var()) / len(a)) ** 0.5), "counts as noise"),
        (lambda a, b: ((b - a).mean(), (a - b).std() / len(a) ** 0.5), "First minus second"),
        (lambda a, b: 1 / 0, "ZeroDivisionError"),
    ),
    *wrong(
        your_own_model.check_peak,
        ((287.5, 162.5), "Where does the crop begin"),
        ((375, 150), "upper left corner, not"),
        ((275, 150), "within the crop"),
        ((262.5, 287.5), "rows go down"),
        ((184, 104), "the model's input"),
        ((362.5, 137.5), "counted from 0"),
        ((11.5 * 800 / 24, 162.5), "squashed"),
    ),
    *wrong(
        your_own_model.check_to_map,
        (lambda row: row[:, :256].reshape(-1, 16, 16), "prefix comes first"),
        (lambda row: row[:, 1:257].reshape(-1, 16, 16), "all of the prefix"),
        (lambda row: row[:, 4:260].reshape(-1, 16, 16), "what else"),
        (lambda row: row[:, 5:].reshape(-1, 16, 16).mT, "row by row"),
        (lambda row: row[:, 5:], "rows and columns"),
        (lambda row: row[0, 5:].reshape(16, 16), "first picture alone"),
        (lambda row: row.reshape(-1, 16, 16), "It raises RuntimeError"),
    ),
    *wrong(
        dream_the_answer.check_variation,
        (lambda x: (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3)), "one direction"),
        (lambda x: (x[..., 1:, :] - x[..., :-1, :]).abs().mean((1, 2, 3)), "one direction"),
        (lambda x: x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean(), "pays for itself"),
        (lambda x: steps(x, size=lambda d: d), "cancel"),
        (lambda x: steps(x, size=torch.square), "With squares"),
        (lambda x: steps(x, mean=torch.sum), "grows with the picture"),
        (lambda x: steps(x) / 2, "Half of it"),
        (lambda x: x.std((1, 2, 3)), "Not yet"),
    ),
    *wrong(
        dream_the_answer.check_alone,
        (lambda y: y[:, 1], "forbids the other things"),
        (lambda y: y[:, 1].sigmoid().log(), "forbids the other things"),
        (lambda y: y[:, 1].sigmoid() * nothing_else(y), "slope is nearly 0"),
        (lambda y: y.softmax(1)[:, 1].log(), "share one probability"),
        (lambda y: y.softmax(1)[:, 1], "share one probability"),
        (lambda y: y.sigmoid().log().sum(1), "all eight things"),
        (lambda y: (-y).sigmoid().log().sum(1), "empty picture"),
        (lambda y: nothing_else(y).log(), "And the bee"),
        (lambda y: alone(y).sum(), "score of its own"),
        (lambda y: alone(y).mean(), "score of its own"),
        (lambda y: y[:, 1] - y[:, 0], "Not yet"),
    ),
    *wrong(
        dream_the_answer.check_enough,
        ("cap", "names are in the exercise"),
        ({"cap", "spots"}, "names are in the exercise"),
        ({3, 4, 5, 6, 7}, "names are in the exercise"),
        ({"cap", "dots", "stem"}, "leave one out"),
        ({"dots"}, "Needed, and yet not enough"),
        ({"cap", "stem"}, "Not enough: paint"),
        ({"stem"}, "Not enough: paint"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("check", "answer", "part"), WRONG)
def test_misconceptions_are_named(check, answer, part, says):
    said = says(check, answer)
    assert said.startswith("✗ ") and part in said


def test_every_message_is_reached(says):
    """What a check can say is said to one of the wrong answers above."""
    said: dict[Any, set[str]] = {}
    for case in WRONG:
        check, answer, _ = case.values
        said.setdefault(check, set()).add(says(check, answer).removeprefix("✗ "))
    for check in CHECKS:
        code = "".join(inspect.getsource(check).split('"""')[2::2])  # without docstrings
        messages = re.findall(r'"([A-Z][^"]{12,}[.?])"', code)
        assert messages and set(messages) <= said[check], check.__name__


def test_the_toy_is_the_notebook_s():
    (path,) = NOTEBOOKS.glob("06-*.ipynb")
    cells = {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}
    printed = cells["toy"].outputs[0].text
    upper = [attention_flow.UPPER["c", s] for s in "cab"]
    assert f"last block, from c to c, a, b:  {upper}" in printed
    for t in "cab":
        row = [attention_flow.LOWER.get((t, s), 0.0) for s in "cab"]
        assert f"first block, from {t} to c, a, b: {row}" in printed


def test_the_snail_by_hand():
    """The maps' maxima by the plain formula, without the explorer."""
    model = load_model("garden")
    x = preprocess(model, hero_scene(8).image)
    highest = {}
    for name in ("snail", "bee"):
        with record_attention(model, hold_attention=True) as record:
            y = model(x)[0, class_index(model, name)]
        row = torch.eye(145)[0]
        pairs = zip(record.attention, record.gradient(y), strict=True)
        for A, G in reversed(list(pairs)):
            matrix = (A * G)[0].mean(0).clamp(min=0) / 2 + torch.eye(145) / 2
            row = row @ (matrix / matrix.sum(-1, keepdim=True))
        highest[name] = row[1:].max().item()
    assert highest["snail"] / highest["bee"] == pytest.approx(0.209, abs=0.001)


def test_a_grey_picture_is_far_from_a_bee():
    """Where the probability's slope is nearly 0, as notebook 11's check says."""
    assert load_model("garden")(torch.zeros(1, 3, 96, 96))[0, 1] < -10


MUSHROOM = {
    "stem": (0, 1),
    "gills": (2,),
    "cap": (3,),
    "dots": (4, 5, 6, 7),
}  # as the notebook says


def found(parts):
    strokes = [stroke for part in parts for stroke in MUSHROOM[part]]
    with painted_in_part("mushroom", strokes):
        scenes = [garden_scene(seed, ("mushroom",)) for seed in range(24)]
    model = load_model("garden")
    logits = model(torch.cat([preprocess(model, scene.image) for scene in scenes]))
    return int((logits[:, class_index(model, "mushroom")] > 0).sum())


@pytest.mark.slow
def test_cap_and_dots_are_the_fewest_parts_that_are_enough():
    assert set(MUSHROOM) == dream_the_answer.PARTS
    assert found(dream_the_answer.ENOUGH) == 24
    for part in dream_the_answer.ENOUGH:  # each is needed, so no set without it is enough
        assert found(set(MUSHROOM) - {part}) < 24
