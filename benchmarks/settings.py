"""Which settings of gradient rollout should one use? One setting changed at a time.

On the garden against the known answer; the same for a garden model trained from another seed
(`python training/train_garden.py --seed 1 --steps 1600 --out build/garden-seed1`, then
`--second build/garden-seed1/garden.safetensors`); and by deletion and insertion on scikit-image's
photographs with DeiT-Tiny, where no answer is known. Each number is the mean difference to the
published setting, with a 95 % bootstrap interval: one that leaves out 0 is a difference.
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from pathlib import Path

import torch
from garden_table import first_questions, scenes
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from vitexplain_utils import (
    ask_garden,
    deletion_insertion,
    energy_inside,
    load_model,
    pointing_game,
    preprocess,
    share_on_target,
)
from vitexplain_utils.course import photograph
from vitexplain_utils.evaluation import Method, bootstrap_interval
from vitexplain_utils.explain import Captured, capture_attention, heatmap_of
from vitexplain_utils.garden import Questions

PHOTOGRAPHS = {"camera": (872, 759), "coffee": (967, 968), "astronaut": (560, 812),
               "rocket": (517, 657), "cat": (281, 282)}  # fmt: skip


def later_blocks(captured: Captured, first: int) -> Tensor:
    """Rolled out down to a later block than the first."""
    attention, gradient = captured.attention[first:], (captured.gradient or [])[first:]
    return heatmap_of(dataclasses.replace(captured, attention=attention, gradient=gradient))


def clamped_in_each_head(captured: Captured) -> Tensor:
    """Negatives set to 0 before the heads are fused instead of after."""
    gradient = captured.gradient or []
    positive = [(a * g).clamp(min=0) for a, g in zip(captured.attention, gradient, strict=True)]
    ones = [torch.ones_like(product) for product in positive]
    return heatmap_of(dataclasses.replace(captured, attention=positive, gradient=ones))


def variants() -> dict[str, Method]:
    rows: dict[str, Method] = {"published": heatmap_of}
    for weight in (0.3, 0.7, 0.8, 0.9, 0.95, 0.99):
        rows[f"residual weight {weight}"] = partial(heatmap_of, residual_weight=weight)
    for fusion in ("max", "min"):
        rows[f"head fusion {fusion}"] = partial(heatmap_of, head_fusion=fusion)
    for ratio in (0.5, 0.9, 0.98):
        rows[f"discard ratio {ratio}"] = partial(heatmap_of, discard_ratio=ratio)
    for first in (1, 2, 3):
        rows[f"first block {first}"] = partial(later_blocks, first=first)
    rows["clamped in each head"] = clamped_in_each_head
    return rows


def known_answers(model: nn.Module, asked: Questions, few: Questions) -> None:
    marks: dict[str, list[Tensor]] = {name: [] for name in variants()}
    for part in tqdm(asked.batches(), desc="known answers", disable=None):
        captured = capture_attention(model, part.x, target=part.targets)
        for name, method in variants().items():
            heatmap = method(captured)
            hit = pointing_game(heatmap, part.masks).double()
            energy = energy_inside(heatmap, part.masks)
            share = share_on_target(heatmap, part.masks, part.others)
            marks[name].append(torch.stack([hit, energy, share]))
    columns = ["peak inside", "energy inside", "share on asked-for"]
    compare(columns, {name: torch.cat(parts, 1) for name, parts in marks.items()}, asked.scenes)
    captured = capture_attention(model, few.x, target=few.targets)
    perturbed(captured, few.targets, few.scenes, steps=18)


def perturbed(captured: Captured, targets: Tensor, groups: Tensor, steps: int) -> None:
    marks = {}
    for name, method in tqdm(variants().items(), desc="deletion, insertion", disable=None):
        curves = deletion_insertion(
            captured.model, captured.x, method(captured), targets, steps=steps
        )
        marks[name] = torch.stack([curves.deletion_auc, curves.insertion_auc])
    compare(["deletion (less is better)", "insertion"], marks, groups)


def compare(columns: list[str], marks: dict[str, Tensor], groups: Tensor) -> None:
    """Print the published setting's marks and the differences to them."""
    print(f"\n| setting | {' | '.join(columns)} |\n{'|---' * (len(columns) + 1)}|")
    published = marks["published"]
    print("| published |", " | ".join(f"{value:.3f}" for value in published.mean(1)), "|")
    for name in list(marks)[1:]:
        cells = []
        for difference in marks[name] - published:
            low, high = bootstrap_interval(difference, groups)
            cells.append(f"{difference.mean():+.3f} [{low:+.3f}, {high:+.3f}]")
        print(f"| {name} | {' | '.join(cells)} |")


def photographs() -> None:
    deit = load_model("deit_tiny_patch16_224")
    pictures = [preprocess(deit, photograph(name)) for name in PHOTOGRAPHS]
    x = torch.cat(pictures).repeat_interleave(2, 0)
    targets = torch.tensor(list(PHOTOGRAPHS.values())).flatten()
    captured = capture_attention(deit, x, target=targets)
    perturbed(captured, targets, torch.arange(len(x)) // 2, steps=14)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--perturbed", type=int, default=40, help="scenes for deletion, insertion")
    parser.add_argument("--second", type=Path, help="weights of another training seed")
    options = parser.parse_args()
    made = [scene for scene, _ in zip(scenes(), range(options.scenes), strict=False)]
    models = {"the bundled garden model": load_model("garden")}
    if options.second is not None:
        second = load_model("garden")
        second.load_state_dict(load_file(options.second))
        models[f"the garden model of {options.second}"] = second
    for name, model in models.items():
        asked = ask_garden(model, made)
        print(f"\n## {name}: {len(asked)} questions about {options.scenes} scenes")
        known_answers(model, asked, first_questions(asked, options.perturbed))
    print("\n## DeiT-Tiny: two questions to each of", ", ".join(PHOTOGRAPHS))
    try:
        photographs()
    except FileNotFoundError as error:
        print(error)


if __name__ == "__main__":
    main()
