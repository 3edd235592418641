from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vitexplain_utils import capture_attention
from vitexplain_utils.truth import centre_map, constant_map, edge_map, random_map


@pytest.fixture
def captured(tiny, tiny_x):
    return capture_attention(tiny, tiny_x, gradient=False)


@pytest.mark.parametrize("baseline", [constant_map, centre_map, random_map, edge_map])
def test_shape_and_range(baseline, captured):
    heatmap = baseline(captured)
    assert heatmap.shape == (3, 2, 3) and heatmap.dtype == torch.float32
    assert bool((heatmap >= 0).all() and heatmap.isfinite().all())


def test_constant(captured):
    assert constant_map(captured).unique().tolist() == [1]


def test_centre_equals_a_loop(captured):
    for row in range(2):
        for col in range(3):
            down, across = 2 * (row + 1) / 3 - 1, 2 * (col + 1) / 4 - 1
            value = math.exp(-(down**2 + across**2) / 0.5)
            assert centre_map(captured)[1, row, col].item() == pytest.approx(value)


def test_random_is_seeded_and_differs_between_images(captured):
    assert torch.equal(random_map(captured), random_map(captured))
    assert not torch.equal(random_map(captured), random_map(captured, seed=1))
    assert not torch.equal(random_map(captured)[0], random_map(captured)[1])


def test_edges_equal_a_loop(captured):
    grey = captured.x.double().mean(1).numpy()
    steps = np.zeros_like(grey)
    for image in range(3):
        for row in range(32):
            for col in range(48):
                down = grey[image, row + 1, col] - grey[image, row, col] if row < 31 else 0
                across = grey[image, row, col + 1] - grey[image, row, col] if col < 47 else 0
                steps[image, row, col] = math.hypot(down, across)
    patches = steps.reshape(3, 2, 16, 3, 16).mean((2, 4))
    np.testing.assert_allclose(edge_map(captured).numpy(), patches, rtol=1e-5)
