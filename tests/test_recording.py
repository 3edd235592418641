from __future__ import annotations

from contextlib import nullcontext

import pytest
import timm
import torch
from reference import attention_forward, lively, pool_forward
from torch import nn

from vitexplain_utils import record_attention

STATE = ("training", "fused_attn", "grad_checkpointing")


def state_of(model: nn.Module) -> dict:
    """Everything that recording touches, copied."""
    state: dict = {}
    for name, module in model.named_modules():
        attributes = vars(module)
        state[name] = {
            "names": list(attributes),
            "hooks": {key: dict(attributes[key]) for key in attributes if "_hooks" in key},
            "flags": {key: attributes[key] for key in STATE if key in attributes},
        }
    state["requires_grad"] = {name: p.requires_grad for name, p in model.named_parameters()}
    if getattr(model, "attn_pool", None) is not None:
        state["pool"] = {key: id(value) for key, value in vars(model.attn_pool).items()}
    return state


def unusual(model: nn.Module) -> nn.Module:
    """Mixed training modes, flags and frozen parameters, and a hook of the user's own."""
    model.train()
    model.blocks[0].eval()
    model.blocks[1].attn.attn_drop.training = False
    model.blocks[1].attn.fused_attn = False
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 > 0)
    model.blocks[0].register_forward_hook(lambda *_: None)
    return model


def map_pool_model() -> nn.Module:
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=(32, 48),
        depth=2,
        embed_dim=48,
        num_classes=7,
        class_token=False,
        global_pool="map",
    )
    return lively(model)


def with_own_attention(monkeypatch, model, x):
    """The model's output, attention and pool attention by forwards written in the tests."""
    blocks, pools = [], []
    with monkeypatch.context() as patch:
        patch.setattr(type(model.blocks[0].attn), "forward", attention_forward(blocks))
        if getattr(model, "attn_pool", None) is not None:
            patch.setattr(type(model.attn_pool), "forward", pool_forward(pools))
        return model(x), blocks, pools


def test_attention_equals_its_own_recomputation(tiny, tiny_x, monkeypatch):
    with record_attention(tiny) as record:
        logits = tiny(tiny_x)
    expected_logits, expected, _ = with_own_attention(monkeypatch, tiny, tiny_x)
    assert record.pool is None
    assert [tuple(a.shape) for a in record.attention] == [(3, 3, 7, 7)] * 2
    for attention, wanted in zip(record.attention, expected, strict=True):
        torch.testing.assert_close(attention.sum(-1), torch.ones(3, 3, 7), rtol=0, atol=1e-5)
        torch.testing.assert_close(attention, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(logits, tiny(tiny_x), rtol=0, atol=1e-4)


def test_attention_and_gradient_of_a_pool(tiny_x, monkeypatch):
    model, x = map_pool_model().double(), tiny_x.double()
    with record_attention(model) as record:
        gradient = record.gradient(model(x)[:, 2].sum())
    logits, blocks, pools = with_own_attention(monkeypatch, model, x)
    expected = torch.autograd.grad(logits[:, 2].sum(), [*blocks, *pools])
    assert record.pool is not None
    assert record.pool.shape == (3, 3, 1, 6)
    torch.testing.assert_close(record.pool, pools[0], rtol=0, atol=1e-12)
    assert len(gradient) == 3
    for grad, wanted in zip(gradient, expected, strict=True):
        assert wanted.abs().max() > 1e-3
        torch.testing.assert_close(grad, wanted, rtol=0, atol=1e-12)


def test_gradient_equals_finite_differences():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, embed_dim=48)
    model, x = lively(model).double(), torch.randn(1, 3, 32, 32).double()
    with record_attention(model) as record:
        gradient = record.gradient(model(x)[0, 1])
    for block in model.blocks:
        block.attn.fused_attn = False

    def logit(block: int, entry: tuple[int, ...], change: float) -> float:
        def nudge(_module, _args, attention):
            attention = attention.clone()
            attention[entry] += change
            return attention

        handle = model.blocks[block].attn.attn_drop.register_forward_hook(nudge)
        with torch.no_grad():
            value = float(model(x)[0, 1])
        handle.remove()
        return value

    eps = 1e-5
    for block in range(3):
        for entry in [(0, 0, 0, 0), (0, 2, 0, 3), (0, 1, 4, 2), (0, 0, 2, 4)]:
            slope = (logit(block, entry, eps) - logit(block, entry, -eps)) / (2 * eps)
            assert float(gradient[block][entry]) == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_gradient_of_a_difference_is_the_difference_of_gradients(tiny, tiny_x):
    with record_attention(tiny) as record:
        logits = tiny(tiny_x)
        first, second = (record.gradient(logits[:, k].sum()) for k in (2, 5))
        both = record.gradient((2 * logits[:, 2] - logits[:, 5]).sum())
    for a, b, c in zip(first, second, both, strict=True):
        torch.testing.assert_close(c, 2 * a - b, rtol=0, atol=1e-5)


def test_gradient_of_last_block_touches_only_what_the_head_reads(tiny, tiny_x):
    with record_attention(tiny) as record:
        last = record.gradient(tiny(tiny_x)[:, 0].sum())[-1]
    assert last[:, :, 0].abs().min() > 0
    assert (last[:, :, 1:] == 0).all()


@pytest.mark.parametrize("make", ["tiny", "pool"])
@pytest.mark.parametrize("ending", ["normal", "error", "interrupt", "own error"])
def test_everything_is_as_before(make, ending, tiny, tiny_x):
    model = unusual(tiny if make == "tiny" else map_pool_model())
    raised = {"error": RuntimeError, "interrupt": KeyboardInterrupt, "own error": ZeroDivisionError}

    def stop(*_):
        if ending in ("error", "interrupt"):
            raise raised[ending]

    model.blocks[1].register_forward_hook(stop)
    before = state_of(model)
    expect = nullcontext() if ending == "normal" else pytest.raises(raised[ending])
    with expect, record_attention(model):
        assert state_of(model) != before
        model(tiny_x)
        if ending == "own error":
            raise ZeroDivisionError
    assert state_of(model) == before


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet18", {}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}),
        ("xcit_nano_12_p16_224", {"depth": 1}),
        ("cait_xxs24_224", {"depth": 1}),
        ("mixer_s32_224", {}),
    ],
)
def test_unsupported_models_are_refused_and_left_as_they_were(name, settings):
    model = timm.create_model(name, **settings)
    before = state_of(model)
    with (
        pytest.raises(ValueError, match=r"model|block"),
        record_attention(model),
    ):
        model(torch.randn(2, 3, 224, 224))
    assert state_of(model) == before


@pytest.mark.parametrize("make", ["tiny", "pool"])
def test_nested_and_repeated(make, tiny, tiny_x):
    model = unusual(tiny if make == "tiny" else map_pool_model())
    before = state_of(model)
    with record_attention(model) as first:
        inside = state_of(model)
        with record_attention(model) as second:
            model(tiny_x)
        assert state_of(model) == inside
        assert all(map(torch.equal, first.attention, second.attention))
        if make == "pool":
            assert torch.equal(first.pool, second.pool)
        kept = list(second.attention)
        model(tiny_x + 1)
        assert not torch.equal(first.attention[0], kept[0])
        assert all(a is b for a, b in zip(second.attention, kept, strict=True))
    assert state_of(model) == before
    with record_attention(model) as third:
        model(tiny_x)
    assert state_of(model) == before
    assert all(map(torch.equal, third.attention, kept))


def test_parameters_never_get_a_gradient(tiny, tiny_x):
    with record_attention(tiny) as record:
        logits = tiny(tiny_x)
        record.gradient(logits[0, 0])
        logits.sum().backward()
    assert all(parameter.grad is None for parameter in tiny.parameters())


def test_a_second_forward_replaces_the_record(tiny, tiny_x):
    with record_attention(tiny) as record:
        tiny(tiny_x)
        old = record.attention
        stale = tiny(tiny_x)[0, 0]
        tiny(tiny_x[:1])
        assert [tuple(a.shape) for a in record.attention] == [(1, 3, 7, 7)] * 2
        assert len(old) == 2
        with pytest.raises(ValueError, match="does not depend on the recorded attention"):
            record.gradient(stale)


def test_gradient_may_be_asked_again_and_outside(tiny, tiny_x):
    with record_attention(tiny) as record:
        score = tiny(tiny_x)[:, 1].sum()
        inside = record.gradient(score)
    assert all(map(torch.equal, inside, record.gradient(score)))


def test_without_grad_there_is_attention_but_no_gradient(tiny, tiny_x):
    with record_attention(tiny) as record:
        tiny(tiny_x)
    with torch.no_grad(), record_attention(tiny) as quiet:
        logits = tiny(tiny_x)
        assert all(map(torch.equal, quiet.attention, record.attention))
        with pytest.raises(ValueError, match="does not depend"):
            quiet.gradient(logits[0, 0])


@pytest.mark.parametrize("scalar", [torch.zeros(3), torch.zeros(()), torch.ones(2, 2)])
def test_wrong_scalar(scalar, tiny, tiny_x):
    with record_attention(tiny) as record:
        tiny(tiny_x)
        with pytest.raises(ValueError, match="scalar"):
            record.gradient(scalar)


def test_gradient_before_any_forward(tiny):
    with (
        record_attention(tiny) as record,
        pytest.raises(ValueError, match="scalar"),
    ):
        record.gradient(torch.zeros((), requires_grad=True))


def test_gradient_checkpointing_changes_nothing(tiny, tiny_x):
    def both():
        with record_attention(tiny) as record:
            gradient = record.gradient(tiny(tiny_x)[:, 3].sum())
        return [*record.attention, *gradient]

    plain = both()
    tiny.train()
    tiny.set_grad_checkpointing(True)
    assert all(map(torch.equal, both(), plain))
    assert tiny.grad_checkpointing
    assert tiny.training


def test_dropout_and_training_mode_do_not_matter(tiny_x):
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=(32, 48),
        depth=2,
        attn_drop_rate=0.5,
        drop_path_rate=0.5,
        patch_drop_rate=0.5,
    ).train()
    with record_attention(model) as record:
        model(tiny_x)
        first = record.attention
        model(tiny_x)
    assert all(map(torch.equal, first, record.attention))
    assert first[0].shape[-1] == 7


def test_channel_attention_is_refused_even_where_its_size_fits():
    """XCiT's `[B, H, C, C]` has 32 channels; so many patches has this picture."""
    model = timm.create_model("xcit_nano_12_p16_224", depth=1).eval()
    with (
        pytest.raises(ValueError, match=r"attention|model"),
        record_attention(model),
    ):
        model(torch.randn(1, 3, 64, 128))


def test_differential_attention_is_refused():
    """Two softmaxes per head, one subtracted from the other after the dropout."""
    model = timm.create_model("vit_dwee_patch16_reg1_gap_256", img_size=32, depth=2).eval()
    with (
        pytest.raises(ValueError, match=r"attention|model"),
        record_attention(model),
    ):
        model(torch.randn(1, 3, 32, 32))


def test_input_that_is_not_finite(tiny, tiny_x):
    with (
        pytest.raises(ValueError, match="NaN"),
        record_attention(tiny),
    ):
        tiny(tiny_x * float("nan"))


def test_weights_that_are_not_finite_are_found_where_they_are(tiny, tiny_x):
    with torch.no_grad():
        tiny.blocks[-1].attn.qkv.weight[-1] = torch.nan  # a value, of the last block alone
    last = len(tiny.blocks) - 1
    with (
        record_attention(tiny),
        pytest.raises(ValueError, match=f"block {last} gives NaN or inf"),
    ):
        tiny(tiny_x)
