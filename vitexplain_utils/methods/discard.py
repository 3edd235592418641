"""Discard: set the lowest share of a fused matrix to zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..checks import check_number, check_numbers, check_weights


def discard_lowest(fused: Tensor, discard_ratio: float, *, class_token: bool = True) -> Tensor:
    """Set the lowest `⌊discard_ratio · T²⌋` entries of each matrix to 0.

    The threshold is one for the whole matrix, not one per row (jacobgil's vit-explain, 2020, is
    where the filter comes from). Of equal entries the earlier ones, row by row, go first, so the
    number of discarded entries is exact.

    Args:
        fused: `[B, T, T]`, non-negative, one matrix per image.
        discard_ratio: in [0, 1).
        class_token: token 0 is a class token, whose attention to itself is never discarded.

    Returns:
        A new tensor `[B, T, T]` (for ratio 0 the input itself).

    Raises:
        ValueError: wrong shape, negative values or NaN, or a ratio outside [0, 1).

    Example:
        >>> import torch
        >>> discard_lowest(torch.tensor([[[0.1, 0.9], [0.7, 0.3]]]), 0.5)
        tensor([[[0.1000, 0.9000],
                 [0.7000, 0.0000]]])
    """
    check_numbers("fused", fused, 3, "[B, T, T]")
    if fused.shape[1] != fused.shape[2]:
        raise ValueError(f"fused must be [B, T, T], got shape {tuple(fused.shape)}")
    check_discard_ratio(discard_ratio)
    check_weights("fused", fused)
    ((_, kept),) = discard_each(fused, [discard_ratio], class_token=class_token)
    return kept


def discard_each(
    fused: Tensor, discard_ratios: Sequence[float], *, class_token: bool = True
) -> Iterator[tuple[int, Tensor]]:
    """`discard_lowest` for several ratios: the index of each, rising, and what it leaves.

    The entries are put in order once. What one ratio discards, a higher one discards too, so a
    single copy is thinned out in place, and a tensor holds only until the next one is made.
    """
    flat = fused.flatten(1)  # [B, T, T] -> [B, T*T]
    counts = [int(ratio * flat.shape[1]) for ratio in discard_ratios]
    rising = sorted(range(len(counts)), key=counts.__getitem__)
    if counts[rising[-1]]:
        left = flat.clone()
        ordered = [_in_order(values, counts) for values in flat.detach().cpu().numpy()]
        images = list(zip(left, flat, ordered, strict=True))
        kept, corner, first = left.view_as(fused), left[:, 0], flat[:, 0]
    for index in rising:
        if counts[index] == 0:
            yield index, fused
            continue
        for thinned, matrix, (zeros, values) in images:
            if counts[index] > zeros:  # zeros may as well be discarded
                _thin_out(thinned, matrix, values, counts[index] - zeros)
        if class_token:
            corner.copy_(first)
        yield index, kept


def _in_order(values: np.ndarray, counts: Sequence[int]) -> tuple[int, np.ndarray]:
    """How many zeros there are, and the others in order, at least where `counts` cut."""
    zeros = len(values) - int(np.count_nonzero(values))
    others = values[values != 0] if zeros else values  # many equal values are slow to order
    places = {count - zeros for count in counts if count > zeros}
    if len(places) != 1:
        return zeros, np.sort(others) if places else others
    (place,) = places
    ordered = np.partition(others, place)
    ordered[place - 1] = ordered[:place].max()  # quicker than a second place
    return zeros, ordered


def _thin_out(thinned: Tensor, matrix: Tensor, ordered: np.ndarray, count: int) -> None:
    """Set to 0 the `count` lowest positive entries of `matrix`, which are `ordered`."""
    highest = ordered[count - 1]  # of those to discard
    if ordered[count] > highest:
        torch.threshold_(thinned, float(highest), 0)
        return
    # Of the entries of this very value the earlier ones go and the others stay.
    torch.threshold_(thinned, float(np.nextafter(highest, highest.dtype.type(0))), 0)
    equal = (matrix == float(highest)).nonzero()[:, 0]
    lower = int(((matrix != 0) & (matrix < float(highest))).sum())
    thinned[equal[: count - lower]] = 0


def check_discard_ratio(discard_ratio: float) -> None:
    """Raise a ValueError unless `discard_ratio` is a number in [0, 1)."""
    check_number("discard_ratio", discard_ratio, 0, 1, below=True)
