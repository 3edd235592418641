"""How true are the maps? Every method, mistake, baseline and peer on garden scenes.

For each thing that the model finds in scenes with two or three things: what `marking.py` marks,
the rank correlation with the original map when the whole network has been randomised, over several
seeds, and what becomes of a map when the logits are multiplied. Rows of other packages want
`pip install captum grad-cam`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count, islice

import torch
from marking import PLAIN, QUICK, SLOW, Row, Set, Sizes, about, all_rows, run
from record import write_results
from torch import Tensor, nn
from tqdm import tqdm

from vitexplain_utils import METHODS, Method, garden_scene, load_model
from vitexplain_utils.garden import Scene
from vitexplain_utils.truth import (
    Captures,
    Questions,
    ask_garden,
    edge_map,
    energy_inside,
    randomised_models,
    rank_correlation,
)

FIRST_SEED = 6_000_000  # seeds below are for training, validation, accuracy and the test set
SEEDS = 10  # of random weights
STUDENT = 2.262  # 97.5 % of Student's t, for that many
FACTORS = (0.01, 0.1, 1, 10, 100)  # of the logits
SIZES = replace(Sizes(), photographs=500)  # scenes


def scenes() -> Iterator[Scene]:
    """Scenes with two or three things."""
    for seed in count(FIRST_SEED):
        scene = garden_scene(seed)
        if len(scene.labels) > 1:
            yield scene


def garden_sets(model: nn.Module, asked: Questions, sizes: Sizes) -> dict[str, Set]:
    """All questions, and one about each of some scenes for deletion and insertion."""
    first = torch.cat([torch.tensor([True]), asked.scenes.diff() > 0])
    once = asked.select(first.nonzero()[: sizes.perturbed, 0])
    return {"garden": Set(model, asked), "deletion and insertion": Set(model, once, True, True)}


def forgotten(model: nn.Module, asked: Questions, rows: dict[str, Row], seeds: int) -> dict:
    """How like the original each map is when all weights are random: means over seeds."""
    captures = Captures(model, asked)
    original = {name: captures.maps(row) for name, row in rows.items()}
    likeness: dict[str, list[float]] = {name: [] for name in rows}
    for seed in tqdm(range(seeds), desc="random weights", disable=None):
        *_, (_, forgetful) = randomised_models(model, seed=seed)
        captures = Captures(forgetful, asked)
        for name, row in rows.items():
            values = rank_correlation(original[name], captures.maps(row))
            likeness[name].append(values.mean().item())
    table = []
    for name, means in likeness.items():
        mean, error = torch.tensor(means).mean(), torch.tensor(means).std() / seeds**0.5
        ends = (mean - STUDENT * error, mean + STUDENT * error)
        table.append([name, *(round(float(value), 4) for value in (mean, *ends))])
    print(f"\n## rank correlation with the original map, random weights, {seeds} seeds\n")
    shown = {name: [f"{m:.2f}", f"[{low:.2f}, {high:.2f}]"] for name, m, low, high in table}
    print_rows("method", ["mean", "95 %"], shown)
    columns = ["method", "mean", "low", "high"]
    return {"questions": len(asked), "seeds": seeds, "columns": columns, "rows": table}


def units(model: nn.Module, asked: Questions) -> dict:
    """Energy inside when all logits are multiplied: when their unit changes."""
    table = {}
    for name in ("gradient_rollout", "relevance", "attribution"):
        for method in (METHODS[name], METHODS[name].having(hold_attention=False)):
            maps = torch.cat([scaled_maps(method, model, part) for part in asked.batches()], 1)
            energy = [energy_inside(heatmaps, asked.masks).mean() for heatmaps in maps]
            held = method.capture_settings["hold_attention"]
            title = method.label + ("" if held else PLAIN)
            table[title] = [round(float(mean), 4) for mean in energy]
    print("\n## energy inside, with the logits multiplied\n")
    shown = {name: [f"{mean:.2f}" for mean in means] for name, means in table.items()}
    print_rows("method", [f"× {factor}" for factor in FACTORS], shown)
    rows = [[name, *means] for name, means in table.items()]
    return {"questions": len(asked), "columns": ["method", *FACTORS], "rows": rows}


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
    parser.add_argument("--quick", action="store_true", help="a few questions, into build/")
    options = parser.parse_args()
    sizes = QUICK if options.quick else SIZES
    model = load_model("garden")
    asked = ask_garden(model, list(islice(scenes(), sizes.photographs)))
    some = asked.select(asked.scenes < (24 if not options.quick else 6))
    rows = {name: row for name, row in all_rows(model).items()
            if isinstance(row, Method) and name not in SLOW}  # fmt: skip
    flow: dict[str, Row] = {"flow": METHODS["flow"]}
    found = {
        "models": {"garden": run(garden_sets(model, asked, sizes), sizes, flow)},
        "random weights": forgotten(model, some, rows | {"baseline: edge": edge_map}, SEEDS),
        "units": units(model, asked.select(asked.scenes < 100)),
    }
    found = {**about(sizes), **found}
    write_results("garden", found, quick=options.quick, packages=("captum", "grad-cam"))


if __name__ == "__main__":
    main()
