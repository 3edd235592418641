"""How much longer than a plain forward pass does an explanation take?

For each model: random input, and random weights but for the garden; the median of interleaved runs.
Two passes that explain nothing are the measure: a plain forward pass, fused and without gradients;
and forward + backward, for the gradients of the attention outputs alone, which is the least that a
map for one class can cost. A sweep of 50 discard ratios is compared with one explanation.
Writes `benchmarks/results/speed.json`, with other options than none `build/results/speed.json`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import timm
import torch
from record import write_results
from torch import Tensor, nn
from torch.profiler import ProfilerActivity

from vitexplain_utils import METHODS, discard_sweep, explain, load_model, record_attention

DISCARDING: dict[str, dict[str, Any]] = {
    "rollout, max fusion": dict(method="rollout", head_fusion="max"),
    "gradient rollout": dict(method="gradient_rollout"),
}
EXPLANATIONS: dict[str, dict[str, Any]] = {
    "rollout, max fusion, discard 0.9": DISCARDING["rollout, max fusion"] | {"discard_ratio": 0.9},
    "rollout": dict(method="rollout"),
    "gradient rollout, discard 0.9": DISCARDING["gradient rollout"] | {"discard_ratio": 0.9},
    "gradient rollout": dict(method="gradient_rollout"),
    "relevance": dict(method="relevance"),
    "attribution": dict(method="attribution"),
}
MODELS = ("deit_tiny_patch16_224", "garden")
RATIOS = [step / 51 for step in range(50)]
MEASURES = ("forward", "forward + backward")
Task = Callable[[], object]


def interleaved(tasks: dict[str, Task], runs: int) -> dict[str, float]:
    """Median seconds of each task; all tasks take turns, so that all meet the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(runs + 2):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if turn >= 2:  # the first two warm up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


@torch.no_grad()
def forward(model: nn.Module, x: Tensor) -> None:
    model(x)


def forward_backward(model: nn.Module, x: Tensor, *, hold_attention: bool = False) -> None:
    with record_attention(model, hold_attention=hold_attention) as record:
        record.differentiate(model(x)[:, 0].sum(), retain_graph=False)


def passes_and_maps(model: nn.Module, x: Tensor) -> dict[str, Task]:
    tasks: dict[str, Task] = {
        "forward": partial(forward, model, x),
        "forward + backward": partial(forward_backward, model, x),
        "forward + backward, attention held": partial(
            forward_backward, model, x, hold_attention=True
        ),
    }
    for name, settings in EXPLANATIONS.items():
        tasks[name] = partial(explain, model, x, target=0, **settings)
    return tasks


def sweeps(model: nn.Module, x: Tensor) -> dict[str, Task]:
    return {
        f"{name}, sweep of 50": partial(discard_sweep, model, x, RATIOS, target=0, **settings)
        for name, settings in DISCARDING.items()
    }


def peers(model: nn.Module, x: Tensor) -> dict[str, Task]:
    """The same maps in vit-explain's way: whole matrices, one image at a time."""
    return {
        "vit-explain's way: rollout, max fusion, discard 0.9": partial(peer_rollout, model, x),
        "vit-explain's way: gradient rollout, discard 0.9": partial(
            peer_gradient_rollout, model, x
        ),
    }


def peer_rollout(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad(), matrices_on_cpu(model) as (attention, _):
        model(x)
        return whole_rollout([block[0].amax(0) for block in attention], 0.9)


def peer_gradient_rollout(model: nn.Module, x: Tensor) -> Tensor:
    model.zero_grad()
    with matrices_on_cpu(model) as (attention, gradient):
        model(x)[:, 0].sum().backward()
    # The gradients come last block first: the first block meets the last one's.
    products = [(a[0] * g[0]).mean(0) for a, g in zip(attention, gradient, strict=True)]
    return whole_rollout([product.clamp(min=0) for product in products], 0.9)


@contextmanager
def matrices_on_cpu(model: nn.Module) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Fusion off, and hooks that keep the matrix of every `attn_drop`, and its gradient."""
    attention: list[Tensor] = []
    gradient: list[Tensor] = []

    def keep_output(_module: nn.Module, _given: object, output: Tensor) -> None:
        attention.append(output.detach().cpu())

    def keep_gradient(_module: nn.Module, grads: tuple[Tensor, ...], _given: object) -> None:
        gradient.append(grads[0].cpu())

    with ExitStack() as undo:
        for block in model.blocks:
            undo.callback(setattr, block.attn, "fused_attn", block.attn.fused_attn)
            block.attn.fused_attn = False
            drop = block.attn.attn_drop
            undo.callback(drop.register_forward_hook(keep_output).remove)
            undo.callback(drop.register_full_backward_hook(keep_gradient).remove)
        yield attention, gradient


def whole_rollout(fused: list[Tensor], discard_ratio: float) -> Tensor:
    """The class token's row of the product of all matrices; columns divided by row sums."""
    identity = torch.eye(len(fused[0]))
    result = identity
    for matrix in fused:
        flat = matrix.flatten()
        lowest = flat.topk(int(len(flat) * discard_ratio), largest=False).indices
        flat[lowest[lowest != 0]] = 0
        mixed = (flat.view_as(matrix) + identity) / 2
        result = (mixed / mixed.sum(-1)) @ result
    return result[0, 1:]


def profile(model: nn.Module, x: Tensor, runs: int) -> None:
    """Print what gradient rollout's map spends its time on, once there is a capture."""
    method = METHODS["gradient_rollout"]
    capture = method.capture(model, x, target=0)
    method.heatmap(capture)  # warms up
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(runs):
            method.heatmap(capture)
    events = profiler.key_averages()
    print(events.table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=30))
    spent = {event.key: event.self_cpu_time_total for event in events}
    share = spent["aten::bmm"] / sum(spent.values())
    print(f"Two matrix products per block, q kᵀ and (∂y/∂O) vᵀ (aten::bmm), take {share:.0%}.")


def create(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A model, one input and eight."""
    torch.manual_seed(0)
    model = load_model(name) if name == "garden" else timm.create_model(name).eval()
    one, eight = (torch.rand(batch, *model.pretrained_cfg["input_size"]) for batch in (1, 8))
    return model, one, eight


def measure(name: str, runs: int) -> dict[str, Any]:
    """All tasks of one model: printed, and returned for the file."""
    model, one, eight = create(name)
    alone = passes_and_maps(model, one) | sweeps(model, one) | peers(model, one)
    batches = {
        "batch 1": interleaved(alone, runs),
        "batch 8": interleaved(passes_and_maps(model, eight), runs),
    }
    columns = [f"{batch} ÷ {measure}" for batch in batches for measure in MEASURES]
    rows = {
        task: [
            seconds[task] / seconds[measure] if task in seconds else None
            for seconds in batches.values()
            for measure in MEASURES
        ]
        for task in alone
    }
    milliseconds = {batch: 1000 * seconds["forward"] for batch, seconds in batches.items()}
    first = batches["batch 1"]
    swept = {
        name: first[f"{name}, sweep of 50"] / first[f"{name}, discard 0.9"] for name in DISCARDING
    }
    print(f"\n{name}, {torch.get_num_threads()} threads, median of {runs} runs\n")
    print(f"| method | {' | '.join(columns)} |\n{'|---' * (len(columns) + 1)}|")
    for task, ratios in rows.items():
        cells = ["–" if ratio is None else f"{ratio:.2f}×" for ratio in ratios]
        print(f"| {task} | {' | '.join(cells)} |")
    print()
    for batch, taken in milliseconds.items():
        print(f"{batch}: a plain forward pass takes {taken:.1f} ms")
    for task, ratio in swept.items():
        print(f"{task}: a sweep of 50 discard ratios takes {ratio:.1f} explanations")
    return {
        "plain forward pass, ms": {batch: round(taken, 1) for batch, taken in milliseconds.items()},
        "sweep of 50, in explanations": {task: round(ratio, 1) for task, ratio in swept.items()},
        "columns": ["method", *columns],
        "rows": [[task, *(r and round(r, 2) for r in ratios)] for task, ratios in rows.items()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", help="of timm, or garden (several times)")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--profile", action="store_true", help="profile gradient rollout instead")
    options = parser.parse_args()
    names = options.model or MODELS
    if options.profile:
        for name in names:
            profile(*create(name)[:2], options.runs)
        return
    found = {"threads": torch.get_num_threads(), "runs": options.runs}
    found["models"] = {name: measure(name, options.runs) for name in names}
    write_results("speed", found, quick=options != parser.parse_args([]))


if __name__ == "__main__":
    main()
