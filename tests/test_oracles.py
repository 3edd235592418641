"""Answers from outside: scipy, scikit-learn, captum and quantus on the same maps of ten scenes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vitexplain_utils import METHODS, capture_attention, load_model
from vitexplain_utils.garden import garden_test_set
from vitexplain_utils.truth import (
    ask_garden,
    average_precision,
    pointing_game,
    random_map,
    rank_correlation,
)

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
NAMES = ("rollout", "gradient_rollout", "attribution")


@pytest.fixture(scope="module")
def asked():
    """Every question about ten garden scenes, and the model's capture of them."""
    model = load_model("garden")
    scenes = [scene for scene in garden_test_set() if len(scene.labels) > 1]
    questions = ask_garden(model, scenes[:10])
    assert len(questions.scenes.unique()) == 10
    return questions, capture_attention(model, questions.x, target=questions.targets)


@pytest.fixture(scope="module")
def maps(asked) -> list[Tensor]:
    """One batch of maps for each method, and one of noise, which misses."""
    _, capture = asked
    return [METHODS[name].heatmap(capture) for name in NAMES] + [random_map(capture)]


def enlarged(heatmap: Tensor, mask: Tensor) -> np.ndarray:
    large = interpolate(heatmap.double()[:, None], size=mask.shape[1:], mode="bilinear")
    return large[:, 0].numpy()


def test_rank_correlation_is_scipys(maps):
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    coarse = [(heatmap * 8 / heatmap.amax()).round() for heatmap in maps]  # many are equal
    for first, second in [(maps[0], maps[1]), (maps[2], maps[3]), (coarse[0], coarse[2])]:
        expected = [
            stats.spearmanr(one.flatten(), other.flatten()).statistic
            for one, other in zip(first, second, strict=True)
        ]
        assert rank_correlation(first, second).tolist() == pytest.approx(expected, abs=1e-12)


def test_average_precision_is_scikit_learns(asked, maps):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    masks = asked[0].masks
    for heatmap in [*maps, (maps[1] * 8 / maps[1].amax()).round()]:
        scaled = heatmap.double() / heatmap.double().amax((1, 2), keepdim=True)
        large = enlarged(scaled, masks).round(9)
        expected = [
            metrics.average_precision_score(mask.flatten(), pixels.flatten())
            for mask, pixels in zip(masks.numpy(), large, strict=True)
        ]
        assert average_precision(heatmap, masks).tolist() == pytest.approx(expected, abs=1e-12)


def test_pointing_game_is_quantus(asked, maps):
    quantus = pytest.importorskip("quantus", reason="quantus is not installed")
    questions, capture = asked
    game = quantus.PointingGame(disable_warnings=True)
    hits = []
    for heatmap in maps:
        found = game(
            model=capture.model,
            x_batch=questions.x.numpy(),
            y_batch=questions.targets.numpy(),
            a_batch=enlarged(heatmap, questions.masks)[:, None],
            s_batch=questions.masks.numpy()[:, None],
        )
        assert pointing_game(heatmap, questions.masks).tolist() == found
        hits.append(np.mean(found))
    assert hits[2] > 0.9 > 0.6 > hits[0]  # both answers occur


def test_input_x_gradient_is_captums(asked):
    pytest.importorskip("captum", reason="captum is not installed")
    from peers import input_x_gradient

    questions, capture = asked
    x = questions.x.clone().requires_grad_()
    logits = capture.model(x).gather(1, questions.targets[:, None])
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    size = x.shape[2] // capture.grid.rows
    pixels = (x.detach() * gradient).sum(1).unflatten(2, (-1, size)).unflatten(1, (-1, size))
    expected = pixels.mean((2, 4)).clamp(min=0)  # [B, rows, size, cols, size]
    torch.testing.assert_close(input_x_gradient(capture), expected)


def test_attribution_is_captums_activation_x_gradient_of_the_attention(asked):
    """`Σ A ⊙ ∂y/∂A` of the class token's rows, where an unfused pass has the matrices."""
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    questions, _ = asked
    model = load_model("garden")
    for block in model.blocks:
        block.attn.fused_attn = False
    layers = [block.attn.attn_drop for block in model.blocks]
    product = attr.LayerGradientXActivation(model, layers)
    matrices = product.attribute(questions.x, target=questions.targets)
    row = sum(matrix[:, :, 0].sum(1) for matrix in matrices)
    capture = capture_attention(
        load_model("garden"), questions.x, target=questions.targets, hold_attention=False
    )
    found = METHODS["attribution"].heatmap(capture, hold_attention=False)
    expected = capture.grid.to_grid(row).clamp(min=0).detach()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
