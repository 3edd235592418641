"""Method: what every way from a capture to a heat map has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ..capture import Capture, capture_attention
from ..checks import (
    check_finite,
    check_flag,
    check_number,
    check_numbers,
    check_sequence,
    check_weights,
)
from ..models.targets import Target
from .discard import check_discard_ratio, discard_each
from .head_fusion import check_head_fusion

Self = TypeVar("Self", bound="Method")


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way from a capture to a heat map: weigh each block, discard, carry a row down.

    A subclass is one method. Its fields are its settings, with their defaults; two functions make
    it: `weigh` makes one matrix of a block's heads, and `carry` takes what has come down to a block
    through that matrix. All else is written here, once: the blocks from the last to the first, one
    matrix alive at a time, sweeps over discard ratios, checks.

    Attributes:
        name: as in `explain(method=name)`.
        label: how people call it.
        needs_gradient: whether it answers for a target; if not, it has one map for all classes.
        by_rows: whether `weigh` looks at each row by itself; many tokens then take less memory.
        needs_class_token: whether it can start nowhere but at a class token.
        offered: whether it can be asked for by its name: in `explain`, `discard_sweep`, on the
            command line, in the explorer and in `evaluate_methods`.
        slow: whether it takes seconds; the explorer and `evaluate_methods` leave it out.
        blocks: first and last block, both included; None is all. A map still starts at the tokens
            that the head reads; blocks above the range pass every token on unchanged.

    Example:
        >>> from vitexplain_utils.methods import METHODS
        >>> METHODS["rollout"].having(head_fusion="max").settings
        {'blocks': None, 'head_fusion': 'max', 'discard_ratio': 0.0, 'residual_weight': 0.5}
    """

    name: ClassVar[str]
    label: ClassVar[str]
    needs_gradient: ClassVar[bool] = False
    by_rows: ClassVar[bool] = False
    needs_class_token: ClassVar[bool] = False
    offered: ClassVar[bool] = True
    slow: ClassVar[bool] = False

    blocks: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name, value in self.settings.items():
            if name in _CHECKS:
                _CHECKS[name](value)

    @abstractmethod
    def weigh(self, attention: Tensor, gradient: Tensor | None) -> Tensor:
        """One matrix `[B, T, S]` of a block's (or pool's) heads `[B, H, T, S]`.

        Non-negative, if the method discards.
        """

    @abstractmethod
    def carry(self, row: Any, matrix: Tensor) -> Any:
        """What has come down to a block, `[B, T]`, taken through its matrix `[B, T, T]`."""

    def weigh_rows(self, capture: Capture, index: int, rows: slice) -> Tensor:
        """`weigh` for some rows of one block."""
        call = capture.blocks[index]
        return self.weigh(
            call.attention(rows), call.gradient(rows) if self.needs_gradient else None
        )

    def weigh_block(self, capture: Capture, index: int) -> Tensor:
        """The matrix of one block, `[B, T, T]`, in strips of rows where `weigh` allows it."""
        strips = self.strips(slice(capture.grid.tokens))
        parts = [self.weigh_rows(capture, index, rows) for rows in strips]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def strips(self, rows: slice) -> list[slice]:
        """The rows in strips, so that what all heads have of them stays small."""
        size = _STRIP if self.by_rows else rows.stop
        cuts = range(rows.start or 0, rows.stop, size)
        return [slice(first, min(first + size, rows.stop)) for first in cuts]

    def start(self, capture: Capture) -> Any:
        """What comes down to the last block: the row `[B, T]` with which the head reads it."""
        library = capture.library
        if capture.pool is None:
            return start_row(capture.blocks[-1].q, library.reads(capture.grid))
        gradient = capture.pool.gradient() if self.needs_gradient else None
        pool = self.weigh(capture.pool.attention(), gradient)
        return library.pool_row(pool, capture.grid)

    def finish(self, row: Any) -> Tensor:
        """The row `[B, T]` below the first block, of what `carry` returned last."""
        return row

    def span(self, count: int) -> tuple[int, int]:
        """First and last of `count` blocks to carry the row through."""
        first, last = (0, count - 1) if self.blocks is None else self.blocks
        if not 0 <= first <= last < count:
            raise ValueError(f"blocks must be first <= last in 0 to {count - 1}, got {self.blocks}")
        return first, last

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting and its value."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def capture_settings(self) -> dict[str, Any]:
        """Those of the settings that are the capture's, `hold_attention` and `steps`."""
        return {name: value for name, value in self.settings.items() if name in _CAPTURED}

    def having(self: Self, **settings: Any) -> Self:
        """The method with other settings; a ValueError names those that it does not have."""
        for name in settings:
            if name not in self.settings:
                raise ValueError(
                    f"{self.name} has no setting {name}={settings[name]!r}; it has: "
                    f"{', '.join(self.settings)}"
                )
        return replace(self, **settings)

    def capture(
        self,
        model: nn.Module,
        x: Tensor,
        *,
        target: Target = None,
        batch_size: int | None = None,
    ) -> Capture:
        """`capture_attention`, as this method needs it."""
        return capture_attention(
            model,
            x,
            target=target,
            gradient=self.needs_gradient,
            batch_size=batch_size,
            **self.capture_settings,
        )

    def __call__(self, capture: Capture) -> Tensor:
        """`heatmap` with its own settings, so that a method is a function of a capture as well."""
        return self.heatmap(capture)

    @torch.no_grad()
    def heatmap(self, capture: Capture, **settings: Any) -> Tensor:
        """The heat map of each image, `[B, rows, cols]`, non-negative, float32 or float64.

        Args:
            capture: as from `capture_attention`, or `self.capture`.
            settings: as in `having`.

        Raises:
            ValueError: a setting that is unknown, out of its range or not the capture's, or numbers
                that are not finite.
        """
        method = self.having(**settings)
        return method._maps(capture, [getattr(method, "discard_ratio", 0.0)])[0]

    @torch.no_grad()
    def sweep(self, capture: Capture, discard_ratios: Sequence[float], **settings: Any) -> Tensor:
        """`heatmap` for `R` discard ratios, in any order: `[R, B, rows, cols]`, exactly the same.

        Raises:
            ValueError: as `heatmap`, or the method does not discard, or no ratios.
        """
        if "discard_ratio" in settings:
            raise ValueError("discard_ratio is what a sweep goes over: give discard_ratios alone")
        method = self.having(**settings)
        if "discard_ratio" not in method.settings:
            raise ValueError(f"method {self.name!r} has no discard_ratio to sweep over")
        check_sequence("discard_ratios", discard_ratios, "ratios")
        for discard_ratio in discard_ratios:
            check_number("each of discard_ratios", discard_ratio, 0, 1, below=True)
        return method._maps(capture, discard_ratios)

    def carry_down(
        self,
        weighed: Iterable[Tensor],
        start: Any,
        discard_ratios: Sequence[float],
        class_token: bool,
    ) -> list[Any]:
        """What `carry` returned last, below the first block, for each ratio.

        Args:
            weighed: one matrix `[B, T, T]` per block, last block first.
            start: as from `start`.
            discard_ratios: the ratios.
            class_token: as in `discard_lowest`.
        """
        rows = [start] * len(discard_ratios)
        for matrix in weighed:
            for index, kept in discard_each(matrix, discard_ratios, class_token=class_token):
                rows[index] = self.carry(rows[index], kept)
        return rows

    def carry_tensors(
        self,
        attention: Sequence[Tensor],
        gradient: Sequence[Tensor] | None = None,
        *,
        start: Tensor | None = None,
        class_token: bool = True,
    ) -> Any:
        """`carry_down` through given tensors `[B, H, T, T]`, one per block, checked."""
        check_blocks(attention)
        if self.needs_gradient:
            check_match(attention, gradient)
        grads = [None] * len(attention) if gradient is None else gradient
        pairs = list(zip(attention, grads, strict=True))
        weighed = (self.weigh(*pair) for pair in reversed(pairs))
        row = start_row(attention[-1], start)
        ratio = getattr(self, "discard_ratio", 0.0)
        return self.carry_down(weighed, row, [ratio], class_token)[0]

    def _maps(self, capture: Capture, discard_ratios: Sequence[float]) -> Tensor:
        self._check(capture)
        with torch.autocast(capture.x.device.type, enabled=False):
            return self._checked_maps(capture, discard_ratios)

    def _checked_maps(self, capture: Capture, discard_ratios: Sequence[float]) -> Tensor:
        first, last = self.span(len(capture.blocks))
        weighed = (self.weigh_block(capture, index) for index in range(last, first - 1, -1))
        class_token = capture.library.class_token
        carried = self.carry_down(weighed, self.start(capture), discard_ratios, class_token)
        rows = torch.stack([self.finish(row) for row in carried])
        tokens = capture.grid.tokens
        if rows.shape[1:] != (capture.steps * len(capture.x), tokens):
            raise ValueError(
                f"method {self.name!r} ends with rows of shape {tuple(rows.shape[1:])}, not one of "
                f"{tokens} tokens for each input: look at its weigh and carry"
            )
        rows = rows.unflatten(1, (capture.steps, -1)).mean(1)  # [R, steps*B, T] -> [R, B, T]
        heatmaps = capture.grid.to_grid(rows.clamp(min=0))
        if not bool(heatmaps.isfinite().all()):
            raise ValueError(
                "the attention or its gradient is not finite: x or the weights overflow"
            )
        return heatmaps

    def _check(self, capture: Capture) -> None:
        if self.needs_gradient and not capture.has_gradient:
            raise ValueError(f"method {self.name!r} needs a capture made with gradient=True")
        if self.needs_class_token and not capture.library.class_token:
            raise ValueError(f"method {self.name!r} starts at a class token, and there is none")
        for name, wanted in {"steps": 1, **self.capture_settings}.items():
            made = getattr(capture, name)
            if wanted != made:
                raise ValueError(
                    f"method {self.name!r} with {name}={wanted} needs a capture made with it, and "
                    f"this one has {name}={made}: say {name}={made} to use it as it is"
                )


@dataclass(frozen=True, kw_only=True)
class GradientMethod(Method):
    """A method that answers for a target: it needs the gradient of each block's attention.

    Attributes:
        hold_attention: as in `capture_attention`; a setting of the capture.
        steps: as in `capture_attention`; a map is the mean over the captured inputs, and what
            remains negative is set to 0 after that.
    """

    needs_gradient = True

    hold_attention: bool = True
    steps: int = 1


def start_row(like: Tensor, start: Tensor | None) -> Tensor:
    """`start` as `[B, T]`, at least float32, for tensors `[B, H, T, d]`; None is token 0."""
    batch, tokens = like.shape[0], like.shape[-2]
    if start is None:
        start = torch.zeros(tokens)
        start[0] = 1
    if not isinstance(start, Tensor) or start.shape not in ((tokens,), (batch, tokens)):
        got = tuple(start.shape) if isinstance(start, Tensor) else type(start).__name__
        raise ValueError(
            f"start must be a tensor [T] or [B, T] with T = {tokens}, B = {batch}; got {got}"
        )
    check_weights("start", start)
    wide = torch.promote_types(like.dtype, torch.float32)
    return start.to(like.device, wide).expand(batch, tokens)


def check_blocks(attention: Sequence[Tensor]) -> None:
    """Raise a ValueError unless there is one attention `[B, H, T, T]` per block, all alike."""
    check_sequence("attention", attention, "[B, H, T, T], one per block")
    for block in attention:
        check_numbers("each of attention", block, 4, "[B, H, T, T]")
        check_weights("attention", block)
    shapes = {tuple(block.shape) for block in attention}
    if len(shapes) != 1 or any(len(s) != 4 or s[2] != s[3] for s in shapes):
        raise ValueError(
            "attention must hold one [B, H, T, T] per block, all of one shape; "
            f"got {sorted(shapes)}"
        )


def check_match(attention: Sequence[Tensor], gradient: Sequence[Tensor] | None) -> None:
    """Raise a ValueError unless there is one gradient for each attention, of the same shape."""
    check_sequence("gradient", gradient, "[B, H, T, T], one per block")
    assert gradient is not None
    for block in gradient:
        check_numbers("each of gradient", block, 4, "[B, H, T, T]")
        check_finite("gradient", block)
    shapes = [tuple(g.shape) for g in gradient]
    if shapes != [tuple(a.shape) for a in attention]:
        raise ValueError(
            f"gradient must match attention block by block; got shapes {shapes} for "
            f"{[tuple(a.shape) for a in attention]}"
        )


def check_residual_weight(residual_weight: float) -> None:
    """Raise a ValueError unless `residual_weight` is a number in [0, 1)."""
    check_number("residual_weight", residual_weight, 0, 1, below=True)


_STRIP = 256  # rows of a strip: DeiT's 197 tokens are one, and shorter ones cost time
_CAPTURED = ("hold_attention", "steps")


def _check_blocks_setting(blocks: tuple[int, int] | None) -> None:
    good = blocks is None or (
        isinstance(blocks, Sequence)
        and len(blocks) == 2
        and all(isinstance(index, int) and not isinstance(index, bool) for index in blocks)
    )
    if not good:
        raise ValueError(f"blocks must be (first, last) or None, got {blocks!r}")


_CHECKS: dict[str, Callable[[Any], None]] = {
    "blocks": _check_blocks_setting,
    "hold_attention": partial(check_flag, "hold_attention"),
    "head_fusion": check_head_fusion,
    "discard_ratio": check_discard_ratio,
    "residual_weight": check_residual_weight,
}
