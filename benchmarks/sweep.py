"""How much longer than one explanation does a sweep of 50 discard ratios take?

One process, the median of interleaved runs. DeiT-Tiny has random weights, the garden model its own.
"""

from __future__ import annotations

import argparse
from functools import partial

import timm
import torch
from speed import interleaved

from vitexplain_utils import discard_sweep, explain, hero_scene, load_model, preprocess

RATIOS = [step / 51 for step in range(50)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    torch.manual_seed(0)
    garden = load_model("garden")
    models = {
        "DeiT-Tiny": (
            timm.create_model("deit_tiny_patch16_224").eval(),
            torch.randn(1, 3, 224, 224),
        ),
        "garden": (garden, preprocess(garden, hero_scene(5).image)),
    }
    methods = {
        "rollout, max fusion": dict(method="rollout", head_fusion="max"),
        "gradient rollout": dict(method="gradient_rollout", target=1),
    }
    tasks = {}
    for model_name, (model, x) in models.items():
        for method_name, settings in methods.items():
            name = f"{model_name}, {method_name}"
            tasks[name, "one"] = partial(explain, model, x, discard_ratio=0.9, **settings)
            tasks[name, "sweep"] = partial(discard_sweep, model, x, RATIOS, **settings)
    seconds = interleaved(tasks, options.runs)
    print("| model, method | one explanation | sweep of 50 | ratio |\n|---|---|---|---|")
    for name in dict.fromkeys(name for name, _ in tasks):
        one, sweep = seconds[name, "one"], seconds[name, "sweep"]
        print(f"| {name} | {one * 1e3:.0f} ms | {sweep * 1e3:.0f} ms | {sweep / one:.1f} |")


if __name__ == "__main__":
    main()
