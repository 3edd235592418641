"""Capture: one pass of a model, and all that any method needs of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from .checks import check_count, check_flag
from .models.inputs import check_input
from .models.library import Library, TokenGrid, library_of
from .models.targets import Chosen, Target, choose_target, score
from .models.twin import twin
from .recording import AttentionCall, AttentionRecord, record_attention


@dataclass(frozen=True)
class Capture:
    """One pass of a model, and all that any method needs of it.

    What is kept grows with the number of tokens, not its square, except for position biases that a
    model hands over as a mask (BEiT, relative positions), `[1, H, T, T]` per block.

    Attributes:
        model: the model.
        x: its input `[B, 3, H, W]`.
        grid: where the patches lie: `prefix`, `rows`, `cols`.
        blocks: one `AttentionCall` per block, first block first; `blocks[3].attention()` is a
            matrix per head, `[B, H, T, T]`. With `steps` their batch is `steps · B`.
        pool: the call of an attention pool, `T` its queries and `S` the tokens; None without one.
        logits: the model's output for `x`, `[B, C]`.
        target: the class of each image, `[B]`, or the callable that was given; None for a model
            without a classifier.
        hold_attention: whether the gradient was taken with the attention patterns held fixed.
        steps: for how many inputs from grey to `x` each block was captured.
    """

    model: nn.Module
    x: Tensor
    grid: TokenGrid
    blocks: list[AttentionCall]
    pool: AttentionCall | None
    logits: Tensor
    target: Chosen
    hold_attention: bool = True
    steps: int = 1

    @property
    def library(self) -> Library:
        """The description of the model."""
        return library_of(self.model)

    @property
    def has_gradient(self) -> bool:
        """Whether it was made with `gradient=True`."""
        return self.blocks[0].output_gradient is not None

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept; `q`, `k` and `v` are often parts of one tensor."""
        calls = [*self.blocks, *([] if self.pool is None else [self.pool])]
        kept = [value for call in calls for value in vars(call).values()]
        storages = [value.untyped_storage() for value in kept if isinstance(value, Tensor)]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def capture_attention(
    model: nn.Module,
    x: Tensor,
    *,
    target: Target = None,
    gradient: bool = True,
    hold_attention: bool = True,
    steps: int = 1,
    batch_size: int | None = None,
) -> Capture:
    """Run a model once and keep what any method needs: `q`, `k`, `v` and the target's gradient.

    Args:
        model: as in `explain`.
        x: its input `[B, 3, H, W]`, as from `preprocess`, on the model's device.
        target: a class index, one per image, a callable `logits [B, C] → [B]` (one scalar per
            image; called for each pass with that pass's logits alone), or None for the predicted
            class.
        gradient: also run backward; False for methods that ask for no class.
        hold_attention: take the gradient with the attention patterns held fixed, as in
            `record_attention`: what is asked is "what did it take from where it looked?", not "what
            if it looked elsewhere?". Every gradient method scores higher so, in the garden and on
            photographs (`benchmarks/results`); published rules are defined with False.
        steps: capture the inputs `α x` for `α = (i + ½) / steps` instead of `x`, from grey to the
            picture, for maps that are averaged over them (Sundararajan et al. 2017,
            arXiv:1703.01365).
        batch_size: inputs in one pass, to save memory; None is all of them, `steps · B`.

    Returns:
        The `Capture`.

    Raises:
        ValueError: an argument is out of its range, the model's attention cannot be captured or its
            tokens fit no grid, or a class is asked of a model without a classifier.

    Example:
        >>> import timm, torch
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=(32, 64), depth=2)
        >>> capture = capture_attention(model, torch.zeros(1, 3, 32, 64), target=7)
        >>> capture.blocks[0].attention().shape, capture.blocks[0].gradient().shape
        (torch.Size([1, 3, 9, 9]), torch.Size([1, 3, 9, 9]))
    """
    library = library_of(model)
    check_input(model, x)
    library = type(library)(twin(library.model))
    check_flag("gradient", gradient)
    check_flag("hold_attention", hold_attention)
    check_count("steps", steps)
    check_count("batch_size", 1 if batch_size is None else batch_size)
    size = batch_size or steps * len(x)
    with (
        record_attention(library.model, hold_attention=hold_attention) as record,
        torch.inference_mode(False),
    ):
        x = x.clone() if x.is_inference() else x.detach()
        if steps == 1 and len(x) <= size:
            logits, chosen, calls = _run(library, record, x, target, gradient)
        else:  # what is asked of a part is asked of the whole
            with torch.no_grad():
                logits = torch.cat([library.logits(part) for part in x.split(size)])
            chosen = choose_target(library, logits, target, gradient)
            alphas = [(step + 0.5) / steps for step in range(steps)] if steps > 1 else [1.0]
            inputs = torch.cat([alpha * x for alpha in alphas]).split(size)
            asked: Sequence[Target] = [chosen] * len(inputs)
            if isinstance(chosen, Tensor):
                asked = chosen.repeat(steps).split(size)
            pairs = zip(inputs, asked, strict=True)
            parts = [_run(library, record, *pair, gradient)[2] for pair in pairs]
            calls = [_join(same) for same in zip(*parts, strict=True)]
    grid, pool = library.grid(x), None if record.pool_call is None else calls.pop()
    tokens = calls[0].q.shape[2]
    if grid.tokens != tokens:
        raise ValueError(
            f"{library.what} has {tokens} tokens, which do not fit {grid.prefix} prefix tokens "
            f"and a {grid.rows}×{grid.cols} grid"
        )
    return Capture(model, x, grid, calls, pool, logits, chosen, hold_attention, steps)


def _run(
    library: Library, record: AttentionRecord, x: Tensor, target: Target, gradient: bool
) -> tuple[Tensor, Chosen, list[AttentionCall]]:
    """One pass: logits, what is asked of them, and all recorded calls, the pool's last."""
    record.from_last_tokens = not gradient  # the head's own gradient says what it reads
    with torch.enable_grad():
        logits = library.logits(x)
        ran, blocks = len(record.blocks), len(library.block_modules())
        if ran < blocks:
            raise ValueError(f"{library.what}: only {ran} of its {blocks} blocks ran in the pass")
        chosen = choose_target(library, logits, target, gradient)
        asks = gradient or callable(chosen)
        scalar = score(logits, chosen).sum() if asks else logits.sum()
        if asks and logits.requires_grad and not scalar.requires_grad:
            raise ValueError(f"target {target!r} does not depend on the logits")
        if scalar.requires_grad:
            _check_reads(library, library.grid(x), record.read_tokens(scalar))
        try:
            calls = record.differentiate(scalar, retain_graph=False) if gradient else record.calls
        except ValueError as error:
            raise ValueError(
                f"{library.what} lets no gradient through to its attention (quantised models have "
                "none): methods that answer for no class, as rollout, need none"
            ) from error
    return logits.detach(), chosen, calls


def _check_reads(library: Library, grid: TokenGrid, read: Tensor) -> None:
    """Raise a ValueError if the head reads tokens at which a map does not start."""
    expected = library.reads(grid)
    if expected is None or len(read) != grid.tokens:  # a pool says itself; a grid is checked later
        return
    more = (read.cpu() & (expected == 0)).nonzero()[:, 0].tolist()
    if more:
        known = expected.nonzero()[:, 0].tolist()
        raise ValueError(
            f"{library.what} has a head that reads {_some(more)} of the last block's tokens beside "
            f"{_some(known)}: where a map of it would start is not known"
        )


def _some(tokens: list[int]) -> str:
    """A short name for some tokens."""
    return f"{tokens[0]}" if len(tokens) == 1 else f"{tokens[0]}…{tokens[-1]} ({len(tokens)})"


def _join(calls: Sequence[AttentionCall]) -> AttentionCall:
    """The calls of one block for parts of a batch, as one."""
    joined: dict[str, Any] = {}
    for field in fields(AttentionCall):
        parts = [getattr(call, field.name) for call in calls]
        together = isinstance(parts[0], Tensor)
        if together and field.name == "mask":  # most are the same for all images
            together = not all(torch.equal(part, parts[0]) for part in parts)
        joined[field.name] = torch.cat(parts) if together else parts[0]
    return AttentionCall(**joined)
