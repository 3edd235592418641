"""Token grid: which tokens are patches, where they lie, and which the head reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TokenGrid:
    """`prefix` tokens (class, distillation, registers), then `rows × cols` patches."""

    prefix: int
    rows: int
    cols: int

    @property
    def tokens(self) -> int:
        """`T`, the number of all tokens."""
        return self.prefix + self.rows * self.cols

    def to_grid(self, row: Tensor) -> Tensor:
        """The patch tokens of `[B, T]` on their grid, `[B, rows, cols]`."""
        return row[:, self.prefix :].reshape(-1, self.rows, self.cols)  # [B, T] -> [B, rows, cols]


def token_grid(model: nn.Module, x: Tensor, tokens: int) -> TokenGrid:
    """The layout of a model's tokens for the input `x`.

    Args:
        model: a timm ViT.
        x: its input, `[B, 3, H, W]`.
        tokens: `T` as recorded, which the layout must explain.

    Raises:
        ValueError: the tokens do not fit a grid.

    Example:
        >>> import timm, torch
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=(32, 64), depth=1)
        >>> token_grid(model, torch.zeros(1, 3, 32, 64), tokens=9)
        TokenGrid(prefix=1, rows=2, cols=4)
    """
    name = type(model).__name__
    feature_size = getattr(getattr(model, "patch_embed", None), "dynamic_feat_size", None)
    prefix = getattr(model, "num_prefix_tokens", None)
    if feature_size is None or prefix is None:
        raise ValueError(f"model {name} does not say how its tokens lie on a patch grid")
    grid = TokenGrid(prefix, *feature_size(x.shape[-2:]))
    if grid.tokens != tokens:
        raise ValueError(
            f"model {name} has {tokens} tokens, which do not fit {prefix} prefix tokens and a "
            f"{grid.rows}×{grid.cols} grid"
        )
    return grid


def has_class_token(model: nn.Module) -> bool:
    """Whether token 0 is a class token."""
    return getattr(model, "cls_token", None) is not None


def head_reads(model: nn.Module, grid: TokenGrid, pool: Tensor | None, like: Tensor) -> Tensor:
    """The row a map starts from: the weights with which the head reads the last block's tokens.

    The class token; for a distilled DeiT the class and the distillation token, half each; for
    average pooling all patches alike; for attention pooling the pool's own attention.

    Args:
        model: a timm ViT.
        grid: its layout.
        pool: attention of the pool's latent query with heads fused, `[B, Q, K]`, or None.
        like: a tensor of the dtype and device wanted.

    Returns:
        `[T]` or, for attention pooling, `[B, T]`.

    Raises:
        ValueError: the head reads tokens in a way that has no such row (max pooling, none).
    """
    weights = torch.zeros(grid.tokens, dtype=like.dtype, device=like.device)
    if getattr(model, "attn_pool", None) is not None:
        return _pool_reads(model, grid, pool)
    pooling = getattr(model, "global_pool", "token")
    if pooling == "avg":
        weights[0 if getattr(model, "pool_include_prefix", False) else grid.prefix :] = 1
    elif pooling == "token" and has_class_token(model):
        weights[: 2 if getattr(model, "dist_token", None) is not None else 1] = 1
    else:
        raise ValueError(
            f"model {type(model).__name__} with global_pool={pooling!r}: only class token, average "
            "and attention pooling read the tokens with weights that a map can start from"
        )
    return weights / weights.sum()


def _pool_reads(model: nn.Module, grid: TokenGrid, pool: Tensor | None) -> Tensor:
    attn_pool = getattr(model, "attn_pool", None)
    if pool is None or not hasattr(attn_pool, "latent"):
        raise ValueError(
            f"model {type(model).__name__}: what its pool {type(attn_pool).__name__} reads of the "
            "tokens cannot be recorded"
        )
    averages = getattr(attn_pool, "pool", "token") == "avg"
    reads = pool.mean(1) if averages else pool[:, 0]  # [B, Q, K] -> [B, K]
    missing = grid.tokens - reads.shape[1]  # a pool that reads patches only
    return torch.nn.functional.pad(reads, (missing, 0))
