from __future__ import annotations

import pytest
import torch
from reference import array, naive_discard

from vitexplain_utils.methods import discard_lowest
from vitexplain_utils.methods.discard import discard_each

RATIOS = (0, 0.1, 0.5, 0.9, 0.999)


def random_fused(batch: int = 3, tokens: int = 7) -> torch.Tensor:
    return torch.rand(batch, tokens, tokens, generator=torch.Generator().manual_seed(0)) + 0.01


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("class_token", [True, False])
def test_equals_a_loop(ratio, class_token):
    fused = random_fused()
    kept = discard_lowest(fused, ratio, class_token=class_token)
    for image in range(3):
        expected = naive_discard(array(fused[image]), ratio, class_token)
        assert (array(kept[image]) == expected).all()


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exactly_the_share_of_each_matrix(ratio, dtype):
    fused = random_fused(tokens=8).to(dtype)
    fused[:, 0, 0] = 2  # among the highest
    kept = discard_lowest(fused, ratio)
    assert [int((matrix == 0).sum()) for matrix in kept] == [int(ratio * 64)] * 3


def test_one_threshold_for_the_whole_matrix_not_one_per_row():
    fused = torch.tensor([[[0.9, 0.8], [0.1, 0.2]]])
    assert discard_lowest(fused, 0.5).tolist() == torch.tensor([[[0.9, 0.8], [0, 0]]]).tolist()


def test_class_token_keeps_its_attention_to_itself():
    fused = random_fused()
    fused[:, 0, 0] = 0.001  # the lowest of all
    assert (discard_lowest(fused, 0.9)[:, 0, 0] == fused[:, 0, 0]).all()
    assert (discard_lowest(fused, 0.9, class_token=False)[:, 0, 0] == 0).all()


def test_the_class_tokens_place_is_not_filled_by_another_entry():
    fused = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
    expected = torch.tensor([[[0.1, 0.0], [0.3, 0.4]]])
    assert torch.equal(discard_lowest(fused, 0.5), expected)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_ties_are_counted_exactly(ratio, value):
    fused = torch.full((2, 6, 6), value)
    kept = discard_lowest(fused, ratio, class_token=False)
    expected = 36 if value == 0 else int(ratio * 36)
    assert [int((matrix == 0).sum()) for matrix in kept] == [expected] * 2


def test_of_ties_the_earlier_go_first():
    fused = torch.tensor([[[3.0, 1.0, 2.0], [1.0, 1.0, 2.0], [1.0, 5.0, 1.0]]])
    kept = discard_lowest(fused, 0.34)  # three of nine
    assert kept.tolist() == [[[3, 0, 2], [0, 0, 2], [1, 5, 1]]]


def test_images_do_not_influence_each_other():
    fused = random_fused() * torch.tensor([1.0, 100.0, 0.01])[:, None, None]
    alone = torch.cat([discard_lowest(matrix[None], 0.6) for matrix in fused])
    assert torch.equal(discard_lowest(fused, 0.6), alone)


@pytest.mark.parametrize("ratio", RATIOS)
def test_input_is_not_modified(ratio):
    fused = random_fused()
    before = fused.clone()
    discard_lowest(fused, ratio)
    assert torch.equal(fused, before)


def test_many_ratios_equal_one_at_a_time():
    fused = random_fused()
    fused[0] = 0.5  # ties
    fused[1, 2:5] = 0
    ratios = [RATIOS[index] for index in (3, 0, 4, 1, 3, 2)]  # in no order, one of them twice
    for class_token in (True, False):
        seen = []
        for index, kept in discard_each(fused, ratios, class_token=class_token):
            assert torch.equal(kept, discard_lowest(fused, ratios[index], class_token=class_token))
            seen.append(index)
        assert sorted(seen) == list(range(6)) and seen[0] == 1 and seen[-1] == 2


@pytest.mark.parametrize("ratio", [1, 1.5, -0.1, float("nan"), float("inf")])
def test_ratio_outside_its_range(ratio):
    with pytest.raises(ValueError, match="discard_ratio"):
        discard_lowest(random_fused(), ratio)


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_values_that_cannot_be_attention(value):
    fused = random_fused()
    fused[1, 2, 3] = value
    with pytest.raises(ValueError, match="non-negative"):
        discard_lowest(fused, 0.5)


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 5), (1, 2, 4, 4)])
def test_wrong_shape(shape):
    with pytest.raises(ValueError, match="fused"):
        discard_lowest(torch.rand(shape), 0.5)
