"""Explain: the stages joined, from a model and an input to a heat map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .capture import record_attention
from .discard import check_discard_ratio
from .flow import attention_flow
from .head_fusion import HEAD_FUSIONS, at_least_float32, fuse_heads
from .relevance import relevance
from .rollout import check_residual_weight, gradient_rollout, rollout, start_row
from .target import Target, score_target
from .token_grid import TokenGrid, has_class_token, head_reads, token_grid

METHODS = ("gradient_rollout", "relevance", "rollout", "flow", "last_attention")
CLASS_SPECIFIC = ("gradient_rollout", "relevance")


@dataclass(frozen=True)
class Explanation:
    """A heat map and what it belongs to.

    Attributes:
        heatmap: `[B, rows, cols]`, raw and non-negative, float32 or float64, one cell per patch.
        logits: `[B, C]`, the model's output.
        target: the explained class of each image `[B]`, or the callable that was given; None for
            a model without a classifier.
        method: the method's name.
    """

    heatmap: Tensor
    logits: Tensor
    target: Tensor | Callable[[Tensor], Tensor] | None
    method: str


@dataclass(frozen=True)
class Captured:
    """One forward pass (and backward pass) with all that any method needs of it."""

    model: nn.Module
    x: Tensor
    grid: TokenGrid
    attention: list[Tensor]
    gradient: list[Tensor] | None
    pool: Tensor | None
    pool_gradient: Tensor | None
    logits: Tensor
    target: Tensor | Callable[[Tensor], Tensor] | None


def explain(
    model: nn.Module,
    x: Tensor,
    *,
    method: str = "gradient_rollout",
    target: Target = None,
    head_fusion: str = "mean",
    discard_ratio: float = 0.0,
    residual_weight: float = 0.5,
) -> Explanation:
    """Explain what a ViT looked at: one heat map per image.

    The defaults are the published ones, which add no choice of ours: mean fusion, nothing
    discarded, half a residual. `gradient_rollout` is the default method because it answers for the
    class that is asked about; `rollout`, `flow` and `last_attention` give the same map for
    every class.

    Args:
        model: a timm ViT with plain global self-attention.
        x: its input `[B, 3, H, W]`, as from `preprocess`, on the model's device.
        method: `"gradient_rollout"`, `"relevance"`, `"rollout"`, `"flow"` (slow; needs the extra
            `vitexplain-utils[flow]`) or `"last_attention"` (the last block's attention alone, a
            naive baseline).
        target: a class index, one per image, a callable `logits [B, C] → [B]` (one scalar per
            image), or None for the predicted class.
        head_fusion: `"mean"`, `"max"` or `"min"`; `relevance` knows only the mean.
        discard_ratio: share of the lowest entries to discard, in [0, 1); rollouts and flow.
        residual_weight: weight of the residual connection, in [0, 1); rollouts and flow.

    Returns:
        An `Explanation`. A map of zeros means that nothing recorded speaks for the target.

    Raises:
        ValueError: an argument is out of its range, a setting does not belong to the method, the
            model's attention cannot be captured or its tokens fit no grid, a class is asked of a
            model without a classifier, or the numbers are not finite.
        ImportError: `"flow"` without OR-tools.

    Example:
        >>> import timm, torch
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=(32, 64), depth=2).eval()
        >>> explanation = explain(model, torch.zeros(1, 3, 32, 64), target=7)
        >>> explanation.heatmap.shape, explanation.target
        (torch.Size([1, 2, 4]), tensor([7]))
    """
    check_settings(method, head_fusion, discard_ratio, residual_weight)
    captured = capture_attention(model, x, target=target, gradient=method in CLASS_SPECIFIC)
    heatmap = heatmap_of(
        captured,
        method=method,
        head_fusion=head_fusion,
        discard_ratio=discard_ratio,
        residual_weight=residual_weight,
    )
    return Explanation(heatmap, captured.logits, captured.target, method)


def capture_attention(
    model: nn.Module, x: Tensor, *, target: Target = None, gradient: bool = True
) -> Captured:
    """Run the model once and keep its attention, with the target's gradient if `gradient`."""
    _check_input(model, x)
    with (
        record_attention(model) as record,
        torch.inference_mode(False),
        torch.set_grad_enabled(gradient),
    ):
        logits = _forward(model, x.detach())
        grid = token_grid(model, x, record.attention[0].shape[-1])
        score, chosen = score_target(model, logits, target, gradient)
        grads = record.gradient(score.sum(), retain_graph=False) if score is not None else None
    pool_gradient = grads.pop() if grads is not None and record.pool is not None else None
    return Captured(
        model=model,
        x=x,
        grid=grid,
        attention=[attention.detach() for attention in record.attention],
        gradient=grads,
        pool=None if record.pool is None else record.pool.detach(),
        pool_gradient=pool_gradient,
        logits=logits.detach(),
        target=chosen,
    )


@torch.no_grad()
def heatmap_of(
    captured: Captured,
    *,
    method: str = "gradient_rollout",
    head_fusion: str = "mean",
    discard_ratio: float = 0.0,
    residual_weight: float = 0.5,
) -> Tensor:
    """The heat map `[B, rows, cols]` that a method makes of one capture."""
    check_settings(method, head_fusion, discard_ratio, residual_weight)
    attention, gradient = captured.attention, captured.gradient
    start = start_of(captured, method, head_fusion)
    if method == "last_attention":
        last = fuse_heads(attention[-1], head_fusion)
        row = (start_row(last, start).unsqueeze(-2) @ last).squeeze(-2)
    elif method in ("rollout", "flow"):
        row = (rollout if method == "rollout" else attention_flow)(
            attention,
            head_fusion=head_fusion,
            discard_ratio=discard_ratio,
            residual_weight=residual_weight,
            start=start,
            class_token=has_class_token(captured.model),
        )
    elif gradient is None:
        raise ValueError(f"method {method!r} needs a capture made with gradient=True")
    elif method == "gradient_rollout":
        row = gradient_rollout(
            attention,
            gradient,
            head_fusion=head_fusion,
            discard_ratio=discard_ratio,
            residual_weight=residual_weight,
            start=start,
            class_token=has_class_token(captured.model),
        )
    else:
        row = relevance(attention, gradient, start=start)
    heatmap = captured.grid.to_grid(row)
    if not bool(heatmap.isfinite().all()):
        raise ValueError("the attention or its gradient is not finite: x or the weights overflow")
    return heatmap


def start_of(captured: Captured, method: str, head_fusion: str) -> Tensor:
    """The row of tokens that a method starts from (see `head_reads`)."""
    pool = None if captured.pool is None else at_least_float32(captured.pool)
    if pool is None:
        fused = None
    elif method not in CLASS_SPECIFIC or captured.pool_gradient is None:
        fused = fuse_heads(pool, head_fusion)
    elif method == "relevance":
        fused = fuse_heads((pool * captured.pool_gradient).clamp(min=0))
    else:
        fused = fuse_heads(pool * captured.pool_gradient, head_fusion).clamp(min=0)
    return head_reads(captured.model, captured.grid, fused, like=captured.attention[-1])


def check_settings(
    method: str, head_fusion: str, discard_ratio: float, residual_weight: float
) -> None:
    """Raise a ValueError for a setting that is unknown or that the method does not have."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if head_fusion not in HEAD_FUSIONS:
        raise ValueError(f"head_fusion must be one of {HEAD_FUSIONS}, got {head_fusion!r}")
    check_discard_ratio(discard_ratio)
    check_residual_weight(residual_weight)
    if method == "relevance" and head_fusion != "mean":
        raise ValueError(f"relevance fuses heads by their mean, got head_fusion={head_fusion!r}")
    if method in ("relevance", "last_attention") and (discard_ratio, residual_weight) != (0, 0.5):
        raise ValueError(
            f"{method} has neither discard_ratio nor residual_weight, got "
            f"discard_ratio={discard_ratio!r}, residual_weight={residual_weight!r}"
        )


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    try:
        logits: Tensor = model(x)
    except AssertionError as error:  # how timm says that the size does not fit
        raise ValueError(f"x of shape {tuple(x.shape)} does not fit the model: {error}") from error
    return logits


def _check_input(model: nn.Module, x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.ndim != 4 or not x.is_floating_point() or len(x) == 0:
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must be a float tensor [B, 3, H, W] as from preprocess, got {got}")
    parameter = next(model.parameters(), None)
    if parameter is not None and parameter.device != x.device:
        raise ValueError(f"x is on {x.device}, the model on {parameter.device}: move one of them")
    if not bool(x.isfinite().all()):
        raise ValueError("x holds NaN or inf")
