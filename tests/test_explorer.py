"""The explorer without a browser: its widgets are driven by their values."""

from __future__ import annotations

import asyncio
import builtins
import gc
import io
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import huggingface_hub.constants
import imageio.v3 as iio
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from reference import lively
from torch import nn
from torch.nn import functional

from vitexplain_utils import (
    METHODS,
    Capture,
    capture_attention,
    class_index,
    explain,
    explore,
    garden_scene,
    hero_scene,
    load_model,
    overlay,
    preprocess,
    register_method,
)
from vitexplain_utils.explorer import panel as panels
from vitexplain_utils.explorer.choice import Choice, explored, heatmap_for, settings_of
from vitexplain_utils.explorer.draw import box_mask, fit, head_maps, outline, verdict, with_line
from vitexplain_utils.explorer.panel import Panel, sentence
from vitexplain_utils.explorer.pictures import gallery, picture_of, uploaded
from vitexplain_utils.explorer.soon import Soon
from vitexplain_utils.explorer.state import RATIOS, Captures, ExplorerState
from vitexplain_utils.methods import (
    MISTAKES,
    GradientRollout,
    Method,
    VitExplain,
    attribution,
    mistaken_gradient_rollout,
    pre_softmax_gradient,
    rollout,
)

pytestmark = pytest.mark.slow

widgets = pytest.importorskip("ipywidgets")
SCENE = hero_scene(8)  # bee, fish, leaf
SIDE = 336


@pytest.fixture
def panel(tmp_path) -> Panel:
    return explore(folder=tmp_path)


@pytest.fixture
def no_hub(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("VITEXPLAIN_WEIGHTS", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vitexplain_utils.models.weights.reachable", lambda *_: False)


def pixels(widget: widgets.Image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(widget.value)))


def outlined(image: Image.Image, mask: np.ndarray | None) -> Image.Image:
    return with_line(image, None if mask is None else outline(mask, image.size))


def drawn(image: Image.Image, heatmap: torch.Tensor, mask=None, **look) -> np.ndarray:
    """The overlay made without any of the explorer's code but the outline."""
    large = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(outlined(overlay(large, heatmap[0], **look), mask))


def file(name: str, content: bytes) -> tuple[dict, ...]:
    """What the upload button hands over."""
    facts = {"type": "", "size": len(content), "last_modified": datetime.now(UTC)}
    return ({"name": name, "content": memoryview(content), **facts},)


def png_file(image: Image.Image, name: str = "mine.png") -> tuple[dict, ...]:
    content = io.BytesIO()
    image.save(content, "PNG")
    return file(name, content.getvalue())


def error_of(panel: Panel) -> str:
    text = panel.message.value
    return text.partition(">")[2].partition("<")[0] if 'role="alert"' in text else ""


def tensors_of(capture: Capture) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Attention and gradient, `[1, H, T, T]` for each block."""
    return [b.attention() for b in capture.blocks], [b.gradient() for b in capture.blocks]


def bytes_of(image: Image.Image) -> bytes:
    return np.asarray(image).tobytes()


# ---- what is shown is what the package computes


def test_at_first_the_predicted_class_by_gradient_rollout(panel):
    model = load_model("garden")
    wanted = explain(model, preprocess(model, SCENE.image), method="gradient_rollout")
    name = "leaf"
    assert wanted.target.item() == class_index(model, name)
    assert np.array_equal(pixels(panel.over), drawn(SCENE.image, wanted.heatmap, SCENE.masks[name]))
    large = SCENE.image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    assert np.array_equal(pixels(panel.shown), np.asarray(outlined(large, SCENE.masks[name])))


@pytest.mark.parametrize("method", explored())
@pytest.mark.parametrize("name", ["bee", "snail"])
def test_each_method_equals_explain(panel, method, name):
    model = load_model("garden")
    target = class_index(model, name)
    panel.method.value, panel.target.value = method, target
    settings = {}
    own = settings_of(Choice(method))
    if "discard_ratio" in own:
        panel.ratio.value = settings["discard_ratio"] = 0.9
    if "head_fusion" in own:
        panel.fusion.value = settings["head_fusion"] = "max"
    x = preprocess(model, SCENE.image)
    wanted = explain(model, x, method=method, target=target, **settings).heatmap
    assert np.array_equal(pixels(panel.over), drawn(SCENE.image, wanted, SCENE.masks.get(name)))
    assert error_of(panel) == ""


def test_colour_map_and_opacity(panel):
    panel.colormap.value, panel.opacity.value = "viridis", 0.4
    x = preprocess(panel.state.model, SCENE.image)
    heatmap = explain(panel.state.model, x, method="gradient_rollout").heatmap
    wanted = drawn(SCENE.image, heatmap, SCENE.masks["leaf"], colormap="viridis", opacity=0.4)
    assert np.array_equal(pixels(panel.over), wanted)


def test_as_in_vit_explain(panel):
    panel.ratio.value, panel.mistakes.value = 0.8, True
    model = panel.state.model
    x = preprocess(model, SCENE.image)
    capture = capture_attention(model, x, hold_attention=False)
    row = mistaken_gradient_rollout(*tensors_of(capture), MISTAKES, discard_ratio=0.8)
    wanted = drawn(SCENE.image, row[:, 1:].reshape(1, 12, 12), SCENE.masks["leaf"])
    assert np.array_equal(pixels(panel.over), wanted)
    assert "vit-explain" in panel.note.value
    panel.mistakes.value = False
    right = METHODS["gradient_rollout"].heatmap(capture_attention(model, x), discard_ratio=0.8)
    assert np.array_equal(pixels(panel.over), drawn(SCENE.image, right, SCENE.masks["leaf"]))
    assert "vit-explain" not in panel.note.value


def test_a_range_of_blocks_as_in_vit_explain(panel):
    panel.ratio.value, panel.mistakes.value, panel.blocks.value = 0.8, True, (1, 3)
    A, G = tensors_of(panel.state.capture(hold_attention=False))
    assert len(A) == 6
    G = [pre_softmax_gradient(A[5 - block], G[5 - block]) for block in range(1, 4)]
    row = mistaken_gradient_rollout(A[1:4], G, ["columns"], discard_ratio=0.8)
    wanted = drawn(SCENE.image, row[:, 1:].reshape(1, 12, 12), SCENE.masks["leaf"])
    assert np.array_equal(pixels(panel.over), wanted)
    assert "vit-explain" in panel.note.value and "Blocks 1 to 3 of 0 to 5" in panel.note.value


def test_attribution_adds_up_the_blocks_of_the_range(panel):
    panel.method.value, panel.blocks.value = "attribution", (1, 3)
    capture = panel.state.capture_for(panel.choice)
    assert capture is panel.state.capture()
    row = attribution(*(tensors[1:4] for tensors in tensors_of(capture)))
    wanted = row[:, 1:].reshape(1, 12, 12)
    found = heatmap_for(capture, Choice("attribution", blocks=(1, 3)))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert np.array_equal(pixels(panel.over), drawn(SCENE.image, found, SCENE.masks["leaf"]))
    assert "Blocks 1 to 3 of 0 to 5: the others add nothing" in panel.note.value


def test_a_range_of_blocks_is_a_model_whose_other_attention_passes_everything_on(panel):
    panel.method.value, panel.blocks.value = "rollout", (1, 3)
    capture = capture_attention(panel.state.model, preprocess(panel.state.model, SCENE.image))
    passing = torch.eye(145).expand(1, 3, -1, -1)
    attention = [A if 1 <= i <= 3 else passing for i, A in enumerate(tensors_of(capture)[0])]
    wanted = rollout(attention)[:, 1:].reshape(1, 12, 12)
    found = heatmap_for(capture, Choice("rollout", blocks=(1, 3)))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)
    assert np.array_equal(pixels(panel.over), drawn(SCENE.image, found, SCENE.masks["leaf"]))
    assert "Blocks 1 to 3 of 0 to 5" in panel.note.value


def test_last_attention_is_that_of_the_last_block_of_the_range(panel):
    panel.method.value, panel.blocks.value = "last_attention", (0, 2)
    capture = panel.state.capture(panel.target.value)
    wanted = capture.blocks[2].attention().mean(1)[:, 0, 1:].reshape(1, 12, 12)
    assert np.array_equal(pixels(panel.over), drawn(SCENE.image, wanted, SCENE.masks["leaf"]))


def test_all_blocks_are_no_range(panel):
    panel.blocks.value = (1, 5)
    panel.blocks.value = (0, 5)
    assert panel.choice.blocks is None


def test_a_photograph_keeps_its_shape(tmp_path):
    image = Image.new("RGB", (400, 100), "green")
    panel = explore("garden", image)
    for widget in (panel.shown, panel.over):
        assert pixels(widget).shape == (84, SIDE, 3)
        assert (widget.layout.width, widget.layout.height) == ("336px", "auto")
    assert panel.verdict.value == "<b></b>"


@pytest.mark.parametrize(("classes", "methods"), [(0, 2), (9, 5)])
def test_a_loaded_model_with_pool_and_no_class_token(classes, methods):
    name = "vit_base_patch16_siglip_224"
    model = timm.create_model(name, img_size=32, depth=2, num_classes=classes)
    panel = explore(lively(model), Image.new("RGB", (32, 32)))
    assert len(panel.state.methods) == methods and panel.mistakes.disabled
    for method in panel.state.methods:
        panel.method.value = method
        panel.sheet_on.value = True
        assert error_of(panel) == ""


def test_a_model_without_classes_has_the_methods_that_ask_for_none():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=0).eval()
    panel = explore(model, SCENE)
    assert panel.state.methods == ("rollout", "last_attention")
    assert panel.target.disabled and panel.mistakes.disabled
    panel.method.value, panel.ratio.value, panel.sheet_on.value = "rollout", 0.5, True
    wanted = explain(model, preprocess(model, SCENE.image), method="rollout", discard_ratio=0.5)
    assert np.array_equal(pixels(panel.over), drawn(SCENE.image, wanted.heatmap))
    assert error_of(panel) == ""


# ---- the controls


def test_settings_that_a_method_lacks_are_disabled(panel):
    controls = {
        "head_fusion": panel.fusion,
        "discard_ratio": panel.ratio,
        "blocks": panel.blocks,
        "mistakes": panel.mistakes,
    }
    panel.ratio.value, panel.fusion.value = 0.9, "min"
    for method in explored():
        panel.method.value = method
        for name, control in controls.items():
            assert control.disabled == (name not in settings_of(Choice(method))), (method, name)
        assert panel.gif.disabled == panel.ratio.disabled
        assert error_of(panel) == ""
    panel.method.value, panel.mistakes.value = "gradient_rollout", True
    assert panel.fusion.disabled and not panel.blocks.disabled and not panel.ratio.disabled


@dataclass(frozen=True, kw_only=True)
class Integrated(GradientRollout):
    """A reader's own method, with a capture like no other's."""

    name = "integrated"
    label = "integrated gradient rollout"

    hold_attention: bool = True
    steps: int = 2


class FromTheClassToken(VitExplain):
    """One that cannot start elsewhere."""

    name = "from_the_class_token"
    label = "from the class token"
    offered = True


@pytest.fixture
def registered() -> Iterator[tuple[type[Method], ...]]:
    classes = (Integrated, FromTheClassToken)
    for method in classes:
        register_method(method)
    yield classes
    for method in classes:
        del METHODS[method.name]


def test_a_registered_method_is_in_the_dropdown(registered):
    panel = explore()
    labels = dict((name, label) for label, name in panel.method.options)
    assert list(labels) == [name for name in METHODS if name not in ("flow", "vit_explain")]
    assert labels == {name: METHODS[name].label for name in labels}
    assert {method.name for method in registered} <= set(labels)
    model, target = panel.state.model, class_index(panel.state.model, "bee")
    panel.method.value, panel.target.value, panel.ratio.value = "integrated", target, 0.9
    x = preprocess(model, SCENE.image)
    wanted = explain(model, x, method="integrated", target=target, discard_ratio=0.9).heatmap
    assert np.array_equal(pixels(panel.over), drawn(SCENE.image, wanted, SCENE.masks["bee"]))
    assert "integrated gradient rollout, for “bee”" in panel.over_text.value
    assert not panel.fusion.disabled and not panel.ratio.disabled and panel.mistakes.disabled
    assert error_of(panel) == ""
    pooled = timm.create_model("vit_base_patch16_siglip_224", img_size=32, depth=2, num_classes=9)
    labels = dict(explore(lively(pooled), SCENE).method.options)
    assert "from the class token" not in labels and "integrated gradient rollout" in labels


def test_without_registered_methods_the_dropdown_has_the_packages_own(panel):
    wanted = ["gradient_rollout", "relevance", "attribution", "rollout", "last_attention"]
    assert [name for _, name in panel.method.options] == wanted == explored()


def test_top_classes_come_first_with_their_probability(panel):
    labels, indices = zip(*panel.target.options, strict=True)
    assert len(labels) == 8 and sorted(indices) == list(range(8))
    assert [label.split(",")[0] for label in labels[:3]] == ["leaf", "fish", "bee"]
    assert all(float(label.split(", ")[1].rstrip("%")) > 99 for label in labels[:3])


def test_any_class_by_typing(deit_tiny):
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval()
    panel = explore(model, SCENE)
    assert len(panel.target.options) == 8 and len(panel.typed.options) == 998  # short ones; 2 twins
    for text, index in (("tench", 0), ("812", 812), ("  Space Shuttle ", 812)):
        panel.typed.value = text
        assert panel.target.value == index and panel.typed.value == ""
        assert error_of(panel) == ""
    wanted = explain(
        model, preprocess(model, SCENE.image), method="gradient_rollout", target=812
    ).heatmap
    assert np.array_equal(pixels(panel.over), drawn(SCENE.image, wanted))
    shown = panel.over.value
    for text in ("1000", "no such thing", "snake"):  # snakes are many
        panel.typed.value = text
        assert error_of(panel) and panel.target.value == 812 and panel.over.value == shown


def test_verdict_and_outline_belong_to_the_class_asked_about(panel):
    for index, name in enumerate(("ladybird", "bee", "fish", "leaf")):
        panel.target.value = index
        line = np.asarray(panel.state.shown) != pixels(panel.shown)
        if name in SCENE.masks:
            assert f"right. The peak of the map lies on the {name}" in panel.verdict.value
            rows, cols = np.nonzero(line.any(-1))
            truth = np.nonzero(SCENE.masks[name])
            for found, true in zip((rows, cols), truth, strict=True):
                assert abs(found.min() / 3.5 - true.min()) < 2
                assert abs(found.max() / 3.5 - true.max()) < 2
        else:
            assert not line.any() and f"No {name} in this scene" in panel.verdict.value
    panel.method.value, panel.target.value = "rollout", 2
    assert "wrong. The peak of the map lies on the bee" in panel.verdict.value
    assert "one map for all classes" in panel.note.value


def test_gallery(panel):
    names = list(gallery())
    assert list(panel.picture.options) == names
    panel.target.value = 1
    panel.picture.value = names[3]
    scene = hero_scene(4)
    assert bytes_of(panel.state.picture.image) == bytes_of(scene.image)
    assert panel.target.value == panel.state.predicted
    x = preprocess(panel.state.model, scene.image)
    wanted = explain(panel.state.model, x, method="gradient_rollout").heatmap
    top = panel.state.class_of(None).name
    assert np.array_equal(pixels(panel.over), drawn(scene.image, wanted, scene.masks[top]))


def test_photographs():
    pytest.importorskip("skimage")
    panel = explore()
    for name in [name for name in gallery() if name.startswith("photograph")]:
        panel.picture.value = name
        assert error_of(panel) == "" and panel.verdict.value == "<b></b>"
        assert max(pixels(panel.over).shape) == SIDE


def test_new_scenes_are_new(panel):
    seen = set()
    seeds = [seed for seed in range(1, 20) if len(garden_scene(seed).labels) > 1]
    for seed in seeds[:3]:
        panel.scene.click()
        image = panel.state.picture.image
        assert len(panel.state.picture.masks) > 1
        assert bytes_of(image) == bytes_of(garden_scene(seed).image)
        assert panel.picture.value == panel.state.picture.name == panel.picture.options[0]
        seen.add(bytes_of(image))
    assert len(seen) == 3
    assert len(panel.picture.options) == len(gallery()) + 1


def test_upload_and_back(panel):
    image = garden_scene(77).image
    panel.upload.value = png_file(image)
    assert panel.picture.value == "yours: mine.png" and panel.upload.value == ()
    x = preprocess(panel.state.model, image)
    wanted = explain(panel.state.model, x, method="gradient_rollout").heatmap
    assert np.array_equal(pixels(panel.over), drawn(image, wanted))
    uploaded_png = panel.over.value
    panel.picture.value = next(iter(gallery()))
    panel.picture.value = "yours: mine.png"
    assert panel.over.value == uploaded_png
    panel.upload.value = png_file(image)  # the same file once more
    assert error_of(panel) == "" and panel.over.value == uploaded_png


def test_the_gardens_model_warns_of_a_photograph_and_another_is_offered(panel, monkeypatch):
    assert panel.warned.layout.display == "none"
    panel.upload.value = png_file(Image.new("RGB", (300, 200), "khaki"))
    assert panel.warned.layout.display is None and "means nothing" in panel.stranger.value
    asked = []
    model = timm.create_model("deit_tiny_patch16_224", img_size=32, depth=2).eval()
    loading = lambda name: asked.append((name, panel.message.value)) or model  # noqa: E731
    monkeypatch.setattr("vitexplain_utils.explorer.state.load_model", loading)
    panel.photo_model.click()
    assert panel.photo_model.description == "Use deit_tiny_patch16_224"
    assert asked[0][0] == "deit_tiny_patch16_224" and "Loading" in asked[0][1]
    assert panel.warned.layout.display == "none" and panel.message.value.endswith("></div>")
    assert explore(image=SCENE.image).warned.layout.display is None  # a scene without its masks


def test_one_picture_takes_one_thread_and_gives_the_others_back(panel):
    before, seen = torch.get_num_threads(), []
    panel.state.model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    try:
        torch.set_num_threads(2)
        panel.target.value = 1
        panel.scene.click()
        assert seen == [1, 1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_while_the_model_runs_that_is_said(panel, monkeypatch):
    said, capture = [], ExplorerState.capture
    monkeypatch.setattr(
        ExplorerState,
        "capture",
        lambda *a, **k: said.append(panel.message.value) or capture(*a, **k),
    )
    panel.ratio.value = 0.5
    assert "Computing" not in said.pop()
    panel.target.value = 1
    assert "Computing …" in said.pop() and "Computing" not in panel.message.value
    panel.target.value = 3
    assert "Computing" not in said.pop()


def test_a_box_on_a_photograph_is_its_right_answer(panel):
    assert panel.boxed.layout.display == "none"  # a scene has its own
    panel.upload.value = png_file(SCENE.image)
    assert panel.boxed.layout.display is None and panel.across.layout.display == "none"
    assert panel.verdict.value == "<b></b>"
    rows, cols = np.nonzero(SCENE.masks["leaf"])
    panel.target.value = 3
    panel.box_on.value = True
    assert panel.across.layout.display is None
    assert "white line: your box" in panel.shown_text.value
    share = lambda pixel: round(100 * pixel / 96)  # noqa: E731
    panel.across.value = share(cols.min()), share(cols.max() + 1)
    panel.down.value = share(rows.min()), share(rows.max() + 1)
    assert "right. The peak of the map lies on the leaf" in panel.verdict.value
    line = (np.asarray(panel.state.shown) != pixels(panel.shown)).any(-1)
    for found, true in zip(np.nonzero(line), (rows, cols), strict=True):
        assert abs(found.min() / 3.5 - true.min()) < 2 and abs(found.max() / 3.5 - true.max()) < 2
    panel.across.value = (0, 5)
    panel.down.value = (0, 5)
    assert "wrong. The peak of the map lies on the background" in panel.verdict.value
    panel.box_on.value = False
    assert panel.verdict.value == "<b></b>"
    assert np.array_equal(pixels(panel.shown), np.asarray(panel.state.shown))


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (100, 100, 100, 100), (0, 0, 100, 100)])
def test_a_box_is_never_empty(box):
    mask = box_mask(box, (30, 20))
    assert mask.shape == (20, 30) and mask.any() and (mask.all() == (box == (0, 0, 100, 100)))


def test_another_model(no_hub, deit_tiny, tmp_path, monkeypatch):
    panel = explore(image=SCENE)
    timm_name = "deit_tiny_patch16_224"
    torch.save(deit_tiny.state_dict(), tmp_path / f"{timm_name}.pth")
    monkeypatch.setattr(
        "vitexplain_utils.explorer.state.load_model",
        lambda name: load_model(name, weights=tmp_path / f"{timm_name}.pth"),
    )
    panel.blocks.value = (2, 3)
    panel.typed_model.value = timm_name
    assert error_of(panel) == "" and panel.model.value == timm_name
    assert panel.blocks.value == (0, 11) and panel.sheet_block.value == 11
    x = preprocess(panel.state.model, SCENE.image)
    wanted = explain(panel.state.model, x, method="gradient_rollout").heatmap
    assert np.array_equal(pixels(panel.over), drawn(SCENE.image, wanted))
    assert {key[0] for key in panel.state.captures._kept} == {panel.state.model}


def test_heads_on_demand(panel):
    assert panel.sheet.value == b"" and panel.sheet.layout.display == "none"
    panel.sheet_on.value = True
    first = panel.sheet.value
    assert panel.sheet.layout.display is None
    assert panel.sheet.layout.width == f"{Image.open(io.BytesIO(first)).width}px"
    panel.ratio.value = 0.5
    assert panel.sheet.value is first  # nothing of it has changed
    panel.sheet_block.value = 2
    assert panel.sheet.value != first
    panel.sheet_on.value = False
    assert panel.sheet.layout.display == "none"


def test_head_maps_are_the_class_tokens_rows():
    model = load_model("garden")
    capture = capture_attention(model, preprocess(model, SCENE.image), target=3)
    A, G = capture.blocks[4].attention()[0], capture.blocks[4].gradient()[0]
    torch.testing.assert_close(head_maps(capture, 4), A[:, 0, 1:].reshape(3, 12, 12))
    found = head_maps(capture, 4, weighted=True)
    torch.testing.assert_close(found, (A * G)[:, 0, 1:].clamp(min=0).reshape(3, 12, 12))
    row = 1 + 12 * 3 + 7  # of the patch in row 3, column 7
    torch.testing.assert_close(head_maps(capture, 4, patch=43), A[:, row, 1:].reshape(3, 12, 12))
    found = head_maps(capture, 4, patch=43, weighted=True)
    torch.testing.assert_close(found, (A * G)[:, row, 1:].clamp(min=0).reshape(3, 12, 12))
    for block in (-1, 6):
        with pytest.raises(ValueError, match="block"):
            head_maps(capture, block)
    for patch in (-1, 144):
        with pytest.raises(ValueError, match=r"patch must be in 0 to 143"):
            head_maps(capture, 4, patch=patch)


def test_a_patch_shows_where_it_looks(panel):
    assert len(panel.patch.options) == 144 and panel.patch.value is None
    panel.patch.value = 0  # as a click does
    assert panel.sheet_on.value and panel.from_token.layout.display is None
    assert panel.sheet.value == panel.state.heads(5, 3, 0).png() != panel.state.heads(5, 3).png()
    assert "from the patch in row 0, column 0" in panel.sheet.tooltip
    panel.from_token.click()
    assert panel.sheet.value == panel.state.heads(5, 3).png()
    assert panel.from_token.layout.display == "none" and panel.patch.value is None


def test_titles_of_heads_do_not_overlap():
    model = timm.create_model("vit_small_patch16_224", img_size=32, depth=1).eval()
    state = ExplorerState(model, SCENE)
    figure = state.heads(0, state.find_class("black and gold garden spider"))
    figure.png()
    renderer = figure.canvas.get_renderer()
    boxes = [ax.title.get_window_extent(renderer) for ax in figure.axes]
    assert len(boxes) == 12 and "black and gold" in figure.axes[6].get_title()
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_pictures_have_a_text(panel):
    assert panel.shown.tooltip == panel.state.picture.name
    assert panel.over.tooltip.startswith("heat map, gradient rollout, for “leaf”")
    assert panel.over.get_state()["description"] == ""  # or front ends fail on the tooltip


# ---- saving


def test_save_png_and_gif(panel, tmp_path):
    panel.ratio.value, panel.target.value = 0.9, 1
    for number in range(2):
        panel.png.click()
        name = "explorer-garden-notebook-8-bee-fish-leaf-bee-gradient-rollout"
        path = tmp_path / f"{name}{'-2' if number else ''}.png"
        assert f"Saved {path}" in panel.message.value
        assert np.array_equal(np.asarray(Image.open(path)), pixels(panel.over))
    panel.gif.click()
    path = tmp_path / f"{name}.gif"
    assert f"Saved {path}" in panel.message.value and "kB" in panel.message.value
    frames = iio.imread(path)
    assert len(frames) == 20 and frames.shape[2] == SIDE


def test_nowhere_to_save(tmp_path):
    panel = explore(folder=tmp_path / "nowhere")
    for button in (panel.png, panel.gif):
        button.click()
        assert "folder does not exist" in error_of(panel)


def test_a_film_follows_the_ratio(panel):
    choice = Choice("rollout", head_fusion="max")
    frames = panel.state.film(choice)
    first = heatmap_for(panel.state.capture(), choice)
    assert len({bytes_of(frame) for frame in frames}) == 20
    # The first frame has the highest values of all, or its scale would not be its own maximum.
    top = max(
        float(heatmap_for(panel.state.capture(), replace(choice, discard_ratio=r)).max())
        for r in RATIOS
    )
    wanted = overlay(panel.state.shown, first[0], vmax=top)
    assert np.array_equal(np.asarray(frames[0])[:SIDE], np.asarray(wanted))
    with pytest.raises(ValueError, match="relevance"):
        panel.state.film(Choice("relevance"))


# ---- what goes wrong is said


def broken_files() -> dict[str, bytes]:
    whole = bytes(png_file(SCENE.image)[0]["content"])
    return {"notes.txt": b"no picture", "half.png": whole[: len(whole) // 2], "none.png": b""}


@pytest.mark.parametrize("name", broken_files())
def test_a_broken_file_is_one_sentence(panel, name):
    panel.ratio.value, panel.target.value = 0.9, 1
    before = (panel.over.value, panel.choice, panel.picture.value)
    panel.upload.value = file(name, broken_files()[name])
    assert name in error_of(panel) and "\n" not in error_of(panel)
    assert (panel.over.value, panel.choice, panel.picture.value) == before
    panel.ratio.value = 0.95  # it goes on with what it had, and the error goes away
    assert error_of(panel) == "" and panel.choice.discard_ratio == 0.95


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("deit_tini", "Name &#x27;deit_tini&#x27; is not a model of timm"),
        ("deit_tiny_patch16_224", "No weights for deit_tiny_patch16_224"),
        ("vit_tiny_patch16_224.none", "none"),
    ],
)
def test_a_model_that_cannot_be_loaded(no_hub, panel, name, said):
    before = (panel.over.value, panel.choice, panel.state.model)
    panel.typed_model.value = name
    assert said in error_of(panel)
    assert (panel.over.value, panel.choice, panel.state.model) == before
    assert panel.model.value == "garden" and panel.typed_model.value == ""
    panel.target.value = 1
    assert error_of(panel) == "" and panel.over.value != before[0]


def test_a_model_that_cannot_be_explained(panel, monkeypatch):
    swin = timm.create_model("swin_tiny_patch4_window7_224").eval()
    monkeypatch.setattr("vitexplain_utils.explorer.state.load_model", lambda name: swin)
    panel.typed_model.value = "swin_tiny_patch4_window7_224"
    assert "SwinTransformer" in error_of(panel) and panel.state.model_name == "garden"
    with pytest.raises(ValueError, match="SwinTransformer"):
        explore(swin)


def test_no_weights_are_asked_of_a_model_that_cannot_be_explained(no_hub, panel):
    panel.typed_model.value = "resnet50"
    assert error_of(panel) == "Model ResNet has no transformer blocks to record."


@pytest.mark.parametrize(("text", "value"), [("0,95", 0.95), (" .5", 0.5), ("0.999", 0.999)])
def test_a_typed_number_may_have_a_comma(panel, text, value):
    panel.ratio_text.value = text
    assert panel.ratio.value == panel.choice.discard_ratio == value and error_of(panel) == ""
    assert panel.ratio_text.value == f"{value:.3f}"
    panel.ratio.value = 0.25
    assert panel.ratio_text.value == "0.250"
    panel.opacity_text.value = "0,3"
    assert panel.choice.opacity == 0.3 and panel.opacity_text.value == "0.30"


@pytest.mark.parametrize("text", ["a lot", "1.5", "-1", "nan", "0,9,5"])
def test_what_is_no_ratio_is_said(panel, text):
    panel.ratio.value = 0.9
    panel.ratio_text.value = text
    assert "Discard ratio must be a number from 0 to 0.999, got" in error_of(panel)
    assert panel.ratio.value == panel.choice.discard_ratio == 0.9
    assert panel.ratio_text.value == "0.900"


def test_whatever_is_raised_while_drawing_leaves_the_panel_as_it_was(panel, monkeypatch):
    panel.ratio.value = 0.9
    choice, shown = panel.choice, panel.over.value
    with monkeypatch.context() as patch:
        patch.setattr(ExplorerState, "draw", lambda *_: 1 / 0)
        panel.scene.click()
        assert error_of(panel) == "Division by zero."
        panel.target.value = 1
    assert error_of(panel) == "Division by zero."
    assert panel.choice == choice and panel.over.value == shown
    assert panel.ratio.value == 0.9 and panel.target.value == choice.target
    assert panel.picture.value == panel.state.picture.name == "garden, notebook 8: bee, fish, leaf"
    panel.target.value = 1
    assert error_of(panel) == "" and panel.over.value != shown


def test_errors_cannot_carry_html(panel):
    panel.typed_model.value = "<script>alert(1)</script>"
    assert "<script" not in panel.message.value and "&lt;script" in panel.message.value
    panel.upload.value = png_file(SCENE.image, "<b>.png")
    assert "<b>" not in panel.shown_text.value and "&lt;b&gt;.png" in panel.shown_text.value


def test_sentences():
    assert sentence(ValueError()) == "ValueError."
    assert sentence(ValueError("two\n lines")) == "Two lines."
    assert len(sentence(ValueError("x" * 5000))) < 450


def test_without_ipywidgets_the_package_works_and_the_explorer_says_what_is_missing():
    code = (
        "import sys, vitexplain_utils\n"
        "print('ipywidgets' in sys.modules)\n"
        "sys.modules['ipywidgets'] = None\n"
        "try: vitexplain_utils.explore()\n"
        "except ImportError as error: print(error)\n"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.stdout.startswith("False\nexplore needs ipywidgets: pip install"), run.stderr


def test_another_missing_module_is_not_blamed_on_ipywidgets(monkeypatch):
    real = builtins.__import__

    def importing(name, *args, **kwargs):
        if name == "panel":
            raise ModuleNotFoundError("No module named 'IPython'", name="IPython")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(ModuleNotFoundError, match="IPython"):
        explore()


# ---- quick: what is kept, and what is drawn


def counting(model: nn.Module) -> list[int]:
    runs: list[int] = []
    model.register_forward_hook(lambda *_: runs.append(1))
    return runs


def test_the_model_runs_once_per_picture_and_class(panel):
    runs = counting(panel.state.model)
    panel.ratio.value, panel.fusion.value, panel.blocks.value = 0.9, "max", (1, 4)
    panel.method.value, panel.colormap.value, panel.sheet_on.value = "rollout", "viridis", True
    assert runs == []
    panel.target.value = 1
    assert runs == [1]
    panel.method.value, panel.target.value, panel.ratio.value = "gradient_rollout", 3, 0.1
    panel.target.value = 1
    assert runs == [1]
    panel.picture.value = next(iter(gallery()))
    assert runs == [1, 1]


def test_vit_explain_runs_the_model_once_more_per_class(panel):
    runs, predicted = counting(panel.state.model), panel.state.predicted
    panel.mistakes.value = True
    assert runs == [1]
    panel.opacity.value, panel.blocks.value, panel.ratio.value = 0.5, (1, 4), 0.5
    panel.mistakes.value = False
    panel.mistakes.value = True
    assert runs == [1]
    panel.target.value = 1
    assert runs == [1, 1]
    panel.mistakes.value = False
    assert runs == [1, 1, 1]
    panel.target.value = predicted
    panel.mistakes.value = True
    panel.target.value = 1
    assert runs == [1, 1, 1]
    panel.picture.value = next(iter(gallery()))  # the predicted class, then the rule for it
    assert runs == [1, 1, 1, 1, 1]


def test_captures_stay_within_their_limit():
    model = load_model("garden")
    capture = capture_attention(model, preprocess(model, SCENE.image))
    kept = [t for b in capture.blocks for t in (b.q, b.k, b.v, b.output_gradient)]
    size = sum(tensor.nbytes for tensor in kept)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    assert len(storages) == 12 and sum(storages.values()) == size  # q, k, v: one buffer a block
    captures = Captures(limit=3 * size)
    for key in (1, 2, 3, 1, 4):
        captures.get(key, lambda: capture)
    assert list(captures._kept) == [3, 1, 4] and captures.nbytes == 3 * size
    small = Captures(limit=1)
    assert small.get(1, lambda: capture) is small.get(1, lambda: 1 / 0) and len(small) == 1


def test_fast_changes_become_one_and_the_last_one_wins(panel):
    calls = []
    paint = panel._paint
    panel._paint = lambda choice: (calls.append(choice.discard_ratio), paint(choice))

    async def drag() -> None:
        for step in range(1, 91):
            panel.ratio.value = step / 100
        assert calls == []  # nothing is drawn while changes come in
        await asyncio.sleep(0.1)
        assert calls == [0.9]
        for step in range(10):  # slower than it draws: each is drawn
            panel.ratio.value = step / 10
            await asyncio.sleep(0.15)

    asyncio.run(drag())
    assert calls == [0.9, *(step / 10 for step in range(10))]
    x = preprocess(panel.state.model, SCENE.image)
    wanted = explain(panel.state.model, x, method="gradient_rollout", discard_ratio=0.9)
    assert np.array_equal(
        pixels(panel.over), drawn(SCENE.image, wanted.heatmap, SCENE.masks["leaf"])
    )


def test_soon_without_a_loop_is_now():
    calls: list[int] = []
    soon = Soon(lambda: calls.append(1))
    soon()
    assert calls == [1]

    async def later() -> None:
        soon()
        soon.now()
        assert calls == [1, 1]
        await asyncio.sleep(0.05)

    asyncio.run(later())
    assert calls == [1, 1]  # the request that waited was met


def test_same_look_after_a_detour(panel):
    before = panel.over.value
    for method in explored():
        panel.method.value = method
    panel.method.value = "gradient_rollout"
    assert panel.over.value == before


# ---- pages without a kernel


def test_repr_and_still_picture(panel):
    panel.target.value = 1
    bundle, words = panel._repr_mimebundle_()
    name = "garden, notebook 8: bee, fish, leaf"
    assert bundle["text/plain"] == f"Explorer(model='garden', picture='{name}')"
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert Image.open(io.BytesIO(bundle["image/jpeg"])).width > 1000
    assert "gradient rollout, for “bee”" in words["image/jpeg"]["alt"]


# ---- a long session


EVENTS = (
    *("method", "fusion", "ratio", "ratio", "blocks", "mistakes", "colormap", "opacity"),
    *("target", "typed", "picture", "scene", "upload", "broken", "model"),
    *("sheet_on", "sheet_block", "patch", "box_on", "across", "ratio_text"),
)


def random_event(panel: Panel, rng: random.Random) -> None:
    name = rng.choice(EVENTS)
    if name in ("method", "fusion", "target", "mistakes", "colormap"):
        control = getattr(panel, name)
        control.index = rng.randrange(len(control.options))
    elif name in ("ratio", "opacity"):
        getattr(panel, name).value = rng.random()
    elif name == "blocks":
        panel.blocks.value = tuple(sorted(rng.choices(range(6), k=2)))
    elif name == "typed":
        panel.typed.value = rng.choice(["bee", "7", "8", "tractor", ""])
    elif name == "picture":
        panel.picture.index = rng.randrange(len(panel.picture.options))
    elif name == "scene":
        panel.scene.click()
    elif name == "upload":
        panel.upload.value = png_file(garden_scene(rng.randrange(100)).image, f"{rng.random()}.png")
    elif name == "broken":
        panel.upload.value = file("notes.txt", b"no")
    elif name == "model":
        panel.typed_model.value = rng.choice(["deit_tini", "garden"])
    elif name == "patch":
        panel.patch.value = rng.choice([None, 0, 143])
    elif name == "box_on":
        panel.box_on.value = rng.random() < 0.5
    elif name == "across":
        panel.across.value = tuple(sorted(rng.choices(range(101), k=2)))
    elif name == "ratio_text":
        panel.ratio_text.value = rng.choice(["0,9", "0.25", "a lot"])
    elif name == "sheet_on":
        panel.sheet_on.value = rng.random() < 0.3
    else:
        panel.sheet_block.value = rng.randrange(6)


def tensor_bytes() -> int:
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, nn.Parameter) and thing.layout == torch.strided:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_five_hundred_events_leave_nothing_behind(panel, monkeypatch):
    pytest.importorskip("skimage")
    panel.state.captures.limit = 5_400_000  # four of the garden's
    said: list[str] = []
    monkeypatch.setattr(panels, "sentence", lambda e: said.append(repr(e)) or sentence(e))
    fused = [m.fused_attn for m in panel.state.model.modules() if hasattr(m, "fused_attn")]
    fused_attention = functional.scaled_dot_product_attention
    rng = random.Random(0)
    sizes, counts = [], []
    for event in range(500):
        random_event(panel, rng)
        model = panel.state.model
        assert hooks_of(model) == 0 and functional.scaled_dot_product_attention is fused_attention
        assert [m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")] == fused
        assert panel.state.captures.nbytes <= 5_400_000
        assert (panel.method.value, panel.target.value) == (
            panel.choice.method,
            panel.choice.target,
        )
        assert panel.picture.value == panel.state.picture.name
        if event in (99, 199, 299, 399, 499):
            sizes.append(tensor_bytes())
            counts.append(len(widgets.widgets.widget._instances))
    expected = ("notes.txt", "deit_tini", "class 8", "tractor", "skimage", "a lot")
    assert all(any(word in error for word in expected) for error in said), said
    assert any("notes.txt" in error for error in said) and any("a lot" in e for e in said)
    assert len(set(counts)) == 1
    assert max(sizes[1:]) < sizes[0] + 7_400_000, sizes
    x = preprocess(panel.state.model, panel.state.picture.image)
    fresh = panel.choice.rule.capture(panel.state.model, x, target=panel.target.value)
    heatmap = heatmap_for(fresh, panel.choice)
    top = panel.state.class_of(panel.target.value)
    look = {"colormap": panel.choice.colormap, "opacity": panel.choice.opacity}
    wanted = overlay(fit(panel.state.picture.image), heatmap[0], **look)
    wanted = outlined(wanted, panel.state.answers(panel.choice).get(top.name))
    assert np.array_equal(pixels(panel.over), np.asarray(wanted))


# ---- pictures and words


def test_verdicts():
    left = np.zeros((4, 4), dtype=bool)
    left[:, :2] = True
    heat = torch.tensor([[[1.0, 3.0], [1.0, 1.0]]])
    known = {"bee": left, "fish": np.roll(left, 2, axis=1) & (np.arange(4) < 2)[:, None]}
    assert "right" in verdict(heat, known, "fish")
    wrong = "Pointing game: wrong. The peak of the map lies on the fish, not on the bee."
    assert verdict(heat, known, "bee") == wrong
    assert "on the background, not on the bee" in verdict(heat.flip(1), known, "bee")
    assert "No snail" in verdict(heat, known, "snail")
    assert "0 everywhere" in verdict(0 * heat, known, "bee")
    assert verdict(heat, {}, "bee") == ""
    assert verdict(heat, known, "Apis, bee") == wrong  # one of a class's synonyms is the thing
    assert "No ladybug in this scene" in verdict(heat, known, "ladybug, ladybeetle")
    assert "“ladybug”" in verdict(0 * heat, known, "ladybug, ladybeetle")


def test_a_things_name_may_be_any_synonym():
    """ImageNet's ladybug is the garden's ladybird."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval()
    panel = explore(model, hero_scene(4))  # ladybird, bee
    panel.typed.value = "ladybug"
    assert panel.target.value == 301 and "No lady" not in panel.verdict.value
    assert "Pointing game" in panel.verdict.value and "the ladybird" in panel.verdict.value
    assert "white line: ladybird" in panel.shown_text.value
    assert not np.array_equal(pixels(panel.shown), np.asarray(panel.state.shown))


def test_typing_suggests_short_names_the_most_probable_first():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval()
    panel = explore(model, SCENE)
    names = [top.name.split(",")[0] for top in panel.state.classes]
    assert list(panel.typed.options) == list(dict.fromkeys(names))
    panel.typed.value = "dog"
    likely = [top for top in panel.state.classes if re.search(r"\bdog\b", top.name)][:5]
    wanted = "; ".join(f"{top.name.split(',')[0]} ({top.index})" for top in likely)
    assert wanted in error_of(panel) and "bullfrog" not in error_of(panel)


def test_pictures_from_anything(tmp_path, photo):
    assert picture_of(None).masks.keys() == SCENE.masks.keys()
    assert picture_of(SCENE).image is SCENE.image
    assert picture_of(photo).name == "yours: photo" and picture_of(str(photo)).image.size == (
        60,
        40,
    )
    assert picture_of(Image.new("LA", (3, 2))).image.mode == "RGB"
    with pytest.raises(FileNotFoundError):
        picture_of(tmp_path / "none.png")
    assert uploaded("a.png", photo.read_bytes()).image.size == (60, 40)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 3), (4000, 3000)])
def test_fit(size):
    width, height = fit(Image.new("RGB", size)).size
    assert max(width, height) == SIDE and min(width, height) >= 1


@pytest.mark.parametrize("blocks", [(-1, 2), (3, 2), (0, 6)])
def test_blocks_outside_the_model(blocks):
    with pytest.raises(ValueError, match="blocks must be"):
        heatmap_for(ExplorerState().capture(), Choice(blocks=blocks))
