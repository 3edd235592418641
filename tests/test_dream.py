"""Dreams: gradient ascent against a naive loop, determinism, state, and bad input."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
from layouts import MODELS, model_of, size_of, target_of
from reference import lively
from torch import nn

from vitexplain_utils import dream, garden_scene, preprocess
from vitexplain_utils.dreaming import NAIVE, SURE, Regularisers, only, total_variation
from vitexplain_utils.garden import THINGS

# Waves, and nothing perturbed: every step can be told to go up.
CALM = Regularisers(jitter=0, noise=0, colour=0, zoom=0, turn=0, variation=0)
BEE = THINGS.index("bee")


def tiny(**settings) -> nn.Module:
    model = timm.create_model("vit_tiny_patch16_224", img_size=(32, 48), depth=2, **settings)
    return lively(model)


def state(model: nn.Module) -> list:
    """All that a dream might change."""
    return [
        (
            module.training,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            getattr(module, "fused_attn", None),
            [(p.requires_grad, p.grad, p.detach().clone()) for p in module.parameters(False)],
        )
        for module in model.modules()
    ]


def same(before: list, after: list) -> bool:
    def one(a, b) -> bool:
        pairs = zip(a[4], b[4], strict=True)
        return a[:4] == b[:4] and all(
            p[0] == q[0] and p[1] is q[1] is None and torch.equal(p[2], q[2]) for p, q in pairs
        )

    return all(one(a, b) for a, b in zip(before, after, strict=True))


def test_naive_ascent_is_plain_adam():
    """Without regularisers: a loop of a few lines on a sigmoid's pixels gives the same picture."""
    model = tiny().eval()
    low = preprocess(model, garden_scene(1).image).new_tensor([0.5, 0.5, 0.5]).view(1, 3, 1, 1)
    noise = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(5))
    change = torch.zeros_like(noise, requires_grad=True)
    adam = torch.optim.Adam([change])
    for step in range(6):
        adam.param_groups[0]["lr"] = 0.3 * (1 + math.cos(math.pi * step / 6)) / 2
        x = ((0.04 * noise + change).sigmoid() - low) / 0.5  # timm's mean and std of this model
        (change.grad,) = torch.autograd.grad(-model(x)[0, 7], [change])
        adam.step()
    wanted = (0.04 * noise + change).sigmoid()[0].permute(1, 2, 0).detach()
    found = dream(model, 7, steps=6, seed=5, rate=0.3, regularisers=NAIVE, progress=False)
    assert np.abs(np.asarray(found.images[0]) / 255 - wanted.numpy()).max() < 1 / 255
    assert change.abs().max() > 0.5  # it went somewhere


@pytest.mark.slow
def test_a_dream_of_the_garden_is_sure_smooth_and_seen_in_eight_bits(garden):
    found = dream(garden, only(BEE), steps=160, progress=False)
    probability = garden(preprocess(garden, found.images[0])).sigmoid()[0]  # what a file holds
    assert probability[BEE] >= 0.99
    assert probability[[k for k in range(8) if k != BEE]].max() <= 0.05
    assert torch.allclose(preprocess(garden, found.images[0]), found.x, atol=1e-6)
    naive = dream(garden, only(BEE), steps=110, regularisers=NAIVE, progress=False)
    smooth, noisy = (total_variation(one.x / 2 + 0.5) for one in (found, naive))
    assert noisy.item() >= 5 * smooth.item()


def test_same_seed_same_bytes_and_the_global_stream_is_left_alone():
    model = tiny()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (dream(model, 2, steps=5, seed=s, progress=False) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert first.images[0].tobytes() == again.images[0].tobytes() != other.images[0].tobytes()
    assert torch.equal(first.scores, again.scores)


def test_several_dreams_each_with_its_target():
    model = tiny().eval()
    found = dream(model, [4, 9], count=2, steps=30, rate=0.3, regularisers=CALM, progress=False)
    assert len(found.images) == 2 and found.scores.shape == (30, 2)
    logits = found.logits
    assert logits[0, 4] > logits[1, 4] and logits[1, 9] > logits[0, 9]
    assert torch.allclose(model(found.x), logits, atol=1e-5)


@pytest.mark.parametrize("was_training", [True, False])
@pytest.mark.parametrize("raised", [None, KeyboardInterrupt, RuntimeError])
def test_the_model_is_left_as_it_was(was_training, raised):
    model = tiny().train(was_training)
    model.head.weight.requires_grad_(False)
    before, passes = state(model), []

    def target(logits):
        passes.append(len(logits))
        if raised is not None and len(passes) == 3:
            raise raised
        return logits[:, 1]

    if raised is None:
        with torch.inference_mode():  # and from inside it
            dream(model, target, steps=3, progress=False)
    else:
        with pytest.raises(raised):
            dream(model, target, of=None, steps=9, progress=False)
    assert len(passes) == 3 and same(before, state(model))


def test_a_hook_on_a_module_is_removed_after_an_exception():
    model = tiny()
    before = state(model)
    with pytest.raises(ValueError, match="target must give a tensor \\[B\\]"):
        dream(model, lambda out: out.sum(), of=model.blocks[1].mlp.act, steps=2, progress=False)
    assert same(before, state(model))


@pytest.mark.slow
@pytest.mark.parametrize("layout", MODELS)
def test_every_layout_dreams(layout):
    model, target = model_of(layout), target_of(layout)
    grey, before = torch.zeros(1, 3, *size_of(layout)), state(model)
    found = dream(model, target, start=grey, steps=3, rate=1e-3, regularisers=NAIVE, progress=False)
    assert found.x.shape == grey.shape and same(before, state(model))
    assert found.scores.diff(dim=0).sum() > 0


def test_one_unit_and_one_head():
    model = tiny().eval()
    seen = []
    model.blocks[1].mlp.act.register_forward_hook(lambda *args: seen.append(args[-1]))
    unit = dream(
        model, lambda out: out[:, 1:, 17].mean(1), of=model.blocks[1].mlp.act, steps=8,
        progress=False,
    )  # fmt: skip
    model(unit.x)
    assert seen[-1][0, 1:, 17].mean() > seen[0][0, 1:, 17].mean() + 0.1
    head = dream(model, lambda record: record.outputs[1][:, 2].square().mean((1, 2)),
                 of="attention", steps=8, progress=False)  # fmt: skip
    assert head.scores[-1] > head.scores[0]


def test_a_start_is_where_it_starts(garden):
    scene = garden_scene(3, ("leaf",)).image
    still = dream(garden, 0, start=preprocess(garden, scene), steps=1, rate=1e-9, progress=False)
    away = np.abs(np.asarray(still.images[0]).astype(int) - np.asarray(scene))
    assert away.max() <= 1


def test_frames_end_with_the_dream():
    found = dream(tiny(), [1, 2], count=2, steps=7, frames=3, progress=False)
    assert [len(frame) for frame in found.frames] == [2, 2, 2]
    assert found.frames[-1][1].tobytes() == found.images[1].tobytes()
    assert all(a[0].tobytes() != b[0].tobytes() for a, b in pairwise(found.frames))
    assert dream(tiny(), 1, steps=2, progress=False).frames == []


@pytest.mark.parametrize("height, width", [(2, 2), (7, 40), (32, 9)])
@pytest.mark.parametrize("fourier, finest", [(0, 0), (1, 0), (1.25, 4), (3, 8), (0, 8)])
def test_long_waves_take_the_larger_steps(height, width, fourier, finest):
    sizes = Regularisers(fourier=fourier, finest=finest).spectrum(height, width)
    assert sizes.shape == (height, width // 2 + 1)
    assert sizes.square().mean().item() == pytest.approx(1, rel=1e-4)
    assert bool((sizes[0].diff() <= 1e-6).all())  # along one side, from long to short


def test_perturbations_are_none_at_strength_0_but_for_the_roll():
    pixels = torch.rand(2, 3, 16, 24)
    rolled = Regularisers(jitter=5).perturbed(pixels, 0.0, torch.Generator().manual_seed(1))
    shifts = [(dy, dx) for dy in range(-5, 6) for dx in range(-5, 6)]
    near = [(pixels.roll(shift, (2, 3)) - rolled).abs().max().item() for shift in shifts]
    assert min(near) < 1e-4 and sorted(near)[1] > 0.1
    same = NAIVE.perturbed(pixels, 1.0, torch.Generator())
    assert torch.allclose(same, pixels)


def test_total_variation_by_hand():
    pixels = np.random.default_rng(0).random((1, 3, 5, 6))
    down = np.mean([abs(pixels[0, c, y + 1, x] - pixels[0, c, y, x])
                    for c in range(3) for y in range(4) for x in range(6)])  # fmt: skip
    across = np.mean([abs(pixels[0, c, y, x + 1] - pixels[0, c, y, x])
                      for c in range(3) for y in range(5) for x in range(5)])  # fmt: skip
    assert total_variation(torch.from_numpy(pixels)).item() == pytest.approx(down + across)


@pytest.mark.parametrize("logits", np.random.default_rng(0).uniform(-20, 20, (20, 3)).tolist())
def test_only_is_the_class_and_no_other(logits):
    def said(values):
        return only(1)(torch.tensor([values], dtype=torch.float64)).item()

    others = sum(math.log1p(math.exp(z)) for z in (logits[0], logits[2]))
    own = logits[1] - math.log1p(math.exp(logits[1] - SURE))
    assert said(logits) == pytest.approx(own - others, abs=1e-9)
    assert said([logits[0] + 1, *logits[1:]]) < said(logits)


BAD = {
    "steps": {"steps": 0},
    "count": {"count": 0},
    "seed": {"seed": -1},
    "frames": {"frames": 99, "steps": 3},
    "rate": {"rate": 0},
    "target must be a callable, or": {"target": None},
    "target must be a class index in": {"target": 1000},
    "one per image of 1": {"target": [1, 2]},
    "start is no input": {"start": torch.full((1, 3, 32, 48), torch.nan)},
    "does not fit": {"start": torch.zeros(1, 3, 40, 40)},
    "between black and white": {"start": torch.full((1, 3, 32, 48), 9.0)},
    "target must be a callable where": {"of": "attention"},
    "of must be None": {"of": nn.Identity(), "target": torch.sum},
    "depend": {"target": lambda logits: torch.zeros(1)},
    "NaN": {"target": lambda logits: logits[:, 0] * torch.nan},
    "target must give": {"target": lambda logits: 1.0},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_says_what_and_leaves_the_model(message):
    model = tiny()
    before = state(model)
    with pytest.raises(ValueError, match=message):
        dream(model, **{"target": 3, "progress": False, **BAD[message]})
    assert same(before, state(model))


@pytest.mark.parametrize("name", Regularisers.__dataclass_fields__)
@pytest.mark.parametrize("value", [-1, math.nan, "much"])
def test_a_regulariser_is_a_number_from_0(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a number"):
        Regularisers(**{name: value})


def test_no_classifier():
    model = tiny(num_classes=0)
    with pytest.raises(ValueError, match="target must be a callable, or a class of a model with"):
        dream(model, 3, progress=False)
    found = dream(
        model, lambda features: features[:, 5], steps=6, regularisers=CALM, progress=False
    )
    assert found.scores[-1] > found.scores[0]


def test_a_model_without_global_attention_is_refused():
    with pytest.raises(ValueError, match="ResNet"):
        dream(timm.create_model("resnet18"), 3, steps=1, progress=False)
