"""What are dreams worth: how sure, how smooth, how quick, and is another model sure as well?

Dreams of the garden's eight things, with and without regularisers, from several seeds. The other
garden model is one of other seed, `python training/train_garden.py --seed 1 --steps 1250 --out
build/garden-seed1`, as its last step left it (so few steps are too short for the weights' average);
its checkpoint stays in `build/`. Writes `benchmarks/results/dreams.json`, with
other seeds or steps `build/results/dreams.json`. Run it with `OMP_NUM_THREADS=1`: CPU time counts
threads that wait as well.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import write_results
from safetensors.torch import load_file
from torch import Tensor, nn

from vitexplain_utils import dream, load_model, preprocess
from vitexplain_utils.dreaming import NAIVE, Regularisers, only, total_variation
from vitexplain_utils.garden import THINGS, garden_model, garden_test_set

OTHER = Path(__file__).parents[1] / "build" / "garden-token-seed1-steps1250.pt"
KINDS = {"regularised": Regularisers(), "naive": NAIVE}
EVERY = list(range(len(THINGS)))


@torch.no_grad()
def sure(model: nn.Module, x: Tensor) -> tuple[list[float], list[float]]:
    """Each dream's probability of its own thing, and the largest of any other."""
    probability = model(x).sigmoid()
    own = probability.diagonal().tolist()
    return own, probability.fill_diagonal_(0).amax(1).tolist()


def right(model: nn.Module) -> float:
    """Labels right on the test scenes, in per cent."""
    scenes = garden_test_set()
    x = torch.cat([preprocess(model, scene.image) for scene in scenes])
    truth = torch.tensor([[name in scene.labels for name in THINGS] for scene in scenes])
    with torch.no_grad():
        return round(100 * ((model(x) > 0) == truth).double().mean().item(), 2)


def measure(models: dict[str, nn.Module], seed: int, steps: int) -> dict[str, Any]:
    """All dreams of one seed: printed, and returned for the file."""
    rows: dict[str, Any] = {}
    for kind, regularisers in KINDS.items():
        found = dream(
            models["own"], only(EVERY), count=8, steps=steps, seed=seed, regularisers=regularisers
        )
        own, others = sure(models["own"], found.x)
        rows[kind] = {
            "target": [round(p, 4) for p in own],
            "largest other": [round(p, 4) for p in others],
            "total variation": [round(v, 4) for v in total_variation(found.x / 2 + 0.5).tolist()],
        }
        if "other" in models:
            rows[kind]["other model"] = [round(p, 4) for p in sure(models["other"], found.x)[0]]
        print(f"seed {seed}, {kind}")
        for name, values in rows[kind].items():
            print(f"  {name:16s}", " ".join(f"{value:.3f}" for value in values), flush=True)
    return rows


def seconds(model: nn.Module, steps: int) -> float:
    """CPU time of one dream by itself."""
    start = time.process_time()
    dream(model, only(0), steps=steps)
    return round(time.process_time() - start, 1)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What holds over all seeds."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        joined = {name: np.ravel([row[kind][name] for row in rows]) for name in rows[0][kind]}
        found[kind] = {
            "dreams": len(joined["target"]),
            "lowest target": float(joined["target"].min()),
            "largest other": float(joined["largest other"].max()),
            "mean total variation": round(float(joined["total variation"].mean()), 4),
        }
        if "other model" in joined:
            counts = [int((np.array(row[kind]["other model"]) >= 0.9).sum()) for row in rows]
            found[kind]["other model at least 0.9 sure, of 8, by seed"] = counts
    smooth, noisy = (found[kind]["mean total variation"] for kind in KINDS)
    found["total variation, naive / regularised"] = round(noisy / smooth, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--other", type=Path, default=OTHER, help="another garden model")
    options = parser.parse_args()
    models = {"own": load_model("garden")}
    found: dict[str, Any] = {"steps": options.steps, "threads": torch.get_num_threads()}
    found["things"] = list(THINGS)
    if options.other.is_file():
        models["other"] = garden_model(weights=False)
        trained = options.other.suffix == ".pt"  # a checkpoint of training/train_garden.py
        read = (
            torch.load(options.other, weights_only=True)["model"]
            if trained
            else load_file(options.other)
        )
        models["other"].load_state_dict(read)
        found["other model's labels right on 48 scenes, %"] = right(models["other"])
    found["seconds of CPU time for one dream"] = seconds(models["own"], options.steps)
    rows = [measure(models, seed, options.steps) for seed in range(options.seeds)]
    found["summary"] = summary(rows)
    found["seeds"] = {str(seed): row for seed, row in enumerate(rows)}
    print(found["summary"], found["seconds of CPU time for one dream"])
    whole = (options.seeds, options.steps) == (2, 160) and "other" in models
    write_results("dreams", found, quick=not whole)


if __name__ == "__main__":
    main()
