from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import array, gradient_blocks, naive_rollout, softmax_blocks

from vitexplain_utils.methods import HEAD_FUSIONS, gradient_rollout, rollout

SHAPE = (3, 3, 4, 6)  # blocks, batch, heads, tokens
DTYPES = {
    torch.float64: (torch.float64, 1e-10),
    torch.float32: (torch.float32, 1e-5),
    torch.float16: (torch.float32, 1e-5),
    torch.bfloat16: (torch.float32, 1e-5),
}
STARTS = {
    "class token": None,
    "[T]": torch.tensor([0.5, 0.5, 0, 0, 0, 0]),
    "[B, T]": torch.rand(3, 6, generator=torch.Generator().manual_seed(5)).softmax(-1),
}


def inputs(dtype: torch.dtype = torch.float64):
    attention = [block.to(dtype) for block in softmax_blocks(*SHAPE, seed=1)]
    gradient = [block.to(dtype) for block in gradient_blocks(*SHAPE, seed=2)]
    return attention, gradient


def reference(attention, gradient=None, start=None, **settings) -> torch.Tensor:
    rows = []
    for image in range(len(attention[0])):
        first = None if start is None else array(start.expand(len(attention[0]), -1)[image])
        rows.append(
            naive_rollout(
                [array(block[image]) for block in attention],
                None if gradient is None else [array(block[image]) for block in gradient],
                start=first,
                **settings,
            )
        )
    return torch.from_numpy(np.array(rows))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_fusion", HEAD_FUSIONS)
@pytest.mark.parametrize("ratio", [0, 0.5, 0.9])
@pytest.mark.parametrize("weight", [0.5, 0.3, 0])
def test_both_equal_loops(dtype, head_fusion, ratio, weight):
    attention, gradient = inputs(dtype)
    result, tolerance = DTYPES[dtype]
    settings = dict(head_fusion=head_fusion, discard_ratio=ratio, residual_weight=weight)
    naive = dict(head_fusion=head_fusion, ratio=ratio, weight=weight)
    plain = rollout(attention, **settings)
    assert plain.dtype == result
    torch.testing.assert_close(
        plain.double(), reference(attention, **naive), rtol=0, atol=tolerance
    )
    weighted = gradient_rollout(attention, gradient, **settings)
    assert weighted.dtype == result
    expected = reference(attention, gradient, **naive)
    torch.testing.assert_close(weighted.double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("class_token", [True, False])
def test_start_and_class_token(start, class_token):
    attention, gradient = inputs()
    for blocks in (attention, [block.clone() for block in attention]):
        blocks[1][:, :, 0, 0] = 1e-9  # so that discarding it makes a difference
    first = STARTS[start]
    settings = dict(start=first, class_token=class_token)
    plain = rollout(attention, discard_ratio=0.5, **settings)
    expected = reference(attention, ratio=0.5, **settings)
    torch.testing.assert_close(plain, expected, rtol=0, atol=1e-7)  # `start` is float32
    weighted = gradient_rollout(attention, gradient, discard_ratio=0.5, **settings)
    expected = reference(attention, gradient, ratio=0.5, **settings)
    torch.testing.assert_close(weighted, expected, rtol=0, atol=1e-7)


def test_defaults_are_the_published_ones():
    attention, gradient = inputs()
    torch.testing.assert_close(rollout(attention), reference(attention), rtol=0, atol=1e-10)
    expected = reference(attention, gradient)
    torch.testing.assert_close(gradient_rollout(attention, gradient), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("head_fusion", HEAD_FUSIONS)
@pytest.mark.parametrize("ratio", [0, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("weight", [0.5, 0.3])
@pytest.mark.parametrize("start", STARTS)
def test_rows_stay_distributions(head_fusion, ratio, weight, start):
    attention, gradient = inputs()
    settings = dict(head_fusion=head_fusion, discard_ratio=ratio, residual_weight=weight)
    first = STARTS[start]
    for row in (
        rollout(attention, start=first, **settings),
        gradient_rollout(attention, gradient, start=first, **settings),
    ):
        assert (row >= 0).all()
        torch.testing.assert_close(row.sum(1), torch.ones(3).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("ratio", [0, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("weight", [0.5, 0.3, 0])
def test_never_nan(ratio, weight):
    settings = dict(discard_ratio=ratio, residual_weight=weight)
    attention, gradient = inputs(torch.float32)
    for values in (gradient, [-block.abs() for block in gradient], [0 * g for g in gradient]):
        row = gradient_rollout(attention, values, **settings)
        assert row.isfinite().all()
        assert (row >= 0).all()
    assert rollout([torch.full((2, 3, 6, 6), 1 / 6)] * 2, **settings).isfinite().all()


def test_without_positive_gradient_only_the_residual_remains():
    attention, gradient = inputs()
    row = gradient_rollout(attention, [-block.abs() for block in gradient])
    assert torch.equal(row, torch.eye(6).double()[:1].expand(3, 6))


def test_batch_equals_one_by_one():
    attention, gradient = inputs()
    rolled = gradient_rollout(attention, gradient, discard_ratio=0.5)
    for image in range(3):
        one = slice(image, image + 1)
        alone = gradient_rollout(
            [block[one] for block in attention],
            [block[one] for block in gradient],
            discard_ratio=0.5,
        )
        torch.testing.assert_close(rolled[one], alone, rtol=0, atol=1e-14)


@pytest.mark.parametrize("head_fusion", HEAD_FUSIONS)
def test_order_of_heads_does_not_matter(head_fusion):
    attention, gradient = inputs()
    order = [3, 1, 0, 2]
    shuffled = gradient_rollout(
        [block[:, order] for block in attention],
        [block[:, order] for block in gradient],
        head_fusion=head_fusion,
    )
    expected = gradient_rollout(attention, gradient, head_fusion=head_fusion)
    torch.testing.assert_close(shuffled, expected, rtol=0, atol=1e-14)


def test_order_of_blocks_and_of_gradients_does_matter():
    attention, gradient = inputs()
    right = gradient_rollout(attention, gradient)
    assert (gradient_rollout(attention, gradient[::-1]) - right).abs().max() > 0.01
    assert (rollout(attention[::-1]) - rollout(attention)).abs().max() > 0.01


def test_rows_are_normalised_not_columns():
    """A case by hand: one block, `½A + ½I = [[1, 0.5], [0, 0.5]]` has row sums 1.5 and 0.5."""
    fused = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]]).double()
    assert rollout([fused]).tolist() == [[pytest.approx(2 / 3), pytest.approx(1 / 3)]]


def test_inputs_are_not_modified_and_a_second_call_agrees():
    attention, gradient = inputs()
    before = [block.clone() for block in attention + gradient]
    first = gradient_rollout(attention, gradient, discard_ratio=0.9)
    assert torch.equal(gradient_rollout(attention, gradient, discard_ratio=0.9), first)
    assert all(map(torch.equal, attention + gradient, before))


BLOCK = torch.rand(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (dict(attention=[]), "attention"),
        (dict(attention=[BLOCK[0]]), "attention"),
        (dict(attention=[BLOCK[..., :3]]), "attention"),
        (dict(attention=[BLOCK, BLOCK[:1]]), "attention"),
        (dict(residual_weight=1), "residual_weight"),
        (dict(residual_weight=-0.1), "residual_weight"),
        (dict(residual_weight=float("nan")), "residual_weight"),
        (dict(discard_ratio=1), "discard_ratio"),
        (dict(head_fusion="sum"), "head_fusion"),
        (dict(start=torch.ones(5)), "start"),
        (dict(start=torch.ones(3, 4)), "start"),
        (dict(start=torch.ones(1, 2, 4)), "start"),
    ],
)
def test_errors(arguments, named):
    with pytest.raises(ValueError, match=named):
        rollout(**{"attention": [BLOCK], **arguments})


@pytest.mark.parametrize("gradient", [[], [BLOCK, BLOCK], [BLOCK[:1]], [BLOCK[:, :1]]])
def test_gradient_that_does_not_match(gradient):
    with pytest.raises(ValueError, match="gradient"):
        gradient_rollout([BLOCK], gradient)
