from __future__ import annotations

import math
import weakref
from functools import cache

import numpy as np
import pytest
import timm
import torch
from layouts import MODELS, grid_of, input_of, model_of, third
from reference import (
    array,
    attention_forward,
    lively,
    naive_attribution,
    naive_fuse,
    naive_matmul,
    naive_relevance,
    naive_rollout,
    pool_forward,
)
from torch import Tensor, nn

from vitexplain_utils import METHODS, capture_attention, discard_sweep, explain, record_attention
from vitexplain_utils.methods import HEAD_FUSIONS
from vitexplain_utils.models import library_of

SIXTH = [1 / 6] * 6
# name, settings, tokens before the patches, start over all tokens (None: the pool's attention)
LAYOUTS = {
    "class token": ("vit_tiny_patch16_224", {}, 1, [1] + [0] * 6),
    "no class token": ("vit_medium_patch16_gap_240", {}, 0, SIXTH),
    "distilled": ("deit_tiny_distilled_patch16_224", {}, 2, [0.5, 0.5] + [0] * 6),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": (28, 42)}, 5, [1] + [0] * 10),
    "registers, average": (
        "vit_tiny_patch16_224",
        {"reg_tokens": 1, "global_pool": "avg"},
        2,
        [0, 0, *SIXTH],
    ),
    "attention pool": ("vit_base_patch16_siglip_224", {}, 0, None),
}
SETTINGS = [
    ("rollout", {}),
    ("rollout", dict(head_fusion="max", discard_ratio=0.9)),
    ("rollout", dict(head_fusion="min", discard_ratio=0.5, residual_weight=0.3)),
    ("gradient_rollout", {}),
    ("gradient_rollout", dict(head_fusion="max", discard_ratio=0.5, residual_weight=0)),
    ("gradient_rollout", dict(head_fusion="mean", discard_ratio=0.9)),
    ("gradient_rollout", dict(head_fusion="min", residual_weight=0.3)),
    ("gradient_rollout", dict(hold_attention=False, discard_ratio=0.5)),
    ("relevance", {}),
    ("relevance", dict(hold_attention=False)),
    ("attribution", {}),
    ("attribution", dict(hold_attention=False)),
    ("last_attention", {}),
    ("last_attention", dict(head_fusion="max")),
    ("last_attention", dict(head_fusion="min")),
]
OFFERED = [name for name, method in METHODS.items() if method.offered]
ASKED = [name for name in OFFERED if METHODS[name].needs_gradient]  # they answer for a class
ALL_METHODS = pytest.mark.parametrize("method", OFFERED)


@cache
def layout_model(layout: str) -> nn.Module:
    name, settings, _, _ = LAYOUTS[layout]
    small = {"img_size": (32, 48), "depth": 2, "embed_dim": 48, "num_heads": 2, "num_classes": 5}
    return lively(timm.create_model(name, **{**small, **settings})).double()


@cache
def layout_case(layout: str, hold: bool = False):
    """Input, target, and attention and gradients by forwards that are written in the tests."""
    model = layout_model(layout)
    size = (28, 42) if layout == "registers" else (32, 48)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(7)).double()
    target = [2, 4]
    blocks: list[Tensor] = []
    pools: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.blocks[0].attn), "forward", attention_forward(blocks, hold))
        if model.attn_pool is not None:
            patch.setattr(type(model.attn_pool), "forward", pool_forward(pools, hold))
        logits = model(x)
    scalar = logits[0, target[0]] + logits[1, target[1]]
    gradient = torch.autograd.grad(scalar, [*blocks, *pools])
    return x, target, logits.detach(), [*blocks, *pools], gradient


def naive_start(layout, method, head_fusion, pool, pool_gradient):
    start = LAYOUTS[layout][3]
    if start is not None:
        return np.array(start, dtype=float)
    if method == "relevance":
        return naive_fuse((pool * pool_gradient).clip(min=0), "mean")[0]
    if method == "gradient_rollout":
        return naive_fuse(pool * pool_gradient, head_fusion).clip(min=0)[0]
    return naive_fuse(pool, head_fusion)[0]


ROWS = {"class token": [0], "distilled": [0, 1], "registers": [0]}  # of attribution; others: all


def naive_row(method, attention, gradient, start, class_token, settings, rows):
    fusion = settings.get("head_fusion", "mean")
    if method == "attribution":
        return naive_attribution(attention, gradient, rows)
    if method == "relevance":
        return naive_relevance(attention, gradient, start=start)
    if method == "last_attention":
        return naive_matmul(start[None], naive_fuse(attention[-1], fusion))[0]
    return naive_rollout(
        attention,
        gradient if method == "gradient_rollout" else None,
        head_fusion=fusion,
        ratio=settings.get("discard_ratio", 0),
        weight=settings.get("residual_weight", 0.5),
        start=start,
        class_token=class_token,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("method", "settings"), SETTINGS)
def test_equals_loops_on_attention_captured_otherwise(layout, method, settings):
    held = settings.get("hold_attention", True)
    x, target, logits, attention, gradient = layout_case(layout, held)
    prefix = LAYOUTS[layout][2]
    class_token = layout not in ("no class token", "attention pool")
    explanation = explain(layout_model(layout), x, method=method, target=target, **settings)
    assert explanation.heatmap.shape == (2, 2, 3)
    assert explanation.heatmap.dtype == torch.float64
    torch.testing.assert_close(explanation.logits, logits, rtol=0, atol=1e-10)
    for image in range(2):
        per_block = [array(block[image]) for block in attention]
        grads = [array(block[image]) for block in gradient]
        fusion = settings.get("head_fusion", "mean")
        start = naive_start(layout, method, fusion, per_block[-1], grads[-1])
        rows = ROWS.get(layout, range(len(start)))
        row = naive_row(method, per_block[:2], grads[:2], start, class_token, settings, rows)
        expected = row[prefix:].reshape(2, 3).clip(min=0)
        assert expected.max() > 1e-4
        assert abs(array(explanation.heatmap[image]) - expected).max() < 1e-10


def test_attribution_with_the_attention_held_is_the_default():
    x, target, *_ = layout_case("class token")
    model = layout_model("class token")
    named = explain(
        model,
        x,
        method="attribution",
        target=target,
        hold_attention=True,
        steps=1,
    )
    default = explain(model, x, target=target)
    assert torch.equal(default.heatmap, named.heatmap)
    assert default.method == "attribution"


@pytest.mark.parametrize("layout", MODELS)
def test_models_of_every_layout(layout):
    model, x = model_of(layout), input_of(layout, 3)
    target = None if library_of(model).classes else third
    for method in OFFERED:
        explanation = explain(model, x, method=method, target=target)
        heatmap = explanation.heatmap
        assert heatmap.shape == (3, *grid_of(layout))
        assert heatmap.isfinite().all()
        assert (heatmap >= 0).all()
        peaks = heatmap.flatten(1).amax(1)  # with random weights all may speak against a class
        assert (peaks > 0).all() or (METHODS[method].needs_gradient and peaks.max() > 0)
        assert target is third or torch.equal(explanation.target, explanation.logits.argmax(1))
        alone = torch.cat(
            [explain(model, image[None], method=method, target=target).heatmap for image in x]
        )
        scale = float(heatmap.max())
        torch.testing.assert_close(heatmap / scale, alone / scale, rtol=0, atol=1e-4)


def test_pool_of_a_model_with_prefix_tokens_reads_them_too():
    """PE reads class token and patches: its map starts from the patches' share of the pool."""
    model = timm.create_model("vit_pe_core_tiny_patch16_384", img_size=(32, 48), depth=2)
    model, x = lively(model).double(), torch.randn(2, 3, 32, 48).double()
    pools: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.attn_pool), "forward", pool_forward(pools))
        model(x)
    with record_attention(model) as record:
        model(x)
    assert pools[0].shape[-1] == 7
    reads, last = pools[0].mean(1)[:, 0], record.attention[-1].mean(1)
    expected = torch.einsum("bt,bts->bs", reads, last)[:, 1:].reshape(2, 2, 3)
    heatmap = explain(model, x, method="last_attention").heatmap
    torch.testing.assert_close(heatmap, expected, rtol=0, atol=1e-10)


def test_headless_model(tiny, tiny_x):
    tiny.reset_classifier(0)
    rolled = explain(tiny, tiny_x, method="rollout")
    assert rolled.target is None
    assert rolled.logits.shape == (3, 48)

    def similarity(features: Tensor) -> Tensor:
        return features[:, 3] - features[:, 5]

    for method in ASKED:
        explanation = explain(tiny, tiny_x, method=method, target=similarity)
        assert explanation.target is similarity
        assert explanation.heatmap.amax() > 0
        with pytest.raises(ValueError, match="has no classifier"):
            explain(tiny, tiny_x, method=method)
    for method in OFFERED:
        with pytest.raises(ValueError, match="has no classifier"):
            explain(tiny, tiny_x, method=method, target=3)


REFUSED = [
    ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}, 224),
    ("xcit_nano_12_p16_224", {"depth": 1}, 224),
    ("cait_xxs24_224", {"depth": 1}, 224),
    ("resnet18", {}, 64),
    ("mixer_s32_224", {}, 224),
    ("pit_ti_224", {}, 224),
    ("convit_tiny", {}, 224),
    ("tnt_s_patch16_224", {"depth": 1}, 224),
    ("twins_svt_small", {}, 224),
    ("samvit_base_patch16_224", {"depth": 1}, 224),
    ("hiera_tiny_224", {}, 224),
    ("naflexvit_base_patch16_gap", {"depth": 1, "embed_dim": 96}, 224),
    ("vit_base_patch16_18x2_224", {"depth": 1, "embed_dim": 96}, 224),
    ("vit_dwee_patch16_reg1_gap_256", {"depth": 2, "img_size": 32}, 32),
    ("vit_tiny_patch16_224", {"depth": 1, "embed_dim": 48, "global_pool": "max"}, 224),
    ("vit_tiny_patch16_224", {"depth": 1, "embed_dim": 48, "global_pool": "avgmax"}, 224),
    ("vit_tiny_patch16_224", {"depth": 1, "embed_dim": 48, "global_pool": "prr"}, 224),
    ("vit_tiny_patch16_224", {"depth": 1, "embed_dim": 48, "global_pool": ""}, 224),
]


@pytest.mark.parametrize(("name", "settings", "size"), REFUSED)
def test_models_that_cannot_be_explained_say_so(name, settings, size):
    model = timm.create_model(name, **settings).eval()
    with pytest.raises(ValueError, match=r"model|attention"):
        explain(model, torch.randn(1, 3, size, size), method="rollout")


def test_int_list_tensor_and_callable_agree(tiny, tiny_x):
    heatmap = explain(tiny, tiny_x, target=4).heatmap
    for target in ([4, 4, 4], torch.tensor([4, 4, 4]), torch.tensor(4), lambda y: y[:, 4]):
        assert torch.equal(explain(tiny, tiny_x, target=target).heatmap, heatmap)


def test_one_target_per_image(tiny, tiny_x):
    explanation = explain(tiny, tiny_x, target=[6, 0, 3])
    assert explanation.target.tolist() == [6, 0, 3]
    for image, target in enumerate([6, 0, 3]):
        alone = explain(tiny, tiny_x[image : image + 1], target=target).heatmap
        torch.testing.assert_close(explanation.heatmap[image : image + 1], alone, rtol=0, atol=1e-5)


def test_target_none_is_the_predicted_class(tiny, tiny_x):
    explanation = explain(tiny, tiny_x)
    predicted = tiny(tiny_x).argmax(1)
    assert torch.equal(explanation.target, predicted)
    named = explain(tiny, tiny_x, target=predicted).heatmap
    assert torch.equal(explanation.heatmap, named)


def test_callable_of_several_logits_uses_their_combined_gradient(tiny, tiny_x):
    def gradient(target) -> list[Tensor]:
        return [call.gradient() for call in capture_attention(tiny, tiny_x, target=target).blocks]

    both = gradient(lambda y: y[:, 1] - 3 * y[:, 5])
    for a, b, c in zip(gradient(1), gradient(5), both, strict=True):
        assert a.abs().max() > 1e-3
        torch.testing.assert_close(c, a - 3 * b, rtol=0, atol=1e-5)


def test_class_specific_methods_answer_for_the_class_and_others_do_not(tiny, tiny_x):
    for method in OFFERED:
        first, second = (explain(tiny, tiny_x, method=method, target=k).heatmap for k in (1, 5))
        assert torch.equal(first, second) != (method in ASKED)


@ALL_METHODS
@pytest.mark.parametrize(
    "target",
    [
        7,
        -1,
        True,
        1.0,
        "tabby",
        [1, 2],
        [1, 2, 7],
        [1.0, 2.0, 3.0],
        [True, False, True],
        [[1], [2], [3]],
        torch.tensor([1.0, 2.0, 3.0]),
        2**70,
        lambda y: y,
        lambda y: y.sum(),
        lambda y: 3.0,
        lambda y: y[:1, 0],
    ],
    ids=lambda target: getattr(target, "__name__", str(target)),
)
def test_wrong_targets(method, target, tiny, tiny_x):
    with pytest.raises(ValueError, match="target"):
        explain(tiny, tiny_x, method=method, target=target)


def test_callable_that_does_not_depend_on_the_logits(tiny, tiny_x):
    with pytest.raises(ValueError, match="does not depend"):
        explain(tiny, tiny_x, target=lambda y: torch.ones(len(y)))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (dict(method="gradcam"), "method"),
        (dict(head_fusion="median"), "head_fusion"),
        (dict(discard_ratio=1), "discard_ratio"),
        (dict(discard_ratio=float("nan")), "discard_ratio"),
        (dict(residual_weight=1), "residual_weight"),
        (dict(residual_weight=-0.5), "residual_weight"),
        (dict(method="relevance", head_fusion="max"), "head_fusion"),
        (dict(method="relevance", discard_ratio=0.5), "discard_ratio"),
        (dict(method="relevance", residual_weight=0.3), "residual_weight"),
        (dict(method="last_attention", discard_ratio=0.5), "discard_ratio"),
        (dict(method="last_attention", residual_weight=0.3), "residual_weight"),
    ],
)
def test_settings_that_are_wrong_or_not_the_methods(arguments, named, tiny, tiny_x):
    with pytest.raises(ValueError, match=named):
        explain(tiny, tiny_x, **arguments)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(3, 32, 48),
        torch.zeros(0, 3, 32, 48),
        torch.zeros(1, 3, 32, 48, dtype=torch.uint8),
        torch.full((1, 3, 32, 48), math.nan),
        torch.full((1, 3, 32, 48), math.inf),
        torch.zeros(1, 3, 32, 48, device="meta"),
        [[0.0]],
    ],
    ids=["no batch", "empty", "integers", "NaN", "inf", "device", "list"],
)
def test_wrong_input(x, tiny):
    with pytest.raises(ValueError, match="x "):
        explain(tiny, x)


def test_weights_that_overflow(tiny, tiny_x):
    with torch.no_grad():
        tiny.head.weight.fill_(math.inf)
    with pytest.raises(ValueError, match="finite"):
        explain(tiny, tiny_x)


@ALL_METHODS
def test_no_state_piles_up(method, tiny, tiny_x):
    first = explain(tiny, tiny_x, method=method, target=2)
    explain(tiny, tiny_x + 1, method=method, target=3)
    again = explain(tiny, tiny_x, method=method, target=2)
    assert torch.equal(first.heatmap, again.heatmap)
    assert all(parameter.grad is None for parameter in tiny.parameters())
    assert all(not module._forward_hooks for module in tiny.modules())


@ALL_METHODS
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_without_grad_around_it(method, mode, tiny, tiny_x):
    expected = explain(tiny, tiny_x, method=method)
    with mode():
        quiet = explain(tiny, tiny_x.clone(), method=method)
    assert torch.equal(quiet.heatmap, expected.heatmap)
    assert not quiet.heatmap.requires_grad
    assert not quiet.logits.requires_grad


@ALL_METHODS
@pytest.mark.parametrize("layout", ["class token", "attention pool"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(method, layout, dtype):
    model, (x, target, *_) = layout_model(layout), layout_case(layout)
    expected = explain(model, x, method=method, target=target).heatmap
    try:
        half = explain(model.to(dtype), x.to(dtype), method=method, target=target).heatmap
    finally:
        layout_model.cache_clear()
    assert half.dtype == torch.float32
    assert half.isfinite().all()
    scale = expected.max()
    torch.testing.assert_close(half.double() / scale, expected / scale, rtol=0, atol=0.1)


def test_input_keeps_its_own_requires_grad(tiny, tiny_x):
    tiny_x.requires_grad_()
    explain(tiny, tiny_x)
    assert tiny_x.requires_grad
    assert tiny_x.grad is None


def test_a_capture_serves_every_method(tiny, tiny_x):
    for held in (False, True):
        capture = capture_attention(tiny, tiny_x, target=1, hold_attention=held)
        for method in OFFERED:
            own = {"hold_attention": held} if method in ASKED else {}
            expected = explain(tiny, tiny_x, target=1, method=method, **own).heatmap
            found = METHODS[method].heatmap(capture, **own)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    without = capture_attention(tiny, tiny_x, gradient=False)
    with pytest.raises(ValueError, match="gradient=True"):
        METHODS["relevance"].heatmap(without)


def test_a_capture_of_another_kind_is_refused_not_silently_used(tiny, tiny_x):
    capture = capture_attention(tiny, tiny_x, target=1)
    with pytest.raises(ValueError, match="hold_attention=False needs a capture made with it"):
        METHODS["vit_explain"].heatmap(capture)
    with pytest.raises(ValueError, match="steps=4 needs a capture made with it"):
        METHODS["relevance"].heatmap(capture, steps=4)


def test_every_fusion_of_a_pool_starts_the_rollout_differently():
    model, (x, *_) = layout_model("attention pool"), layout_case("attention pool")
    maps = [explain(model, x, method="rollout", head_fusion=f).heatmap for f in HEAD_FUSIONS]
    assert (maps[0] - maps[1]).abs().max() > 1e-3
    assert (maps[0] - maps[2]).abs().max() > 1e-3


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
@pytest.mark.parametrize("target", [None, 2, [6, 0, 3], torch.tensor([6, 0, 3]), torch.tensor(1)])
@pytest.mark.parametrize(
    "settings", [{}, {"method": "attribution", "steps": 2}, {"method": "rollout"}]
)
def test_parts_of_a_batch_give_the_maps_of_the_whole(batch_size, target, settings, tiny, tiny_x):
    whole = explain(tiny, tiny_x, target=target, **settings)
    parts = explain(tiny, tiny_x, target=target, batch_size=batch_size, **settings)
    scale = float(whole.heatmap.max())
    torch.testing.assert_close(parts.heatmap / scale, whole.heatmap / scale, rtol=0, atol=1e-4)
    torch.testing.assert_close(parts.logits, whole.logits, rtol=0, atol=1e-5)
    assert torch.equal(parts.target, whole.target)


def test_parts_of_a_sweep_and_of_a_callable(tiny, tiny_x):
    asked = {"target": lambda y: y[:, 1] - y[:, 0]}
    whole, parts = (
        discard_sweep(tiny, tiny_x, [0.5, 0], batch_size=size, **asked) for size in (None, 2)
    )
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-4 * float(whole.max()))
    assert explain(tiny, tiny_x, batch_size=2, **asked).target is asked["target"]


@pytest.mark.parametrize("target", [[1, 2], [1, 2, 3, 4], "abc", torch.zeros(3), 1.5, [1, 2, 9]])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_targets_that_fit_no_batch(target, batch_size, tiny, tiny_x):
    with pytest.raises(ValueError, match="target must"):
        explain(tiny, tiny_x, target=target, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, "2"])
def test_wrong_batch_sizes(batch_size, tiny, tiny_x):
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
        explain(tiny, tiny_x, batch_size=batch_size)


def test_one_capture_is_alive_at_a_time(tiny, tiny_x, monkeypatch):
    alive: list[weakref.ref] = []
    counts = []

    def watched(*args, **kwargs):
        capture = capture_attention(*args, **kwargs)
        counts.append(sum(each() is not None for each in alive))
        alive.append(weakref.ref(capture.blocks[0]))
        return capture

    monkeypatch.setattr("vitexplain_utils.methods.method.capture_attention", watched)
    explain(tiny, tiny_x, batch_size=1)
    assert counts == [0, 0, 0]
