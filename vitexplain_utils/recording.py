"""Recording: the attention of every block while a model runs, without its matrices.

A fused kernel never forms the matrix `A = softmax(q kᵀ · scale + mask)`, and none is needed: `q`,
`k` and `v` go by, and the matrix follows from them. So does its gradient: `O = A v`, hence
`∂y/∂A = (∂y/∂O) vᵀ`, and `∂y/∂O` is all that PyTorch is asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from .models.library import library_of

ALL = slice(None)
_FLAGS = {"training": False, "_compiled_call_impl": None}  # the second is of `Module.compile`


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor itself in float32 or float64; half precisions are widened to float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@dataclass(frozen=True)
class AttentionCall:
    """One call of attention in one block, from which its matrices follow when they are needed.

    Attributes:
        q: queries `[B, H, T, d]`, in the model's dtype.
        k: keys `[B, H, S, d]`; in self-attention `S` is `T`.
        v: values `[B, H, S, e]`.
        scale: what the scores are multiplied by.
        mask: what is added to the scores (position biases, say), broadcast to `[B, H, T, S]`, or
            bool, False where nothing is seen; None for most models.
        output_gradient: `∂y/∂O` `[B, H, T, e]`; None without a gradient.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    mask: Tensor | None = None
    output_gradient: Tensor | None = None

    def attention(self, rows: slice = ALL) -> Tensor:
        """`A = softmax(q kᵀ · scale + mask)`, `[B, H, T, S]` or its `rows`, at least float32.

        Example:
            >>> call = AttentionCall(*torch.zeros(3, 1, 1, 2, 4), scale=0.5)
            >>> call.attention(slice(1))
            tensor([[[[0.5000, 0.5000]]]])
        """
        q, k = at_least_float32(self.q[:, :, rows]), at_least_float32(self.k)
        scores = (q * self.scale) @ k.mT  # [B, H, T, d] @ [B, H, d, S] -> [B, H, T, S]
        if self.mask is not None:
            mask = self.mask[..., rows, :] if self.mask.shape[-2] > 1 else self.mask
            hidden = mask.dtype == torch.bool
            scores = scores.masked_fill(~mask, -torch.inf) if hidden else scores + mask
        return torch.softmax(scores, -1, out=scores)  # in place: the largest tensor there is

    def gradient(self, rows: slice = ALL) -> Tensor:
        """`G = ∂y/∂A = (∂y/∂O) vᵀ`, `[B, H, T, S]` or its `rows`, at least float32.

        Raises:
            ValueError: there is no gradient.
        """
        if self.output_gradient is None:
            raise ValueError(
                "this call holds no gradient: capture_attention with gradient=True adds it, and a "
                "record has gradient(scalar)"
            )
        wanted, v = at_least_float32(self.output_gradient[:, :, rows]), at_least_float32(self.v)
        return wanted @ v.mT  # [B, H, T, e] @ [B, H, e, S] -> [B, H, T, S]


class AttentionRecord:
    """What the latest forward pass left behind; filled by `record_attention`.

    Attributes:
        blocks: one `AttentionCall` per block, first block first, without gradients.
    """

    def __init__(self, hold_attention: bool = False) -> None:
        self.hold_attention = hold_attention
        self.from_last_tokens = False  # a graph is wanted above the last block only
        self.thread = threading.get_ident()
        self.listener: Any = None  # of the block that is running
        self.inside = False  # the whole model's forward
        self.clear()

    def clear(self) -> None:
        """Forget the forward pass before."""
        self.blocks: list[AttentionCall] = []
        self.pool_call: AttentionCall | None = None
        self.outputs: list[Tensor] = []  # in the graph, of the pool too
        self.tokens: Tensor | None = None  # what the last block gives, [B, T, D]
        self._matrices: list[Tensor] = []

    def enter(self, *_: Any) -> None:
        """The model starts a forward pass."""
        if threading.get_ident() == self.thread:
            self.clear()
            self.inside = True

    def leave(self, *_: Any) -> None:
        """The model has ended it, or an exception has."""
        if threading.get_ident() == self.thread:
            self.inside, self.listener = False, None

    @property
    def calls(self) -> list[AttentionCall]:
        """All recorded calls, the pool's last."""
        return [*self.blocks, *([] if self.pool_call is None else [self.pool_call])]

    @property
    def attention(self) -> list[Tensor]:
        """One post-softmax tensor `[B, H, T, T]` per block: rows are queries, each sums to 1."""
        if not self._matrices:
            self._matrices = [call.attention() for call in self.blocks]
        return self._matrices

    @property
    def pool(self) -> Tensor | None:
        """Attention of the latent query of an attention pool, `[B, H, Q, T]`, or None."""
        return None if self.pool_call is None else self.pool_call.attention()

    def gradient(self, scalar: Tensor, *, retain_graph: bool = True) -> list[Tensor]:
        """Gradient of a scalar with respect to each recorded attention, `G = ∂y/∂A`.

        Args:
            scalar: a tensor of one element, computed from the recorded forward pass.
            retain_graph: keep what another call needs; False saves memory and time.

        Returns:
            One tensor `[B, H, T, T]` per block, in the order of `attention`; for a model with an
            attention pool one more, `[B, H, Q, T]`, at the end.

        Raises:
            ValueError: `scalar` has more than one element, or does not depend on the attention.
        """
        return [call.gradient() for call in self.differentiate(scalar, retain_graph=retain_graph)]

    def differentiate(self, scalar: Tensor, *, retain_graph: bool = True) -> list[AttentionCall]:
        """The recorded calls, the pool's last, with the scalar's gradient (see `gradient`)."""
        if scalar.numel() != 1:
            raise ValueError(f"scalar must have one element, got shape {tuple(scalar.shape)}")
        if not self.outputs or not scalar.requires_grad:
            raise ValueError(
                "scalar does not depend on the recorded attention: compute it from a forward pass "
                "made inside record_attention and outside torch.no_grad()"
            )
        grads = torch.autograd.grad(
            scalar, self.outputs, retain_graph=retain_graph, allow_unused=True
        )
        if any(grad is None for grad in grads):
            raise ValueError(
                "scalar does not depend on the recorded attention: compute it from the latest "
                "forward pass"
            )
        pairs = zip(self.calls, grads, strict=True)
        return [replace(call, output_gradient=grad) for call, grad in pairs]

    def read_tokens(self, scalar: Tensor) -> Tensor:
        """Which tokens of the last block a scalar depends on, `[T]`, bool: those the head reads."""
        assert self.tokens is not None and self.tokens.requires_grad  # as after a capture's pass
        (grad,) = torch.autograd.grad(scalar, self.tokens, retain_graph=True, allow_unused=True)
        if grad is None:
            return torch.zeros(self.tokens.shape[1], dtype=torch.bool)
        size = at_least_float32(grad).abs().amax((0, 2))  # [B, T, D] -> [T]
        return size > 1e-5 * size.max()


@contextmanager
def record_attention(
    model: nn.Module, *, hold_attention: bool = False
) -> Iterator[AttentionRecord]:
    """Record the attention of every block during this thread's forward passes.

    Inside, the model is in eval mode, uses its fused kernels, and asks for no gradient of any
    parameter. On leaving, also by an exception, hooks, flags, training mode and `requires_grad` are
    as they were. A new forward pass replaces the record of the one before; contexts may be nested
    and repeated. Another thread that would record the same model waits; `explain` and
    `capture_attention` record a twin of it and need not wait.

    Args:
        model: a ViT with plain global self-attention, of timm, transformers or torchvision.
        hold_attention: let no gradient through the attention patterns (through `q` and `k`):
            "what did it take from where it looked?", not "what if it looked elsewhere?" (Ali et
            al. 2022, arXiv:2202.07304). It also holds for contexts around this one.

    Yields:
        The `AttentionRecord`.

    Raises:
        ValueError: the model has no blocks, or (in the forward pass) a block does not call
            `scaled_dot_product_attention` once, for its own tokens.

    Example:
        >>> import timm, torch
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)
        >>> with record_attention(model) as record:
        ...     logits = model(torch.zeros(1, 3, 32, 32))
        >>> [tuple(attention.shape) for attention in record.attention]
        [(1, 3, 5, 5), (1, 3, 5, 5)]
        >>> [tuple(grad.shape) for grad in record.gradient(logits[0, 7])]
        [(1, 3, 5, 5), (1, 3, 5, 5)]
    """
    library = library_of(model)
    model, blocks, pool = library.model, library.block_modules(), library.pool_module()
    record = AttentionRecord(hold_attention)
    with _lock_of(model), ExitStack() as undo:
        _set_flags(model, {**library.flags, **_FLAGS}, undo)
        undo.enter_context(library.recording())
        undo.enter_context(_TAP.recording(record))
        undo.callback(model.register_forward_pre_hook(record.enter).remove)
        undo.callback(model.register_forward_hook(record.leave, always_call=True).remove)
        for index, block in enumerate(blocks):
            _Listener(record, library.what, index, index == len(blocks) - 1).attach(block, undo)
        if pool is not None:
            _Listener(record, library.what, None, False).attach(pool, undo)
        yield record


_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()


def _lock_of(model: nn.Module) -> threading.RLock:
    """One for each model, so that no thread restores what another still needs."""
    return _LOCKS.setdefault(model, threading.RLock())


def _set_flags(model: nn.Module, flags: dict[str, Any], undo: ExitStack) -> None:
    frozen: list[nn.Parameter] = []
    undo.callback(lambda: [parameter.requires_grad_(True) for parameter in frozen])
    left: list[nn.Module | None] = [model]
    while left:  # a quicker walk than `model.modules()`
        module = left.pop()
        if module is None:
            continue
        attributes = vars(module)  # written directly: nn.Module.__setattr__ is slow
        left.extend(attributes["_modules"].values())
        for flag, inside in flags.items():
            if attributes.get(flag, inside) != inside:
                undo.callback(attributes.__setitem__, flag, attributes[flag])
                attributes[flag] = inside
        for parameter in attributes["_parameters"].values():
            if parameter is not None and parameter.requires_grad:
                frozen.append(parameter)
                parameter.requires_grad_(False)


class _Listener:
    """Tells a record which block, or the pool (`index` None), a call of attention belongs to."""

    def __init__(self, record: AttentionRecord, what: str, index: int | None, last: bool) -> None:
        self.record, self.index, self.last = record, index, last
        self.where = f"{what}: " + ("attention pool" if index is None else f"block {index}")
        self.tokens: tuple[int, ...] = ()
        self.calls = 0

    def attach(self, module: nn.Module, undo: ExitStack) -> None:
        undo.callback(module.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
        undo.callback(module.register_forward_hook(self._leave).remove)

    def _enter(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != self.record.thread:
            return  # a bystander's forward pass
        if self.index == 0 and not self.record.inside:
            self.record.clear()  # a part of the model is run by itself
        if self.index not in (None, len(self.record.blocks)):
            raise ValueError(f"{self.where} is run out of turn, or more than once in one pass")
        self.tokens = tuple((args[0] if args else next(iter(kwargs.values()))).shape)
        self.calls, self.record.listener = 0, self

    def _leave(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() != self.record.thread:
            return
        self.record.listener = None
        if self.calls != 1:
            raise ValueError(
                f"{self.where} calls scaled_dot_product_attention {self.calls} times where one "
                "global self-attention is needed (windows, channels and talking heads call none)"
            )
        if self.last and not bool(self.record.outputs[-1][:, :, 0].isfinite().all()):
            raise ValueError(f"{self.where} gives NaN or inf: the input or the weights hold some")
        if self.last:
            tokens = output if isinstance(output, Tensor) else output[0]
            if self.record.from_last_tokens:  # nothing below it asks for a gradient
                tokens.requires_grad_()
            self.record.tokens = tokens

    def hear(self, call: AttentionCall, output: Tensor) -> None:
        q, k = tuple(call.q.shape), tuple(call.k.shape)
        fits = len(self.tokens) == 3 and len(q) == len(k) == 4 and q[0] == self.tokens[0]
        if fits and self.index is None:
            fits = k[2] <= self.tokens[1]
        elif fits:
            same = not self.record.blocks or q == tuple(self.record.blocks[0].q.shape)
            fits = same and q[2] == k[2] == self.tokens[1]
        if not fits:
            raise ValueError(
                f"{self.where} has attention with q {q} and k {k} for tokens of shape "
                f"{self.tokens}: only global self-attention [B, H, T, T] can be recorded"
            )
        self.calls += 1
        self.record.outputs.append(output)
        if self.index is None:
            self.record.pool_call = call
        else:
            self.record.blocks.append(call)


class _Tap:
    """Stands in for PyTorch's `scaled_dot_product_attention` while any thread records.

    Replacing the function is seen by every library, inside `nn.MultiheadAttention` too, where a
    `TorchFunctionMode` is not; a thread that does not record gets the function itself.
    """

    def __init__(self) -> None:
        self._function = functional.scaled_dot_product_attention
        self._lock, self._count, self._here = threading.Lock(), 0, threading.local()

    @contextmanager
    def recording(self, record: AttentionRecord) -> Iterator[None]:
        records: list[AttentionRecord] = self._here.__dict__.setdefault("records", [])
        with self._lock:
            if self._count == 0:
                self._function = functional.scaled_dot_product_attention
                functional.scaled_dot_product_attention = self  # type: ignore[assignment]
            self._count += 1
        records.append(record)
        try:
            yield
        finally:
            records.remove(record)
            with self._lock:
                self._count -= 1
                if self._count == 0:
                    functional.scaled_dot_product_attention = self._function

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> Tensor:
        """What the function gives; whoever records in this thread and has a block open hears it."""
        records = self._here.__dict__.get("records", ())
        open_ones = [record for record in records if record.listener is not None]
        if not open_ones:
            return self._function(query, key, value, attn_mask, dropout_p, is_causal, **options)
        if dropout_p > 0 or is_causal or options.get("enable_gqa"):
            raise ValueError(
                f"{open_ones[0].listener.where} has attention with dropout_p={dropout_p}, "
                f"is_causal={is_causal}, enable_gqa={options.get('enable_gqa', False)}, which "
                "cannot be recorded"
            )
        if any(record.hold_attention for record in open_ones):
            query, key = query.detach(), key.detach()
        output = self._function(query, key, value, attn_mask, **options)
        begins = not any(record.from_last_tokens for record in open_ones)
        if torch.is_grad_enabled() and begins and not output.requires_grad:
            output.requires_grad_()  # no parameter asks for a gradient: the graph begins here
        scale = options.get("scale")
        call = AttentionCall(
            query.detach(),
            key.detach(),
            value.detach(),
            query.shape[-1] ** -0.5 if scale is None else scale,
            None if attn_mask is None else attn_mask.detach(),
        )
        for record in open_ones:
            record.listener.hear(call, output)
        return output


_TAP = _Tap()
