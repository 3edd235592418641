from __future__ import annotations

import pytest
import timm
import torch
from reference import lively

from vitexplain_utils import capture_attention, discard_sweep, explain
from vitexplain_utils.methods import HEAD_FUSIONS
from vitexplain_utils.recording import ALL, AttentionCall

RATIOS = [0.9, 0, 0.5, 0.05, 0.9, 0.999]  # in no order, one of them twice
METHODS = ("rollout", "gradient_rollout")


def one_by_one(model, x, ratios=RATIOS, **settings) -> torch.Tensor:
    settings = {"method": "gradient_rollout", **settings}
    return torch.stack([explain(model, x, discard_ratio=r, **settings).heatmap for r in ratios])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("head_fusion", HEAD_FUSIONS)
def test_equals_explain_for_each_ratio(tiny, tiny_x, method, head_fusion):
    settings = dict(method=method, head_fusion=head_fusion, target=[6, 0, 3])
    maps = discard_sweep(tiny, tiny_x, RATIOS, **settings)
    assert maps.shape == (6, 3, 2, 3)
    assert torch.equal(maps, one_by_one(tiny, tiny_x, **settings))
    if head_fusion != "min":  # of which little is left that could be discarded
        assert not torch.allclose(maps[0], maps[1])


@pytest.mark.parametrize("settings", [dict(residual_weight=0.2), dict(target=lambda y: -y[:, 1])])
def test_settings_are_passed_on(tiny, tiny_x, settings):
    maps = discard_sweep(tiny, tiny_x, RATIOS, **settings)
    assert torch.equal(maps, one_by_one(tiny, tiny_x, **settings))
    assert not torch.allclose(maps, discard_sweep(tiny, tiny_x, RATIOS))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("head_fusion", HEAD_FUSIONS)
def test_ties(tiny, tiny_x, method, head_fusion, monkeypatch):
    """Attention in eighths, so that most entries are equal to many others."""
    exact = {name: getattr(AttentionCall, name) for name in ("attention", "gradient")}
    for name, unit in (("attention", 1 / 8), ("gradient", 1 / 800)):
        coarse = lambda call, rows=ALL, name=name, unit=unit: (  # noqa: E731
            (exact[name](call, rows) / unit).round() * 8 * unit
        )
        monkeypatch.setattr(AttentionCall, name, coarse)
    capture = capture_attention(tiny, tiny_x, target=2)
    assert all(len(call.attention().unique()) < 10 for call in capture.blocks)
    ratios = [step / 49 for step in range(49)]  # each entry of a 7×7 matrix in turn
    settings = dict(method=method, head_fusion=head_fusion, target=2)
    maps = discard_sweep(tiny, tiny_x, ratios, **settings)
    assert torch.equal(maps, one_by_one(tiny, tiny_x, ratios, **settings))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deit_tiny_distilled_patch16_224", {}),
        ("vit_tiny_patch16_224", dict(class_token=False, global_pool="avg")),
        ("vit_tiny_patch16_224", dict(class_token=False, global_pool="map")),
    ],
)
def test_other_heads(name, options, method, tiny_x):
    model = lively(
        timm.create_model(name, img_size=(32, 48), depth=2, num_classes=7, embed_dim=48, **options)
    )
    maps = discard_sweep(model, tiny_x, RATIOS, method=method)
    assert torch.equal(maps, one_by_one(model, tiny_x, method=method))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(tiny, tiny_x, dtype):
    model, x = tiny.to(dtype), tiny_x.to(dtype)
    assert torch.equal(discard_sweep(model, x, RATIOS), one_by_one(model, x))


def test_one_forward_pass_for_all_ratios(tiny, tiny_x):
    passes = []
    tiny.register_forward_hook(lambda *_: passes.append(1))
    discard_sweep(tiny, tiny_x, RATIOS)
    assert len(passes) == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_leaves_nothing_behind(tiny, tiny_x, mode):
    expected = discard_sweep(tiny, tiny_x, RATIOS)
    assert not expected.requires_grad
    assert all(parameter.grad is None for parameter in tiny.parameters())
    with mode():
        assert torch.equal(discard_sweep(tiny, tiny_x, RATIOS), expected)


@pytest.mark.parametrize(
    ("ratios", "settings", "named"),
    [
        ([], {}, "discard_ratios"),
        ([0.5, 1], {}, "discard_ratio"),
        ([0.5, -0.1], {}, "discard_ratio"),
        ([float("nan")], {}, "discard_ratio"),
        ([0.5], dict(method="relevance"), "method"),
        ([0.5], dict(head_fusion="median"), "head_fusion"),
        ([0.5], dict(residual_weight=1), "residual_weight"),
        ([0.5], dict(target=7), "target"),
    ],
)
def test_errors(tiny, tiny_x, ratios, settings, named):
    with pytest.raises(ValueError, match=named):
        discard_sweep(tiny, tiny_x, ratios, **settings)


def test_numbers_that_are_not_finite(tiny, tiny_x):
    for ratios in ([0], RATIOS):
        with pytest.raises(ValueError, match="finite"):
            discard_sweep(tiny, tiny_x, ratios, target=lambda y: y[:, 0] * float("inf"))
