from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch

from vitexplain_utils import METHODS, explain, load_model
from vitexplain_utils.garden import garden_test_set
from vitexplain_utils.truth import (
    Captures,
    ask_garden,
    edge_map,
    randomised_models,
    rank_correlation,
)


def naive_ranks(values: list[float]) -> list[float]:
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_rank_correlation_equals_a_loop_with_ties(dtype):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(5, (2, 4, 3, 6), generator=generator).to(dtype)
    found = rank_correlation(first, second)
    for one, other, value in zip(first, second, found, strict=True):
        a, b = (np.array(naive_ranks(m.flatten().tolist())) for m in (one, other))
        assert value.item() == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-12)


def test_rank_correlation_by_hand():
    first = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    second = torch.tensor([[[1.0, 3.0, 2.0, 4.0]]])  # 1 − 6·(0 + 1 + 1 + 0) / (4·15)
    assert rank_correlation(first, second).item() == pytest.approx(0.8)


def test_rank_correlation_sees_the_order_alone():
    heatmap = torch.rand(3, 4, 5)
    assert rank_correlation(heatmap, heatmap.exp()).tolist() == pytest.approx([1] * 3)
    assert rank_correlation(heatmap, -heatmap).tolist() == pytest.approx([-1] * 3)
    assert rank_correlation(heatmap, torch.ones(3, 4, 5)).tolist() == [0] * 3
    order = heatmap.flatten(1).argsort(1).argsort(1).view(3, 4, 5)  # whole numbers
    assert rank_correlation(heatmap, order).tolist() == pytest.approx([1] * 3)


def test_rank_correlation_is_never_beyond_one():
    for patches in range(2, 40):  # of these 17 would be -1.0000000000000002
        heatmap = torch.arange(patches).double().view(1, 1, -1)
        assert rank_correlation(heatmap, -heatmap).item() >= -1
        assert rank_correlation(heatmap, heatmap).item() <= 1


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (torch.rand(2, 3, 3), torch.rand(2, 3, 4), r"\(2, 3, 4\)"),
        (torch.rand(3, 3), torch.rand(3, 3), r"\[B, rows, cols\]"),
        (torch.rand(1, 0, 3), torch.rand(1, 0, 3), r"\(1, 0, 3\)"),
        (torch.full((1, 2, 2), torch.nan), torch.rand(1, 2, 2), "finite"),
    ],
)
def test_rank_correlation_errors(first, second, named):
    with pytest.raises(ValueError, match=named):
        rank_correlation(first, second)


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_randomised_from_the_head_down(tiny):
    kept = copy.deepcopy(tiny.state_dict())
    names, so_far = [], []
    for name, model in randomised_models(tiny):
        names.append(name)
        so_far.append(changed(kept, model.state_dict()))
    assert names == ["head", "block 1", "block 0", "embedding"]
    head, block1, block0, everything = so_far
    assert {"head.weight"} <= head and not any("block" in n or "embed" in n for n in head)
    assert {"blocks.1.attn.qkv.weight", "blocks.1.mlp.fc2.weight"} <= block1 - head
    assert all(name.startswith("blocks.1.") for name in block1 - head)
    assert all(name.startswith("blocks.0.") for name in block0 - block1)
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= everything - block0
    assert not changed(kept, tiny.state_dict())


def test_what_is_randomised_stays_so(tiny):
    """A step touches its own stage, and nothing that a step before it has made."""
    before: dict = {}
    for name, model in randomised_models(tiny):
        now = copy.deepcopy(model.state_dict())
        touched = {"head": "head.", "embedding": ("cls_", "pos_", "patch_")}.get(name)
        touched = touched or f"blocks.{name.split()[1]}."
        assert all(n.startswith(touched) for n in changed(before, now) if name != "head")
        before = now


def test_randomised_is_seeded_and_leaves_the_random_state(tiny):
    state = torch.get_rng_state()
    runs = []
    for seed in (0, 0, 1):
        *_, (_, model) = randomised_models(tiny, seed=seed)
        runs.append(model.state_dict())
    assert torch.equal(torch.get_rng_state(), state)
    assert not changed(runs[0], runs[1])
    assert "blocks.0.attn.qkv.weight" in changed(runs[0], runs[2])


def test_randomised_parameters_keep_their_size():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, init_values=0.5)
    *_, (_, forgetful) = randomised_models(model)
    assert sorted(forgetful.pos_embed.flatten().tolist()) == pytest.approx(
        sorted(model.pos_embed.flatten().tolist())
    )
    assert forgetful.blocks[0].attn.qkv.weight.std() > 0.01


def test_layers_begin_anew_and_the_rest_is_shuffled(tiny):
    """Layers by their own `reset_parameters`; what the model holds itself keeps its values."""
    tiny.reset_parameters = lambda: pytest.fail("the model's own would undo the stages before")
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.copy_(100 + torch.rand(parameter.shape))
    *_, (_, forgetful) = randomised_models(tiny)
    for name, parameter in forgetful.named_parameters():
        if name in ("cls_token", "pos_embed"):
            before = tiny.get_parameter(name)
            assert torch.equal(parameter.flatten().sort()[0], before.flatten().sort()[0]), name
            assert not torch.equal(parameter, before)
        else:  # no layer begins with values beyond 1
            assert parameter.abs().max() <= 1, name


def test_randomised_needs_blocks():
    with pytest.raises(ValueError, match="ResNet"):
        next(randomised_models(timm.create_model("resnet10t")))


@pytest.mark.slow
def test_maps_of_a_model_that_has_forgotten_everything():
    """The check itself: what depends on the model changes, what copies the picture does not."""
    model = load_model("garden")
    asked = ask_garden(model, garden_test_set()[16:24])
    *_, (name, forgetful) = randomised_models(model)
    assert name == "embedding"

    def likeness(method) -> float:
        before, after = (Captures(vit, asked).maps(method) for vit in (model, forgetful))
        return rank_correlation(before, after).mean().item()

    for name in ("gradient_rollout", "relevance", "attribution"):
        assert likeness(METHODS[name]) < 0.3
    assert likeness(edge_map) > 0.7


def test_class_sensitivity_of_the_methods(tiny, tiny_x):
    def between_classes(method: str) -> float:
        maps = [explain(tiny, tiny_x, method=method, target=t).heatmap for t in (0, 1)]
        return rank_correlation(*maps).mean().item()

    assert between_classes("rollout") == pytest.approx(1)
    assert between_classes("gradient_rollout") < 0.9
