"""What must hold for whatever goes in: tensors through the stages, and measures of maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from properties import SEEDS
from reference import array, gradient_blocks, naive_matmul, naive_rollout, softmax_blocks

from vitexplain_utils.methods import HEAD_FUSIONS, discard_lowest, gradient_rollout, rollout
from vitexplain_utils.methods.discard import discard_each
from vitexplain_utils.truth import (
    average_precision,
    energy_inside,
    mean_iou,
    pixel_accuracy,
    pointing_game,
    rank_correlation,
    share_on_target,
)

RATIOS = st.floats(0, 1, exclude_max=True)
FUSIONS = st.sampled_from(HEAD_FUSIONS)


@st.composite
def matrices(draw) -> np.ndarray:
    """`[T, T]` of few values, so that many are equal, or of any."""
    few = st.sampled_from([0.0, 0.125, 0.25, 1.0])
    values = draw(st.sampled_from([few, st.floats(0, 2.0**100, width=32)]))
    tokens = draw(st.integers(1, 7))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return draw(arrays(dtype, (tokens, tokens), elements=values))


def in_order(matrix: np.ndarray) -> list[int]:
    """Places of the flat matrix, lowest first, of equals the earlier."""
    return sorted(range(matrix.size), key=lambda place: (matrix.flat[place], place))


@given(matrices(), RATIOS, st.booleans())
def test_discard_sets_the_first_in_order_to_zero_and_no_other(matrix, ratio, class_token):
    kept = discard_lowest(torch.from_numpy(matrix[None]), ratio, class_token=class_token)
    expected = matrix.copy()
    for place in in_order(matrix)[: int(ratio * matrix.size)]:
        if place or not class_token:
            expected.flat[place] = 0
    assert (kept[0].numpy() == expected).all()


@given(matrices(), st.lists(RATIOS, min_size=1, max_size=5), st.booleans())
def test_a_higher_ratio_keeps_nothing_that_a_lower_one_discards(matrix, ratios, class_token):
    swept = discard_each(torch.from_numpy(matrix[None]), ratios, class_token=class_token)
    kept = {ratios[index]: (left != 0)[0].clone() for index, left in swept}
    for lower, higher in zip(sorted(kept), sorted(kept)[1:], strict=False):
        assert (kept[higher] <= kept[lower]).all()


@st.composite
def stacks(draw) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Attention and its gradient, `[B, H, T, T]` per block."""
    shape = [draw(st.integers(1, most)) for most in (3, 2, 4, 6)]
    return softmax_blocks(*shape, seed=draw(SEEDS)), gradient_blocks(*shape, draw(SEEDS))


@given(stacks(), FUSIONS, RATIOS, st.floats(0.01, 0.99), st.booleans())
def test_rollouts_keep_the_sum_and_equal_loops(stack, head_fusion, ratio, weight, class_token):
    attention, gradient = stack
    start = torch.linspace(0, 1, attention[0].shape[-1]).double()
    same = dict(head_fusion=head_fusion, class_token=class_token)
    settings = dict(discard_ratio=ratio, residual_weight=weight, start=start, **same)
    naive = dict(ratio=ratio, weight=weight, start=array(start), **same)
    for rule, stages in ((rollout, [attention]), (gradient_rollout, [attention, gradient])):
        rows = rule(*stages, **settings)
        assert rows.sum(1).tolist() == pytest.approx([float(start.sum())] * len(rows))
        for image, row in enumerate(rows):
            one = [[array(block[image]) for block in part] for part in stages]
            assert array(row) == pytest.approx(naive_rollout(*one, **naive), abs=1e-12)


@given(stacks(), FUSIONS, SEEDS)
def test_the_order_of_heads_and_of_patches_is_the_rows_own(stack, head_fusion, seed):
    attention, gradient = stack
    _, heads, tokens, _ = attention[0].shape
    generator = torch.Generator().manual_seed(seed)
    head = torch.randperm(heads, generator=generator)
    token = torch.cat([torch.zeros(1).long(), 1 + torch.randperm(tokens - 1, generator=generator)])
    for rule, stages in ((rollout, [attention]), (gradient_rollout, [attention, gradient])):
        mixed = [[block[:, head][:, :, token][..., token] for block in part] for part in stages]
        expected = rule(*stages, head_fusion=head_fusion)[:, token]
        torch.testing.assert_close(rule(*mixed, head_fusion=head_fusion), expected)


@given(stacks(), st.floats(0, 1, exclude_max=True), SEEDS)
def test_the_residual_goes_from_a_plain_product_to_the_identity(stack, weight, seed):
    """`R(0) = A_L … A_1`, `R(w) >= w^L` on what it started from, `R(1) = I` in the limit."""
    attention, _ = stack
    tokens, blocks = attention[0].shape[-1], len(attention)
    start = torch.rand(tokens, generator=torch.Generator().manual_seed(seed)).double()
    row = array(start)[None]
    for block in reversed(attention):
        row = naive_matmul(row, array(block[0].mean(0)))
    plain = rollout(attention, residual_weight=0, start=start)
    assert array(plain[0]) == pytest.approx(row[0])
    held = rollout(attention, residual_weight=weight, start=start)
    assert (held >= (weight**blocks - 1e-12) * start).all()
    nearly = rollout(attention, residual_weight=1 - 1e-12, start=start)
    assert array(nearly[0]) == pytest.approx(array(start), abs=1e-9)


@st.composite
def maps(draw) -> tuple[np.ndarray, np.ndarray, int]:
    """A map, a mask that marks some pixels, and how many pixels a patch is wide."""
    rows, cols, pixels = (draw(st.integers(1, most)) for most in (4, 5, 3))
    values = st.integers(0, 9).map(float)
    heatmap = draw(arrays(np.float64, (rows, cols), elements=values))
    mask = draw(arrays(bool, (rows * pixels, cols * pixels)).filter(np.any))
    return heatmap, mask, pixels


def tensors(*of: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(each))[None] for each in of]


MEASURES = (pointing_game, energy_inside, mean_iou, pixel_accuracy, average_precision)


@given(maps(), st.sampled_from([1e-30, 1e-6, 0.3, 7.0, 1e30]))
def test_no_measure_knows_the_maps_scale(case, scale):
    heatmap, mask = tensors(*case[:2])
    for measure in MEASURES:
        assert measure(heatmap * scale, mask).tolist() == pytest.approx(
            measure(heatmap, mask).tolist()
        )
    share = [share_on_target(each, mask, mask.flip(1)) for each in (heatmap, heatmap * scale)]
    assert share[0].tolist() == pytest.approx(share[1].tolist())


@given(maps())
def test_measures_equal_sums_over_pixels(case):
    heatmap, mask, pixels = case
    spread = np.kron(heatmap, np.ones((pixels, pixels)))
    inside, total = spread[mask].sum(), spread.sum()
    args = tensors(heatmap, mask)
    assert energy_inside(*args).item() == pytest.approx(inside / total if total else 0)
    others = ~mask
    if others.any():  # all energy lies on one or the other
        assert share_on_target(*args, *tensors(others)).item() == pytest.approx(
            inside / total if total else 0
        )
    coarse = mask[::pixels, ::pixels]  # one pixel for each cell: nothing is enlarged
    if coarse.any():
        args, peak = tensors(heatmap, coarse), heatmap.argmax()
        assert pointing_game(*args).item() == (coarse.flat[peak] and heatmap.flat[peak] > 0)
        answer = heatmap > heatmap.mean()
        assert pixel_accuracy(*args).item() == pytest.approx((answer == coarse).mean())
        ious = [(a & b).sum() / (a | b).sum() for a, b in ((answer, coarse), (~answer, ~coarse))]
        assert mean_iou(*args).item() == pytest.approx(np.mean(ious))


@given(maps())
def test_the_mask_itself_scores_highest_and_what_is_left_lowest(case):
    mask = case[1]
    if mask.all():
        return
    right, wrong = tensors(mask.astype(float), (~mask).astype(float))
    (truth,) = tensors(mask)
    for measure in MEASURES:
        assert measure(right, truth).item() == 1
        if measure is not average_precision:
            assert measure(wrong, truth).item() == 0
    assert average_precision(wrong, truth).item() == pytest.approx(mask.mean())
    assert share_on_target(right, truth, ~truth).item() == 1
    assert share_on_target(wrong, truth, ~truth).item() == 0


@given(maps(), maps())
def test_ranks_know_order_alone(case, other):
    (heatmap,) = tensors(case[0])
    varied = len(np.unique(case[0])) > 1
    for same, sign in ((heatmap**3 + 5, 1), (-heatmap, -1)):
        assert rank_correlation(heatmap, same).item() == pytest.approx(sign if varied else 0)
    if case[0].shape == other[0].shape:
        (second,) = tensors(other[0])
        assert torch.equal(rank_correlation(heatmap, second), rank_correlation(second, heatmap))
