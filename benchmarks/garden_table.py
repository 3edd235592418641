"""How true are the maps? Every method and every known mistake, marked on garden scenes.

For each thing that the model finds in scenes with two or three things: is the map's peak inside
the thing (pointing game), what share of the map lies inside it (energy), and what share of the
energy on things lies on the one asked for (share)?
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice

import torch
from torch import Tensor
from tqdm import tqdm

from vitexplain_utils import (
    Scene,
    energy_inside,
    garden_scene,
    load_model,
    pointing_game,
    share_on_target,
)
from vitexplain_utils.explain import Captured, capture_attention, heatmap_of
from vitexplain_utils.garden.questions import ask_garden
from vitexplain_utils.mistakes import MISTAKES, mistaken_gradient_rollout

FIRST_SEED = 5_000_000  # seeds below are for training, validation and accuracy


def mistaken(captured: Captured, mistakes: tuple[str, ...]) -> Tensor:
    row = mistaken_gradient_rollout(captured.attention, captured.gradient or [], mistakes)
    return captured.grid.to_grid(row)


def methods() -> dict[str, Callable[[Captured], Tensor]]:
    """Every row of the table."""
    rows: dict[str, Callable[[Captured], Tensor]] = {
        "last attention": partial(heatmap_of, method="last_attention")
    }
    for fusion in ("mean", "max", "min"):
        for ratio in (0.0, 0.9):
            rows[f"rollout, {fusion}, discard {ratio}"] = partial(
                heatmap_of, method="rollout", head_fusion=fusion, discard_ratio=ratio
            )
    for ratio in (0.0, 0.9):
        rows[f"gradient rollout, discard {ratio}"] = partial(heatmap_of, discard_ratio=ratio)
    rows["relevance"] = partial(heatmap_of, method="relevance")
    for mistake in MISTAKES:
        rows[f"mistake: {mistake}"] = partial(mistaken, mistakes=(mistake,))
    rows["all three mistakes"] = partial(mistaken, mistakes=MISTAKES)
    return rows


def scenes() -> Iterator[Scene]:
    """Scenes with two or three things."""
    for seed in count(FIRST_SEED):
        scene = garden_scene(seed)
        if len(scene.labels) > 1:
            yield scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=400)
    options = parser.parse_args()
    model = load_model("garden")
    drawn = list(tqdm(islice(scenes(), options.scenes), total=options.scenes, desc="scenes"))
    asked = ask_garden(model, drawn)
    marks: dict[str, list[Tensor]] = {name: [] for name in methods()}
    for part in tqdm(asked.batches(), desc="maps"):
        captured = capture_attention(model, part.x, target=part.targets)
        for name, method in methods().items():
            heatmap = method(captured)
            hit = pointing_game(heatmap, part.masks).double()
            energy = energy_inside(heatmap, part.masks)
            share = share_on_target(heatmap, part.masks, part.others)
            marks[name].append(torch.stack([hit, energy, share], 1))
    print(f"\n{len(asked)} things found in {options.scenes} scenes\n")
    print("| method | peak inside | energy inside | share on the asked-for |\n|---|---|---|---|")
    for name, parts in marks.items():
        hit, energy, share = torch.cat(parts).mean(0).tolist()
        print(f"| {name} | {hit:.1%} | {energy:.2f} | {share:.2f} |")


if __name__ == "__main__":
    main()
