"""A capture holds what the model computed: against an unfused pass with hooks, and differences."""

from __future__ import annotations

import threading
import weakref
from contextlib import ExitStack, contextmanager

import pytest
import timm
import torch
from layouts import MODELS, OTHERS, TIMM, input_of, model_of, target_of
from reference import lively
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from vitexplain_utils import METHODS, capture_attention, explain, record_attention
from vitexplain_utils.models import library_of
from vitexplain_utils.recording import AttentionCall

FUNCTION = functional.scaled_dot_product_attention
LAYOUTS = pytest.mark.parametrize("layout", MODELS)


class SoftmaxSeen(TorchFunctionMode):
    """Every softmax of an unfused pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in (torch.Tensor.softmax, torch.softmax):
            self.seen.append(out)
        return out


def unfused(layout: str, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Attention and its gradient in the old way: fusion off, every softmax kept in the graph."""
    model = model_of(layout)
    with ExitStack() as undo:
        if layout in TIMM:
            for module in model.modules():
                if getattr(module, "fused_attn", False):
                    module.fused_attn = False
                    undo.callback(setattr, module, "fused_attn", True)
            mode = undo.enter_context(SoftmaxSeen())
            seen, logits = mode.seen, model(x)
        else:
            seen, logits = undo.enter_context(unfused_elsewhere(model)), library_of(model).logits(x)
    seen = [each for each in seen if each.requires_grad]
    grads = torch.autograd.grad(logits[:, 3].sum(), seen, allow_unused=True)  # an unread pool's
    used = [(one, grad) for one, grad in zip(seen, grads, strict=True) if grad is not None]
    by_heads = [[part.view(len(x), -1, *part.shape[-2:]) for part in pair] for pair in used]
    return [one for one, _ in by_heads], [grad for _, grad in by_heads]


@contextmanager
def unfused_elsewhere(model: nn.Module):
    """The eager implementation of transformers, and multi-head attention asked for its weights."""
    seen: list[Tensor] = []
    softmax = functional.softmax

    def kept(*args, **kwargs):
        seen.append(softmax(*args, **kwargs))
        return seen[-1]

    def ask(_module, args, kwargs):
        return args, {**kwargs, "need_weights": True}

    with ExitStack() as undo:
        if hasattr(model, "set_attn_implementation"):
            model.set_attn_implementation("eager")
            undo.callback(model.set_attn_implementation, "sdpa")
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention):
                undo.callback(module.register_forward_pre_hook(ask, with_kwargs=True).remove)
        undo.enter_context(pytest.MonkeyPatch.context()).setattr(functional, "softmax", kept)
        yield seen


@LAYOUTS
def test_attention_and_gradient_equal_an_unfused_pass(layout):
    model, x = model_of(layout), input_of(layout)
    attention, gradient = unfused(layout, x)
    capture = capture_attention(model, x, target=target_of(layout), hold_attention=False)
    calls = [*capture.blocks, *([] if capture.pool is None else [capture.pool])]
    assert len(calls) == len(attention) >= 2
    peak = max(float(grad.abs().max()) for grad in gradient)
    for call, wanted, grad in zip(calls, attention, gradient, strict=True):
        torch.testing.assert_close(call.attention(), wanted, rtol=0, atol=1e-6)
        torch.testing.assert_close(call.gradient(), grad, rtol=0, atol=1e-5 * peak)


@LAYOUTS
def test_rows_are_rows(layout):
    capture = capture_attention(model_of(layout), input_of(layout), target=target_of(layout))
    for rows in (slice(1), slice(2), slice(1, 4)):
        for call in capture.blocks:
            for part, whole in (
                (call.attention(rows), call.attention()),
                (call.gradient(rows), call.gradient()),
            ):
                torch.testing.assert_close(part, whole[:, :, rows], rtol=0, atol=1e-6)


@contextmanager
def constant_attention(matrices: list[Tensor]):
    """The model with given attention in each block, whatever its queries and keys say."""
    given = iter(matrices)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            functional,
            "scaled_dot_product_attention",
            lambda q, k, v, *args, **kwargs: next(given) @ v,
        )
        yield


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(
    "layout", ["vit", "distilled", "beit", "average pooling", "siglip", *OTHERS]
)
def test_gradient_equals_finite_differences(layout, held):
    """With the attention held, all other matrices stay as they are while one entry moves."""
    model, x = model_of(layout, torch.float64), input_of(layout, 1, torch.float64)
    library, target = library_of(model), target_of(layout)
    capture = capture_attention(model, x, target=target, hold_attention=held)
    calls = [*capture.blocks, *([] if capture.pool is None else [capture.pool])]
    matrices = [call.attention() for call in calls]

    def logit(index: int, entry: tuple[int, ...], change: float) -> float:
        moved = [matrix.clone() for matrix in matrices]
        moved[index][entry] += change
        if held:
            with constant_attention(moved), library.recording(), torch.no_grad():
                return float(library.logits(x)[0, 3])
        count = iter(range(len(calls)))

        def from_scores(q, k, v, attn_mask=None, *_, **options):
            matrix = AttentionCall(q, k, v, q.shape[-1] ** -0.5, attn_mask).attention()
            return (moved[index] if next(count) == index else matrix) @ v

        with pytest.MonkeyPatch.context() as patch, library.recording(), torch.no_grad():
            patch.setattr(functional, "scaled_dot_product_attention", from_scores)
            return float(library.logits(x)[0, 3])

    eps = 1e-5
    for index, call in enumerate(calls):
        rows, cols = call.attention().shape[2:]
        for entry in [(0, 0, 0, 0), (0, 1, 0, 3), (0, 1, rows - 1, cols - 1), (0, 0, rows // 2, 1)]:
            slope = (logit(index, entry, eps) - logit(index, entry, -eps)) / (2 * eps)
            assert float(call.gradient()[entry]) == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_holding_the_attention_changes_the_gradient_of_all_blocks_but_the_last(tiny, tiny_x):
    free, held = (
        capture_attention(tiny, tiny_x, target=1, hold_attention=hold) for hold in (False, True)
    )
    assert (free.hold_attention, held.hold_attention) == (False, True)
    first, last = ([c.blocks[i].gradient() for c in (free, held)] for i in (0, -1))
    assert (first[0] - first[1]).abs().max() > 0.01 * first[0].abs().max()
    torch.testing.assert_close(*last, rtol=0, atol=1e-6)
    torch.testing.assert_close(free.logits, held.logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
@pytest.mark.parametrize("layout", ["vit", "siglip", "beit"])
@pytest.mark.parametrize("target", [None, 2, [1, 0, 4], lambda y: y[:, 1] - y[:, 0]])
def test_batches_change_nothing(layout, batch_size, target):
    model, x = model_of(layout), input_of(layout, 3)
    whole = capture_attention(model, x, target=target)
    parts = capture_attention(model, x, target=target, batch_size=batch_size)
    torch.testing.assert_close(parts.logits, whole.logits, rtol=0, atol=1e-5)
    if not callable(target):
        assert torch.equal(parts.target, whole.target)
    for one, other in zip(parts.blocks, whole.blocks, strict=True):
        torch.testing.assert_close(one.attention(), other.attention(), rtol=0, atol=1e-5)
        torch.testing.assert_close(one.gradient(), other.gradient(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_steps_are_inputs_from_grey_to_the_picture(tiny, tiny_x, batch_size):
    target = [6, 0, 3]
    capture = capture_attention(tiny, tiny_x, target=target, steps=4, batch_size=batch_size)
    assert capture.steps == 4 and len(capture.logits) == 3
    torch.testing.assert_close(capture.logits, tiny(tiny_x).detach(), rtol=0, atol=1e-5)
    maps = METHODS["relevance"].heatmap(capture, steps=4)
    alphas = (0.125, 0.375, 0.625, 0.875)
    single = [explain(tiny, a * tiny_x, method="relevance", target=target).heatmap for a in alphas]
    torch.testing.assert_close(maps, torch.stack(single).mean(0), rtol=0, atol=1e-5)


def test_a_single_block(tiny, tiny_x):
    tiny.blocks = tiny.blocks[:1]
    capture = capture_attention(tiny, tiny_x, target=2)
    assert [call.q.shape[2] for call in capture.blocks] == [capture.grid.tokens] == [7]


def test_integrated_attribution_keeps_signs_until_the_mean(tiny, tiny_x):
    rows = []
    for alpha in (0.25, 0.75):
        capture = capture_attention(tiny, alpha * tiny_x, target=1)
        calls = capture.blocks
        rows.append(sum((c.attention()[:, :, 0] * c.gradient()[:, :, 0]).sum(1) for c in calls))
    expected = (sum(rows) / 2).clamp(min=0)[:, 1:].reshape(3, 2, 3)
    found = explain(tiny, tiny_x, method="attribution", target=1, steps=2).heatmap
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert (expected == 0).any() and (sum(row.clamp(min=0) for row in rows) > 0).any()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"steps": True}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "2"}, "batch_size"),
    ],
)
def test_wrong_counts(arguments, named, tiny, tiny_x):
    with pytest.raises(ValueError, match=f"{named} must be a whole number"):
        capture_attention(tiny, tiny_x, **arguments)


def test_the_function_is_itself_again(tiny, tiny_x):
    with record_attention(tiny):
        assert functional.scaled_dot_product_attention is not FUNCTION
        with record_attention(tiny):
            tiny(tiny_x)
        assert functional.scaled_dot_product_attention is not FUNCTION
    assert functional.scaled_dot_product_attention is FUNCTION
    with pytest.raises(ValueError, match="target"):
        explain(tiny, tiny_x, target=99)
    assert functional.scaled_dot_product_attention is FUNCTION


def test_fused_kernels_stay_on_and_eager_models_come_back_to_it(tiny, tiny_x):
    tiny.blocks[1].attn.fused_attn = False
    with record_attention(tiny) as record:
        assert all(block.attn.fused_attn for block in tiny.blocks)
        tiny(tiny_x)
        assert len(record.blocks) == 2
    assert [block.attn.fused_attn for block in tiny.blocks] == [True, False]


class Calls(nn.Module):
    """An attention that calls the function in some unusual way."""

    def __init__(self, attention: nn.Module, call) -> None:
        super().__init__()
        self.attention, self.call = attention, call

    def forward(self, x: Tensor, **kwargs) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.attention.qkv(x).reshape(batch, tokens, 3, 3, -1).permute(2, 0, 3, 1, 4)
        return self.call(q, k, v).transpose(1, 2).reshape(batch, tokens, width)


def sdpa(q, k, v, **options):
    return functional.scaled_dot_product_attention(q, k, v, **options)


def windows(q, k, v):
    cut = [part[:, :, :6].unflatten(2, (2, 3)).transpose(1, 2).flatten(0, 1) for part in (q, k, v)]
    read = sdpa(*cut).unflatten(0, (-1, 2)).transpose(1, 2).flatten(2, 3)
    return torch.cat([read, v[:, :, 6:]], 2)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda q, k, v: v, "0 times"),
        (lambda q, k, v: sdpa(q, k, v) - sdpa(k, q, v), "2 times"),
        (windows, "only global self-attention"),
        (lambda q, k, v: sdpa(q, k[:, :, 1:], v[:, :, 1:]), "only global self-attention"),
        (lambda q, k, v: sdpa(q, k, v, dropout_p=0.5), "dropout_p=0.5"),
        (lambda q, k, v: sdpa(q, k, v, is_causal=True), "is_causal=True"),
        (lambda q, k, v: sdpa(q, k[:, :1], v[:, :1], enable_gqa=True), "enable_gqa=True"),
    ],
)
def test_attention_that_cannot_be_recorded_is_refused(call, said, tiny, tiny_x):
    tiny.blocks[1].attn = Calls(tiny.blocks[1].attn, call)
    with pytest.raises(ValueError, match=f"block 1.*{said}"):
        explain(tiny, tiny_x, method="rollout")
    assert functional.scaled_dot_product_attention is FUNCTION


@pytest.mark.parametrize("bias", [False, True])
def test_masks_are_honoured(bias, tiny, tiny_x):
    seen = torch.rand(7, 7, generator=torch.Generator().manual_seed(0)) > 0.3
    seen.fill_diagonal_(True)
    mask = torch.where(seen, 0.0, -torch.inf) if bias else seen
    tiny.blocks[0].attn = Calls(tiny.blocks[0].attn, lambda q, k, v: sdpa(q, k, v, attn_mask=mask))
    attention = capture_attention(tiny, tiny_x, gradient=False).blocks[0].attention()
    assert (attention[:, :, ~seen] == 0).all() and (attention[:, :, seen] > 0).all()
    rows = capture_attention(tiny, tiny_x, gradient=False).blocks[0].attention(slice(2, 4))
    torch.testing.assert_close(rows, attention[:, :, 2:4], rtol=0, atol=1e-6)


def test_scale_is_honoured(tiny, tiny_x):
    tiny.blocks[0].attn = Calls(tiny.blocks[0].attn, lambda q, k, v: sdpa(q, k, v, scale=0.0))
    attention = capture_attention(tiny, tiny_x, gradient=False).blocks[0].attention()
    torch.testing.assert_close(attention, torch.full_like(attention, 1 / 7), rtol=0, atol=1e-6)


def test_an_exception_inside_the_context_leaves_nothing_open(tiny, tiny_x):
    with record_attention(tiny) as record:
        handle = tiny.blocks[1].attn.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tiny(tiny_x)
        handle.remove()
        q = torch.ones(3, 3, 7, 16)
        functional.scaled_dot_product_attention(q, q, q)  # of nobody's block
        tiny.forward_features(tiny_x)
        assert len(record.blocks) == 2


def test_masks_of_each_image_stay_with_their_image(tiny, tiny_x):
    def by_image(q, k, v):
        mask = (q.sum((1, 3), keepdim=True) + torch.zeros(7)).clone()  # [B, 1, T, T]
        return sdpa(q, k, v, attn_mask=mask.mT)

    tiny.blocks[0].attn = Calls(tiny.blocks[0].attn, by_image)
    whole, parts = (
        capture_attention(tiny, tiny_x, gradient=False, batch_size=size).blocks[0]
        for size in (None, 1)
    )
    torch.testing.assert_close(parts.attention(), whole.attention(), rtol=0, atol=1e-5)


def test_a_target_that_asks_nothing(tiny, tiny_x):
    for target in (lambda y: y[:, 0].detach(), lambda y: torch.ones(len(y))):
        with pytest.raises(ValueError, match=r"target .* does not depend on the logits"):
            explain(tiny, tiny_x, target=target)


@pytest.mark.parametrize("order", [[0, 1, 1], [0, 0, 1], [1, 0], [1], [0, 1, 0, 1]])
def test_blocks_that_run_twice_or_in_another_order_are_refused(order, tiny, tiny_x):
    class Shuffled(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            for index in order:
                x = self[index](x)
            return x

    tiny.blocks = Shuffled(*tiny.blocks)
    with pytest.raises(ValueError, match="out of turn"):
        explain(tiny, tiny_x, method="rollout")


def test_a_pass_that_failed_does_not_spoil_the_next(tiny, tiny_x):
    with record_attention(tiny) as record:
        handle = tiny.blocks[1].attn.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tiny(tiny_x)
        handle.remove()
        tiny(tiny_x)
        assert len(record.blocks) == 2
        tiny.forward_features(tiny_x)  # a part of the model by itself
        assert len(record.blocks) == 2


def test_only_the_own_threads_calls_are_recorded(tiny, tiny_x):
    other = lively(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3)).eval()
    results, stop = [], threading.Event()

    def bystander() -> None:
        with torch.no_grad():
            while not stop.is_set():
                results.append(other(torch.ones(1, 3, 32, 32)))
                results.append(tiny(tiny_x[:1]))

    expected = explain(tiny, tiny_x).heatmap
    with torch.no_grad():
        alone = other(torch.ones(1, 3, 32, 32)), tiny(tiny_x[:1])
    thread = threading.Thread(target=bystander)
    thread.start()
    try:
        for _ in range(20):
            assert torch.equal(explain(tiny, tiny_x).heatmap, expected)
    finally:
        stop.set()
        thread.join()
    assert len(results) >= 2 and not any(result.requires_grad for result in results)
    for index, result in enumerate(results):
        torch.testing.assert_close(result, alone[index % 2], rtol=0, atol=1e-5)


class Matrices(TorchFunctionMode):
    """How many matrices of tokens × tokens are alive, at most at one time."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens, self.most = tokens, 0
        self.alive: list[weakref.ref] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.ndim >= 2:
            square = out.shape[-2:] == (self.tokens, self.tokens)
            if square or out.shape[-1] == self.tokens**2:
                self.alive.append(weakref.ref(out))
        self.alive = [ref for ref in self.alive if ref() is not None]
        storages = {
            tensor.untyped_storage().data_ptr()
            for ref in self.alive
            if (tensor := ref()) is not None
        }
        self.most = max(self.most, len(storages))
        return out


def alive(method: str, depth: int) -> int:
    model = timm.create_model("vit_tiny_patch16_224", img_size=160, depth=depth, embed_dim=48)
    capture = METHODS[method].capture(model.eval(), torch.randn(1, 3, 160, 160), target=3)
    with Matrices(101) as whole, torch.no_grad():
        METHODS[method].heatmap(capture)
    with Matrices(101) as captured:
        METHODS[method].capture(model, torch.randn(1, 3, 160, 160), target=3)
    assert captured.most == 0
    return whole.most


@pytest.mark.parametrize("method", ["rollout", "gradient_rollout", "relevance", "vit_explain"])
def test_matrices_live_for_one_block_at_a_time(method):
    few, many = (alive(method, depth) for depth in (2, 8))
    assert 0 < many == few < 6


def test_attribution_never_makes_a_matrix():
    assert alive("attribution", 4) == 0
