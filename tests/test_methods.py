"""The contract of a method: every test loops over the registry, most over the layouts as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import pytest
import torch
from layouts import MODELS, grid_of, input_of, model_of, target_of
from torch import Tensor
from torch.nn import functional

from vitexplain_utils import (
    METHODS,
    Method,
    capture_attention,
    command_line,
    discard_sweep,
    evaluate_methods,
    explain,
    load_model,
    register_method,
)
from vitexplain_utils import (
    __main__ as cli,
)
from vitexplain_utils.capture import Capture
from vitexplain_utils.garden import garden_test_set
from vitexplain_utils.methods import HEAD_FUSIONS, MISTAKES, GradientMethod, offered_method
from vitexplain_utils.models import library_of
from vitexplain_utils.recording import AttentionCall
from vitexplain_utils.truth import ask_garden

pytestmark = pytest.mark.slow

EVERY = pytest.mark.parametrize("name", METHODS)
LAYOUTS = pytest.mark.parametrize("layout", MODELS)
SOME_VALUES = {  # of each setting, besides its default
    "blocks": [(0, 0), (1, 1), (0, 1)],
    "head_fusion": HEAD_FUSIONS,
    "discard_ratio": [0.3, 0.9],
    "residual_weight": [0.0, 0.8],
    "mistakes": [(), MISTAKES[:1], MISTAKES[1:]],
    "hold_attention": [False, True],
    "steps": [1, 2],
}


def can(name: str, layout: str) -> bool:
    return library_of(model_of(layout)).class_token or not METHODS[name].needs_class_token


def settings_of(name: str) -> Iterator[dict]:
    """The defaults, then every setting by itself with some other values."""
    yield {}
    for setting in METHODS[name].settings:
        for value in SOME_VALUES[setting]:
            yield {setting: value}


def draw(name: str, layout: str, x: Tensor | None = None, **settings) -> Tensor:
    method = METHODS[name].having(**settings)
    x = input_of(layout) if x is None else x
    capture = method.capture(model_of(layout), x, target=target_of(layout))
    return method.heatmap(capture)


@EVERY
@LAYOUTS
def test_shape_range_dtype_and_repetition(name, layout):
    rows, cols = grid_of(layout)
    if not can(name, layout):
        with pytest.raises(ValueError, match="class token"):
            draw(name, layout)
        return
    for settings in settings_of(name):
        heatmap = draw(name, layout, **settings)
        assert heatmap.shape == (2, rows, cols) and heatmap.dtype == torch.float32, settings
        assert heatmap.isfinite().all() and (heatmap >= 0).all(), settings
        assert not heatmap.requires_grad
        assert torch.equal(draw(name, layout, **settings), heatmap), settings


@EVERY
@LAYOUTS
def test_batch_equals_one_by_one(name, layout):
    if not can(name, layout):
        return
    x = input_of(layout, 3)
    together = draw(name, layout, x)
    alone = torch.cat([draw(name, layout, image[None]) for image in x])
    scale = float(together.max()) or 1
    torch.testing.assert_close(together / scale, alone / scale, rtol=0, atol=1e-4)


def permuted(call: AttentionCall, order: Tensor, queries: bool = True) -> AttentionCall:
    """The call of the same tokens in another order."""

    def along(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[:, :, order]

    mask = call.mask
    if mask is not None:
        mask = mask[..., order, :] if mask.shape[-2] > 1 and queries else mask
        mask = mask[..., order]
    changed = {"k": along(call.k), "v": along(call.v), "mask": mask}
    if queries:
        changed |= {"q": along(call.q), "output_gradient": along(call.output_gradient)}
    return replace(call, **changed)


@EVERY
@LAYOUTS
def test_patches_in_another_order_give_the_map_in_that_order(name, layout):
    if not can(name, layout):
        return
    model, x = model_of(layout, torch.float64), input_of(layout, dtype=torch.float64)
    capture = METHODS[name].capture(model, x, target=target_of(layout))
    rows, cols = grid_of(layout)
    patches = torch.randperm(rows * cols, generator=torch.Generator().manual_seed(2))
    prefix = capture.grid.prefix
    order = torch.cat([torch.arange(prefix), prefix + patches])
    pool = capture.pool
    if pool is not None:  # its keys are all tokens, or the patches alone
        own = order if pool.k.shape[2] == len(order) else patches
        pool = permuted(pool, own, queries=False)
    blocks = [permuted(call, order) for call in capture.blocks]
    moved = METHODS[name].heatmap(replace(capture, blocks=blocks, pool=pool))
    expected = METHODS[name].heatmap(capture).flatten(1)[:, patches].view(-1, rows, cols)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-9 * float(expected.max() + 1))


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("layout", ["vit", "distilled", "siglip"])
def test_other_precisions(name, dtype, layout):
    if not can(name, layout):
        return
    expected = draw(name, layout).double()
    model, x = model_of(layout, dtype), input_of(layout, dtype=dtype)
    method = METHODS[name]
    heatmap = method.heatmap(method.capture(model, x, target=3))
    model_of.cache_clear()  # `.to` changes the model itself
    assert heatmap.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert heatmap.isfinite().all() and (heatmap >= 0).all()
    tolerance = 1e-5 if dtype == torch.float64 else 0.1
    scale = float(expected.max())
    torch.testing.assert_close(heatmap.double() / scale, expected / scale, rtol=0, atol=tolerance)


@EVERY
def test_settings_are_its_own_and_checked(name):
    method = METHODS[name]
    for setting in [*SOME_VALUES, "colour"]:
        if setting not in method.settings:
            with pytest.raises(ValueError, match=f"{name} has no setting {setting}"):
                method.having(**{setting: 0})
    wrong = {
        "head_fusion": ["median", None],
        "discard_ratio": [1, -0.1, float("nan")],
        "residual_weight": [1, -0.5],
        "mistakes": [("typo",)],
    }
    for setting, values in wrong.items():
        for value in values if setting in method.settings else []:
            with pytest.raises(ValueError, match=setting):
                method.having(**{setting: value})
    for setting, values in {
        "blocks": [3, "ab", (0,), (0.0, 1.0)],
        "hold_attention": ["no", 1],
    }.items():
        for value in values if setting in method.settings else []:
            with pytest.raises(ValueError, match=f"{setting} must be"):
                method.having(**{setting: value})
    for blocks in [(1, 0), (0, 2), (-1, 1)]:
        with pytest.raises(ValueError, match="blocks must be first <= last in 0 to 1"):
            draw(name, "vit", blocks=blocks)


@EVERY
def test_a_method_is_a_function_of_a_capture_and_does_not_change_it(name, tiny, tiny_x):
    method = METHODS[name]
    capture = method.capture(tiny, tiny_x, target=1)
    before = [
        value.clone() for call in capture.blocks for value in vars(call).values() if _tensor(value)
    ]
    assert torch.equal(method(capture), method.heatmap(capture))
    after = [value for call in capture.blocks for value in vars(call).values() if _tensor(value)]
    assert all(map(torch.equal, before, after))
    if method.needs_gradient:
        with pytest.raises(ValueError, match="gradient=True"):
            method.heatmap(capture_attention(tiny, tiny_x, gradient=False))


@EVERY
def test_a_capture_of_several_inputs_is_not_taken_for_one(name, tiny, tiny_x):
    held = METHODS[name].settings.get("hold_attention", False)
    capture = capture_attention(tiny, tiny_x, target=1, steps=2, hold_attention=held)
    with pytest.raises(ValueError, match="steps=1 needs a capture made with it"):
        METHODS[name].heatmap(capture)


@EVERY
def test_autocast_around_it_changes_nothing(name, tiny, tiny_x):
    capture = METHODS[name].capture(tiny, tiny_x, target=1)
    expected = METHODS[name].heatmap(capture)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(METHODS[name].heatmap(capture), expected)


def _tensor(value: object) -> bool:
    return isinstance(value, Tensor)


@EVERY
def test_sweep_is_the_heatmap_at_each_ratio(name, tiny, tiny_x):
    method = METHODS[name]
    capture = method.capture(tiny, tiny_x, target=1)
    if "discard_ratio" not in method.settings:
        with pytest.raises(ValueError, match="no discard_ratio"):
            method.sweep(capture, [0.5])
        return
    with pytest.raises(ValueError, match="give discard_ratios alone"):
        method.sweep(capture, [0.5], discard_ratio=0.9)
    ratios = [0.9, 0.0, 0.5]
    maps = method.sweep(capture, ratios)
    assert maps.shape == (3, 3, 2, 3)
    for heatmap, ratio in zip(maps, ratios, strict=True):
        assert torch.equal(heatmap, method.heatmap(capture, discard_ratio=ratio))


@EVERY
@LAYOUTS
def test_strips_of_rows_change_nothing(name, layout, monkeypatch):
    if not can(name, layout):
        return
    whole = draw(name, layout)
    monkeypatch.setattr(type(METHODS[name]), "by_rows", True)
    monkeypatch.setattr("vitexplain_utils.methods.method._STRIP", 4)
    assert METHODS[name].strips(slice(1, 10)) == [slice(1, 5), slice(5, 9), slice(9, 10)]
    torch.testing.assert_close(draw(name, layout), whole, rtol=0, atol=1e-5 * float(whole.max()))
    monkeypatch.setattr(type(METHODS[name]), "by_rows", False)
    assert METHODS[name].strips(slice(10)) == [slice(0, 10)]


STAGES = ("block", "pass", "target", "weigh", "carry", "finish")


@EVERY
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_everything_is_as_before_after_an_exception_in_any_stage(
    name, stage, error, tiny, tiny_x, monkeypatch
):
    def fail(*_args, **_kwargs):
        raise error

    method, target = METHODS[name], 1
    handle = None
    if stage in ("block", "pass"):
        module = tiny.blocks[1].attn if stage == "block" else tiny.head
        handle = module.register_forward_pre_hook(fail)
    elif stage == "target":
        target = fail
    else:
        monkeypatch.setattr(type(method), stage, fail)
    tiny.train()
    tiny.blocks[0].attn.fused_attn = False
    tiny.head.bias.requires_grad_(False)

    def state():
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in tiny.modules()]
        flags = [(m.training, getattr(m, "fused_attn", None)) for m in tiny.modules()]
        return hooks, flags, [p.requires_grad for p in tiny.parameters()]

    before, function = state(), functional.scaled_dot_product_attention
    with pytest.raises(error):
        method.heatmap(method.capture(tiny, tiny_x, target=target))
    assert state() == before
    assert functional.scaled_dot_product_attention is function
    assert all(parameter.grad is None for parameter in tiny.parameters())
    if handle is not None:
        handle.remove()


@EVERY
def test_what_explain_offers(name, tiny, tiny_x):
    method = METHODS[name]
    assert method.name == name and method.label
    context = nullcontext() if method.offered else pytest.raises(ValueError, match="method must be")
    with context:
        assert offered_method(name) is method
        assert explain(tiny, tiny_x, method=name).method == name


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.needs_gradient])
def test_scaling_the_logits(name, tiny, tiny_x):
    """Attribution has no unit, and relevance and gradient rollout have."""
    maps = []
    for factor in (0.01, 1.0, 100.0):
        capture = METHODS[name].capture(tiny, tiny_x, target=lambda y, f=factor: f * y[:, 1])
        heatmap = METHODS[name].heatmap(capture)
        maps.append(heatmap / heatmap.amax((1, 2), keepdim=True).clamp(min=1e-30))
    change = max(float((maps[0] - other).abs().max()) for other in maps[1:])
    assert change < 1e-4 if name == "attribution" else change > 1e-2


@pytest.fixture
def own_method():
    """A method as a user would write it: Grad-CAM's weights on the class token's attention."""

    @register_method
    @dataclass(frozen=True, kw_only=True)
    class HeadCam(GradientMethod):
        name = "head_cam"
        label = "heads, weighed by their mean gradient"

        discard_ratio: float = 0.0
        power: float = 1.0

        def weigh(self, attention: Tensor, gradient: Tensor | None) -> Tensor:
            weights = gradient.mean((2, 3), keepdim=True)
            return (weights * attention).sum(1).clamp(min=0) ** self.power

        def carry(self, row: Tensor, matrix: Tensor) -> Tensor:
            return (row[:, None] @ matrix)[:, 0]

        def span(self, count: int) -> tuple[int, int]:
            return count - 1, count - 1

    yield HeadCam
    METHODS.pop("head_cam")


def test_a_registered_method_is_everywhere(own_method, tiny, tiny_x, monkeypatch, photo, tmp_path):
    assert issubclass(own_method, Method)
    heatmap = explain(tiny, tiny_x, method="head_cam", target=1, power=2.0).heatmap
    capture: Capture = capture_attention(tiny, tiny_x, target=1)
    call = capture.blocks[-1]
    weights = call.gradient().mean((2, 3))
    expected = sum(weights[:, h, None] * call.attention()[:, h, 0] for h in range(3))
    expected = (expected.clamp(min=0) ** 2)[:, 1:].reshape(3, 2, 3)
    torch.testing.assert_close(heatmap, expected, rtol=0, atol=1e-6)
    assert discard_sweep(tiny, tiny_x, [0, 0.5], method="head_cam").shape == (2, 3, 2, 3)

    monkeypatch.setattr(command_line, "load_model", lambda name, weights=None, device=None: tiny)
    monkeypatch.chdir(tmp_path)
    assert cli.main([str(photo), "--method", "head_cam", "--power", "2"]) == 0
    assert (tmp_path / "photo_head_cam.png").is_file()

    model = load_model("garden")
    rows = evaluate_methods(model, ask_garden(model, garden_test_set()[16:18]))
    offered = {name for name, method in METHODS.items() if method.offered and not method.slow}
    assert {row["method"] for row in rows} == offered and "head_cam" in offered


def test_a_name_is_taken_once(own_method):
    with pytest.raises(ValueError, match="'head_cam' is taken"):
        register_method(own_method)


def test_what_cannot_be_registered():
    def subclass(**body):
        return type("Mine", (GradientMethod,), {"weigh": len, "carry": len, **body})

    labelled = {"name": "mine", "label": "mine"}
    undecorated = {"hold_attention": True}, {"__annotations__": {"power": float}, "power": 1.0}
    for body, said in (
        ({}, "needs a name"),
        ({"name": "mine"}, "needs a label"),
        ({**labelled, **undecorated[0]}, "sets hold_attention: decorate it"),
        ({**labelled, **undecorated[1]}, "sets power: decorate it"),
    ):
        with pytest.raises(ValueError, match=said):
            register_method(subclass(**body))
    assert "mine" not in METHODS


def test_rows_of_the_wrong_shape_are_no_map(own_method, tiny, tiny_x, monkeypatch):
    monkeypatch.setattr(own_method, "carry", lambda self, row, matrix: row[:, None] @ matrix)
    with pytest.raises(ValueError, match="not one of 7 tokens"):
        explain(tiny, tiny_x, method="head_cam")
