"""Capture: the attention of every block, and its gradient, while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# `timm.utils.AttentionExtract` does not serve: it leaves the model in the mode it asked for, keeps
# its hooks, sees nothing of fused attention in hook mode, and gives neither pools nor gradients.

_FLAGS_INSIDE = {"fused_attn": False, "grad_checkpointing": False, "training": False}


class AttentionRecord:
    """What the latest forward pass left behind; filled by `record_attention`.

    Attributes:
        attention: one post-softmax tensor `[B, H, T, T]` per block, first block first. Rows are
            queries, columns are keys, and every row sums to 1.
        pool: attention of the latent query of an attention pool, `[B, H, Q, K]`, or None.
    """

    def __init__(self) -> None:
        self.attention: list[Tensor] = []
        self.pool: Tensor | None = None

    def gradient(self, scalar: Tensor, *, retain_graph: bool = True) -> list[Tensor]:
        """Gradient of a scalar with respect to each recorded attention, `∂y/∂A`.

        Args:
            scalar: a tensor of one element, computed from the recorded forward pass.
            retain_graph: keep what another call needs; False saves memory and time.

        Returns:
            One tensor `[B, H, T, T]` per block, in the order of `attention`; for a model with an
            attention pool one more, `[B, H, Q, K]`, at the end.

        Raises:
            ValueError: `scalar` has more than one element, or does not depend on the attention.
        """
        if scalar.numel() != 1:
            raise ValueError(f"scalar must have one element, got shape {tuple(scalar.shape)}")
        if not self.attention or not scalar.requires_grad:
            raise ValueError(
                "scalar does not depend on the recorded attention: compute it from a forward pass "
                "made inside record_attention and outside torch.no_grad()"
            )
        inputs = [*self.attention, *([] if self.pool is None else [self.pool])]
        grads = torch.autograd.grad(scalar, inputs, retain_graph=retain_graph, allow_unused=True)
        if any(grad is None for grad in grads):
            raise ValueError(
                "scalar does not depend on the recorded attention: compute it from the latest "
                "forward pass"
            )
        return list(grads)


@contextmanager
def record_attention(model: nn.Module) -> Iterator[AttentionRecord]:
    """Record the post-softmax attention of every block during forward passes.

    Inside, the model is in eval mode, computes attention unfused (a fused kernel never forms the
    matrix) and asks for no gradient of any parameter. On leaving, also by an exception, hooks,
    `fused_attn`, training mode and `requires_grad` are as they were. A new forward pass replaces
    the record of the one before; contexts may be nested and repeated.

    Args:
        model: a timm ViT with plain global self-attention in `model.blocks`.

    Yields:
        The `AttentionRecord`.

    Raises:
        ValueError: the model has no blocks with one self-attention each, or (in the forward pass)
            what it computes is not one `[B, H, T, T]` matrix with rows that sum to 1 per block.

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
    dropouts = _attention_dropouts(model)
    record = AttentionRecord()
    with ExitStack() as undo:
        _set_flags(model, undo)
        blocks: Any = model.blocks
        for index, (block, dropout) in enumerate(zip(blocks, dropouts, strict=True)):
            expected: list[Tensor] = []
            handle = block.register_forward_pre_hook(_note_tokens(expected), with_kwargs=True)
            undo.callback(handle.remove)
            handle = dropout.register_forward_hook(
                _keep_attention(record, index, block is blocks[-1], expected)
            )
            undo.callback(handle.remove)
        pool = getattr(model, "attn_pool", None)
        if pool is not None:
            _tap_pool(pool, record, undo)
        yield record


def _attention_dropouts(model: nn.Module) -> list[nn.Module]:
    """The module of each block that sees the attention right after its softmax."""
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or len(blocks) == 0:
        raise ValueError(f"model {type(model).__name__} has no transformer blocks to record")
    if not hasattr(getattr(model, "patch_embed", None), "dynamic_feat_size"):
        raise ValueError(f"model {type(model).__name__} does not say how its tokens lie on a grid")
    return [_attention_dropout(model, index, block) for index, block in enumerate(blocks)]


def _attention_dropout(model: nn.Module, index: int, block: nn.Module) -> nn.Module:
    found = [m for m in block.modules() if isinstance(getattr(m, "attn_drop", None), nn.Module)]
    where = f"model {type(model).__name__}: block {index}"
    if len(found) != 1:
        raise ValueError(
            f"{where} has {len(found)} self-attentions with a matrix to record; one is needed"
        )
    if hasattr(found[0], "lambda_init"):
        raise ValueError(f"{where} has differential attention, the difference of two matrices")
    dropout: nn.Module = found[0].get_submodule("attn_drop")
    return dropout


def _set_flags(model: nn.Module, undo: ExitStack) -> None:
    frozen: list[nn.Parameter] = []
    undo.callback(lambda: [parameter.requires_grad_(True) for parameter in frozen])
    for module in model.modules():
        attributes = vars(module)  # written directly: nn.Module.__setattr__ is slow
        for flag, inside in _FLAGS_INSIDE.items():
            if attributes.get(flag, inside) != inside:
                undo.callback(attributes.__setitem__, flag, attributes[flag])
                attributes[flag] = inside
        for parameter in attributes["_parameters"].values():
            if parameter is not None and parameter.requires_grad:
                frozen.append(parameter)
                parameter.requires_grad_(False)


def _note_tokens(expected: list[Tensor]) -> Callable[..., None]:
    def hook(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        expected[:] = [args[0] if args else next(iter(kwargs.values()))]

    return hook


def _keep_attention(
    record: AttentionRecord, index: int, last: bool, expected: list[Tensor]
) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def hook(_dropout: nn.Module, _args: tuple[Any, ...], attention: Tensor) -> Tensor:
        tokens = expected.pop()
        _check(attention, tokens, index)
        if index == 0:  # a new forward pass
            record.attention, record.pool = [], None
        record.attention.append(_track(attention))
        if last:
            _check_rows(record.attention)
        return attention

    return hook


def _track(attention: Tensor) -> Tensor:
    # No parameter asks for a gradient, so the first block's attention is where the graph begins.
    if torch.is_grad_enabled() and not attention.requires_grad:
        attention.requires_grad_()
    return attention


def _check(attention: Tensor, tokens: Tensor, index: int) -> None:
    batch, count = tokens.shape[:2]
    right_shape = attention.ndim == 4 and attention.shape[0] == batch
    if tokens.ndim != 3 or not right_shape or attention.shape[2:] != (count, count):
        raise ValueError(
            f"block {index} has attention of shape {tuple(attention.shape)} for tokens of shape "
            f"{tuple(tokens.shape)}: only global self-attention [B, H, T, T] can be recorded"
        )


def _check_rows(attention: list[Tensor]) -> None:
    """Class token's rows of all blocks at once: a check in each block would cost ten times this."""
    shapes = sorted({tuple(block.shape) for block in attention})
    if len(shapes) != 1:
        raise ValueError(f"the attention must have one shape in all blocks, got {shapes}")
    rows = torch.stack([block.detach()[:, :, 0] for block in attention])  # [L, B, H, T]
    off = (rows.sum(-1, dtype=torch.float32) - 1).abs().flatten(1).amax(1)
    if not bool((off < 1e-2).all()):  # NaN is not less either
        raise ValueError(
            f"the attention of block {int((off < 1e-2).int().argmin())} has rows that do not sum "
            "to 1: its softmax is changed afterwards (as talking heads do), or the input or the "
            "weights have NaN or inf"
        )


class _SoftmaxTap(TorchFunctionMode):
    """Shows every `Tensor.softmax` to `keep`; attention pools have no module after theirs."""

    def __init__(self, keep: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.keep = keep

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.Tensor.softmax:
            self.keep(out)
        return out


def _tap_pool(pool: nn.Module, record: AttentionRecord, undo: ExitStack) -> None:
    forward = pool.forward

    def keep(attention: Tensor) -> None:
        record.pool = _track(attention)

    def tapped(*args: Any, **kwargs: Any) -> Any:
        with _SoftmaxTap(keep):
            return forward(*args, **kwargs)

    if "forward" in vars(pool):  # nested: the outer context's own tap
        undo.callback(setattr, pool, "forward", forward)
    else:
        undo.callback(delattr, pool, "forward")
    pool.forward = tapped
