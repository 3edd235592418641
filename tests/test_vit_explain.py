from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from reference import array, gradient_blocks, naive_fuse, naive_matmul, softmax_blocks

from vitexplain_utils.methods import (
    MISTAKES,
    VitExplain,
    gradient_rollout,
    mistaken_gradient_rollout,
    pre_softmax_gradient,
)

SHAPE = (3, 2, 4, 6)  # blocks, batch, heads, tokens
SOME = [some for count in range(4) for some in combinations(MISTAKES, count)]


def inputs() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return softmax_blocks(*SHAPE, seed=1), gradient_blocks(*SHAPE, seed=2)


def naive(attention: list[np.ndarray], gradient: list[np.ndarray], mistakes) -> np.ndarray:
    """One image, entry by entry."""
    heads, tokens = attention[0].shape[:2]
    product = np.eye(tokens)
    for block, weights in enumerate(attention):
        other = len(attention) - 1 - block if "reversed_blocks" in mistakes else block
        grads = gradient[other].copy()
        if "pre_softmax" in mistakes:  # of the block that the gradient belongs to
            for h in range(heads):
                for t in range(tokens):
                    a, g = attention[other][h, t], gradient[other][h, t]
                    jacobian = np.diag(a) - np.outer(a, a)
                    grads[h, t] = naive_matmul(g[None], jacobian)[0]
        fused = np.maximum(naive_fuse(weights * grads, "mean"), 0)
        mixed = fused / 2 + np.eye(tokens) / 2
        sums = [sum(mixed[t]) for t in range(tokens)]
        for t in range(tokens):
            for s in range(tokens):
                mixed[t, s] /= sums[s] if "columns" in mistakes else sums[t]
        product = naive_matmul(mixed, product)
    return product[0]


@pytest.mark.parametrize("mistakes", SOME, ids="+".join)
def test_each_equals_a_loop(mistakes):
    attention, gradient = inputs()
    row = mistaken_gradient_rollout(attention, gradient, mistakes)
    for image in range(2):
        expected = naive(
            [array(block[image]) for block in attention],
            [array(block[image]) for block in gradient],
            mistakes,
        )
        np.testing.assert_allclose(array(row[image]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mistakes", SOME, ids="+".join)
def test_the_method_is_the_function_on_a_capture(mistakes, tiny, tiny_x):
    method = VitExplain(mistakes=tuple(mistakes))
    capture = method.capture(tiny, tiny_x, target=3)
    attention = [call.attention() for call in capture.blocks]
    row = mistaken_gradient_rollout(attention, [b.gradient() for b in capture.blocks], mistakes)
    torch.testing.assert_close(method.heatmap(capture), capture.grid.to_grid(row))


def test_without_mistakes_it_is_gradient_rollout():
    attention, gradient = inputs()
    right = gradient_rollout(attention, gradient)
    torch.testing.assert_close(
        mistaken_gradient_rollout(attention, gradient, []), right, rtol=0, atol=1e-12
    )
    for mistake in MISTAKES:
        wrong = mistaken_gradient_rollout(attention, gradient, [mistake])
        assert (wrong - right).abs().max() > 1e-3, mistake


def test_discards_as_gradient_rollout_does():
    attention, gradient = inputs()
    right = gradient_rollout(attention, gradient, discard_ratio=0.7)
    found = mistaken_gradient_rollout(attention, gradient, [], discard_ratio=0.7)
    torch.testing.assert_close(found, right, rtol=0, atol=1e-12)
    for mistakes in ([], MISTAKES):
        kept = mistaken_gradient_rollout(attention, gradient, mistakes)
        left = mistaken_gradient_rollout(attention, gradient, mistakes, discard_ratio=0.7)
        assert (left - kept).abs().max() > 1e-3


def test_inputs_are_not_modified():
    attention, gradient = inputs()
    mistaken_gradient_rollout(attention, gradient, MISTAKES)
    for block, again in zip([*attention, *gradient], [*inputs()[0], *inputs()[1]], strict=True):
        assert torch.equal(block, again)


def test_pre_softmax_gradient_is_that_of_the_scores():
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(2, 4, 6, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    attention = scores.softmax(-1)
    y = (attention**2 * torch.arange(6)).sum()
    wanted, gradient = torch.autograd.grad(y, [scores, attention])
    found = pre_softmax_gradient(attention.detach(), gradient)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)
    assert found.sum(-1).abs().max() < 1e-14 < found.abs().max()


def test_unknown_mistake():
    with pytest.raises(ValueError, match=r"mistakes.*\['typo'\]"):
        mistaken_gradient_rollout(*inputs(), ["columns", "typo"])
