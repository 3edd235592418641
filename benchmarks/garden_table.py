"""How true are the maps? Every method, every known mistake and every baseline, on garden scenes.

For each thing that the model finds in scenes with two or three things, all measures of the
package, with 95 % bootstrap intervals over scenes. Deletion and insertion take a forward pass per
step, so they are measured on a part of the questions. Peers (`peers.py`) stand beside as an outside
reference; those of other packages want `pip install captum grad-cam`.

With --units: what becomes of a map when the logits are multiplied.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice

import torch
from peers import peers
from torch import Tensor, nn
from tqdm import tqdm

from vitexplain_utils import METHODS, Capture, Method, evaluate_methods, garden_scene, load_model
from vitexplain_utils.garden import Scene
from vitexplain_utils.methods import HEAD_FUSIONS, MISTAKES
from vitexplain_utils.truth import (
    Captures,
    Questions,
    ask_garden,
    centre_map,
    constant_map,
    edge_map,
    energy_inside,
    format_table,
    pointing_game,
    random_map,
    randomised_models,
    rank_correlation,
    share_on_target,
)

FIRST_SEED = 6_000_000  # seeds below are for training, validation, accuracy and the test set
MAIN = ["peak inside", "energy inside", "share on asked-for", "class likeness"]
MORE = ["mean IoU", "pixel accuracy", "average precision"]
FACTORS = (0.01, 0.1, 1, 10, 100)  # of the logits, with --units
Row = Method | Callable[[Capture], Tensor]


def methods(flow: bool) -> dict[str, Row]:
    """Every row of the table but the peers'."""
    gradient, relevance, attribution, rollout, mistaken = (
        METHODS[name]
        for name in ("gradient_rollout", "relevance", "attribution", "rollout", "vit_explain")
    )
    rows: dict[str, Row] = {
        "gradient rollout": gradient,
        "gradient rollout, discard 0.9": gradient.having(discard_ratio=0.9),
        "gradient rollout, residual 0.9": gradient.having(residual_weight=0.9),
        "gradient rollout, attention held": gradient.having(hold_attention=True),
        "relevance": relevance,
        "relevance, attention held": relevance.having(hold_attention=True),
        "attribution": attribution,
        "attribution, plain gradient": attribution.having(hold_attention=False),
        "attribution, integrated": attribution.having(steps=8),
        "attribution, integrated, plain gradient": attribution.having(
            steps=8, hold_attention=False
        ),
    }
    rows["last attention"] = METHODS["last_attention"]
    for fusion in HEAD_FUSIONS:
        for ratio in (0.0, 0.9):
            rows[f"rollout, {fusion}, discard {ratio}"] = rollout.having(
                head_fusion=fusion, discard_ratio=ratio
            )
    if flow:
        rows["flow"] = METHODS["flow"]
    for mistake in MISTAKES:
        rows[f"mistake: {mistake}"] = mistaken.having(mistakes=(mistake,))
    rows["all three mistakes"] = mistaken
    baselines = (edge_map, centre_map, random_map, constant_map)
    return rows | {f"baseline: {b.__name__.removesuffix('_map')}": b for b in baselines}


def scenes() -> Iterator[Scene]:
    """Scenes with two or three things."""
    for seed in count(FIRST_SEED):
        scene = garden_scene(seed)
        if len(scene.labels) > 1:
            yield scene


def first_questions(asked: Questions, scenes: int) -> Questions:
    """The questions about the first scenes."""
    wanted = int((asked.scenes < scenes).sum())
    return asked.batches(wanted)[0]


def known_marks(heatmap: Tensor, asked: Questions) -> Tensor:
    """The first three of `MAIN` for each question, `[3, N]`."""
    peak = pointing_game(heatmap, asked.masks).double()
    energy = energy_inside(heatmap, asked.masks)
    return torch.stack([peak, energy, share_on_target(heatmap, asked.masks, asked.others)])


def cascade(model: nn.Module, asked: Questions, rows: dict[str, Row]) -> None:
    """Print how like the original each map stays while the model forgets, from the head down."""
    captures = Captures(model, asked)
    original = {name: captures.maps(method) for name, method in rows.items()}
    likeness: dict[str, list[str]] = {name: [] for name in rows}
    stages = []
    for stage, forgetful in tqdm(randomised_models(model), desc="randomised", disable=None):
        stages.append(stage)
        captures = Captures(forgetful, asked)
        for name, method in rows.items():
            values = rank_correlation(original[name], captures.maps(method))
            likeness[name].append(f"{values.mean():.2f}")
    print_rows("method", stages, likeness)


def units(model: nn.Module, asked: Questions) -> None:
    """Print what becomes of a map when all logits are multiplied: when their unit changes."""
    table: dict[str, list[str]] = {}
    for name in ("gradient_rollout", "attribution"):
        parts = [scaled_maps(METHODS[name], model, part) for part in asked.batches()]
        maps = torch.cat(parts, 1)  # [factor, N, rows, cols]
        energy = [energy_inside(heatmaps, asked.masks).mean() for heatmaps in maps]
        table[f"{METHODS[name].label}, energy inside"] = [f"{mean:.2f}" for mean in energy]
        maps = maps / maps.amax((2, 3), keepdim=True)
        change = (maps - maps[FACTORS.index(1)]).abs().amax((1, 2, 3))
        table[f"{METHODS[name].label}, largest change"] = [f"{most:.2g}" for most in change]
    print("The logits multiplied; changes are those of a map that is divided by its peak.\n")
    print_rows("", [f"× {factor}" for factor in FACTORS], table)


def scaled_maps(method: Method, model: nn.Module, asked: Questions) -> Tensor:
    """The maps for each factor, `[factor, N, rows, cols]`."""

    def own_class(logits: Tensor, factor: float) -> Tensor:
        return factor * logits.gather(1, asked.targets[:, None])[:, 0]

    targets = [partial(own_class, factor=factor) for factor in FACTORS]
    captures = (method.capture(model, asked.x, target=target) for target in targets)
    return torch.stack([method.heatmap(capture) for capture in captures])


def print_rows(corner: str, columns: list[str], rows: dict[str, list[str]]) -> None:
    print(f"| {corner} | {' | '.join(columns)} |\n{'|---' * (len(columns) + 1)}|")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--flow", action="store_true", help="attention flow as well (minutes)")
    parser.add_argument("--perturbed", type=int, default=24, help="scenes for deletion, insertion")
    parser.add_argument("--units", action="store_true", help="multiply the logits instead")
    options = parser.parse_args()
    start = time.perf_counter()
    model = load_model("garden")
    drawn = list(
        tqdm(islice(scenes(), options.scenes), total=options.scenes, desc="scenes", disable=None)
    )
    asked = ask_garden(model, drawn)
    if options.units:
        return units(model, asked)
    rows, outside = methods(options.flow), peers(model)
    table = evaluate_methods(model, asked, rows | outside)
    print(f"\n{len(asked)} things found in {options.scenes} scenes\n")
    print(format_table(table, MAIN), end="\n\n")
    print(format_table(table, MORE), end="\n\n")
    few = first_questions(asked, options.perturbed)
    table = evaluate_methods(model, few, rows | outside, steps=12)
    print(f"{len(few)} questions about {options.perturbed} scenes; patches blurred in 12 steps\n")
    print(format_table(table, ["deletion", "insertion"]), end="\n\n")
    print(
        "rank correlation with the original map while the model is randomised from the head down\n"
    )
    cascade(model, few, {name: rows[name] for name in rows if name != "flow"})
    print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
