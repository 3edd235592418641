from __future__ import annotations

import pytest
import torch
from reference import array, naive_fuse, softmax_blocks

from vitexplain_utils.methods import HEAD_FUSIONS, fuse_heads


@pytest.mark.parametrize("head_fusion", HEAD_FUSIONS)
@pytest.mark.parametrize(
    ("dtype", "result", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-14),
        (torch.float32, torch.float32, 1e-7),
        (torch.float16, torch.float32, 1e-7),
        (torch.bfloat16, torch.float32, 1e-7),
    ],
)
def test_equals_a_loop_in_at_least_float32(head_fusion, dtype, result, tolerance):
    attention = softmax_blocks(1, 3, 4, 5)[0].to(dtype)
    fused = fuse_heads(attention, head_fusion)
    assert fused.dtype == result
    assert fused.shape == (3, 5, 5)
    for image in range(3):
        expected = naive_fuse(array(attention[image]), head_fusion)
        assert abs(array(fused[image]) - expected).max() < tolerance


@pytest.mark.parametrize("head_fusion", HEAD_FUSIONS)
def test_order_of_heads_does_not_matter(head_fusion):
    attention = softmax_blocks(1, 2, 4, 5)[0]
    permuted = fuse_heads(attention[:, [2, 0, 3, 1]], head_fusion)
    torch.testing.assert_close(permuted, fuse_heads(attention, head_fusion), rtol=0, atol=1e-15)


def test_mean_is_the_default():
    attention = softmax_blocks(1, 2, 4, 5)[0]
    assert torch.equal(fuse_heads(attention), fuse_heads(attention, "mean"))


def test_queries_and_keys_may_differ_in_number():
    assert fuse_heads(torch.rand(2, 3, 1, 6)).shape == (2, 1, 6)


@pytest.mark.parametrize(
    ("attention", "head_fusion", "named"),
    [
        (torch.rand(3, 5, 5), "mean", "attention"),
        (torch.ones(1, 3, 5, 5, dtype=torch.long), "mean", "attention"),
        (torch.rand(1, 3, 5, 5), "median", "head_fusion"),
    ],
)
def test_errors(attention, head_fusion, named):
    with pytest.raises(ValueError, match=named):
        fuse_heads(attention, head_fusion)
