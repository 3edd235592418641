"""Exercises of notebook 01: attention capture."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor

from ..garden import hero_scene
from ..models import class_index, load_model, preprocess
from ..recording import record_attention
from . import judge
from .alike import same

BLOCK, COLS = 3, 12  # of the notebook


@cache
def _block() -> tuple[Tensor, Tensor]:
    """Attention and the bee's gradient in the notebook's scene and block, `[H, T, T]` each."""
    model = load_model("garden")
    with record_attention(model) as record:
        score = model(preprocess(model, hero_scene(1).image))[0, class_index(model, "bee")]
    gradient = record.gradient(score)
    return record.attention[BLOCK][0].detach(), gradient[BLOCK][0]


def check_token_of(answer: Any) -> None:
    """Check a function from `row`, `col` and `cols` to the token of that patch.

    Example:
        >>> check_token_of(lambda row, col, cols: row * cols + col)
        ✗ Token 0 is no patch: which token is it?
    """
    patches = [(0, 0, 12), (2, 5, 12), (9, 3, 14)]
    wanted = [1 + row * cols + col for row, col, cols in patches]

    def gives(values: list[int]) -> Any:
        return lambda function: [function(*patch) for patch in patches] == values

    judge(
        answer,
        gives(wanted),
        [
            (gives([token - 1 for token in wanted]), "Token 0 is no patch: which token is it?"),
            (
                gives([1 + col * cols + row for row, col, cols in patches]),
                "You go down the columns; the patches are counted along the rows.",
            ),
            (gives([token + 1 for token in wanted]), "Rows and columns are counted from 0."),
        ],
    )


def check_favourite(answer: Any) -> None:
    """Check the patch `(row, column)` that all patches together look at most, in head 1.

    Example:
        >>> check_favourite((9, 8))
        ✗ The row comes first, then the column.
    """
    attention = _block()[0][1]
    token = int(attention[1:, 1:].sum(0).argmax()) + 1
    row, column = divmod(token - 1, COLS)
    summed = attention[1:].sum(1), attention[1:, 1:].sum(1)
    over_keys = [divmod(int(sums.argmax()), COLS) for sums in summed]
    looks_most = divmod(int(attention[1:, 1:].amax(1).argmax()), COLS)
    judge(
        answer,
        lambda patch: same(patch, (row, column)),
        [
            (lambda patch: same(patch, (column, row)), "The row comes first, then the column."),
            (
                lambda patch: same(patch, divmod(token, COLS)),
                "One too far: the first patch is token 1.",
            ),
            (
                lambda patch: same(patch, looks_most),
                "That patch looks the hardest at another one. Who is looked *at* stands in a "
                "column.",
            ),
            (
                lambda patch: any(same(patch, sums) for sums in over_keys),
                "That sums over keys, and every row sums to 1. Which sums say who is looked at?",
            ),
            (
                lambda token: isinstance(token, int),
                "A token, or an index; the answer is a patch: (row, column).",
            ),
        ],
    )


def check_owed(answer: Any) -> None:
    """Check what the bee's score owes, to first order, to the entry that notebook 01 raises.

    Example:
        >>> check_owed(0.5769)
        ✗ That is how much the class token looks there. What does looking do to the score?
    """
    attention, gradient = (matrices[0, 0] for matrices in _block())
    key = gradient.abs().argmax()
    share, slope = float(attention[key]), float(gradient[key])
    judge(
        answer,
        lambda number: same(number, share * slope, 2e-3),
        [
            (
                lambda number: same(number, slope, 2e-3),
                "That is the score's rise for each unit of attention. How many units are there?",
            ),
            (
                lambda number: same(number, share, 2e-3),
                "That is how much the class token looks there. What does looking do to the score?",
            ),
            (
                lambda number: same(number, -share * slope, 2e-3),
                "The sign: the loss is asked for, not the change.",
            ),
        ],
    )
