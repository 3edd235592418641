"""Head fusion: one matrix per block out of its heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..checks import check_finite, check_numbers
from ..recording import at_least_float32

HEAD_FUSIONS = ("mean", "max", "min")


def fuse_heads(attention: Tensor, head_fusion: str = "mean") -> Tensor:
    """Fuse the heads of one block: `A[t, s] = fuse_h A[h, t, s]`.

    The mean is the published choice (Abnar & Zuidema 2020, arXiv:2005.00928); max keeps what any
    head looks at, min what all heads agree on. Rows of a max or min no longer sum to 1.

    Args:
        attention: `[B, H, T, S]`, any float dtype.
        head_fusion: `"mean"`, `"max"` or `"min"`.

    Returns:
        `[B, T, S]`, float32 (float64 for float64 input).

    Raises:
        ValueError: wrong shape or dtype, or an unknown fusion.

    Example:
        >>> import torch
        >>> heads = torch.tensor([[[[0.2, 0.8]], [[0.6, 0.4]]]])  # B=1, H=2, T=1, S=2
        >>> fuse_heads(heads, "max")
        tensor([[[0.6000, 0.8000]]])
    """
    check_head_fusion(head_fusion)
    check_numbers("attention", attention, 4, "[B, H, T, S]")
    fuse: Any = {"mean": torch.mean, "max": torch.amax, "min": torch.amin}[head_fusion]
    fused: Tensor = fuse(at_least_float32(attention), 1)
    check_finite("attention", fused)
    return fused


def check_head_fusion(head_fusion: str) -> None:
    """Raise a ValueError for an unknown fusion."""
    if not isinstance(head_fusion, str) or head_fusion not in HEAD_FUSIONS:
        raise ValueError(f"head_fusion must be one of {HEAD_FUSIONS}, got {head_fusion!r}")
