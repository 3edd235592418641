"""Maximum flow: the most attention that could get through, from above the last block to each token.

OR-tools is an optional extra: with what it brings it takes 165 MB, more than the rest of the
package without PyTorch, for one method of several. Nothing else solves these graphs as fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..checks import check_weights
from .attention_rollout import Rollout

# The solver counts in whole numbers. One unit is 3.6e-15, so that even 10⁸ rounded arcs together
# are off by less than 1e-6, and the sum over 30,000 tokens that carry one each still fits int64.
_UNITS = 2.0**48
_EQUAL = 1e-9  # two sums of rounded capacities this close are the same
_PATIENCE = 5.0  # seconds before a progress bar appears

Array = NDArray[np.float64]
Row = Any  # the start, and the capacities so far; nothing but the start at first


@dataclass(frozen=True, kw_only=True)
class Flow(Rollout):
    """`attention_flow` as a method: the matrices of rollout, which carry no row but a flow."""

    name = "flow"
    label = "attention flow"
    slow = True

    def weigh(self, attention: Tensor, gradient: Tensor | None) -> Tensor:
        """Fuse the heads."""
        fused = super().weigh(attention, gradient).detach()
        check_weights("attention", fused)
        return fused

    def carry(self, row: Row, matrix: Tensor) -> Row:
        """Keep the block's capacities: a flow is solved in all blocks together."""
        start, below = row if isinstance(row, tuple) else (row.detach(), [])
        return start, [*below, _capacities(matrix.cpu().double(), self.residual_weight)]

    def finish(self, row: Row, tokens: Sequence[int] | None = None) -> Tensor:
        """The flow to each token, or to some."""
        start, below = row
        check_weights("start", start)
        blocks = torch.stack(below[::-1], dim=1).numpy()  # [B, L, T, T], first block first
        asked = _check_tokens(tokens, start.shape[-1])
        flows = np.zeros((len(start), len(asked)))
        with tqdm(
            total=flows.size, desc="attention flow", unit="token", delay=_PATIENCE, disable=None
        ) as bar:
            for image, first, flow in zip(blocks, start, flows, strict=True):
                flow[:] = max_flows(image, first.cpu().double().numpy(), asked, bar.update)
        return torch.from_numpy(flows).to(start)


def attention_flow(
    attention: Sequence[Tensor],
    *,
    head_fusion: str = "mean",
    discard_ratio: float = 0.0,
    residual_weight: float = 0.5,
    start: Tensor | None = None,
    class_token: bool = True,
    tokens: Sequence[int] | None = None,
) -> Tensor:
    """Attention flow (Abnar & Zuidema 2020, arXiv:2005.00928).

    The tokens above and below each block are the nodes of a graph; an arc from query to key can
    carry at most `Â = rownorm((1 − w) fuse(A) + w I)`, as in `rollout`. A token's flow is the
    maximum flow from what `start` feeds into the last block to that token below the first block,
    each token asked alone. In a terminal a progress bar appears after five seconds.

    Flow saturates: in the trained ViTs measured, of six and twelve blocks, nearly every token's
    flow is `min(1, Σ_t Â_1[t, s])`, all that enters it in the first block, wherever the flow
    starts (notebook 06).

    Args:
        attention: one `[B, H, T, T]` per block, first block first.
        head_fusion: `"mean"` (published), `"max"` or `"min"`.
        discard_ratio: as in `rollout`.
        residual_weight: as in `rollout`.
        start: what each token of the last block is fed at most, `[T]` or `[B, T]`, non-negative;
            None is a one at token 0.
        class_token: token 0 is a class token (see `discard_lowest`).
        tokens: the `N` tokens to ask for; None is all.

    Returns:
        `[B, T]`, or `[B, N]` in the order of `tokens`: non-negative and at most the sum of `start`.

    Raises:
        ValueError: an argument is out of its range or of the wrong shape, or attention is
            negative or not finite.
        ImportError: OR-tools is not installed.

    Example:
        >>> uniform = torch.full((1, 1, 2, 2), 0.5)
        >>> attention_flow([uniform, uniform])
        tensor([[1.0000, 0.5000]])
    """
    method = Flow(
        head_fusion=head_fusion, discard_ratio=discard_ratio, residual_weight=residual_weight
    )
    row = method.carry_tensors(attention, start=start, class_token=class_token)
    return method.finish(row, tokens)


def max_flows(
    capacity: Array,
    start: Array,
    tokens: Sequence[int],
    solved: Callable[[int], object] = lambda count: None,
) -> Array:
    """Maximum flow to each token, in a layered graph of any capacities up to about 1.

    Two cuts bound every flow: all that `start` can feed, and all that can come to the tokens above
    the first block and on into the one asked for. Most flows of a trained model reach the lower of
    them. A small graph proves it: attention is rolled out through the upper blocks and, from the
    token, back up through the lower ones, both feasible flows, and only the blocks between them
    are solved: one, then three, and all of them for the flows that do not reach their bound.

    Args:
        capacity: `[L, T, T]`, first block first, from query (row) to key (column).
        start: `[T]`, what the tokens above the last block are fed at most.
        tokens: those to ask for.
        solved: called with the number of tokens solved, as they are.

    Returns:
        One flow for each of `tokens`.

    Raises:
        ImportError: OR-tools is not installed.

    Example:
        >>> chain = np.array([[[0.5, 0.1], [0.0, 0.5]], [[0.5, 0.5], [0.0, 1.0]]])
        >>> max_flows(chain, np.array([1.0, 0.0]), [0, 1])
        array([0.5, 0.6])
    """
    start = np.minimum(start, capacity[-1].sum(1))  # no token passes on more than its arcs carry
    into = capacity[0][:, tokens].T  # [N, T], what each token can be given by those above it
    blocks = capacity[:0:-1]  # last block first; the first block is the arcs into the sink
    comes = blocks[-1].sum(0) if len(blocks) else start
    flows = np.minimum(start.sum(), np.minimum(into, comes).sum(1))  # the bounds, for now
    left = list(range(len(tokens)))
    for width in sorted({min(width, len(blocks)) for width in (1, 3, len(blocks))}):
        network, demand = _between(start, into, blocks, width)
        unproved = []
        for index in left:
            flow = network.flow(demand[index])
            if width < len(blocks) and flow < flows[index] - _EQUAL:
                unproved.append(index)
                continue
            flows[index] = min(flow, flows[index])
            solved(1)
        left = unproved
        if not left:
            break
    return flows


def _between(start: Array, into: Array, blocks: Array, width: int) -> tuple[_Network, Array]:
    """The graph of `width` blocks in the middle, and what each token may take from it, `[N, T]`."""
    upper = (len(blocks) - width) // 2
    for block in blocks[:upper]:
        start = _pass_on(start, block)
    for block in blocks[: upper + width - 1 : -1]:
        into = _pass_on(into, block.T)
    return _Network(start, blocks[upper : upper + width]), into


class _Network:
    """A source, the tokens above and below each block, and a sink whose arcs change."""

    def __init__(self, supply: Array, blocks: Array) -> None:
        count = len(supply)
        below = 1 + len(blocks) * count  # node 0 is the source; then layer after layer
        self.sink = below + count
        units = _whole(supply)
        reached = np.flatnonzero(units)
        arcs = [(np.zeros_like(reached), 1 + reached, units[reached])]
        for index, block in enumerate(blocks):
            units = _whole(block)
            if index == 0:
                units[supply == 0] = 0
            query, key = np.nonzero(units)  # an arc that carries nothing is none
            above = 1 + index * count
            arcs.append((above + query, above + count + key, units[query, key]))
        last = below + np.arange(count)
        arcs.append((last, np.full(count, self.sink), np.zeros(count, np.int64)))
        tails, heads, units = (np.concatenate(part) for part in zip(*arcs, strict=True))
        self.solver = _new_solver()
        added = self.solver.add_arcs_with_capacity(
            tails.astype(np.int32), heads.astype(np.int32), units
        )
        self.into_sink = added[-count:]

    def flow(self, demand: Array) -> float:
        """The maximum flow when each token of the lowest layer may hand `demand` to the sink."""
        self.solver.set_arcs_capacity(self.into_sink, _whole(demand))
        status = self.solver.solve(0, self.sink)
        if status != self.solver.OPTIMAL:
            raise RuntimeError(f"OR-tools could not solve the flow: {status}")
        return self.solver.optimal_flow() / _UNITS


def _new_solver():  # type: ignore[no-untyped-def]
    try:
        from ortools.graph.python.max_flow import SimpleMaxFlow
    except ImportError as error:
        raise ImportError(
            "attention flow needs OR-tools: pip install 'vitexplain-utils[flow]'"
        ) from error
    return SimpleMaxFlow()


def _pass_on(amount: Array, capacity: Array) -> Array:
    """Spread the amount at each node `[..., T]` over its arcs `[T, T]`, in their proportions.

    No arc carries more than it can; what a node has too much of stays behind.
    """
    total = capacity.sum(1)
    filled = np.minimum(amount / np.where(total > 0, total, 1), total > 0)
    return filled @ capacity


def _whole(values: Array) -> NDArray[np.int64]:
    return np.rint(values * _UNITS).astype(np.int64)


def _capacities(matrices: Tensor, residual_weight: float) -> Tensor:
    """`rownorm((1 − w) matrix + w I)`, of `[L, T, T]`; an empty row (w = 0) stays empty."""
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    mixed = (1 - residual_weight) * matrices + residual_weight * identity
    total = mixed.sum(-1, keepdim=True)
    return mixed / total.where(total > 0, 1)


def _check_tokens(tokens: Sequence[int] | None, count: int) -> list[int]:
    asked = range(count) if tokens is None else tokens
    if len(asked) == 0 or not all(token in range(count) for token in asked):
        raise ValueError(f"tokens must be indices from 0 to {count - 1}, got {tokens!r}")
    return [int(token) for token in asked]
