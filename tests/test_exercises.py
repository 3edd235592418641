"""Every check of notebooks 01 to 05 and 12: what it says of right, empty and wrong answers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vitexplain_utils.exercises import (
    attention_capture,
    capstone,
    discard_filtering,
    discard_ratio_gifs,
    gradient_rollout,
    head_fusion,
)
from vitexplain_utils.exercises.alike import same
from vitexplain_utils.methods import discard_lowest

ATTENTION, GRADIENT = attention_capture._block()
KEY = int(GRADIENT[0, 0].abs().argmax())
SHARE, SLOPE = float(ATTENTION[0, 0, KEY]), float(GRADIENT[0, 0, KEY])


def roll(matrices: list[Tensor], residual: float = 0.5, normal: bool = True) -> Tensor:
    product = torch.eye(len(matrices[0]))
    for matrix in matrices:
        mixed = (1 - residual) * matrix + residual * torch.eye(len(matrix))
        product = (mixed / mixed.sum(-1, keepdim=True) if normal else mixed) @ product
    return product


def keep_sums(fused: Tensor, ratio: float) -> Tensor:
    left = discard_lowest(fused[None], ratio)[0]
    return torch.stack([row / row.sum() if row.sum() > 0 else row for row in left])


def left_of(fused: Tensor, ratio: float) -> Tensor:
    return discard_lowest(fused[None], ratio)[0]


# check, a right answer, misconceptions and what is said of each, an answer beside the point
CASES = [
    (
        attention_capture.check_token_of,
        lambda row, col, cols: row * cols + col + 1,
        {
            lambda row, col, cols: row * cols + col: "Token 0 is no patch",
            lambda row, col, cols: col * cols + row + 1: "along the rows",
            lambda row, col, cols: row * cols + col + 2: "counted from 0",
        },
        lambda row, col, cols: 7,
    ),
    (
        attention_capture.check_favourite,
        (8, 9),
        {
            (9, 8): "row comes first",
            divmod(8 * 12 + 9 + 1, 12): "One too far",
            divmod(int(ATTENTION[1, 1:, 1:].amax(1).argmax()), 12): "looks the hardest",
            divmod(int(ATTENTION[1, 1:, 1:].sum(1).argmax()), 12): "sums over keys",
            divmod(int(ATTENTION[1, 1:].sum(1).argmax()), 12): "sums over keys",
            106: "the answer is a patch",
        },
        (2, 11),
    ),
    (
        attention_capture.check_owed,
        SHARE * SLOPE,
        {
            SLOPE: "each unit of attention",
            SHARE: "What does looking do",
            -SHARE * SLOPE: "The sign",
        },
        77.0,
    ),
    (
        head_fusion.check_residual_share,
        4 / 5,
        {
            0.5: "Half and half",
            0.2: "what attention weighs",
            0.75: "leaves out the ½",
            5 / 8: "sum of a row",
        },
        0.1,
    ),
    (
        head_fusion.check_normalise,
        lambda a: a / a.sum(-1, keepdim=True),
        {
            (lambda a: a / a.sum(-1)): "column s by the sum of row s",
            (lambda a: a / a.sum(-2, keepdim=True)): "Now columns sum to 1",
            (lambda a: a / a.sum()): "whole matrix",
            (lambda a: a.softmax(-1)): "changes the shares",
        },
        lambda a: a,
    ),
    (
        head_fusion.check_rollout_of,
        lambda matrices: roll(matrices)[0],
        {
            roll: "Which of its rows",
            (lambda matrices: roll(matrices)[:, 0]): "That is a column",
            (lambda matrices: roll(matrices[::-1])[0]): "in reverse",
            (lambda matrices: roll(matrices, residual=0)[0]): "residual is missing",
            (lambda matrices: roll(matrices, normal=False)[0]): "do not sum to 1",
        },
        lambda matrices: matrices[0][0],
    ),
    (
        discard_filtering.check_entries_left,
        145**2 - int(0.98 * 145**2) + 1,
        {
            421: "stays all the same",
            420: "rounded down",
            20604: "How many are left",
            20603: "How many are left",
            435: "per row",
        },
        5,
    ),
    (
        discard_filtering.check_chance,
        60 / (40 * 2 + 20 * 3),
        {
            0.5: "right for two things",
            (40 / 2 + 20 / 3) / 60: "averaged over scenes",
            1 / 8: "eight classes",
        },
        0.9,
    ),
    (
        discard_filtering.check_keep_sums,
        keep_sums,
        {
            (lambda f, r: left_of(f, r) / left_of(f, r).sum(-1, keepdim=True)): "NaN",
            (lambda f, r: f): "Nothing is discarded",
            left_of: "less than before",
            (lambda f, r: left_of(f, r) / left_of(f, r).sum(0)): "Now columns",
            (lambda f, r: left_of(f, r) / left_of(f, r).sum()): "One sum for the whole",
        },
        lambda f, r: f * 2,
    ),
    (
        gradient_rollout.check_weigh,
        lambda A, G: (A * G).mean(0).clamp(min=0),
        {
            (lambda A, G: (A * G).clamp(min=0).mean(0)): "That is relevance's",
            (lambda A, G: (A * G).mean(0)): "speaks against the class",
            (lambda A, G: (A * G).mean(0).abs()): "abs turns",
            (lambda A, G: (A.mean(0) * G.mean(0)).clamp(min=0)): "multiply before the mean",
        },
        lambda A, G: A[0],
    ),
    (
        gradient_rollout.check_rather,
        lambda y: y[:, 1] - y[:, 0],
        {
            (lambda y: y[:, 0] - y[:, 1]): "ladybird rather than a bee",
            (lambda y: y[:, 1]): "whatever is said of the ladybird",
            (lambda y: y[1] - y[0]): "first axis counts pictures",
            (lambda y: (y[:, 1] - y[:, 0]).sum()): "each picture needs its own",
            (lambda y: y.sigmoid()[:, 1] - y.sigmoid()[:, 0]): "gradient vanishes",
            (lambda y: y.softmax(-1)[:, 1] - y.softmax(-1)[:, 0]): "gradient vanishes",
        },
        lambda y: y[:, 5],
    ),
    (
        gradient_rollout.check_pairs,
        lambda attention, hooked: zip(attention, hooked[::-1], strict=True),
        {
            (lambda a, g: list(zip(a, g, strict=True))): "when does a backward hook fire",
            (lambda a, g: list(zip(a[::-1], g, strict=True))): "multiplied in reverse",
            (lambda a, g: list(zip(g[::-1], a, strict=True))): "attention comes first",
        },
        lambda a, g: [],
    ),
    (
        discard_ratio_gifs.check_forth_and_back,
        lambda frames: frames + frames[-2:0:-1],
        {
            (lambda frames: frames + frames[::-1]): "and so does the first",
            (lambda frames: frames + frames[-2::-1]): "the first frame stands twice",
            (lambda frames: frames + frames[:0:-1]): "The last frame stands twice.",
            (lambda frames: frames[::-1]): "way back alone",
            (lambda frames: frames): "way forth alone",
        },
        lambda frames: frames * 2,
    ),
    (
        discard_ratio_gifs.check_one_scale,
        lambda maps: maps / maps.max(),
        {
            (lambda m: torch.stack([each / each.max() for each in m])): "faint one looks as sure",
            (
                lambda m: torch.stack([(e - e.min()) / (e.max() - e.min()) for e in m])
            ): "and its own zero",
            (lambda m: (m - m.min()) / (m.max() - m.min())): "its zero has moved",
            (lambda m: m / m[0].max()): "values may be above 1",
            (lambda m: torch.stack([each / each.sum() for each in m])): "divided by its own sum",
        },
        lambda maps: maps,
    ),
    (
        discard_ratio_gifs.check_zeros,
        (7, 15),
        {
            (8, 16): "itself stays",
            (8, 8): "not above the eighth",
            (7, 7): "not above the eighth",
            (15, 7): "by rank comes first",
            (8, 15): "under both rules",
            (7, 16): "under both rules",
        },
        (1, 2),
    ),
    (
        capstone.check_claim_a,
        ("fails", 1.0),
        {
            ("holds", 1.0): "Faint in a map is not overlooked",
            ("not shown", 1.0): "the model can be asked",
            ("fails", 0.05): "probability that the model gives to leaf",
            ("false", 1.0): "A verdict is one of: holds, fails, not shown",
            "fails": "a pair",
        },
        None,
    ),
    (
        capstone.check_claim_b,
        ("holds", 0.0),
        {
            ("fails", 0.0): "Is the bee still found?",
            ("not shown", 0.0): "It can be shown",
            ("holds", 1.0): "with the bright patches blurred",
        },
        None,
    ),
    (
        capstone.check_claim_c,
        ("fails", 0.05),
        {
            ("holds", 0.05): "no knowledge of things",
            ("not shown", 0.05): "More can be said",
            ("fails", 0.82): "minus that of the things that are not",
        },
        None,
    ),
    (
        capstone.check_claim_d,
        ("not shown", torch.zeros(())),
        {
            ("holds", 0.0): "Ask for the other thing",
            ("fails", 0.0): "Can this map tell?",
            ("not shown", 0.5): "largest difference",
        },
        None,
    ),
]
IDS = [case[0].__name__ for case in CASES]


@pytest.mark.parametrize("check, right", [case[:2] for case in CASES], ids=IDS)
def test_right(check, right, capsys):
    check(right)
    assert capsys.readouterr().out == "✓ Right.\n"


@pytest.mark.parametrize("check", [case[0] for case in CASES], ids=IDS)
def test_empty(check, capsys):
    check(...)
    assert capsys.readouterr().out.startswith("○ Nothing filled in yet")


@pytest.mark.parametrize(
    "check, answer, said",
    [(case[0], answer, said) for case in CASES for answer, said in case[2].items()],
)
def test_misconception(check, answer, said, capsys):
    check(answer)
    out = capsys.readouterr().out
    assert out.startswith("✗ ") and said in out and out.count("\n") == 1


BESIDE = [(case[0], case[3]) for case in CASES if case[3] is not None]  # claims have none


@pytest.mark.parametrize("check, beside", BESIDE)
def test_beside_the_point(check, beside, capsys):
    check(beside)
    assert capsys.readouterr().out == "✗ Not yet: read it once more.\n"


@pytest.mark.parametrize("check, right", [case[:2] for case in CASES], ids=IDS)
def test_what_a_reader_breaks_is_said_in_one_line(check, right, capsys):
    def broken(*_):
        raise KeyError("reader")

    check(broken if callable(right) else "a word")
    out = capsys.readouterr().out
    assert out.startswith("✗ ") and out.count("\n") == 1
    assert "It raises KeyError" in out or not callable(right)


def test_same():
    assert same(torch.ones(2), (1, 1)) and not same(torch.ones(2, 1), (1, 1))
    assert same(1 / 3, 0.33333) and not same(1 / 3, 0.34) and same(0.34, 1 / 3, 0.1)
