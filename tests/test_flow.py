from __future__ import annotations

import sys

import networkx as nx
import numpy as np
import pytest
import timm
import torch
from reference import (
    array,
    attention_forward,
    lively,
    naive_discard,
    naive_fuse,
    pool_forward,
    softmax_blocks,
)
from torch import Tensor

from vitexplain_utils import capture_attention, explain, load_model, preprocess
from vitexplain_utils.garden import garden_test_set
from vitexplain_utils.methods import HEAD_FUSIONS, attention_flow, rollout
from vitexplain_utils.methods.maximum_flow import _between, _Network, max_flows

DTYPES = {
    torch.float64: (torch.float64, 1e-10),
    torch.float32: (torch.float32, 1e-6),
    torch.float16: (torch.float32, 1e-6),
    torch.bfloat16: (torch.float32, 1e-6),
}
# Token 0 is the class token; `Â` is worked out by hand in notebook 06.
TOY = torch.tensor(
    [
        [[0.4, 0.2, 0.4], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]],  # first block
        [[0.2, 0.4, 0.4], [0.3, 0.3, 0.4], [0.6, 0.2, 0.2]],  # last block
    ]
).double()[:, None, None]


def naive_capacity(attention: list[np.ndarray], head_fusion="mean", ratio=0.0, weight=0.5, **_):
    blocks = []
    for heads in attention:
        kept = naive_discard(naive_fuse(heads, head_fusion), ratio, True)
        mixed = (1 - weight) * kept + weight * np.eye(len(kept))
        for row in mixed:
            row /= sum(row) or 1
        blocks.append(mixed)
    return blocks


def naive_flows(capacity: list[np.ndarray], start: np.ndarray | None = None) -> np.ndarray:
    """networkx' maximum flow to every token, one graph for all."""
    tokens = len(capacity[0])
    graph = nx.DiGraph()
    for token in range(tokens):
        graph.add_edge("source", (len(capacity), token), capacity=np.eye(tokens)[0, token])
        if start is not None:
            graph.add_edge("source", (len(capacity), token), capacity=float(start[token]))
    for block, matrix in enumerate(capacity):
        for query in range(tokens):
            for key in range(tokens):
                if matrix[query, key] > 0:
                    graph.add_edge((block + 1, query), (block, key), capacity=matrix[query, key])
    graph.add_nodes_from((0, token) for token in range(tokens))
    return np.array(
        [
            nx.maximum_flow_value(graph, "source", (0, token), flow_func=nx.flow.edmonds_karp)
            for token in range(tokens)
        ]
    )


def reference(attention: list[Tensor], start: Tensor | None = None, **settings) -> np.ndarray:
    rows = []
    for image in range(len(attention[0])):
        first = None if start is None else array(start.expand(len(attention[0]), -1)[image])
        capacity = naive_capacity([array(block[image]) for block in attention], **settings)
        rows.append(naive_flows(capacity, first))
    return np.array(rows)


def random_capacity(blocks: int, tokens: int, seed: int, sharpness: float = 2) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(blocks, tokens, tokens))
    weights = np.exp(sharpness * scores)
    return weights / weights.sum(-1, keepdims=True)


def whole_graph(capacity: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Without the shortcut. The first block is the arcs into the sink."""
    network = _Network(start, capacity[:0:-1])
    return np.array([network.flow(into) for into in capacity[0].T])


@pytest.mark.parametrize(("tokens", "blocks"), [(5, 4), (7, 3), (12, 4), (20, 2), (20, 3)])
def test_equals_networkx(tokens, blocks):
    attention = softmax_blocks(blocks, 1, 2, tokens, seed=tokens)
    flows = attention_flow(attention)
    assert flows.shape == (1, tokens)
    np.testing.assert_allclose(flows, reference(attention), rtol=0, atol=1e-9)


@pytest.mark.parametrize("head_fusion", HEAD_FUSIONS)
@pytest.mark.parametrize("ratio", [0, 0.5, 0.9])
@pytest.mark.parametrize("weight", [0.5, 0.3, 0])
def test_settings_equal_networkx(head_fusion, ratio, weight):
    attention = softmax_blocks(3, 1, 2, 6, seed=1)
    attention[1][:, :, 0, 0] = 1e-9  # so that keeping the class token's makes a difference
    flows = attention_flow(
        attention, head_fusion=head_fusion, discard_ratio=ratio, residual_weight=weight
    )
    expected = reference(attention, head_fusion=head_fusion, ratio=ratio, weight=weight)
    np.testing.assert_allclose(flows, expected, rtol=0, atol=1e-9)


STARTS = {
    "[T]": torch.tensor([0.5, 0.5, 0, 0, 0, 0]),
    "average": torch.full((6,), 1 / 6),
    "[B, T]": torch.rand(2, 6, generator=torch.Generator().manual_seed(5)).softmax(-1),
    "more than can flow": torch.full((6,), 1e9),
    "nothing": torch.zeros(6),
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_starts_equal_networkx(start, blocks):
    attention = softmax_blocks(blocks, 2, 2, 6, seed=3)
    flows = attention_flow(attention, start=STARTS[start])
    np.testing.assert_allclose(flows, reference(attention, STARTS[start]), rtol=0, atol=1e-6)


def test_toy_by_hand():
    """Two blocks, so each way has two arcs of its own and carries what the narrower one does.

    `Â` of the class token's row above is [0.6, 0.2, 0.2]; the columns below are [0.7, 0, 0.5],
    [0.1, 1, 0] and [0.2, 0, 0.5]. Token 2: min(0.6, 0.2) + min(0.2, 0) + min(0.2, 0.5) = 0.4.
    """
    torch.testing.assert_close(attention_flow(list(TOY))[0].tolist(), [0.8, 0.3, 0.4])
    torch.testing.assert_close(rollout(list(TOY))[0].tolist(), [0.52, 0.26, 0.22])


def test_shared_arcs_by_hand():
    """Three blocks in which everything squeezes through one arc of 0.25, once above, once below."""
    wide, narrow = np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([[0.25, 0.0], [0.75, 0.0]])
    start = np.array([1.0, 0.0])
    assert max_flows(np.stack([np.eye(2), narrow, wide]), start, [0]) == [0.75]
    assert max_flows(np.stack([wide, np.eye(2) / 4, wide]), start, [0, 1]).tolist() == [0.25, 0.5]


@pytest.mark.parametrize("seed", range(6))
def test_monotone_in_capacities(seed):
    rng = np.random.default_rng(seed)
    capacity = random_capacity(3, 7, seed, sharpness=3)
    start = rng.random(7)
    before = max_flows(capacity, start, range(7))
    more = capacity + rng.random(capacity.shape) * (rng.random(capacity.shape) < 0.2)
    after = max_flows(more, start, range(7))
    assert (after >= before - 1e-9).all()
    assert (after > before + 1e-3).any()
    assert (max_flows(capacity, start + 0.1, range(7)) >= before - 1e-9).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sharpness", [0.1, 2, 5])
def test_no_more_than_leaves_the_class_token_or_can_enter_the_token(seed, sharpness):
    capacity = random_capacity(4, 9, seed, sharpness) * 0.7
    flows = max_flows(capacity, np.eye(9)[0], range(9))
    assert (flows >= 0).all()
    assert (flows <= capacity[-1][0].sum() + 1e-9).all()
    assert (flows <= capacity[0].sum(0) + 1e-9).all()


def test_no_less_than_rollout():
    """What rollout sends to a token is a flow to it, though seldom the greatest."""
    attention = softmax_blocks(4, 3, 2, 9, seed=8)
    assert (attention_flow(attention) >= rollout(attention) - 1e-9).all()


@pytest.mark.parametrize("blocks", [2, 3, 4, 5, 6, 7])
def test_shortcut_equals_the_whole_graph(blocks):
    proved = 0
    for sharpness in (0.3, 3, 6):
        capacity = random_capacity(blocks, 8, seed=blocks, sharpness=sharpness)
        for start in (np.eye(8)[0], np.full(8, 1 / 8)):
            flows = max_flows(capacity, start, range(8))
            np.testing.assert_allclose(flows, whole_graph(capacity, start), rtol=0, atol=1e-9)
            network, demand = _between(start, capacity[0].T, capacity[:0:-1], 1)
            lower = np.array([network.flow(into) for into in demand])
            assert (lower <= flows + 1e-9).all()  # whatever the blocks in the middle give is a flow
            proved += (lower > flows - 1e-9).sum()
    assert proved > 0
    assert blocks < 4 or proved < 6 * 8  # so both ends of the shortcut are tested


def test_trained_model_equals_the_whole_graph():
    model = load_model("garden")
    x = preprocess(model, garden_test_set()[20].image)
    capture = capture_attention(model, x, gradient=False)
    attention = [call.attention() for call in capture.blocks]
    heatmap = explain(model, x, method="flow").heatmap
    capacity = np.stack([array(a[0]).mean(0) / 2 + np.eye(145) / 2 for a in attention])
    expected = whole_graph(capacity, np.eye(145)[0])[1:]
    np.testing.assert_allclose(heatmap.flatten(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype):
    attention = [block.to(dtype) for block in softmax_blocks(3, 2, 2, 6, seed=2)]
    flows = attention_flow(attention)
    result, tolerance = DTYPES[dtype]
    assert flows.dtype == result
    np.testing.assert_allclose(flows, reference(attention), rtol=0, atol=tolerance)


def test_batch_equals_one_by_one():
    attention = softmax_blocks(3, 3, 2, 6, seed=4)
    start = STARTS["[B, T]"][[0, 1, 0]]
    flows = attention_flow(attention, start=start, discard_ratio=0.5)
    for image in range(3):
        one = slice(image, image + 1)
        alone = attention_flow(
            [block[one] for block in attention], start=start[one], discard_ratio=0.5
        )
        assert torch.equal(flows[one], alone)
    assert attention_flow([block[:0] for block in attention]).shape == (0, 6)


def test_some_tokens_in_any_order():
    attention = softmax_blocks(3, 2, 2, 6, seed=4)
    every = attention_flow(attention)
    for tokens in ([4, 0, 4], range(1, 6), torch.tensor([3, 2])):
        some = attention_flow(attention, tokens=tokens)
        assert torch.equal(some, every[:, list(tokens)])


def test_class_token_may_be_discarded_where_token_0_is_none():
    attention = softmax_blocks(2, 1, 1, 6, seed=1)
    for block in attention:
        block[:, :, 0, 0] = 1e-3
    kept = attention_flow(attention, discard_ratio=0.5, residual_weight=0)
    lost = attention_flow(attention, discard_ratio=0.5, residual_weight=0, class_token=False)
    assert (kept - lost).abs().max() > 1e-4


# name, settings, tokens before the patches, start over all tokens (None: the pool's attention)
LAYOUTS = {
    "class token": ("vit_tiny_patch16_224", {}, 1, [1] + [0] * 6),
    "distilled": ("deit_tiny_distilled_patch16_224", {}, 2, [0.5, 0.5] + [0] * 6),
    "average": ("vit_medium_patch16_gap_240", {}, 0, [1 / 6] * 6),
    "attention pool": ("vit_base_patch16_siglip_224", {}, 0, None),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_explain_on_a_grid_of_two_by_three(layout):
    name, settings, prefix, start = LAYOUTS[layout]
    small = {"img_size": (32, 48), "depth": 3, "embed_dim": 48, "num_heads": 2, "num_classes": 5}
    model = lively(timm.create_model(name, **small, **settings)).double()
    x = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(7)).double()
    blocks: list[Tensor] = []
    pools: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.blocks[0].attn), "forward", attention_forward(blocks))
        if model.attn_pool is not None:
            patch.setattr(type(model.attn_pool), "forward", pool_forward(pools))
        model(x)
    first = torch.tensor(start, dtype=torch.float64) if start else pools[0].mean(1)[:, 0]
    expected = reference(blocks, first)[:, prefix:].reshape(2, 2, 3)
    heatmap = explain(model, x, method="flow").heatmap
    np.testing.assert_allclose(heatmap, expected, rtol=0, atol=1e-9)


def test_inputs_with_a_gradient_are_neither_modified_nor_tracked():
    attention = [block.requires_grad_() for block in softmax_blocks(2, 1, 2, 5, seed=1)]
    start = torch.full((5,), 0.2, requires_grad=True)
    before = [block.detach().clone() for block in attention]
    flows = attention_flow(attention, start=start, discard_ratio=0.5)
    assert not flows.requires_grad
    assert all(map(torch.equal, attention, before))


def test_counts_the_tokens_solved():
    counts: list[int] = []
    capacity = random_capacity(6, 8, seed=0, sharpness=6)
    max_flows(capacity, np.eye(8)[0], range(8), counts.append)
    assert sum(counts) == 8


BLOCK = torch.rand(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(attention=[]), "attention must"),
        (dict(attention=[BLOCK[0]]), r"attention must .* got .*\(3, 4, 4\)"),
        (dict(attention=[BLOCK[..., :3]]), "attention must"),
        (dict(attention=[BLOCK, BLOCK[:1]]), "attention must"),
        (dict(attention=[BLOCK.long()]), r"attention must .* got .*torch\.int64"),
        (dict(attention=[BLOCK - 2]), "attention must be finite and non-negative, got -"),
        (dict(attention=[BLOCK * float("nan")]), "attention must be finite .* got nan"),
        (dict(attention=[BLOCK / 0]), "attention must be finite .* got inf"),
        (dict(head_fusion="sum"), "head_fusion .* got 'sum'"),
        (dict(discard_ratio=1), "discard_ratio .* got 1"),
        (dict(residual_weight=-0.1), "residual_weight .* got -0.1"),
        (dict(start=torch.ones(5)), r"start must .* got \(5,\)"),
        (dict(start=torch.tensor([1.0, -0.5, 0, 0])), "start must .* got -0.5"),
        (dict(start=torch.tensor([1.0, float("inf"), 0, 0])), "start must .* got inf"),
        (dict(tokens=[]), r"tokens must be indices from 0 to 3, got \[\]"),
        (dict(tokens=[0, 4]), r"tokens must .* got \[0, 4\]"),
        (dict(tokens=[-1]), r"tokens must .* got \[-1\]"),
        (dict(tokens=[0.5]), r"tokens must .* got \[0.5\]"),
    ],
)
def test_errors(arguments, said):
    with pytest.raises(ValueError, match=said):
        attention_flow(**{"attention": [BLOCK], **arguments})


def test_without_or_tools_it_says_what_to_install(monkeypatch, tiny, tiny_x):
    monkeypatch.setitem(sys.modules, "ortools.graph.python.max_flow", None)
    with pytest.raises(ImportError, match=r"pip install 'vitexplain-utils\[flow\]'"):
        attention_flow([BLOCK])
    with pytest.raises(ImportError, match="OR-tools"):
        explain(tiny, tiny_x, method="flow")
    assert explain(tiny, tiny_x, method="rollout").heatmap.isfinite().all()
