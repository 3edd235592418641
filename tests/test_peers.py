"""The peers' rows: against the packages' own output, and against naive computations."""

from __future__ import annotations

import sys
from pathlib import Path
from types import MethodType

import numpy as np
import pytest
import torch
from reference import array, attention_forward
from torch.nn.functional import interpolate

from vitexplain_utils import capture_attention, garden_scene, load_model, preprocess

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from peers import CAMS, SAMPLES, _installed, legrad, peers

pytestmark = pytest.mark.slow

TARGETS = [3, 0, 6]


@pytest.fixture
def capture(tiny, tiny_x):
    return capture_attention(tiny, tiny_x, target=TARGETS)


def row(capture, name):
    rows = peers(capture.model)
    if name not in rows:
        pytest.skip(f"no package for {name}")
    return rows[name](capture)


def channels_first(tokens):
    return tokens[:, 1:].mT.unflatten(2, (2, 3))


def spread(heatmap):
    """The least is 0, the most is 1."""
    low, high = heatmap.min(), heatmap.max()
    return (heatmap - low) / (high - low)


def patch_means(pixels):
    """`[3, H, W]` to `[2, 3]`, signed over channels and pixels."""
    return np.array(
        [[pixels[:, r : r + 16, c : c + 16].sum(0).mean() for c in (0, 16, 32)] for r in (0, 16)]
    )


def test_every_row_is_finite_non_negative_and_of_the_grid(capture):
    for name, maps in peers(capture.model).items():
        heatmap = maps(capture)
        assert heatmap.shape == (3, 2, 3), name
        assert bool(heatmap.isfinite().all() and (heatmap >= 0).all()), name
        assert not heatmap.requires_grad and not capture.x.requires_grad, name
    assert all(parameter.grad is None for parameter in capture.model.parameters())
    assert not any(module._forward_hooks for module in capture.model.modules())


def test_each_picture_has_its_own_target(capture, tiny_x):
    for name, maps in peers(capture.model).items():
        if name == "SmoothGrad":  # its noise is drawn for a whole batch
            continue
        alone = capture_attention(capture.model, tiny_x[1:2], target=TARGETS[1])
        torch.testing.assert_close(maps(alone)[0], maps(capture)[1], msg=name)


@pytest.mark.parametrize("name", CAMS)
@pytest.mark.parametrize("block", [0, 1])
def test_cam_equals_a_loop(capture, tiny_x, name, block):
    kept = []
    norm = capture.model.blocks[block].norm1
    hook = norm.register_forward_hook(lambda _module, _args, output: kept.append(output))
    score = capture.model(tiny_x)[2, TARGETS[2]]
    hook.remove()
    (gradient,) = torch.autograd.grad(score, kept)
    acts, grads = array(kept[0][2, 1:]), array(gradient[2, 1:])  # [patches, D]
    weights = {"Grad-CAM": grads.mean(0), "HiRes-CAM": grads, "Layer-CAM": np.maximum(grads, 0)}
    expected = np.maximum((weights[name] * acts).sum(1), 0).reshape(2, 3)
    heatmap = row(capture, f"{name}, block {block}")[2]
    np.testing.assert_allclose(array(heatmap), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", CAMS)
def test_cam_is_grad_cams_own_enlarged(capture, tiny_x, name):
    package = pytest.importorskip("pytorch_grad_cam")
    targets = [package.utils.model_targets.ClassifierOutputTarget(index) for index in TARGETS]
    layers = [capture.model.blocks[0].norm1]
    with getattr(package, CAMS[name])(capture.model, layers, channels_first) as cam:
        own = cam(tiny_x, targets)
    heatmap = row(capture, f"{name}, block 0")
    large = interpolate(heatmap[:, None], (32, 48), mode="bilinear", align_corners=False)[:, 0]
    for ours, theirs in zip(large, own, strict=True):  # theirs is between 0 and 1
        torch.testing.assert_close(spread(ours), torch.from_numpy(theirs), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["Grad-CAM", "Layer-CAM"])
def test_cam_is_torchcams_own(capture, tiny_x, name):
    methods = pytest.importorskip("torchcam.methods")
    layers = [block.norm1 for block in capture.model.blocks]
    kind = getattr(methods, CAMS[name])
    with kind(capture.model, layers, reshape_transform=channels_first) as cam:
        own = cam(TARGETS, capture.model(tiny_x), normalized=False)
    for block, theirs in enumerate(own):
        torch.testing.assert_close(row(capture, f"{name}, block {block}"), theirs)


def test_input_x_gradient_equals_the_plain_gradient(capture, tiny_x):
    x = tiny_x[:1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(capture.model(x)[0, TARGETS[0]], x)
    expected = np.maximum(patch_means(array(x[0]) * array(gradient[0])), 0)
    heatmap = row(capture, "input × gradient")[0]
    np.testing.assert_allclose(array(heatmap), expected, rtol=1e-3, atol=1e-7)


def test_integrated_gradients_equal_a_sum_over_steps(capture, tiny_x):
    total, steps = 0, 400
    for alpha in (np.arange(steps) + 0.5) / steps:
        x = (float(alpha) * tiny_x[:1]).requires_grad_()
        total += torch.autograd.grad(capture.model(x)[0, TARGETS[0]], x)[0] / steps
    expected = np.maximum(patch_means(array(tiny_x[0]) * array(total[0])), 0)
    heatmap = row(capture, "integrated gradients")[0]
    np.testing.assert_allclose(array(heatmap), expected, atol=0.02 * expected.max())


def test_smooth_grad_equals_a_mean_over_noise(capture, tiny_x):
    before = torch.get_rng_state()
    heatmap = row(capture, "SmoothGrad")[0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(0)
    total = 0
    for _ in range(SAMPLES):
        x = (tiny_x + torch.normal(0, torch.ones_like(tiny_x))).requires_grad_()
        total += torch.autograd.grad(capture.model(x)[0, TARGETS[0]], x)[0][0] / SAMPLES
    expected = patch_means(np.abs(array(total).sum(0, keepdims=True)))
    np.testing.assert_allclose(array(heatmap), expected, rtol=1e-3)


def unfused(model, x):
    """What each block's softmax gives, in the graph, what each block gives, and the logits."""
    attention, tokens = [], []
    for block in model.blocks:
        block.attn.forward = MethodType(attention_forward(attention), block.attn)
        block.register_forward_hook(lambda _module, _args, output: tokens.append(output))
    logits = model(x)
    return attention, tokens, logits


@pytest.mark.parametrize("first", [0, -1])
def test_legrad_equals_a_loop(capture, tiny_x, first):
    heatmap, model = legrad(capture, first=first)[1], capture.model
    attention, tokens, _ = unfused(model, tiny_x[1:2])
    total = np.zeros(6)
    for matrix, given in list(zip(attention, tokens, strict=True))[first:]:
        score = model.head(model.norm(given.mean(1)))[0, TARGETS[1]]
        (gradient,) = torch.autograd.grad(score, matrix, retain_graph=True)
        heads = array(gradient[0])  # [H, T, T]
        for head in heads:
            for query in head:
                total += np.maximum(query[1:], 0) / (
                    len(heads) * len(head) * len(attention[first:])
                )
    expected = (total - total.min()).reshape(2, 3)
    np.testing.assert_allclose(array(heatmap), expected, rtol=1e-3, atol=1e-8)


def test_ag_cam_equals_a_loop(capture, tiny_x):
    heatmap = row(capture, "AG-CAM")[1]
    hooks = [
        block.attn.register_forward_pre_hook(lambda _, args: (args[0].detach(), *args[1:]))
        for block in capture.model.blocks
    ]
    attention, _, logits = unfused(capture.model, tiny_x[1:2])
    for hook in hooks:
        hook.remove()
    gradients = torch.autograd.grad(logits[0, TARGETS[1]], attention)
    total = np.zeros(6)
    for call, gradient in zip(capture.blocks, gradients, strict=True):
        for head in range(gradient.shape[1]):
            for key in range(1, 7):
                score = array(call.q[1, head, 0]) @ array(call.k[1, head, key]) * call.scale
                slope = max(gradient[0, head, 0, key].item(), 0)
                total[key - 1] += slope / (1 + np.exp(-score))
    np.testing.assert_allclose(array(heatmap), total.reshape(2, 3), rtol=1e-3)


def test_garden_and_its_several_labels():
    model = load_model("garden")
    x = torch.cat([preprocess(model, garden_scene(seed).image) for seed in (1, 2)])
    capture = capture_attention(model, x, target=[1, 5])
    for name, maps in peers(model).items():
        assert maps(capture).shape == (2, 12, 12), name


def test_a_model_without_class_token_has_no_ag_cam(tiny):
    tiny.cls_token = None
    assert "AG-CAM" not in peers(tiny) and "LeGrad" in peers(tiny)


def test_missing_packages_are_said_once(tiny, monkeypatch, capsys):
    _installed.cache_clear()
    for module in ("captum", "pytorch_grad_cam"):
        monkeypatch.setitem(sys.modules, module, None)
    assert list(peers(tiny)) == list(peers(tiny)) == ["LeGrad", "LeGrad, last two blocks", "AG-CAM"]
    said = [f"{name} is not installed: its rows are left out" for name in ("captum", "grad-cam")]
    assert capsys.readouterr().out.splitlines() == said
    _installed.cache_clear()


@pytest.mark.parametrize("settings", [{"steps": 2}, {"target": len}])
def test_another_kind_of_capture_is_refused(tiny, tiny_x, settings):
    if "target" in settings:
        settings = {"target": lambda logits: logits[:, 0]}
    capture = capture_attention(tiny, tiny_x, **settings)
    for maps in peers(tiny).values():
        with pytest.raises(ValueError, match="capture must be of one step"):
            maps(capture)
