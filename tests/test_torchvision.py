"""Models of torchvision: its own presets, checkpoints, and what it refuses."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from layouts import TORCHVISION, input_of, model_of
from reference import lively
from test_pictures import by_half, seen, smooth
from torch import nn
from torchvision import models

from vitexplain_utils import __main__ as cli
from vitexplain_utils import (
    class_index,
    explain,
    explore,
    load_image,
    load_model,
    overlay,
    preprocess,
    top_classes,
)
from vitexplain_utils.models import class_names, crop_box, library_of
from vitexplain_utils.truth import deletion_insertion

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation


def small(image_size: int = 48, classes: int = 5) -> nn.Module:
    settings = {**TORCHVISION, "image_size": image_size, "num_classes": classes}
    return lively(models.VisionTransformer(**settings))


@pytest.fixture
def builder(monkeypatch):
    """`vit_b_16`, narrow and two blocks deep."""

    def made(name, weights=None, **settings):
        return models.VisionTransformer(
            **{**TORCHVISION, "image_size": 224, "num_classes": 1000, **settings}
        )

    monkeypatch.setattr(models, "get_model", made)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_left_behind(gradient, training):
    model = small().train(training)
    hooks = [len(part._forward_pre_hooks) for part in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    method = "attribution" if gradient else "rollout"
    explain(model, input_of("torchvision"), method=method)
    assert [len(part._forward_pre_hooks) for part in model.modules()] == hooks
    assert torch.backends.mha.get_fastpath_enabled() is fast
    assert model.training is training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_the_fast_path_is_not_taken_and_changes_nothing():
    """Without gradients and in eval mode multi-head attention would call nothing that is heard."""
    model, x = model_of("torchvision"), input_of("torchvision")
    with torch.no_grad():
        logits = model(x)
    torch.testing.assert_close(
        explain(model, x, method="rollout").logits, logits, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("weights", ["ViT_B_16_Weights.IMAGENET1K_V1", "ViT_H_14_Weights.DEFAULT"])
def test_crop_is_the_presets_own(weights):
    preset = torchvision.models.get_weight(weights).transforms()
    model, image = small(preset.crop_size[0] // 16 * 16), smooth(500, 400)
    preset.crop_size = [model.image_size]
    if model.image_size > 224:
        preset.resize_size = [model.image_size]
    x = preprocess(model, image, crop=True)
    assert torch.equal(x[0], preset(image))
    shown = seen(by_half(x, *IMAGENET), image.size)
    assert crop_box(model, image.size) == pytest.approx(shown, abs=1.5)


def test_the_whole_picture_is_seen():
    x = preprocess(small(), smooth(60, 90))
    assert x.shape == (1, 3, 48, 48)
    assert seen(by_half(x, *IMAGENET), (60, 90)) == pytest.approx((0, 0, 60, 90), abs=1.5)


def test_everything_works(tmp_path):
    model, x = small(), input_of("torchvision", 1)
    assert class_names(model) == [f"class {index}" for index in range(5)]
    assert class_index(small(classes=1000), "tabby") == 281
    explanation = explain(model, x)
    best = top_classes(model, explanation.logits, k=1)[0][0]
    curves = deletion_insertion(model, x, explanation.heatmap, best.index, steps=3)
    assert float(curves.deletion[0, 0]) == pytest.approx(best.probability, abs=1e-5)
    panel = explore(model, smooth(60, 40), folder=tmp_path)
    assert len(panel.state.classes) == 5


def test_a_head_replaced_by_hand_counts():
    model = small(classes=1000)
    model.heads = nn.Linear(32, 3)
    assert library_of(model).classes == 3
    assert class_names(model) == ["class 0", "class 1", "class 2"]
    assert explain(model, input_of("torchvision")).logits.shape == (2, 3)
    model.heads = nn.Identity()
    with pytest.raises(ValueError, match="no classifier"):
        explain(model, input_of("torchvision"))


@pytest.mark.parametrize("name", ["swin_t", "resnet18"])
def test_models_that_cannot_be_explained(name):
    with pytest.raises(ValueError, match=r"only VisionTransformer \(vit_b_16 to vit_h_14\) has"):
        explain(models.get_model(name), torch.zeros(1, 3, 64, 64))


def test_a_size_that_does_not_fit():
    with pytest.raises(ValueError, match="does not fit the model"):
        explain(small(), torch.zeros(1, 3, 32, 48))


@pytest.mark.parametrize("ending", ["given", "folder", "cache"])
def test_a_checkpoint_decides_classes_and_size(ending, builder, tmp_path, monkeypatch):
    model = small(image_size=64)
    monkeypatch.setenv("VITEXPLAIN_WEIGHTS", str(tmp_path / "folder"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    path = {
        "given": tmp_path / "mine.pth",
        "folder": tmp_path / "folder" / "vit_b_16.pth",
        "cache": tmp_path / "hub" / "checkpoints" / "vit_b_16-c867db91.pth",
    }[ending]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    loaded = load_model("torchvision:vit_b_16", weights=path if ending == "given" else None)
    x = torch.randn(1, 3, 64, 64)
    assert not loaded.training
    assert torch.equal(loaded(x), model(x))


def test_bad_names_and_weights(builder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"'torchvision:swin_t' is not a ViT.*vit_b_16"):
        load_model("torchvision:swin_t")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth.*cannot be loaded into vit_b_16"):
        load_model("torchvision:vit_b_16", weights=tmp_path / "other.pth")
    (tmp_path / "notes.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"notes\.pth.*cannot be loaded into vit_b_16"):
        load_model("torchvision:vit_b_16", weights=tmp_path / "notes.pth")


def test_no_weights_anywhere(tmp_path, monkeypatch):
    monkeypatch.delenv("VITEXPLAIN_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    monkeypatch.setattr(models.ViT_B_16_Weights.DEFAULT.value, "url", "http://127.0.0.1:1/a-0.pth")
    begin = time.monotonic()
    with pytest.raises(FileNotFoundError) as caught:
        load_model("torchvision:vit_b_16")
    assert time.monotonic() - begin < 10
    for way in ("weights=", "VITEXPLAIN_WEIGHTS", "online"):
        assert way in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_from_the_command_line(builder, tmp_path, monkeypatch, capsys):
    model = small(image_size=64)
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    image = smooth(60, 40)
    image.save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    arguments = ["photo.png", "--model", "torchvision:vit_b_16", "--weights", "mine.pth"]
    assert cli.main([*arguments, "--target", "class 2"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("attribution for 2 class 2")
    heatmap = explain(model, preprocess(model, image), target=2).heatmap[0]
    written = np.asarray(load_image(Path("photo_attribution.png")))
    assert np.array_equal(written, np.asarray(overlay(image, heatmap)))
