from __future__ import annotations

import pickle
import re
import time
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from vitexplain_utils import class_index, load_model, preprocess, top_classes
from vitexplain_utils.models import class_names

NAME = "deit_tiny_patch16_224"


def same_weights(model: nn.Module, other: nn.Module) -> bool:
    one, two = model.state_dict(), other.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_checkpoint_file(deit_tiny, deit_checkpoint):
    """A `.pth` with the weights under "model"; ten classes make a model of ten classes."""
    model = load_model(NAME, weights=deit_checkpoint)
    assert same_weights(model, deit_tiny)
    assert model.num_classes == 10
    assert not model.training
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 10)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state}])
def test_checkpoints_wrapped_otherwise(wrap, deit_tiny, tmp_path):
    torch.save(wrap(deit_tiny.state_dict()), tmp_path / "w.pth")
    assert same_weights(load_model(NAME, weights=str(tmp_path / "w.pth")), deit_tiny)


def test_folder_of_weights(deit_tiny, tmp_path, monkeypatch, offline):
    save_file(deit_tiny.state_dict(), tmp_path / f"{NAME}.safetensors")
    monkeypatch.setenv("VITEXPLAIN_WEIGHTS", str(tmp_path))
    assert same_weights(load_model(NAME), deit_tiny)
    with pytest.raises(FileNotFoundError, match="no weights for vit_tiny_patch16_224"):
        load_model("vit_tiny_patch16_224")


def test_no_weights_anywhere(offline):
    begin = time.monotonic()
    with pytest.raises(FileNotFoundError) as caught:
        load_model(NAME)
    assert time.monotonic() - begin < 10
    for way in ("weights=", "VITEXPLAIN_WEIGHTS", "online"):
        assert way in str(caught.value)


def test_unknown_name_suggests_close_ones():
    with pytest.raises(ValueError, match=rf"'deit_tiny_patch16_225'.*{NAME}"):
        load_model("deit_tiny_patch16_225")
    with pytest.raises(ValueError, match="garden"):
        load_model("gardn")


def test_unknown_weight_tag(offline):
    with pytest.raises(ValueError, match="bogus"):
        load_model(f"{NAME}.bogus")


def test_missing_weights_file(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(FileNotFoundError, match=path.name):
            load_model(NAME, weights=path)


def test_a_folder_that_timm_saved(tiny, tiny_x, tmp_path):
    """With its own settings, its classes and their names."""
    names = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu"]
    timm.models.save_for_hf(
        tiny,
        tmp_path,
        model_config={"label_names": names, "num_classes": 7},
        model_args={"img_size": (32, 48), "depth": 2, "embed_dim": 48},
    )
    model = load_model(f"local-dir:{tmp_path}")
    assert same_weights(model, tiny) and not model.training
    assert class_names(model) == names
    with pytest.raises(ValueError, match="has its own"):
        load_model(f"local-dir:{tmp_path}", weights="a.pth")
    for place in ("none", "config.json"):
        with pytest.raises(ValueError, match="cannot be loaded"):
            load_model(f"local-dir:{tmp_path / place}")


def test_a_head_replaced_by_hand_counts(tiny):
    tiny.head = nn.Linear(48, 2)
    assert class_names(tiny) == ["class 0", "class 1"]
    tiny.head = nn.Linear(48, 1)
    with pytest.raises(ValueError, match="gives numbers, not classes"):
        top_classes(tiny, torch.zeros(1, 1))


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"these are no weights\n" * 10])
def test_file_that_is_no_checkpoint(ending, content, tmp_path):
    path = tmp_path / f"notes.{ending}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"notes\.{ending}.*cannot be loaded into {NAME}"):
        load_model(NAME, weights=path)


@pytest.mark.parametrize("other", ["vit_small_patch16_224", "resnet18"])
def test_checkpoint_of_another_architecture(other, tmp_path):
    settings = {"depth": 1} if "vit" in other else {}
    torch.save(timm.create_model(other, **settings).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"other\.pth.*cannot be loaded into {NAME}"):
        load_model(NAME, weights=tmp_path / "other.pth")


def test_another_size(deit_checkpoint):
    usual, large = (load_model(NAME, weights=deit_checkpoint, img_size=n) for n in (None, 448))
    assert preprocess(large, Image.new("RGB", (30, 20))).shape == (1, 3, 448, 448)
    assert torch.equal(large.pos_embed[:, 0], usual.pos_embed[:, 0])
    small, grid = (
        model.pos_embed[:, 1:].mT.unflatten(2, (side, side))
        for model, side in ((usual, 14), (large, 28))
    )
    again = torch.nn.functional.avg_pool2d(grid, 2)
    assert torch.corrcoef(torch.stack([small.flatten(), again.flatten()]))[0, 1] > 0.9
    with torch.no_grad():
        assert large(torch.zeros(1, 3, 448, 448)).shape == usual(torch.zeros(1, 3, 224, 224)).shape


@pytest.mark.parametrize("size", [0, -16, 230, 224.0])
def test_sizes_that_patches_do_not_fill(size):
    with pytest.raises(ValueError, match=f"img_size must be whole patches of 8 pixels, got {size}"):
        load_model("garden", img_size=size)


def test_a_model_of_one_size(monkeypatch):
    monkeypatch.delattr("timm.models.vision_transformer.VisionTransformer.set_input_size")
    with pytest.raises(ValueError, match="img_size 96: VisionTransformer takes one size only"):
        load_model("garden", img_size=96)


class Malicious:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda o, path: path.write_bytes(pickle.dumps(o))])
def test_pickled_code_is_not_executed(save, tmp_path):
    trace = tmp_path / "executed"
    save({"model": Malicious(trace)}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth.*cannot be loaded"):
        load_model(NAME, weights=tmp_path / "evil.pth")
    assert not trace.exists()
    pickle.loads(pickle.dumps(Malicious(trace)))
    assert trace.exists()  # it would have


def test_names_of_imagenet():
    model = timm.create_model(NAME, depth=1, embed_dim=48)
    names = class_names(model)
    assert len(names) == 1000
    assert names[282].startswith("tiger cat")
    assert class_index(model, "tiger cat") == 282
    assert class_index(model, " Bull MASTIFF ") == 243
    assert class_index(model, "bull mast") == 243  # the only one that holds it


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("terrier", r"matches \d\d classes; did you mean one of: .*terrier"),
        ("tiger kat", r"matches 0 classes; did you mean one of: .*tiger cat \(282\)"),
        ("cat", r"of: tabby \(281\); tiger cat \(282\); Persian cat"),  # no Rana catesbeiana
        ("crane", r"of: crane \(134\); crane \(517\)\?"),
        ("qqqqqqqq", "none is close"),
        ("", "matches 0 classes"),
    ],
)
def test_names_that_are_not_a_class(name, said):
    with pytest.raises(ValueError, match=rf"target '{name}'.*{said}"):
        class_index(timm.create_model(NAME, depth=1, embed_dim=48), name)


def test_a_word_goes_before_a_part():
    model = timm.create_model(NAME, depth=1, embed_dim=48)
    names = class_names(model)
    assert class_index(model, "hen") == 8 and sum("hen" in name for name in names) > 1
    with_dog = [i for i, name in enumerate(names) if "dog" in re.split(r"\W+", name.lower())]
    logits = torch.zeros(1, 1000)
    logits[0, [30, *with_dog[-2:]]] = torch.tensor([9.0, 1.0, 2.0])
    likely = [f"{names[i].split(',')[0]} ({i})" for i in with_dog[:-3:-1]]
    with pytest.raises(ValueError, match=re.escape(f"one of: {'; '.join(likely)}; ")):
        class_index(model, "dog", logits)


def test_names_of_other_classes(tiny):
    assert class_names(tiny) == [f"class {index}" for index in range(7)]
    assert class_index(tiny, "class 3") == 3
    tiny.pretrained_cfg = {**dict(tiny.pretrained_cfg), "label_names": list("abcdefg")}
    assert class_names(tiny) == list("abcdefg")
    assert class_index(tiny, "C") == 2


def test_top_classes(tiny):
    logits = torch.tensor([[0.0, 3, 1, 2, -1, -2, -3], [9, 0, 0, 0, 0, 0, 8.0]])
    first, second = top_classes(tiny, logits, k=3)
    assert [top.index for top in first] == [1, 3, 2]
    assert [top.index for top in second][:2] == [0, 6]
    assert first[0].name == "class 1"
    expected = [float(logits[0, k].exp() / logits[0].exp().sum()) for k in (1, 3, 2)]
    assert [top.probability for top in first] == pytest.approx(expected, abs=1e-6)
    assert len(top_classes(tiny, logits, k=50)[0]) == 7
    tiny.pretrained_cfg = {**dict(tiny.pretrained_cfg), "multi_label": True}
    best = top_classes(tiny, logits, k=1)[0][0].probability
    assert best == pytest.approx(float(1 / (1 + torch.tensor(-3.0).exp())), abs=1e-6)


@pytest.mark.parametrize("shape", [(7,), (2, 6), (1, 2, 7)])
def test_logits_that_do_not_fit(shape, tiny):
    with pytest.raises(ValueError, match="logits"):
        top_classes(tiny, torch.zeros(shape))


def test_no_classifier_has_no_top_classes(tiny):
    tiny.reset_classifier(0)
    assert class_names(tiny) == []
    with pytest.raises(ValueError, match="logits"):
        top_classes(tiny, torch.zeros(1, 48))
