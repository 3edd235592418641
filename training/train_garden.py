"""Train the garden model from nothing: ``python training/train_garden.py``.

Takes under an hour on two free CPU cores. A killed run goes on from its last checkpoint when the
same command is given again.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import platform
import time
from pathlib import Path

import numpy as np
import PIL
import timm
import torch
from evaluate_garden import (
    CACHE,
    TEST_SEEDS,
    TRAIN_SEEDS,
    VALIDATION_SEEDS,
    describe,
    evaluate,
    load_scenes,
    normalise,
)
from numpy.typing import NDArray
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_weight_decay
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from vitexplain_utils.garden import garden_model
from vitexplain_utils.garden import model as garden

BATCH = 64
PEAK_RATE = 1e-3
WEIGHT_DECAY = 0.05
WARM_UP = 300
EMA_DECAY = 0.999
CHECK_EVERY = 500
SAVE_EVERY = 250


def learning_rate(step: int, steps: int) -> float:
    """Return the rate of a step: a linear warm-up, then a cosine down to zero."""
    warm_up = min(WARM_UP, steps // 5)
    if step < warm_up:
        return PEAK_RATE * (step + 1) / warm_up
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


def batch_indices(step: int, seed: int, count: int) -> NDArray[np.int64]:
    """Return the scenes of one step; each epoch is a new shuffle of all of them."""
    epoch, place = divmod(step, count // BATCH)
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return order[place * BATCH : (place + 1) * BATCH]


def augment(images: NDArray[np.uint8], step: int, seed: int) -> NDArray[np.uint8]:
    """Flip images (n, 96, 96, 3) at random and roll them round the frame; labels stay true."""
    rng = np.random.default_rng([seed, step, 1])
    changed = np.empty_like(images)
    for k, image in enumerate(images):
        across, down = rng.choice([1, -1], size=2)
        shift = rng.integers(image.shape[0], size=2)
        changed[k] = np.roll(image[::down, ::across], shift, axis=(0, 1))
    return changed


def save_checkpoint(path: Path, state: dict[str, object]) -> None:
    """Write to a side file first, so that a kill never leaves half a checkpoint."""
    side = path.with_suffix(".tmp")
    torch.save(state, side)
    os.replace(side, path)


def quickest_dtype(model: VisionTransformer, inputs: torch.Tensor) -> torch.dtype:
    """Return bfloat16, or float32 where the processor only imitates it, ten times as slowly."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            model(inputs).sum().backward()
        seconds[dtype] = time.perf_counter() - start
    model.zero_grad()
    return min(seconds, key=lambda dtype: seconds[dtype])


def train(
    steps: int, seed: int, pool: str
) -> tuple[VisionTransformer, list[str], str, float, float]:
    """Train, or go on training, for a number of steps.

    Returns:
        The averaged model, the log, the precision, and the seconds by the clock and of CPU time.
    """
    images, truth = load_scenes(TRAIN_SEEDS)
    labels = torch.from_numpy(truth).float()
    validation = load_scenes(VALIDATION_SEEDS)
    torch.manual_seed(seed)
    model = garden_model(weights=False, pool=pool)
    for block in model.blocks:
        # The fused kernel's backward pass takes twice as long on CPU.
        block.attn.fused_attn = False  # type: ignore[union-attr]
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
    optimizer = torch.optim.AdamW(param_groups_weight_decay(model, WEIGHT_DECAY), fused=True)
    checkpoint = CACHE / f"garden-{pool}-seed{seed}-steps{steps}.pt"
    start, log, wall, cpu = 0, list[str](), 0.0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        start, log, wall, cpu = state["step"], state["log"], state["wall"], state["cpu"]
    dtype = quickest_dtype(model, normalise(images[: BATCH // 4]))
    wall_start, cpu_start = time.perf_counter() - wall, time.process_time() - cpu
    running = 0.0
    bar = tqdm(range(start, steps), initial=start, total=steps, desc="training", mininterval=5)
    for step in bar:
        chosen = batch_indices(step, seed, len(images))
        inputs = normalise(augment(images[chosen], step, seed))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            logits = model(inputs)
        loss = binary_cross_entropy_with_logits(logits.float(), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        running += 0.02 * (loss.item() - running) if step > start else loss.item()
        bar.set_postfix(loss=f"{running:.4f}", refresh=False)
        done = step + 1
        wall, cpu = time.perf_counter() - wall_start, time.process_time() - cpu_start
        if done % CHECK_EVERY == 0 or done == steps:
            report = evaluate(average.module, *validation)
            log.append(
                f"step {done:5d}  loss {running:.4f}  validation: labels {report.labels:.2%}, "
                f"whole scenes {report.whole:.2%}  {wall / 60:.1f} min"
            )
            tqdm.write(log[-1])
        if done % SAVE_EVERY == 0 or done == steps:
            save_checkpoint(
                checkpoint,
                {
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "rng": torch.get_rng_state(),
                    "step": done,
                    "log": log,
                    "wall": wall,
                    "cpu": cpu,
                },
            )
    trained = garden_model(weights=False, pool=pool)
    trained.load_state_dict(average.module.state_dict())
    precision = "bfloat16 autocast" if dtype is torch.bfloat16 else "float32"
    return trained, log, precision, wall, cpu


def model_card(
    model: VisionTransformer,
    weights: Path,
    command: str,
    log: list[str],
    precision: str,
    time_line: str,
) -> str:
    """Write the model card's text; the numbers in it are measured here."""
    measured = describe(evaluate(model, *load_scenes(TEST_SEEDS)))
    parameters = sum(p.numel() for p in model.parameters())
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return f"""# The garden model

A small Vision Transformer that names the things in generated garden scenes: which of ladybird,
bee, fish, leaf, flower, mushroom, star and snail are in the picture. It exists so that attention
can be explained, and the explanations marked, on a model whose right answers are known.

- Architecture: plain ViT, 96 x 96 input, patches of 8 x 8 (12 x 12 of them), class token, width
  96, 6 blocks, 3 heads, 8 outputs; {parameters:,} parameters, float32.
- Input: RGB scaled to -1..1. Output: one logit per thing; each sigmoid is that thing's probability.
- Weights: `{weights.name}`, SHA-256 `{digest}`

## Data

Scenes painted by `vitexplain_utils.garden.garden_scene`; no photographs, nothing downloaded.
Seeds, in ranges that do not meet:

- training: {TRAIN_SEEDS.start:,} to {TRAIN_SEEDS.stop - 1:,}
- validation, for the log below: {VALIDATION_SEEDS.start:,} to {VALIDATION_SEEDS.stop - 1:,}
- test, for the measurements below: {TEST_SEEDS.start:,} to {TEST_SEEDS.stop - 1:,}

Seeds below 1,000,000 were never trained on and are free for your own experiments.

## Recipe

`{command}`

- Batches of {BATCH}, random flips and rolls, binary cross-entropy, {precision}.
- AdamW: peak rate {PEAK_RATE:g} after {WARM_UP} steps of warm-up, then a cosine to zero; weight
  decay {WEIGHT_DECAY}; gradients clipped to norm 1; weights averaged (EMA, {EMA_DECAY}).
- {time_line}
- Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}, \
Pillow {PIL.__version__}, NumPy {np.__version__}.

## Measured

On 2,000 scenes that were used neither for training nor for validation, by
`python training/evaluate_garden.py`:

{measured}

## End of the training log

```
{chr(10).join(log[-5:])}
```

## Limits

It knows these eight drawn things and nothing else: on photographs its answers mean nothing. It
was trained on one to three things per scene, each there at most once.
"""


def main() -> None:
    """Train the model, then write its weights and its card."""
    parser = argparse.ArgumentParser(description="Train the garden model.")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order, augmentation")
    parser.add_argument("--steps", type=int, default=7000, help="optimizer steps")
    parser.add_argument("--pool", default="token", choices=garden.POOLS, help="what the head reads")
    parser.add_argument(
        "--out", type=Path, help="folder for weights and card (other pools: build/garden-POOL)"
    )
    args = parser.parse_args()
    model, log, precision, wall, cpu = train(args.steps, args.seed, args.pool)
    bundled = args.pool == "token"
    out = args.out or (garden.WEIGHTS.parent if bundled else CACHE / f"garden-{args.pool}")
    out.mkdir(parents=True, exist_ok=True)
    weights = out / garden.WEIGHTS.name
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
    weights.chmod(0o644)
    if not bundled:  # measured against, never shipped: no card
        print(describe(evaluate(model, *load_scenes(TEST_SEEDS))), weights, sep="\n")
        return
    time_line = (
        f"Training took {wall / 60:.0f} minutes by the clock and {cpu / 60:.0f} minutes of CPU\n"
        f"  time on {os.cpu_count()} CPU cores, after painting the scenes."
    )
    command = f"python training/train_garden.py --seed {args.seed} --steps {args.steps}"
    card = model_card(model, weights, command, log, precision, time_line)
    (out / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
