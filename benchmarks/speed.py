"""How much longer than a plain forward pass does an explanation take?

One process, DeiT-Tiny with random weights, the median of interleaved runs; a plain forward pass
is fused and without gradients.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch

from vitexplain_utils import explain


def interleaved(tasks: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median seconds of each task; all tasks take turns, so that all meet the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(runs + 2):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if turn >= 2:  # the first two warm up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = timm.create_model(options.model).eval()
    settings: dict[str, dict[str, object]] = {
        "rollout, max fusion, discard 0.9": dict(
            method="rollout", head_fusion="max", discard_ratio=0.9
        ),
        "rollout": dict(method="rollout"),
        "gradient rollout, discard 0.9": dict(method="gradient_rollout", discard_ratio=0.9),
        "gradient rollout": dict(method="gradient_rollout"),
        "relevance": dict(method="relevance"),
    }
    ratios: dict[str, list[str]] = {name: [] for name in settings}
    for batch in (1, 8):
        x = torch.rand(batch, *model.pretrained_cfg["input_size"])

        @torch.no_grad()
        def plain(x: torch.Tensor = x) -> object:
            return model(x)

        tasks: dict[str, Callable[[], object]] = {"plain": plain}
        for name, setting in settings.items():
            tasks[name] = lambda x=x, setting=setting: explain(model, x, target=0, **setting)
        seconds = interleaved(tasks, options.runs)
        print(f"batch {batch}: plain forward pass {seconds['plain'] * 1000:.1f} ms")
        for name in settings:
            ratios[name].append(f"{seconds[name] / seconds['plain']:.2f}×")
    print(f"\n{options.model}, {torch.get_num_threads()} threads, time ÷ plain forward pass\n")
    print("| method | batch 1 | batch 8 |\n|---|---|---|")
    for name, values in ratios.items():
        print(f"| {name} | {' | '.join(values)} |")


if __name__ == "__main__":
    main()
