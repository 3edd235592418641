from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import array, gradient_blocks, naive_relevance, softmax_blocks

from vitexplain_utils.methods import relevance

SHAPE = (3, 3, 4, 6)  # blocks, batch, heads, tokens


def inputs(dtype: torch.dtype = torch.float64):
    attention = [block.to(dtype) for block in softmax_blocks(*SHAPE, seed=1)]
    gradient = [block.to(dtype) for block in gradient_blocks(*SHAPE, seed=2)]
    return attention, gradient


def reference(attention, gradient, start=None) -> torch.Tensor:
    rows = [
        naive_relevance(
            [array(block[image]) for block in attention],
            [array(block[image]) for block in gradient],
            start=None if start is None else array(start.expand(3, -1)[image]),
        )
        for image in range(3)
    ]
    return torch.from_numpy(np.array(rows))


@pytest.mark.parametrize(
    ("dtype", "result", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-10),
        (torch.float32, torch.float32, 1e-5),
        (torch.float16, torch.float32, 1e-5),
        (torch.bfloat16, torch.float32, 1e-5),
    ],
)
@pytest.mark.parametrize(
    "start",
    [None, torch.tensor([0.25, 0.5, 0.25, 0, 0, 0]), torch.eye(6)[[4, 0, 2]]],
    ids=["class token", "[T]", "[B, T]"],
)
def test_equals_a_loop(dtype, result, tolerance, start):
    attention, gradient = inputs(dtype)
    row = relevance(attention, gradient, start=start)
    assert row.dtype == result
    expected = reference(attention, gradient, start)
    torch.testing.assert_close(row.double(), expected, rtol=0, atol=tolerance)


def test_negatives_are_cut_in_each_head_before_the_mean():
    uniform = torch.full((1, 2, 2, 2), 0.5)
    gradient = torch.stack([torch.full((1, 2, 2), 2.0), torch.full((1, 2, 2), -2.0)], dim=1)
    assert relevance([uniform], [gradient]).tolist() == [[1.5, 0.5]]


def test_nothing_but_the_start_without_positive_gradient():
    attention, gradient = inputs()
    row = relevance(attention, [-block.abs() for block in gradient])
    assert torch.equal(row, torch.eye(6).double()[:1].expand(3, 6))


def test_batch_heads_and_repetition():
    attention, gradient = inputs()
    row = relevance(attention, gradient)
    assert (row >= 0).all()
    assert torch.equal(relevance(attention, gradient), row)
    order = [2, 3, 1, 0]
    shuffled = relevance([a[:, order] for a in attention], [g[:, order] for g in gradient])
    torch.testing.assert_close(shuffled, row, rtol=0, atol=1e-13)
    for image in range(3):
        one = slice(image, image + 1)
        alone = relevance([a[one] for a in attention], [g[one] for g in gradient])
        torch.testing.assert_close(row[one], alone, rtol=0, atol=1e-13)


def test_pairing_of_gradients_matters():
    attention, gradient = inputs()
    difference = relevance(attention, gradient[::-1]) - relevance(attention, gradient)
    assert difference.abs().max() > 0.01


BLOCK = torch.rand(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("attention", "gradient", "start", "named"),
    [
        ([], [], None, "attention"),
        ([BLOCK], [BLOCK, BLOCK], None, "gradient"),
        ([BLOCK], [BLOCK[:1]], None, "gradient"),
        ([BLOCK], [BLOCK], torch.ones(3), "start"),
    ],
)
def test_errors(attention, gradient, start, named):
    with pytest.raises(ValueError, match=named):
        relevance(attention, gradient, start=start)
