"""Models of transformers: against its own eager mode, its own image processors, and timm."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from layouts import (
    OTHERS,
    SQUARE,
    TEXT,
    TRANSFORMERS,
    grid_of,
    input_of,
    model_of,
    prefix_of,
    target_of,
    third,
)
from PIL import Image
from reference import array, lively, naive_attribution, naive_relevance, naive_rollout
from test_capture import unfused
from test_models import Malicious
from test_pictures import by_half, seen, smooth
from torch import Tensor, nn

from vitexplain_utils import (
    METHODS,
    capture_attention,
    class_index,
    discard_sweep,
    explain,
    explore,
    load_image,
    load_model,
    overlay,
    preprocess,
    top_classes,
)
from vitexplain_utils import __main__ as cli
from vitexplain_utils.models import class_names, crop_box, library_of, text_target
from vitexplain_utils.truth import deletion_insertion, occlusion, randomised_models

pytestmark = pytest.mark.slow

EVERY = pytest.mark.parametrize("layout", TRANSFORMERS)
FAMILIES = ("ViT", "DeiT", "Beit", "Dinov2", "Dinov2WithRegisters", "CLIP", "Siglip", "Siglip2")


def fresh(layout: str = "ViTForImageClassification", **settings) -> nn.Module:
    """A model of its own, that a test may change."""
    made = getattr(transformers, layout)
    return lively(made(made.config_class(**{**TRANSFORMERS[layout][0], **settings})))


def start_of(layout: str) -> np.ndarray | None:
    """Where a map starts, by the table of the layouts."""
    weights = TRANSFORMERS[layout][2] if layout in TRANSFORMERS else (1, 0, 0)
    if weights is None:
        return None
    (rows, cols), prefix = grid_of(layout), prefix_of(layout)
    start = np.zeros(prefix + rows * cols)
    start[prefix:] = weights[2] / (rows * cols)
    start[: min(prefix, 2)] += weights[: min(prefix, 2)]
    return start


# ------------------------------------------------------------------------------- what is recorded


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@EVERY
def test_attention_equals_output_attentions_of_the_eager_mode(layout, implementation):
    model, x = fresh(layout), input_of(layout)
    model.set_attn_implementation(implementation)
    call = capture_attention(model, x, target=target_of(layout))
    assert library_of(model).tower.config._attn_implementation == implementation
    model.set_attn_implementation("eager")
    own = getattr(model, "vision_model", model)
    given = {"pixel_values": x, "output_attentions": True}
    if "Siglip2" in layout:
        given |= {"pixel_values": patches_of(x), "spatial_shapes": torch.tensor([[2, 3]] * 2)}
        given["pixel_attention_mask"] = torch.ones(2, 6, dtype=torch.int32)
    elif "inov" not in layout and "INO" not in layout:
        given["interpolate_pos_encoding"] = True
    expected = own(**given).attentions
    assert len(expected) == len(call.blocks) == 2
    for block, wanted in zip(call.blocks, expected, strict=True):
        torch.testing.assert_close(block.attention(), wanted, rtol=0, atol=1e-6)


def patches_of(x: Tensor) -> Tensor:
    """SigLIP 2's input, one patch after the other."""
    rows = []
    for image in x:
        cut = [
            image[:, top : top + 16, left : left + 16].permute(1, 2, 0).flatten()
            for top in range(0, x.shape[2], 16)
            for left in range(0, x.shape[3], 16)
        ]
        rows.append(torch.stack(cut))
    return torch.stack(rows)


@pytest.mark.parametrize("layout", OTHERS)
def test_a_map_starts_where_the_head_reads(layout):
    """What the library says it reads, the tokens that move the output, and the layouts' table."""
    model, x = model_of(layout), input_of(layout, 1)
    library = library_of(model)
    grid = library.grid(x)
    assert (grid.rows, grid.cols, grid.prefix) == (*grid_of(layout), prefix_of(layout))
    tokens: list[Tensor] = []

    def keep(_module, _args, output):
        tokens.append(output[0] if isinstance(output, tuple) else output)

    handle = library.block_modules()[-1].register_forward_hook(keep)
    scalar = library.logits(x)[:, 3].sum()
    handle.remove()
    moved = torch.autograd.grad(scalar, tokens[0])[0].abs().sum((0, 2)) > 0
    start = library.reads(grid)
    if start_of(layout) is None:
        assert start is None and library.pool_module() is not None and moved.all()
    else:
        np.testing.assert_allclose(array(start), start_of(layout), atol=1e-12)
        assert torch.equal(moved, start > 0)


@pytest.mark.parametrize("layout", OTHERS)
def test_maps_equal_the_naive_ones(layout):
    x = input_of(layout, 1)
    attention, gradient = unfused(layout, x)
    blocks = [[array(block[0]) for block in part[:2]] for part in (attention, gradient)]
    start = start_of(layout)
    starts = {"rollout": start, "gradient_rollout": start, "relevance": start}
    if start is None:  # a probe reads: by itself, or as far as that speaks for the feature
        probe, effect = attention[2][0, :, 0].double(), gradient[2][0, :, 0].double()
        starts["rollout"] = array(probe.mean(0))
        starts["gradient_rollout"] = array((probe * effect).mean(0).clamp(min=0))
        starts["relevance"] = array((probe * effect).clamp(min=0).mean(0))
    token = library_of(model_of(layout)).class_token
    prefix = prefix_of(layout)
    whole = start is None or start[prefix:].any()
    rows = list(range(len(blocks[0][0][0]))) if whole else [i for i in (0, 1) if start[i]]
    expected = {
        "rollout": naive_rollout(blocks[0], start=starts["rollout"], class_token=token),
        "gradient_rollout": naive_rollout(
            *blocks, start=starts["gradient_rollout"], class_token=token
        ),
        "relevance": naive_relevance(*blocks, start=starts["relevance"]),
        "attribution": np.maximum(naive_attribution(*blocks, rows), 0),
    }
    for method, row in expected.items():
        free = {"hold_attention": False} if METHODS[method].needs_gradient else {}
        own = explain(model_of(layout), x, method=method, target=target_of(layout), **free)
        wanted = row[prefix:].reshape(grid_of(layout))
        assert array(own.heatmap[0]) == pytest.approx(wanted, abs=1e-5 * max(1, wanted.max()))


@pytest.mark.parametrize("ending", ["normal", "error"])
@EVERY
def test_everything_is_as_before(layout, ending):
    model = fresh(layout).train()
    model.set_attn_implementation("eager")
    library = library_of(model)
    library.block_modules()[0].eval()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 > 0)

    def stop(*_):
        if ending == "error":
            raise ZeroDivisionError

    library.block_modules()[1].register_forward_hook(stop)

    def state() -> dict:
        hooks = {
            (name, key): list(value)
            for name, part in model.named_modules()
            for key, value in vars(part).items()
            if "_hooks" in key
        }
        return {
            "hooks": hooks,
            "modes": [part.training for part in model.modules()],
            "grad": [(p.requires_grad, p.grad) for p in model.parameters()],
            "attention": library.config._attn_implementation,
        }

    before = state()
    with nullcontext() if ending == "normal" else pytest.raises(ZeroDivisionError):
        explain(model, input_of(layout), target=target_of(layout))
    assert state() == before
    assert before["attention"] == "eager"


def test_a_size_that_is_not_the_models_is_interpolated():
    model = fresh()
    small, large = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 64, 96)
    assert explain(model, small).heatmap.shape == (1, 2, 2)
    explanation = explain(model, large)
    assert explanation.heatmap.shape == (1, 4, 6)
    with torch.no_grad():
        expected = model(large, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(explanation.logits, expected, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------ all that asks it


def test_everything_works_on_a_classifier():
    model = fresh(
        id2label={index: name for index, name in enumerate(["ant", "bee", "cat", "dog", "elk"])}
    )
    x = input_of("ViTForImageClassification", 1)
    assert class_names(model) == ["ant", "bee", "cat", "dog", "elk"]
    assert class_index(model, "Cat") == 2
    explanation = explain(model, x)
    best = top_classes(model, explanation.logits, k=1)[0][0]
    assert best.index == int(explanation.target)
    ratios = [0, 0.5]
    sweep = discard_sweep(model, x, ratios, method="rollout")
    for ratio, maps in zip(ratios, sweep, strict=True):
        torch.testing.assert_close(
            maps, explain(model, x, method="rollout", discard_ratio=ratio).heatmap
        )
    curves = deletion_insertion(model, x, explanation.heatmap, best.index, steps=3)
    assert float(curves.deletion[0, 0]) == pytest.approx(best.probability, abs=1e-5)
    assert occlusion(model, x, best.index, grid=(2, 3)).shape == (1, 2, 3)


@pytest.mark.parametrize("layout", OTHERS)
def test_randomisation_changes_everything_and_leaves_the_model(layout):
    model = model_of(layout)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = []
    for name, other in randomised_models(model):
        names.append(name)
        logits = library_of(other).logits(input_of(layout))
        assert logits.isfinite().all()
    assert names == ["head", "block 1", "block 0", "embedding"]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    vision = {
        name: value
        for name, value in other.state_dict().items()
        if value.is_floating_point() and value.ndim > 1 and "text" not in name
    }
    kept = [name for name, value in vision.items() if torch.equal(value, before[name])]
    assert [name for name in kept if "mask_token" not in name] == []


def test_the_explorer_takes_one(tmp_path):
    model = fresh(num_labels=3)
    panel = explore(model, smooth(60, 40), folder=tmp_path)
    assert len(panel.state.classes) == 3
    tower = explore(fresh("CLIPVisionModel"), smooth(60, 40), folder=tmp_path)
    assert tower.state.methods == ("rollout", "last_attention")


def test_a_multi_label_head_has_sigmoids():
    model = fresh(problem_type="multi_label_classification")
    logits = torch.zeros(1, 5)
    assert library_of(model).multi_label
    assert top_classes(model, logits)[0][0].probability == 0.5


def test_a_regression_is_explained_and_has_no_classes():
    model = fresh(num_labels=1, problem_type="regression")
    x = input_of("ViTForImageClassification")
    assert torch.equal(
        explain(model, x).heatmap, explain(model, x, target=lambda y: y[:, 0]).heatmap
    )
    explanation = explain(model, x)
    with pytest.raises(ValueError, match="numbers, not classes"):
        top_classes(model, explanation.logits)
    with pytest.raises(ValueError, match="no probability to follow"):
        deletion_insertion(model, x, explanation.heatmap, 0)
    several = fresh(num_labels=3, problem_type="regression")
    with pytest.raises(ValueError, match="gives 3 numbers: target must say which"):
        explain(several, x)
    assert explain(several, x, target=2).heatmap.shape == (2, 2, 3)
    assert explain(several, x, method="rollout").heatmap.shape == (2, 2, 3)
    with pytest.raises(ValueError, match="numbers, not classes"):
        top_classes(several, torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("made", "settings"),
    [
        ("SwinForImageClassification", {"depths": (1,), "num_heads": (1,), "embed_dim": 8}),
        ("ConvNextForImageClassification", {"depths": (1,) * 4, "hidden_sizes": (4,) * 4}),
        ("ViTForMaskedImageModeling", SQUARE),
        ("Dinov2Backbone", SQUARE),
        ("ViTMSNForImageClassification", SQUARE),
        ("ViTModel", {**SQUARE, "num_hidden_layers": 0}),
        ("BertModel", {**TEXT, "max_position_embeddings": 16}),
    ],
)
def test_models_that_cannot_be_explained(made, settings):
    made = getattr(transformers, made)
    model = made(made.config_class(**settings))
    with pytest.raises(ValueError, match=rf"model {made.__name__}"):
        explain(model, torch.zeros(1, 3, 32, 32))


def test_names_with_gaps_and_heads_replaced_by_hand():
    config = transformers.ViTConfig(**SQUARE, id2label={0: "ant", 2: "cat"})
    model = lively(transformers.ViTForImageClassification(config))
    assert class_names(model) == ["ant", "class 1"]
    model.config.id2label = {"0": "ant", "1": None}
    assert class_names(model) == ["ant", "class 1"]
    model.classifier = nn.Linear(32, 3)
    explanation = explain(model, input_of("ViTModel"))
    assert len(top_classes(model, explanation.logits)[0]) == 3


def test_an_input_smaller_than_a_patch():
    with pytest.raises(ValueError, match="smaller than a patch"):
        explain(fresh(), torch.zeros(1, 3, 8, 32))


@pytest.mark.parametrize("layout", ["ViTModel", "CLIPModel", "SiglipModel", "BeitModel"])
def test_a_configuration_that_wants_tuples(layout):
    model, x = fresh(layout), input_of(layout)
    expected = explain(model, x, target=third).heatmap
    model.config.return_dict = False
    assert torch.equal(explain(model, x, target=third).heatmap, expected)


# ------------------------------------------------------------------------------------- wrappers


@pytest.mark.parametrize("wrap", ["compile", "compile in place", "data parallel", "both"])
@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_wrapped_models_are_explained_as_what_they_wrap(wrap, library, tiny, tiny_x):
    model, x = (tiny, tiny_x) if library == "timm" else (fresh(), input_of("ViTModel", 3))
    expected = explain(model, x).heatmap
    wrapped = model
    if wrap in ("compile", "both"):
        wrapped = torch.compile(wrapped)
    if wrap in ("data parallel", "both"):
        wrapped = nn.DataParallel(wrapped)
    if wrap == "compile in place":
        model.compile()
        called = model._compiled_call_impl
    assert torch.equal(explain(wrapped, x).heatmap, expected)
    assert class_names(wrapped) == class_names(model)
    assert next(randomised_models(wrapped))[0] == "head"
    if wrap == "compile in place":
        assert model._compiled_call_impl is called


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of PEFT's own
def test_an_adapter_is_explained_with_what_it_adds():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model, x = fresh(), input_of("ViTForImageClassification")
    plain = explain(model, x).heatmap
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    explanation = explain(wrapped, x)
    with torch.no_grad():
        torch.testing.assert_close(
            explanation.logits, wrapped.eval()(x, interpolate_pos_encoding=True).logits
        )
    assert (explanation.heatmap - plain).abs().max() > 1e-3 * plain.max()
    merged = explain(wrapped.merge_and_unload(), x).heatmap
    torch.testing.assert_close(explanation.heatmap, merged, rtol=0, atol=1e-5)


def test_wrappers_of_ones_own_are_not_looked_into():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.timm_model, self._orig_mod = nn.Identity(), nn.Identity()

    with pytest.raises(ValueError, match="no known library"):
        explain(Net(), torch.zeros(1, 3, 32, 32))

    class OwnHead(transformers.ViTPreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.vit = transformers.ViTModel(config)

    model = OwnHead(transformers.ViTConfig(**SQUARE))
    with pytest.raises(ValueError, match="neither a tower"):
        explain(model, torch.zeros(1, 3, 32, 32))


def test_a_tuner_without_its_peft_model():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = fresh()
    config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    tuner = peft.LoraModel(model, config, "default")
    assert library_of(tuner).model is model


def test_timm_inside_transformers():
    config = transformers.TimmWrapperConfig(
        architecture="vit_tiny_patch16_224", model_args={"depth": 1}, num_labels=3
    )
    wrapper = transformers.TimmWrapperForImageClassification(config)
    with pytest.raises(ValueError, match="give its timm_model"):
        explain(wrapper, torch.zeros(1, 3, 224, 224))
    assert library_of(wrapper.timm_model).name == "timm"


# ----------------------------------------------------------------------- the same weights in timm


def converted(model: nn.Module, **settings) -> nn.Module:
    """A DeiT of timm in transformers, which has a second, unused token before its patches."""
    blocks, width, heads = len(model.blocks), model.embed_dim, model.blocks[0].attn.num_heads
    config = transformers.ViTConfig(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        num_labels=model.num_classes,
        layer_norm_eps=1e-6,
        **settings,
    )
    names = {
        "cls_token": "vit.embeddings.cls_token",
        "pos_embed": "vit.embeddings.position_embeddings",
        "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
        "norm": "vit.layernorm",
        "head": "classifier",
    }
    for index in range(blocks):
        own, other = f"blocks.{index}", f"vit.layers.{index}"
        names |= {
            f"{own}.norm1": f"{other}.layernorm_before",
            f"{own}.norm2": f"{other}.layernorm_after",
            f"{own}.attn.proj": f"{other}.attention.o_proj",
            f"{own}.mlp.fc1": f"{other}.mlp.fc1",
            f"{own}.mlp.fc2": f"{other}.mlp.fc2",
        }
    state = {}
    for name, value in model.state_dict().items():
        part, _, kind = name.rpartition(".")
        if part.endswith("attn.qkv"):
            block = f"vit.layers.{part.split('.')[1]}.attention"
            for letter, third_of in zip("qkv", value.chunk(3), strict=True):
                state[f"{block}.{letter}_proj.{kind}"] = third_of
        else:
            state[names[name] if name in names else f"{names[part]}.{kind}"] = value
    other = transformers.ViTForImageClassification(config)
    other.load_state_dict(state)
    return other.eval()


def test_the_same_weights_give_the_same_maps_and_pictures(real_deit, tmp_path):
    """A real DeiT-Tiny in both libraries: logits, the input of one photograph, every map."""
    other = converted(real_deit, id2label=dict(enumerate(class_names(real_deit))))
    processor = transformers.DeiTImageProcessor(
        size={"height": 248, "width": 248},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    other.save_pretrained(tmp_path / "deit")
    processor.save_pretrained(tmp_path / "deit")
    loaded = load_model(f"transformers:{tmp_path / 'deit'}")
    image = smooth(300, 200)
    x = preprocess(real_deit, image)
    torch.testing.assert_close(preprocess(loaded, image), x, rtol=0, atol=1e-6)
    assert class_names(loaded) == class_names(real_deit)
    for name, method in METHODS.items():
        mine, theirs = (
            method.heatmap(method.capture(model, x, target=282)) for model in (real_deit, loaded)
        )
        scale = float(mine.max())
        torch.testing.assert_close(mine / scale, theirs / scale, rtol=0, atol=1e-4, msg=name)
    mine, theirs = (explain(model, x) for model in (real_deit, loaded))
    torch.testing.assert_close(mine.logits, theirs.logits, rtol=0, atol=1e-4)
    pictures = [np.asarray(overlay(image, e.heatmap[0])).astype(int) for e in (mine, theirs)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


# ------------------------------------------------------------------------------- image processors


@pytest.mark.parametrize("family", FAMILIES)
def test_crop_is_the_processors_own_and_its_box_is_what_is_seen(family, tmp_path):
    name = f"{family}ForImageClassification"
    model = fresh(name, **({} if "Siglip2" in family else sized(name, 224)))
    processor = getattr(transformers, library_of(model)._processor().__class__.__name__)()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = load_model(f"transformers:{tmp_path}")
    image = smooth(400, 300)
    x = preprocess(loaded, image, crop=True)
    own = processor(images=image, return_tensors="pt")["pixel_values"]
    if "Siglip2" in family:
        count = x.shape[2] * x.shape[3] // 16**2
        assert x.shape[3] > x.shape[2]  # it keeps the picture's form
        own, x = own[:, :count], patches_of(x)
    assert torch.equal(x, own)
    if "Siglip2" not in family:
        shown = seen(by_half(x, processor.image_mean, processor.image_std), image.size)
        assert crop_box(loaded, image.size) == pytest.approx(shown, abs=2.5)
    whole = preprocess(loaded, image)
    assert whole.shape == (1, 3, *((256, 256) if "Siglip2" in family else (224, 224)))


def sized(layout: str, size: int) -> dict:
    """Settings of a layout for another size of picture."""
    settings = TRANSFORMERS[layout][0]
    if "vision_config" in settings:
        return {"vision_config": {**settings["vision_config"], "image_size": size}}
    return {"image_size": size}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("crop", [False, True])
def test_the_whole_picture_is_seen_by_a_model_in_memory(family, crop):
    model = model_of(f"{family}ForImageClassification")
    x = preprocess(model, smooth(60, 50), crop=crop)
    processor = library_of(model)._processor()
    assert seen(by_half(x, processor.image_mean, processor.image_std), (60, 50)) == pytest.approx(
        (0, 0, 60, 50), abs=1.5
    )
    assert crop_box(model, (60, 50)) == (0, 0, 60, 50)


def test_a_folder_without_an_image_processor(tmp_path):
    fresh().save_pretrained(tmp_path)
    model = load_model(f"transformers:{tmp_path}")
    with pytest.raises(ValueError, match=r"has no image processor; save yours there"):
        preprocess(model, smooth(50, 40))
    assert explain(model, torch.zeros(1, 3, 32, 32)).heatmap.shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("made", "settings", "expected"),
    [
        ("BitImageProcessor", {"do_resize": False, "crop_size": 32}, (34, 14, 66, 46)),
        ("BitImageProcessor", {"size": {"shortest_edge": 24}, "crop_size": 32}, "pads what it"),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}}, "is not known"),
    ],
)
def test_processors_that_crop_in_other_ways(made, settings, expected, tmp_path):
    fresh().save_pretrained(tmp_path)
    getattr(transformers, made)(**settings).save_pretrained(tmp_path)
    model = load_model(f"transformers:{tmp_path}")
    if isinstance(expected, tuple):
        assert crop_box(model, (100, 60)) == expected
    else:
        with pytest.raises(ValueError, match=expected):
            crop_box(model, (100, 60))


def test_the_whole_picture_is_not_padded(tmp_path):
    fresh().save_pretrained(tmp_path)
    size, pad = {"height": 32, "width": 32}, {"height": 64, "width": 64}
    processor = transformers.ViTImageProcessor(size=size, do_pad=True, pad_size=pad)
    processor.save_pretrained(tmp_path)
    model = load_model(f"transformers:{tmp_path}")
    assert preprocess(model, smooth(60, 50)).shape == (1, 3, 32, 32)


# -------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("layout", ["ViTForImageClassification", "ViTModel", "CLIPModel"])
def test_save_and_load(layout, tmp_path, offline, monkeypatch, capfd):
    model = fresh(layout)
    model.save_pretrained(tmp_path / "mine")
    expected = library_of(model).logits(input_of(layout))
    monkeypatch.setenv("VITEXPLAIN_WEIGHTS", str(tmp_path))
    capfd.readouterr()
    for name in (tmp_path / "mine", "mine", "somebody/mine"):
        loaded = load_model(f"transformers:{name}")
        assert type(loaded).__name__ == layout and not loaded.training
        torch.testing.assert_close(library_of(loaded).logits(input_of(layout)), expected)
    assert capfd.readouterr() == ("", "")
    auto = transformers.AutoModel.from_pretrained(tmp_path / "mine")
    assert explain(auto, input_of(layout), target=third).heatmap.shape == (2, 2, 3)


def test_a_pooler_that_was_never_trained_is_left_out(tmp_path):
    transformers.ViTModel(
        transformers.ViTConfig(**SQUARE), add_pooling_layer=False
    ).save_pretrained(tmp_path)
    model = load_model(f"transformers:{tmp_path}")
    assert model.pooler is None
    with torch.no_grad():
        x = torch.zeros(1, 3, 32, 32)
        assert torch.equal(library_of(model).logits(x), model(x).last_hidden_state[:, 0])


def test_a_head_without_weights_is_refused(tmp_path):
    fresh("ViTModel").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "architectures": ["ViTForImageClassification"]}))
    with pytest.raises(ValueError, match=r"no weights for .*classifier"):
        load_model(f"transformers:{tmp_path}")


def test_pickled_code_is_not_executed(tmp_path):
    fresh().config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "architectures": ["ViTForImageClassification"]}))
    trace = tmp_path / "executed"
    torch.save({"classifier.weight": Malicious(trace)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_model(f"transformers:{tmp_path}")
    assert not trace.exists()


def test_code_of_a_repository_is_not_run(tmp_path):
    trace = tmp_path / "executed"
    (tmp_path / "evil.py").write_text(f"open({str(trace)!r}, 'w')")
    auto = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_model(f"transformers:{tmp_path}")
    assert not trace.exists()


def test_no_model_anywhere(offline):
    begin = time.monotonic()
    with pytest.raises(FileNotFoundError) as caught:
        load_model("transformers:google/vit-base-patch16-224")
    assert time.monotonic() - begin < 10
    for way in ("FOLDER", "VITEXPLAIN_WEIGHTS", "online"):
        assert way in str(caught.value)


def test_a_shorter_model_than_its_checkpoint(tmp_path):
    fresh().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"there is no place for .*layers?\.1\."):
        load_model(f"transformers:{tmp_path}")


def test_progress_bars_stay_as_they_are(tmp_path):
    from huggingface_hub import utils

    logging = transformers.utils.logging
    fresh().save_pretrained(tmp_path)
    before = utils.are_progress_bars_disabled(), logging.is_progress_bar_enabled()
    for hub in (True, False):
        utils.disable_progress_bars() if hub else utils.enable_progress_bars()
        state = utils.are_progress_bars_disabled(), logging.is_progress_bar_enabled()
        load_model(f"transformers:{tmp_path}")
        assert (utils.are_progress_bars_disabled(), logging.is_progress_bar_enabled()) == state
    utils.disable_progress_bars() if before[0] else utils.enable_progress_bars()


def test_other_bad_names(tmp_path, offline):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        load_model(f"transformers:{tmp_path / 'none'}")
    with pytest.raises(FileNotFoundError, match="must follow"):
        load_model("transformers:")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds an adapter alone"):
        load_model(f"transformers:{tmp_path / 'adapter'}")
    with pytest.raises(ValueError, match="has its own"):
        load_model(f"transformers:{tmp_path}", weights="a.safetensors")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_model(f"transformers:{tmp_path}")
    config = transformers.SwinConfig(depths=(1,), num_heads=(1,), embed_dim=8)
    transformers.SwinForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'swin'"):
        load_model(f"transformers:{tmp_path}")


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "5.2.0")
    monkeypatch.delitem(sys.modules, "vitexplain_utils.models.transformers", raising=False)
    with pytest.raises(ImportError, match=r"\[transformers\]'; here is 5\.2\.0"):
        load_model("transformers:any")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"vitexplain-utils\[transformers\]"):
        load_model("transformers:any")


def test_folder_to_command_line_to_picture(tmp_path, monkeypatch, capsys):
    """As a new user would: their own classifier, saved, and asked by a label's name."""
    model = fresh(id2label=dict(enumerate(["ant", "bee", "cat", "dog", "elk"])))
    model.save_pretrained(tmp_path / "mine")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(
        tmp_path / "mine"
    )
    image = smooth(60, 40)
    image.save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert cli.main(["photo.png", "--model", "transformers:mine", "--target", "bee"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "photo_attribution.png: attribution for 1 bee"
    assert err == ""
    heatmap = explain(model, preprocess(model, image), target=1).heatmap[0]
    written = load_image("photo_attribution.png")
    assert np.array_equal(np.asarray(written), np.asarray(overlay(image, heatmap)))


# ---------------------------------------------------------------------------------------- texts


def tokenizer(texts: list[str], padding, max_length, **_) -> dict[str, Tensor]:
    """Letters as tokens, an end, and zeros."""
    rows = [[*(3 + ord(letter) % 40 for letter in text), 2] for text in texts]
    length = max(max_length if padding == "max_length" else 0, *map(len, rows))
    return dict(input_ids=torch.tensor([row + [0] * (length - len(row)) for row in rows]))


@pytest.mark.parametrize("layout", ["CLIPModel", "SiglipModel", "Siglip2Model"])
@pytest.mark.parametrize("rather_than", [None, "a cat"])
def test_text_target(layout, rather_than):
    """The target is a cosine, or a difference of two, and its gradient that of differences."""
    model = fresh(layout).double().train()
    x = input_of(layout, 1, torch.float64)
    target = text_target(model, "a bee", rather_than=rather_than, tokenizer=tokenizer)
    assert all(part.training for part in model.modules())
    model.eval()
    with torch.no_grad():
        features = library_of(model).logits(x)
        texts = ["a bee"] if rather_than is None else ["a bee", rather_than]
        padding = True if layout == "CLIPModel" else "max_length"
        tokens = tokenizer(texts, padding, TEXT["max_position_embeddings"])
        embeddings = model.get_text_features(**tokens).pooler_output
        cosines = nn.functional.cosine_similarity(features, embeddings)
    expected = float(cosines[0] - (cosines[1] if rather_than else 0))
    assert float(target(features)) == pytest.approx(expected, abs=1e-12)
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(target(features).sum(), features)
    for index in (0, 5):
        change = torch.zeros_like(features)
        change[0, index] = 1e-6
        slope = (target(features + change) - target(features - change)).item() / 2e-6
        assert gradient[0, index].item() == pytest.approx(slope, rel=1e-5, abs=1e-9)
    with torch.inference_mode():
        again = text_target(model, "a bee", rather_than=rather_than, tokenizer=tokenizer)
    heatmap = explain(model, x, target=target).heatmap
    assert torch.equal(explain(model, x, target=again).heatmap, heatmap)
    other = explain(model, x, target=text_target(model, "zzz", tokenizer=tokenizer)).heatmap
    assert heatmap.shape == (1, 2, 3) and not torch.allclose(heatmap, other)


def test_the_text_targets_gradient_by_attention_equals_finite_differences():
    """From the sentence down to one entry of one attention matrix of the picture's tower."""
    from vitexplain_utils.recording import AttentionCall

    model, x = fresh("CLIPModel").double(), input_of("CLIPModel", 1, torch.float64)
    target = text_target(model, "a bee", rather_than="a wasp", tokenizer=tokenizer)
    capture = capture_attention(model, x, target=target, hold_attention=False)
    library = library_of(model)

    def value(block: int, entry: tuple[int, ...], change: float) -> float:
        count = iter(range(2))

        def changed(q, k, v, attn_mask=None, **_):
            matrix = AttentionCall(q, k, v, q.shape[-1] ** -0.5, attn_mask).attention()
            if next(count) == block:
                matrix[entry] += change
            return matrix @ v

        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            patch.setattr(nn.functional, "scaled_dot_product_attention", changed)
            return float(target(library.logits(x)))

    for block, entry in ((0, (0, 0, 0, 2)), (0, (0, 1, 3, 4)), (1, (0, 0, 0, 5))):
        slope = (value(block, entry, 1e-5) - value(block, entry, -1e-5)) / 2e-5
        gradient = capture.blocks[block].gradient()[entry]
        assert float(gradient) == pytest.approx(slope, rel=1e-6, abs=1e-10)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"text": " "}, "must be sentences"),
        ({"text": "a bee", "rather_than": ""}, "must be sentences"),
        ({"text": 5}, "must be sentences"),
        ({"text": "a bee on a flower in a garden"}, "at most 16 tokens"),
        ({"text": "a bee", "tokenizer": None}, "no tokenizer"),
    ],
)
def test_texts_that_cannot_be_asked(arguments, said):
    with pytest.raises(ValueError, match=said):
        text_target(model_of("CLIPModel"), **{"tokenizer": tokenizer, **arguments})


def test_texts_need_a_text_tower(tiny):
    with pytest.raises(ValueError, match="no text tower"):
        text_target(tiny, "a bee")


@pytest.mark.skipif(
    not Path(os.environ.get("VITEXPLAIN_WEIGHTS", ""), "clip-vit-base-patch32").is_dir(),
    reason="no folder clip-vit-base-patch32 in $VITEXPLAIN_WEIGHTS",
)
def test_a_real_clip_finds_what_it_is_asked():
    model = load_model("transformers:openai/clip-vit-base-patch32")
    x = preprocess(model, Image.new("RGB", (64, 64), "red"))
    red, blue = (text_target(model, f"a {colour} picture") for colour in ("red", "blue"))
    features = library_of(model).logits(x)
    assert float(red(features)) > float(blue(features))
