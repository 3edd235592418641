"""Which rows does attention attribution add up where the head reads no class token?

Garden models with other pools are trained by `python training/train_garden.py --pool avg` (and
`map`; `--steps 2500` is enough), and their weights stay in `build/`. The candidates are marked on
fresh scenes beside the published rules, with the attention held where no row says otherwise.
Writes `benchmarks/results/pools.json`, with other options than none `build/results/pools.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from garden_table import scenes
from marking import PLAIN
from record import write_results
from safetensors.torch import load_file
from torch import Tensor

from vitexplain_utils import METHODS, Capture, evaluate_methods, record_attention
from vitexplain_utils.garden import Scene, garden_model
from vitexplain_utils.truth import ask_garden, format_table

WEIGHTS = Path(__file__).parents[1] / "build" / "garden-{}" / "garden.safetensors"
MEASURES = ["peak inside", "energy inside", "share on asked-for"]
COLUMNS = ["method", "measure", "mean", "low", "high"]


def added(capture: Capture, *, first: int = 0, pool: bool = False) -> Tensor:
    """`A ⊙ G` of all rows, from a block to the last, and of the pool's query."""
    calls = [*capture.blocks[first:], *([capture.pool] if pool and capture.pool else [])]
    row = sum((call.attention() * call.gradient()).sum((1, 2)) for call in calls)
    return capture.grid.to_grid(row.clamp(min=0))


def at_the_end(capture: Capture) -> Tensor:
    """Each patch token's own gradient × input, after the last block."""
    seen: list[Tensor] = []
    with record_attention(capture.model, hold_attention=capture.hold_attention):
        handle = capture.model.blocks[-1].register_forward_hook(lambda *args: seen.append(args[-1]))
        logits = capture.model(capture.x)
        handle.remove()
        score = logits.gather(1, capture.target[:, None]).sum()
        (grad,) = torch.autograd.grad(score, seen)
    return capture.grid.to_grid((grad * seen[0]).sum(-1).clamp(min=0).detach())


def measure(pool: str, made: Sequence[Scene]) -> dict[str, Any]:
    """All rows for one pool: printed, and returned for the file."""
    model = garden_model(weights=pool == "token", pool=pool)
    if pool != "token":
        model.load_state_dict(load_file(str(WEIGHTS).format(pool)))
    asked = ask_garden(model, made)
    rows = {}
    for name in ("attribution", "gradient_rollout", "relevance"):
        method = METHODS[name]
        rows[method.label] = method
        rows[f"{method.label}{PLAIN}"] = method.having(hold_attention=False)
    rows |= {
        "all rows of all blocks": added,
        "all rows of the last block": partial(added, first=len(model.blocks) - 1),
        "all rows of all blocks, and the pool": partial(added, pool=True),
        "patch tokens' gradient × input at the end": at_the_end,
        "rollout": METHODS["rollout"],
    }
    table = evaluate_methods(model, asked, rows)
    print(f"\npool {pool}: {len(asked)} questions about {len(made)} scenes\n")
    print(format_table(table, MEASURES))
    lines = [
        [round(row[key], 3) if isinstance(row[key], float) else row[key] for key in COLUMNS]
        for row in table
        if row["measure"] in MEASURES
    ]
    return {"questions": len(asked), "columns": COLUMNS, "rows": lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", action="append", choices=("token", "avg", "map"))
    parser.add_argument("--scenes", type=int, default=200)
    options = parser.parse_args()
    made = list(islice(scenes(), options.scenes))
    found = {"scenes": len(made)}
    found["pools"] = {pool: measure(pool, made) for pool in options.pool or ("avg", "map")}
    write_results("pools", found, quick=options != parser.parse_args([]))


if __name__ == "__main__":
    main()
