from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from reference import array

from vitexplain_utils.truth import (
    average_precision,
    energy_inside,
    mean_iou,
    pixel_accuracy,
    pointing_game,
    share_on_target,
)


def share_against_turned(heatmap, mask):
    return share_on_target(heatmap, mask, mask.flip(1, 2))


def naive_enlarge(heatmap, height, width):
    """Linear between the centres of cells, flat outside them."""
    rows, cols = heatmap.shape
    large = np.zeros((height, width))
    for i, j in product(range(height), range(width)):
        y = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
        x = min(max((j + 0.5) * cols / width - 0.5, 0), cols - 1)
        for r, c in product(range(rows), range(cols)):
            large[i, j] += heatmap[r, c] * max(0, 1 - abs(y - r)) * max(0, 1 - abs(x - c))
    return (large / heatmap.max()).round(9)


def naive_pointing_game(heatmap, mask):
    large = naive_enlarge(heatmap, *mask.shape)
    best = max(product(*map(range, mask.shape)), key=lambda place: large[place])  # the first
    return mask[best]


def naive_energy(heatmap, mask):
    inside = 0.0
    (rows, cols), (height, width) = heatmap.shape, mask.shape
    for r, c in product(range(rows), range(cols)):
        pixels = [
            mask[i, j]
            for i, j in product(range(height), range(width))
            if r * height < (i + 1) * rows and i * rows < (r + 1) * height
            if c * width < (j + 1) * cols and j * cols < (c + 1) * width
        ]
        inside += heatmap[r, c] * sum(pixels) / len(pixels)
    return inside / sum(heatmap.flat)


def naive_share(heatmap, mask):
    on_target, on_others = naive_energy(heatmap, mask), naive_energy(heatmap, mask[::-1, ::-1])
    return on_target / (on_target + on_others)


def naive_answer(heatmap, mask):
    large = naive_enlarge(heatmap, *mask.shape)
    mean = sum(large.flat) / large.size
    return [(value > mean, bool(truth)) for value, truth in zip(large.flat, mask.flat, strict=True)]


def naive_mean_iou(heatmap, mask):
    pairs = naive_answer(heatmap, mask)
    thing = sum(a and b for a, b in pairs) / sum(a or b for a, b in pairs)
    background = sum(not a and not b for a, b in pairs) / sum(not a or not b for a, b in pairs)
    return (thing + background) / 2


def naive_pixel_accuracy(heatmap, mask):
    pairs = naive_answer(heatmap, mask)
    return sum(a == b for a, b in pairs) / len(pairs)


def naive_average_precision(heatmap, mask):
    large = naive_enlarge(heatmap, *mask.shape)
    area = before = 0.0
    for threshold in sorted(set(large.flat), reverse=True):
        chosen = [
            truth for value, truth in zip(large.flat, mask.flat, strict=True) if value >= threshold
        ]
        recall = sum(chosen) / mask.sum()
        area += (recall - before) * sum(chosen) / len(chosen)
        before = recall
    return area


MEASURES = {
    pointing_game: naive_pointing_game,
    energy_inside: naive_energy,
    share_against_turned: naive_share,
    mean_iou: naive_mean_iou,
    pixel_accuracy: naive_pixel_accuracy,
    average_precision: naive_average_precision,
}
each_measure = pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.__name__)


def inputs(grid=(3, 5), size=(12, 15), batch=6, levels=None, seed=0):
    """Maps and masks of whole and of broken patches."""
    generator = torch.Generator().manual_seed(seed)
    heatmap = torch.rand(batch, *grid, generator=generator, dtype=torch.float64)
    if levels:
        heatmap = (heatmap * levels).floor()
    mask = torch.rand(batch, *size, generator=generator) < 0.4
    return heatmap, mask


@each_measure
@pytest.mark.parametrize("levels", [None, 3], ids=["distinct", "ties"])
@pytest.mark.parametrize("size", [(12, 15), (3, 5), (9, 40), (10, 13)], ids=str)
def test_each_equals_loops(measure, levels, size):
    heatmap, mask = inputs(size=size, levels=levels)
    expected = [MEASURES[measure](*pair) for pair in zip(array(heatmap), mask.numpy(), strict=True)]
    found = measure(heatmap, mask)
    assert found.shape == (6,)
    assert found.dtype == (torch.bool if measure is pointing_game else torch.float64)
    np.testing.assert_allclose(array(found), np.array(expected, float), rtol=0, atol=1e-12)


THING = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0]], dtype=torch.bool)[None]
OTHER = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.bool)[None]
EXTREMES = {  # peak inside, energy inside, share, mean IoU, pixel accuracy, average precision
    "perfect": (THING.float(), (1, 1, 1, 1, 1, 1)),
    "inverted": (1 - THING.float(), (0, 0, 0, 0, 0, 3 / 8)),
    "constant": (torch.ones(1, 2, 4), (0, 3 / 8, 3 / 4, 5 / 16, 5 / 8, 3 / 8)),
    "zero": (torch.zeros(1, 2, 4), (0, 0, 0, 5 / 16, 5 / 8, 3 / 8)),
    "on the other": (OTHER.float(), (0, 0, 0, (0 + 4 / 8) / 2, 4 / 8, 3 / 8)),
    "one pixel": (
        torch.eye(8)[1].view(1, 2, 4),
        (1, 1, 1, (1 / 3 + 5 / 7) / 2, 6 / 8, 1 / 3 + 1 / 4),
    ),
    "by hand": (  # from the highest down: thing 4, background 3 and 3, things 2 and 1, the rest 0
        torch.tensor([[[3.0, 4, 2, 0], [3, 1, 0, 0]]]),
        (1, 7 / 13, 1, (2 / 5 + 3 / 6) / 2, 5 / 8, (1 + 2 / 4 + 3 / 5) / 3),
    ),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_and_cases_by_hand(name):
    heatmap, expected = EXTREMES[name]
    found = [
        pointing_game(heatmap, THING),
        energy_inside(heatmap, THING),
        share_on_target(heatmap, THING, OTHER),
        mean_iou(heatmap, THING),
        pixel_accuracy(heatmap, THING),
        average_precision(heatmap, THING),
    ]
    assert [value.item() for value in found] == pytest.approx(expected, abs=1e-12)


def test_a_perfect_map_of_everything():
    heatmap, mask = torch.tensor([[[3.0, 1.0]]]), torch.ones(1, 1, 2, dtype=torch.bool)
    assert pointing_game(heatmap, mask)
    assert energy_inside(heatmap, mask) == average_precision(heatmap, mask) == 1
    assert share_on_target(heatmap, mask, mask) == pixel_accuracy(heatmap, mask) == 1 / 2
    assert mean_iou(heatmap, mask) == (1 / 2 + 0) / 2


def test_a_map_of_zeros_points_nowhere():
    mask = torch.ones(1, 2, 2, dtype=torch.bool)
    assert not pointing_game(torch.zeros(1, 2, 2), mask)


def test_what_equals_the_mean_is_not_above_it():
    heatmap, mask = torch.tensor([[[3.0, 2.0, 1.0]]]), torch.tensor([[[True, False, False]]])
    assert pixel_accuracy(heatmap, mask) == mean_iou(heatmap, mask) == 1


def test_of_equal_peaks_the_first_counts():
    heatmap = torch.tensor([[[0.0, 2.0], [2.0, 1.0]]])
    mask = torch.tensor([[[False, True], [False, False]]])
    assert pointing_game(heatmap, mask)
    assert not pointing_game(heatmap, mask.mT)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 7e-5])
@pytest.mark.parametrize("size", [(23, 23), (28, 100), (5, 6)], ids=str)
def test_a_constant_map_stays_constant_when_enlarged(value, size):
    heatmap = torch.full((1, 5, 6), value, dtype=torch.float64)
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[0, 0, 0] = True
    pixels = math.prod(size)
    assert pointing_game(heatmap, mask)  # at the first pixel
    assert average_precision(heatmap, mask).item() == pytest.approx(1 / pixels, abs=1e-12)
    assert mean_iou(heatmap, mask).item() == pytest.approx((1 - 1 / pixels) / 2, abs=1e-12)
    assert pixel_accuracy(heatmap, mask).item() == pytest.approx(1 - 1 / pixels, abs=1e-12)


def test_half_a_patch_counts_half():
    heatmap = torch.tensor([[[4.0, 1.0], [1.0, 2.0]]])
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, :2, 1] = True  # half of the first patch
    mask[0, 3, 3] = True  # a quarter of the last
    assert energy_inside(heatmap, mask).item() == (4 / 2 + 2 / 4) / 8


@each_measure
@pytest.mark.parametrize("scale", [1e-300, 1e-40, 0.3, 7, 1e40, 1e300])
def test_scale_of_the_map_does_not_matter(measure, scale):
    heatmap, mask = inputs()
    found = measure(scale * heatmap, mask).double()
    torch.testing.assert_close(found, measure(heatmap, mask).double(), rtol=0, atol=1e-9)


@each_measure
def test_batch_equals_one_by_one(measure):
    heatmap, mask = inputs()
    heatmap *= torch.tensor([1, 1e-6, 1e6, 0, 1, 1])[:, None, None]
    alone = [measure(heatmap[i : i + 1], mask[i : i + 1]) for i in range(6)]
    assert torch.equal(measure(heatmap, mask), torch.cat(alone))


@each_measure
@pytest.mark.parametrize("dims", [(1,), (2,), (1, 2)], ids=str)
def test_flipping_map_and_mask_changes_nothing(measure, dims):
    heatmap, mask = inputs(size=(3, 5))
    mask = mask.repeat_interleave(4, 1).repeat_interleave(3, 2)
    found = measure(heatmap.flip(dims), mask.flip(dims)).double()
    torch.testing.assert_close(found, measure(heatmap, mask).double(), rtol=0, atol=1e-12)


@each_measure
def test_flipping_the_mask_alone_does_change_it(measure):
    heatmap, mask = inputs()
    assert not torch.allclose(measure(heatmap, mask.flip(2)), measure(heatmap, mask))


@each_measure
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64], ids=str
)
def test_every_dtype_is_computed_in_float64(measure, dtype):
    heatmap, mask = inputs(levels=9)
    heatmap[0, 0, 0] = 60_000  # the sum of a row overflows float16
    heatmap[0, 0, 1] = 50_000
    heatmap = heatmap.to(dtype)
    assert torch.equal(measure(heatmap, mask), measure(heatmap.double(), mask))


@each_measure
def test_inputs_are_not_modified(measure):
    heatmap, mask = inputs()
    measure(heatmap, mask)
    assert all(map(torch.equal, (heatmap, mask), inputs()))


MAP, MASK = torch.ones(2, 2, 2), torch.ones(2, 4, 4, dtype=torch.bool)
HALF_EMPTY = MASK & torch.tensor([True, False])[:, None, None]


@each_measure
@pytest.mark.parametrize(
    ("heatmap", "mask", "named"),
    [
        (MAP[0], MASK, r"heatmap must be \[B, rows, cols\].*\(2, 2\) and \(2, 4, 4\)"),
        (MAP, MASK[0], r"mask \[B, H, W\].*\(2, 2, 2\) and \(4, 4\)"),
        (MAP[:1], MASK, "same B"),
        (MAP[:0], MASK[:0], r"\(0, 2, 2\)"),
        (MAP[:, :0], MASK, r"\(2, 0, 2\)"),
        (MAP, MASK[:, :1], r"H >= rows.*\(2, 1, 4\)"),
        (MAP, MASK[:, :, :1], r"W >= cols.*\(2, 4, 1\)"),
        (MAP, MASK.float(), r"mask must be bool, got torch\.float32"),
        (MAP, ~MASK, r"mask must mark at least one pixel.*\[0, 1\] of 2"),
        (MAP, HALF_EMPTY, r"mask must mark at least one pixel.*\[1\] of 2"),
        (-MAP, MASK, r"heatmap must be finite and non-negative, got -1\.0"),
        (
            MAP * torch.tensor([[[1, 1], [1, -1]], [[1, 1], [1, 1]]]),
            MASK,
            r"heatmap must be finite and non-negative, got -",
        ),
        (MAP * float("nan"), MASK, "heatmap must be finite.*got nan"),
        (MAP * float("inf"), MASK, "heatmap must be finite.*got inf"),
        (MAP.numpy(), MASK, "heatmap must be a tensor, got ndarray"),
        (MAP, MASK.numpy(), "mask must be a tensor, got ndarray"),
        (MAP.to("meta"), MASK, "heatmap is on meta, mask on cpu"),
    ],
)
def test_errors(measure, heatmap, mask, named):
    if measure is share_against_turned:
        measure = lambda heatmap, mask: share_on_target(heatmap, mask, MASK)  # noqa: E731
    with pytest.raises(ValueError, match=named):
        measure(heatmap, mask)


@pytest.mark.parametrize(
    ("others", "named"),
    [
        (MASK[:1], r"others \[B, H, W\]"),
        (HALF_EMPTY, r"others must mark at least one pixel.*\[1\]"),
        (MASK.byte(), "others must be bool"),
        (MASK.numpy(), "others must be a tensor"),
        (MASK.to("meta"), "others on meta"),
    ],
)
def test_errors_name_the_others(others, named):
    with pytest.raises(ValueError, match=named):
        share_on_target(MAP, MASK, others)


def test_masks_of_different_sizes_share_a_map():
    heatmap, mask = inputs(size=(3, 5))
    large = mask.repeat_interleave(4, 1).repeat_interleave(3, 2)
    found = share_on_target(heatmap, mask, large.flip(2))
    assert torch.allclose(found, share_on_target(heatmap, mask, mask.flip(2)), rtol=0, atol=1e-12)
