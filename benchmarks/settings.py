"""Which settings of gradient rollout should one use? One setting changed at a time.

On the garden against the known answer; the same for a garden model trained from another seed
(`python training/train_garden.py --seed 1 --steps 1600 --out build/garden-seed1`, then
`--second build/garden-seed1/garden.safetensors`); and by deletion and insertion on scikit-image's
photographs with DeiT-Tiny, where no answer is known. Each number is the mean difference to
rollout's settings, which no source derives for gradient rollout, with a 95 % bootstrap interval:
one that leaves out 0 is a difference. Five photographs are too few for one and get none.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from garden_table import MAIN, first_questions, known_marks, scenes
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from vitexplain_utils import METHODS, Capture, Method, load_model, preprocess
from vitexplain_utils.methods import GradientRollout, fuse_heads
from vitexplain_utils.show import photograph
from vitexplain_utils.truth import Questions, ask_garden, bootstrap_interval, deletion_insertion

DEFAULT = METHODS["gradient_rollout"]
PHOTOGRAPHS = {"camera": (872, 759), "coffee": (967, 968), "astronaut": (560, 812),
               "rocket": (517, 657), "cat": (281, 282)}  # fmt: skip


class ClampedInEachHead(GradientRollout):
    """Negatives set to 0 before the heads are fused instead of after."""

    def weigh(self, attention: Tensor, gradient: Tensor | None) -> Tensor:
        """`mean_h(max(0, A ⊙ G))`."""
        return fuse_heads((attention * gradient).clamp(min=0))


def variants(last: int) -> dict[str, Method]:
    """Rollout's settings and the others, for a model with this last block."""
    rows: dict[str, Method] = {"rollout's settings": DEFAULT}
    for weight in (0.3, 0.7, 0.8, 0.9, 0.95, 0.99):
        rows[f"residual weight {weight}"] = DEFAULT.having(residual_weight=weight)
    for fusion in ("max", "min"):
        rows[f"head fusion {fusion}"] = DEFAULT.having(head_fusion=fusion)
    for ratio in (0.5, 0.9, 0.98):
        rows[f"discard ratio {ratio}"] = DEFAULT.having(discard_ratio=ratio)
    for first in (1, 2, 3):
        rows[f"first block {first}"] = DEFAULT.having(blocks=(first, last))
    rows["clamped in each head"] = ClampedInEachHead()
    return rows


def all_maps(capture: Capture) -> Iterator[tuple[str, Tensor]]:
    """The maps of every setting, one after the other."""
    rows = variants(len(capture.blocks) - 1)
    for name, method in tqdm(rows.items(), desc="settings", leave=False, disable=None):
        yield name, method.heatmap(capture)


def known_answers(model: nn.Module, asked: Questions, few: Questions) -> None:
    marks: dict[str, list[Tensor]] = defaultdict(list)
    for part in tqdm(asked.batches(), desc="known answers", disable=None):
        for name, heatmap in all_maps(DEFAULT.capture(model, part.x, target=part.targets)):
            marks[name].append(known_marks(heatmap, part))
    compare(MAIN[:3], {name: torch.cat(parts, 1) for name, parts in marks.items()}, asked.scenes)
    perturbed(model, few.x, few.targets, few.scenes, steps=18)


def perturbed(model: nn.Module, x: Tensor, targets: Tensor, groups: Tensor, steps: int) -> None:
    marks = {}
    for name, heatmap in all_maps(DEFAULT.capture(model, x, target=targets)):
        curves = deletion_insertion(model, x, heatmap, targets, steps=steps)
        marks[name] = torch.stack([curves.deletion_auc, curves.insertion_auc])
    compare(["deletion (less is better)", "insertion"], marks, groups)


def compare(columns: list[str], marks: dict[str, Tensor], groups: Tensor) -> None:
    """Print the marks of rollout's settings and the differences to them."""
    print(f"\n| setting | {' | '.join(columns)} |\n{'|---' * (len(columns) + 1)}|")
    default = marks["rollout's settings"]
    print("| rollout's settings |", " | ".join(f"{value:.3f}" for value in default.mean(1)), "|")
    for name in list(marks)[1:]:
        cells = []
        for difference in marks[name] - default:
            low, high = bootstrap_interval(difference, groups)
            enough = len(groups.unique()) >= 20
            interval = f" [{low:+.3f}, {high:+.3f}]" if enough else ""
            cells.append(f"{difference.mean():+.3f}{interval}")
        print(f"| {name} | {' | '.join(cells)} |")


def photographs() -> None:
    deit = load_model("deit_tiny_patch16_224")
    pictures = [preprocess(deit, photograph(name)) for name in PHOTOGRAPHS]
    x = torch.cat(pictures).repeat_interleave(2, 0)
    targets = torch.tensor(list(PHOTOGRAPHS.values())).flatten()
    perturbed(deit, x, targets, torch.arange(len(x)) // 2, steps=14)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--perturbed", type=int, default=40, help="scenes for deletion, insertion")
    parser.add_argument("--second", type=Path, help="weights of another training seed")
    options = parser.parse_args()
    made = list(islice(scenes(), options.scenes))
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
