"""Explanation: the stages joined, from a model and an input to a heat map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .capture import Capture
from .checks import check_count
from .methods import Method, offered_method
from .models.inputs import check_input
from .models.targets import Chosen, Target, split_target


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


def explain(
    model: nn.Module,
    x: Tensor,
    *,
    method: str = "attribution",
    target: Target = None,
    batch_size: int | None = None,
    **settings: Any,
) -> Explanation:
    """Explain what a ViT looked at: one heat map per image.

    Attribution, the default, scored highest of the package's methods on garden scenes and on
    photographs with known answers (`benchmarks/results`). Gradient rollout's and relevance's maps
    are almost even where the head reads patches (average and attention pooling). `rollout`, `flow`
    and `last_attention` give the same map for every class.

    Args:
        model: a ViT with plain global self-attention, of timm, transformers or torchvision; one
            in `torch.compile`, `DataParallel` or a PEFT adapter counts as what is inside.
        x: its input `[B, 3, H, W]`, as from `preprocess`, on the model's device.
        method: `"attribution"`, `"gradient_rollout"`, `"relevance"`, `"rollout"`, `"flow"` (slow;
            needs the extra `vitexplain-utils[flow]`), `"last_attention"` (the last block's
            attention alone, a naive baseline), or one of your own (`register_method`).
        target: a class index, one per image, a callable `logits [B, C] → [B]` (one scalar per
            image; of each pass alone, with `batch_size` or `steps`), or None for the predicted
            class.
        batch_size: inputs in one pass of the model, to save memory; None is all of them.
        settings: the method's own, as `METHODS[method].settings` lists them. `head_fusion`
            (`"mean"`, `"max"`, `"min"`) for rollouts, flow and `last_attention`; `discard_ratio`,
            the share of the lowest entries to discard, and `residual_weight`, both in [0, 1), for
            rollouts and flow; `hold_attention` and `steps` (see `capture_attention`) for the
            methods that answer for a class; `blocks`, first and last, for all.

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
    having = offered_method(method).having(**settings)
    maps, logits, chosen = _in_parts(having, having.heatmap, model, x, target, batch_size)
    targets = [each for each in chosen if isinstance(each, Tensor)]
    asked = torch.cat(targets) if targets else chosen[0]
    return Explanation(torch.cat(maps), torch.cat(logits), asked, method)


def discard_sweep(
    model: nn.Module,
    x: Tensor,
    discard_ratios: Sequence[float],
    *,
    method: str = "gradient_rollout",
    target: Target = None,
    batch_size: int | None = None,
    **settings: Any,
) -> Tensor:
    """The heat maps of `explain` for many discard ratios, from one capture, exactly.

    Args:
        model: as in `explain`.
        x: its input, `[B, 3, H, W]`.
        discard_ratios: `R` ratios, each in [0, 1), in any order.
        method: `"rollout"`, `"gradient_rollout"`, or another one that discards.
        target: as in `explain`.
        batch_size: as in `explain`.
        settings: as in `explain`.

    Returns:
        `[R, B, rows, cols]`, in the order of `discard_ratios`.

    Raises:
        ValueError: as `explain`, or a method that does not discard, or no ratios.

    Example:
        >>> import timm, torch
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=(32, 64), depth=2).eval()
        >>> discard_sweep(model, torch.zeros(3, 3, 32, 64), [0, 0.5, 0.9]).shape
        torch.Size([3, 3, 2, 4])
    """
    known = offered_method(method)
    ratios = partial(known.sweep, discard_ratios=discard_ratios, **settings)
    maps, _, _ = _in_parts(known.having(**settings), ratios, model, x, target, batch_size)
    return torch.cat(maps, 1)


def _in_parts(
    method: Method,
    draw: Callable[[Capture], Tensor],
    model: nn.Module,
    x: Tensor,
    target: Target,
    batch_size: int | None,
) -> tuple[list[Tensor], list[Tensor], list[Chosen]]:
    """Maps, logits and targets of each part of a batch; no more than one capture is alive."""
    check_input(model, x)
    check_count("batch_size", 1 if batch_size is None else batch_size)
    steps = method.capture_settings.get("steps", 1)
    size = len(x) if batch_size is None else max(1, batch_size // steps)
    found: list[tuple[Tensor, Tensor, Chosen]] = []
    for part, asked in zip(x.split(size), split_target(target, len(x), size), strict=True):
        one = method.capture(model, part, target=asked, batch_size=batch_size)
        found.append((draw(one), one.logits, one.target))
        del one  # before the next one is made
    maps, logits, chosen = zip(*found, strict=True)
    return list(maps), list(logits), list(chosen)
