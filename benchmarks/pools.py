"""Which rows does attention attribution add up where the head reads no class token?

Garden models with other pools are trained by `python training/train_garden.py --pool avg` (and
`map`; `--steps 2500` is enough), and their weights stay in `build/`. The candidates, with
the plain gradient, are marked on fresh scenes beside the published rules.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from garden_table import scenes
from safetensors.torch import load_file
from torch import Tensor

from vitexplain_utils import METHODS, Capture, evaluate_methods, record_attention
from vitexplain_utils.garden import garden_model
from vitexplain_utils.truth import ask_garden, format_table

WEIGHTS = Path(__file__).parents[1] / "build" / "garden-{}" / "garden.safetensors"
MEASURES = ["peak inside", "energy inside", "share on asked-for"]


def added(capture: Capture, *, first: int = 0, pool: bool = False) -> Tensor:
    """`A ⊙ G` of all rows, from a block to the last, and of the pool's query."""
    calls = [*capture.blocks[first:], *([capture.pool] if pool and capture.pool else [])]
    row = sum((call.attention() * call.gradient()).sum((1, 2)) for call in calls)
    return capture.grid.to_grid(row.clamp(min=0))


def at_the_end(capture: Capture) -> Tensor:
    """Each patch token's own gradient × input, after the last block."""
    seen: list[Tensor] = []
    with record_attention(capture.model):
        handle = capture.model.blocks[-1].register_forward_hook(lambda *args: seen.append(args[-1]))
        logits = capture.model(capture.x)
        handle.remove()
        score = logits.gather(1, capture.target[:, None]).sum()
        (grad,) = torch.autograd.grad(score, seen)
    return capture.grid.to_grid((grad * seen[0]).sum(-1).clamp(min=0).detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", default="avg", choices=("token", "avg", "map"))
    parser.add_argument("--scenes", type=int, default=200)
    options = parser.parse_args()
    model = garden_model(weights=options.pool == "token", pool=options.pool)
    if options.pool != "token":
        model.load_state_dict(load_file(str(WEIGHTS).format(options.pool)))
    made = [scene for scene, _ in zip(scenes(), range(options.scenes), strict=False)]
    asked = ask_garden(model, made)
    last = len(model.blocks) - 1
    rows = {
        "attribution": METHODS["attribution"],
        "attribution, plain gradient": METHODS["attribution"].having(hold_attention=False),
        "all rows of all blocks": added,
        "all rows of the last block": partial(added, first=last),
        "all rows of all blocks, and the pool": partial(added, pool=True),
        "patch tokens' gradient × input at the end": at_the_end,
        "gradient rollout": METHODS["gradient_rollout"],
        "relevance": METHODS["relevance"],
        "rollout": METHODS["rollout"],
    }
    print(f"pool {options.pool}: {len(asked)} questions about {options.scenes} scenes\n")
    print(format_table(evaluate_methods(model, asked, rows), MEASURES))


if __name__ == "__main__":
    main()
