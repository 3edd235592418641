"""Head fusion: one matrix per block out of its heads."""

from __future__ import annotations

from torch import Tensor

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
    if attention.ndim != 4 or not attention.is_floating_point():
        raise ValueError(
            f"attention must be a float tensor [B, H, T, S], got {attention.dtype} "
            f"of shape {tuple(attention.shape)}"
        )
    attention = at_least_float32(attention)
    if head_fusion == "mean":
        return attention.mean(1)
    if head_fusion == "max":
        return attention.amax(1)
    return attention.amin(1)


def check_head_fusion(head_fusion: str) -> None:
    """Raise a ValueError for an unknown fusion."""
    if head_fusion not in HEAD_FUSIONS:
        raise ValueError(f"head_fusion must be one of {HEAD_FUSIONS}, got {head_fusion!r}")
