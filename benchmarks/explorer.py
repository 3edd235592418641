"""How long does the explorer take to show one change of a control?

The median over the panel's own handling of a new value: what follows the capture, the drawing and
the PNG, in a process without a browser. DeiT-Tiny has random weights, the garden model its own.
Writes `benchmarks/results/explorer.json`, with other options than none into `build/results`.
"""

from __future__ import annotations

import argparse
import statistics
import time

import timm
import torch
from record import write_results

from vitexplain_utils import explore

CHANGES = {  # a name, what is set once, the control that moves, its values in turn
    "gradient rollout, discard ratio": ({}, "ratio", (0.5, 0.9)),
    "rollout (max), discard ratio": ({"method": "rollout", "fusion": "max"}, "ratio", (0.5, 0.9)),
    "as in vit-explain, discard ratio": ({"mistakes": True}, "ratio", (0.5, 0.9)),
    "gradient rollout, blocks": ({"ratio": 0.9}, "blocks", ((0, 4), (1, 4))),
    "gradient rollout, colour map": ({"ratio": 0.9}, "colormap", ("viridis", "plasma")),
    "relevance, opacity": ({"method": "relevance"}, "opacity", (0.5, 0.8)),
    "attribution, blocks": ({"method": "attribution"}, "blocks", ((0, 4), (1, 4))),
    "a class seen before": ({}, "target", (1, 2)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=31)
    options = parser.parse_args()
    torch.manual_seed(0)
    models = {
        "garden": "garden",
        "DeiT-Tiny": timm.create_model("deit_tiny_patch16_224", num_classes=8).eval(),
    }
    print(f"{torch.get_num_threads()} threads, median of {options.runs}, ms\n")
    print("| change | " + " | ".join(models) + " |\n|---|" + "---|" * len(models))
    rows = []
    for name, (settings, control, values) in CHANGES.items():
        taken = []
        for model in models.values():
            panel = explore(model)
            for key, value in settings.items():
                getattr(panel, key).value = value
            taken.append(round(median(getattr(panel, control), values, options.runs)))
        rows.append([name, *taken])
        print(f"| {' | '.join(map(str, rows[-1]))} |", flush=True)
    found = {"threads": torch.get_num_threads(), "runs": options.runs, "unit": "ms"}
    found |= {"columns": ["change", *models], "rows": rows}
    write_results("explorer", found, quick=options != parser.parse_args([]))


def median(control, values, runs: int) -> float:
    """Milliseconds from setting a value until the picture is ready."""
    taken = []
    for run in range(runs + 2):
        value = values[run % 2]
        start = time.perf_counter()
        control.value = value
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken[2:])  # both values once, to capture what is not yet kept


if __name__ == "__main__":
    main()
