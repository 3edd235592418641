"""How much longer than a plain forward pass does attention flow take?

The garden ViT and DeiT-Tiny, each the median of several runs that take turns with plain forward
passes, beside two ways without the shortcut: OR-tools on the whole graph for every patch, and
networkx on a small graph.

With --truth: how true are the maps, and do gradient-weighted capacities help?
Writes `benchmarks/results/flow.json`, with --truth `flow_truth.json` there, with other --runs into
`build/results`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import timm
import torch
from marking import PLAIN
from record import write_results
from torch import Tensor, nn

from vitexplain_utils import METHODS, capture_attention, explain, hero_scene, load_model, preprocess
from vitexplain_utils.garden import garden_test_set
from vitexplain_utils.methods import Flow, GradientRollout, attention_flow
from vitexplain_utils.methods.maximum_flow import _capacities, _Network, max_flows
from vitexplain_utils.truth import (
    ask_garden,
    constant_map,
    energy_inside,
    pointing_game,
    share_on_target,
)

PACKAGES = ("ortools", "networkx")


class WeightedFlow(Flow):
    """Flow through what gradient rollout rolls out."""

    needs_gradient = True
    weigh = GradientRollout.weigh


def seconds(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def capacities(model: nn.Module, x: Tensor) -> np.ndarray:
    blocks = capture_attention(model, x, gradient=False).blocks
    fused = torch.stack([call.attention()[0].double().mean(0) for call in blocks])
    return _capacities(fused, 0.5).numpy()


def whole_graph(capacity: np.ndarray, tokens: range) -> np.ndarray:
    """The same flows, each solved on the whole graph."""
    network = _Network(np.eye(capacity.shape[1])[0], capacity[:0:-1])
    return np.array([network.flow(capacity[0][:, token]) for token in tokens])


def networkx_flows(capacity: np.ndarray, tokens: range) -> np.ndarray:
    graph = nx.DiGraph()
    for block, matrix in enumerate(capacity):
        for query, key in zip(*np.nonzero(matrix), strict=True):
            graph.add_edge((block + 1, query), (block, key), capacity=matrix[query, key])
    top = (len(capacity), 0)
    return np.array([nx.maximum_flow_value(graph, top, (0, token)) for token in tokens])


def measure(name: str, model: nn.Module, x: Tensor, runs: int) -> dict[str, Any]:
    """The times of one model: printed, and returned for the file."""

    @torch.no_grad()
    def plain() -> object:
        return model(x)

    capacity = capacities(model, x)
    patches = range(1, capacity.shape[1])
    tasks: dict[str, Callable[[], object]] = {
        'explain(method="flow"), whole map': lambda: explain(model, x, method="flow"),
        "OR-tools on the whole graph, whole map": lambda: whole_graph(capacity, patches),
    }
    for task in (plain, *tasks.values()):
        task()  # the first call also imports OR-tools
    passes: list[float] = []
    taken: dict[str, list[float]] = {task: [] for task in tasks}
    for _ in range(runs):
        passes += [seconds(plain) for _ in range(20)]
        for label, task in tasks.items():
            taken[label].append(seconds(task))
    forward = statistics.median(passes)
    arcs = int(np.count_nonzero(capacity[:-1]) + np.count_nonzero(capacity[-1, 0]))
    print(f"\n{name}: {arcs} arcs; one plain forward pass takes {forward * 1000:.1f} ms\n")
    print("| map | seconds | plain forward passes |\n|---|---|---|")
    rows = []
    for label, values in taken.items():
        median = statistics.median(values)
        rows.append([label, round(median, 3), round(median / forward, 1)])
        print(f"| {label} | {median:.3f} | {median / forward:.1f} |")
    flows = max_flows(capacity, np.eye(len(patches) + 1)[0], patches)
    error = np.abs(flows - whole_graph(capacity, patches)).max()
    print(f"\nlargest difference between the two: {error:.1e}")
    return {
        "arcs": arcs,
        "plain forward pass, ms": round(forward * 1000, 1),
        "largest difference between the two": float(f"{error:.1e}"),
        "columns": ["map", "seconds", "plain forward passes"],
        "rows": rows,
    }


def small(tokens: int, blocks: int) -> list[str | float]:
    """A row of the table of small graphs: printed, and returned for the file."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(blocks, 1, 1, tokens, tokens, generator=generator, dtype=torch.float64)
    attention = list((2 * scores).softmax(-1))
    capacity = _capacities(torch.cat(attention)[:, 0], 0.5).numpy()
    asked = range(tokens)
    ours = seconds(lambda: attention_flow(attention))
    theirs = seconds(lambda: networkx_flows(capacity, asked))
    row = [
        f"{tokens} × {blocks}",
        round(ours * 1000, 1),
        round(theirs * 1000),
        round(theirs / ours),
    ]
    print(f"| {' | '.join(map(str, row))} |")
    return row


def truth() -> None:
    """The maps of flow and its variants, marked on the test set's questions."""
    model = load_model("garden")
    asked = ask_garden(model, garden_test_set())
    held, plain = (
        capture_attention(model, asked.x, target=asked.targets, hold_attention=hold)
        for hold in (True, False)
    )
    maps = {
        "a flat map": constant_map,
        "gradient rollout": METHODS["gradient_rollout"],
        f"gradient rollout{PLAIN}": METHODS["gradient_rollout"].having(hold_attention=False),
        "rollout": METHODS["rollout"],
        "rollout, discard 0.9": METHODS["rollout"].having(discard_ratio=0.9),
        "flow": METHODS["flow"],
        "flow, discard 0.9": METHODS["flow"].having(discard_ratio=0.9),
        "flow, min": METHODS["flow"].having(head_fusion="min"),
        "gradient-weighted flow": WeightedFlow(),
        "gradient-weighted flow, discard 0.9": WeightedFlow(discard_ratio=0.9),
    }
    columns = ["method", "peak inside", "energy inside", "share on the asked-for", "s per question"]
    print(f"{len(asked)} questions\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    rows = []
    for name, make in maps.items():
        start = time.perf_counter()
        heatmap = make(plain if name.endswith(PLAIN) else held)
        taken = (time.perf_counter() - start) / len(asked)
        peak, energy, share = (
            float(marks.double().mean())
            for marks in (
                pointing_game(heatmap, asked.masks),
                energy_inside(heatmap, asked.masks),
                share_on_target(heatmap, asked.masks, asked.others),
            )
        )
        rows.append([name, *(round(mean, 4) for mean in (peak, energy, share)), round(taken, 2)])
        print(f"| {name} | {peak:.1%} | {energy:.2f} | {share:.2f} | {taken:.2f} |", flush=True)
    found = {"questions": len(asked), "threads": torch.get_num_threads()}
    write_results("flow_truth", {**found, "columns": columns, "rows": rows}, packages=PACKAGES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--truth", action="store_true", help="mark the maps instead (3 minutes)")
    options = parser.parse_args()
    if options.truth:
        return truth()
    print(f"{torch.get_num_threads()} threads")
    garden = load_model("garden")
    scene = preprocess(garden, hero_scene(6).image)
    models = {"garden": measure("garden", garden, scene, options.runs)}
    try:
        deit, weights = load_model("deit_tiny_patch16_224"), ""
    except FileNotFoundError:
        torch.manual_seed(0)
        deit, weights = timm.create_model("deit_tiny_patch16_224").eval(), ", random weights"
    picture = torch.nn.functional.interpolate(scene, size=224, mode="bicubic")
    name = f"DeiT-Tiny{weights}"
    models[name] = measure(name, deit, picture, options.runs)
    columns = ["tokens × blocks", "ours, ms", "networkx, ms", "ratio"]
    print("\nnetworkx, all tokens of a small graph\n")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    rows = [small(*shape) for shape in ((10, 2), (20, 4), (40, 4))]
    found = {
        "threads": torch.get_num_threads(),
        "runs": options.runs,
        "models": models,
        "networkx, all tokens of a small graph": {"columns": columns, "rows": rows},
    }
    quick = options.runs != parser.get_default("runs")
    write_results("flow", found, quick=quick, packages=PACKAGES)


if __name__ == "__main__":
    main()
