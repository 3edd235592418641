"""What the package computes, once more, as plain loops in float64 straight from the formulas."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights under which attention is far from uniform and every block matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
            elif "gamma" in name:  # layer scale
                parameter.fill_(1)
            elif name == "patch_embed.proj.bias":  # random in a new model
                parameter.zero_()
    return model.eval()


def softmax_blocks(blocks: int, batch: int, heads: int, tokens: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(
        blocks, batch, heads, tokens, tokens, generator=generator, dtype=torch.float64
    )
    return list((2 * scores).softmax(-1))


def gradient_blocks(blocks: int, batch: int, heads: int, tokens: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (blocks, batch, heads, tokens, tokens)
    return list(torch.randn(*shape, generator=generator, dtype=torch.float64))


def naive_fuse(heads: np.ndarray, head_fusion: str) -> np.ndarray:
    """`[H, T, S]` to `[T, S]`."""
    fused = np.zeros(heads.shape[1:])
    for t in range(heads.shape[1]):
        for s in range(heads.shape[2]):
            values = [float(head[t, s]) for head in heads]
            if head_fusion == "mean":
                fused[t, s] = sum(values) / len(values)
            else:
                fused[t, s] = {"max": max, "min": min}[head_fusion](values)
    return fused


def naive_discard(fused: np.ndarray, ratio: float, class_token: bool) -> np.ndarray:
    tokens = len(fused)
    order = sorted((fused[t, s], t, s) for t in range(tokens) for s in range(tokens))
    kept = fused.copy()
    for _, t, s in order[: int(ratio * tokens * tokens)]:
        if not (class_token and t == s == 0):
            kept[t, s] = 0
    return kept


def naive_matmul(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    out = np.zeros((len(left), right.shape[1]))
    for i in range(len(left)):
        for j in range(right.shape[1]):
            out[i, j] = sum(left[i, k] * right[k, j] for k in range(len(right)))
    return out


def naive_rollout(
    attention: list[np.ndarray],
    gradient: list[np.ndarray] | None = None,
    *,
    head_fusion: str = "mean",
    ratio: float = 0.0,
    weight: float = 0.5,
    start: np.ndarray | None = None,
    class_token: bool = True,
) -> np.ndarray:
    """One image: `[H, T, T]` per block to `[T]`, by the full product of matrices."""
    tokens = attention[0].shape[-1]
    product = np.eye(tokens)
    for block, heads in enumerate(attention):
        if gradient is None:
            fused = naive_fuse(heads, head_fusion)
        else:
            fused = np.maximum(naive_fuse(heads * gradient[block], head_fusion), 0)
        mixed = (1 - weight) * naive_discard(fused, ratio, class_token) + weight * np.eye(tokens)
        for t in range(tokens):
            total = sum(mixed[t])
            mixed[t] = mixed[t] / total if total > 0 else 0
        product = naive_matmul(mixed, product)
    first = np.eye(tokens)[0] if start is None else start
    return naive_matmul(first[None], product)[0]


def naive_relevance(
    attention: list[np.ndarray], gradient: list[np.ndarray], *, start: np.ndarray | None = None
) -> np.ndarray:
    """One image: `[H, T, T]` per block to `[T]`, with all of `R`."""
    tokens = attention[0].shape[-1]
    relevance = np.eye(tokens)
    for heads, grads in zip(attention, gradient, strict=True):
        positive = naive_fuse(np.maximum(heads * grads, 0), "mean")
        relevance = relevance + naive_matmul(positive, relevance)
    first = np.eye(tokens)[0] if start is None else start
    return naive_matmul(first[None], relevance)[0]


def naive_attribution(
    attention: list[np.ndarray], gradient: list[np.ndarray], rows: list[int]
) -> np.ndarray:
    """One image: `[H, T, T]` per block to `[T]`, signed."""
    total = np.zeros(attention[0].shape[-1])
    for heads, grads in zip(attention, gradient, strict=True):
        for head, grad in zip(heads, grads, strict=True):
            for t in rows:
                for s in range(len(total)):
                    total[s] += head[t, s] * grad[t, s]
    return total


def attention_forward(keep: list[Tensor], hold: bool = False):
    """A forward of timm's `Attention`, written out, that keeps what follows the softmax.

    With `hold` the attention is a constant: no gradient reaches the queries and the keys.
    """

    def forward(self: nn.Module, x: Tensor, attn_mask: None = None, is_causal: bool = False):
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).unbind(2)
        scores = torch.einsum("bthd,bshd->bhts", self.q_norm(q), self.k_norm(k)) * self.scale
        attention = scores.exp() / scores.exp().sum(-1, keepdim=True)
        attention = attention.detach().requires_grad_() if hold else attention
        keep.append(attention)
        read = torch.einsum("bhts,bshd->bthd", attention, v)
        return self.proj(self.norm(read.reshape(batch, tokens, -1)))

    return forward


def pool_forward(keep: list[Tensor], hold: bool = False):
    """The same for timm's `AttentionPoolLatent`."""

    def forward(self: nn.Module, x: Tensor, attn_mask: None = None):
        batch, tokens, _ = x.shape
        latent = self.latent.expand(batch, -1, -1)
        q = self.q(latent).reshape(batch, self.latent_len, self.num_heads, -1)
        k, v = self.kv(x).reshape(batch, tokens, 2, self.num_heads, -1).unbind(2)
        scores = torch.einsum("bqhd,bshd->bhqs", q, k) * self.scale
        attention = scores.exp() / scores.exp().sum(-1, keepdim=True)
        attention = attention.detach().requires_grad_() if hold else attention
        keep.append(attention)
        read = torch.einsum("bhqs,bshd->bqhd", attention, v)
        out = self.proj(read.reshape(batch, self.latent_len, -1))
        return (out + self.mlp(self.norm(out)))[:, 0]

    return forward
