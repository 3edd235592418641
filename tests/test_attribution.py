from __future__ import annotations

import pytest
import torch
from reference import array, gradient_blocks, naive_attribution, softmax_blocks

from vitexplain_utils import METHODS, load_model
from vitexplain_utils.garden import garden_test_set
from vitexplain_utils.methods import attribution
from vitexplain_utils.truth import (
    Captures,
    ask_garden,
    energy_inside,
    pointing_game,
    share_on_target,
)

SHAPE = (3, 2, 4, 6)  # blocks, batch, heads, tokens


def inputs(dtype: torch.dtype = torch.float64):
    attention = [block.to(dtype) for block in softmax_blocks(*SHAPE, seed=1)]
    gradient = [block.to(dtype) for block in gradient_blocks(*SHAPE, seed=2)]
    return attention, gradient


@pytest.mark.parametrize("rows", [slice(1), slice(2), slice(None), slice(3, 5)], ids=str)
@pytest.mark.parametrize(
    ("dtype", "result", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-12),
        (torch.float32, torch.float32, 1e-5),
        (torch.bfloat16, torch.float32, 1e-5),
        (torch.float16, torch.float32, 1e-5),
    ],
)
def test_equals_a_loop(rows, dtype, result, tolerance):
    attention, gradient = inputs(dtype)
    row = attribution(attention, gradient, rows=rows)
    assert row.dtype == result
    assert (row == 0).any() and (row > 0).any()
    for image in range(2):
        expected = naive_attribution(
            [array(block[image]) for block in attention],
            [array(block[image]) for block in gradient],
            range(6)[rows],
        )
        assert abs(array(row[image]) - expected.clip(min=0)).max() < tolerance


def test_signs_cancel_between_heads_and_blocks():
    half = torch.full((1, 2, 2, 2), 0.5)
    against = torch.tensor([2.0, -2.0]).view(1, 2, 1, 1).expand_as(half)  # head 1 against head 0
    assert attribution([half], [against]).tolist() == [[0, 0]]
    assert attribution([half, half], [half, -half]).tolist() == [[0, 0]]
    assert attribution([half, half], [half, 3 * half]).tolist() == [[2, 2]]


def test_scaling_the_gradient_scales_the_row():
    attention, gradient = inputs()
    scaled = attribution(attention, [100 * block for block in gradient])
    torch.testing.assert_close(scaled, 100 * attribution(attention, gradient), rtol=1e-12, atol=0)


BLOCK = torch.rand(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("attention", "gradient", "named"),
    [
        ([], [], "attention"),
        ([BLOCK[..., :3]], [BLOCK[..., :3]], "attention"),
        ([BLOCK], None, "gradient"),
        ([BLOCK], [BLOCK, BLOCK], "gradient"),
        ([BLOCK], [BLOCK[:1]], "gradient"),
    ],
)
def test_errors(attention, gradient, named):
    with pytest.raises(ValueError, match=named):
        attribution(attention, gradient)


@pytest.mark.slow
def test_it_finds_the_gardens_things():
    """More of the map on the thing asked for than gradient rollout has, and nothing less."""
    model = load_model("garden")
    asked = ask_garden(model, garden_test_set())
    captures = Captures(model, asked)
    maps, other = (captures.maps(METHODS[name]) for name in ("attribution", "gradient_rollout"))
    assert pointing_game(maps, asked.masks).double().mean() >= 0.985
    assert energy_inside(maps, asked.masks).mean() >= 0.84
    assert share_on_target(maps, asked.masks, asked.others).mean() >= 0.975
    gain = energy_inside(maps, asked.masks) - energy_inside(other, asked.masks)
    assert gain.mean() > 0.08
