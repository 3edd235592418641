"""Measure the garden model on 2,000 fresh scenes: ``python training/evaluate_garden.py``.

Writes `benchmarks/results/garden_accuracy.json`.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from vitexplain_utils import garden_scene
from vitexplain_utils.garden import THINGS, garden_model, scenes, things
from vitexplain_utils.garden.scenes import SIZE

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from record import write_results

# Disjoint seeds; those below 1,000,000 stay free for readers and were never trained on.
TRAIN_SEEDS = range(1_000_000, 1_060_000)
VALIDATION_SEEDS = range(2_000_000, 2_001_000)
TEST_SEEDS = range(3_000_000, 3_002_000)

CACHE = Path(__file__).parents[1] / "build"
CHUNK = 250


@dataclass(frozen=True)
class Report:
    """How well a model names the things in a set of scenes.

    Attributes:
        scenes: Number of scenes.
        labels: Share of right answers over all scenes and classes, 0..1.
        whole: Share of scenes with all eight answers right, 0..1.
        per_class: Share of right answers for each class, 0..1.
        missed: For each class, how often it was there and not named.
        invented: For each class, how often it was named and not there.
        confused: How often the first thing was missed where the second was invented.
    """

    scenes: int
    labels: float
    whole: float
    per_class: dict[str, float]
    missed: dict[str, int]
    invented: dict[str, int]
    confused: list[tuple[tuple[str, str], int]]


def normalise(images: NDArray[np.uint8]) -> torch.Tensor:
    """Turn uint8 images (n, 96, 96, 3) into the model's float32 input (n, 3, 96, 96), -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def _chunk(seeds: range) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    made = [garden_scene(seed) for seed in seeds]
    images = np.stack([np.asarray(scene.image) for scene in made])
    labels = np.array([[name in scene.labels for name in THINGS] for scene in made])
    return images, labels


def load_scenes(seeds: range) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Paint the scenes of a range of seeds with all cores, or reuse the cached ones.

    Returns:
        Images, uint8 (n, 96, 96, 3), and labels, bool (n, 8).
    """
    code = Path(scenes.__file__).read_bytes() + Path(things.__file__).read_bytes()
    painter = hashlib.sha256(code).hexdigest()[:12]
    stem = CACHE / f"scenes-{painter}-{seeds.start}-{seeds.stop}"
    images_file, labels_file = stem.with_suffix(".images.npy"), stem.with_suffix(".labels.npy")
    if not labels_file.exists():
        CACHE.mkdir(exist_ok=True)
        images = np.lib.format.open_memmap(
            images_file, mode="w+", dtype=np.uint8, shape=(len(seeds), SIZE, SIZE, 3)
        )
        labels = np.empty((len(seeds), len(THINGS)), dtype=bool)
        chunks = [seeds[k : k + CHUNK] for k in range(0, len(seeds), CHUNK)]
        with multiprocessing.get_context("spawn").Pool() as pool:
            done = tqdm(pool.imap(_chunk, chunks), total=len(chunks), desc="scenes", mininterval=5)
            for k, (some_images, some_labels) in enumerate(done):
                images[k * CHUNK : (k + 1) * CHUNK] = some_images
                labels[k * CHUNK : (k + 1) * CHUNK] = some_labels
        images.flush()
        np.save(labels_file, labels)
    return np.load(images_file), np.load(labels_file)


def evaluate(
    model: torch.nn.Module, images: NDArray[np.uint8], labels: NDArray[np.bool_]
) -> Report:
    """Compare the model's answers (sigmoid above one half) with the labels."""
    model.eval()
    with torch.inference_mode():
        logits = [model(normalise(images[k : k + 100])) for k in range(0, len(images), 100)]
    named = (torch.cat(logits) > 0).numpy()
    right = named == labels
    missed, invented = labels & ~named, named & ~labels
    pairs: Counter[tuple[str, str]] = Counter()
    for scene in np.flatnonzero(missed.any(axis=1) & invented.any(axis=1)):
        for here in np.flatnonzero(missed[scene]):
            for there in np.flatnonzero(invented[scene]):
                pairs[THINGS[here], THINGS[there]] += 1
    return Report(
        scenes=len(images),
        labels=float(right.mean()),
        whole=float(right.all(axis=1).mean()),
        per_class=dict(zip(THINGS, right.mean(axis=0).tolist(), strict=True)),
        missed=dict(zip(THINGS, missed.sum(axis=0).tolist(), strict=True)),
        invented=dict(zip(THINGS, invented.sum(axis=0).tolist(), strict=True)),
        confused=pairs.most_common(5),
    )


def describe(report: Report) -> str:
    """Format a report as Markdown."""
    lines = [
        f"Labels right: {report.labels:.2%} of {report.scenes * len(THINGS):,}.",
        f"Whole scenes right (all eight answers): {report.whole:.2%} of {report.scenes:,}.",
        "",
        "| thing | labels right | missed | invented |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name in THINGS:
        lines.append(
            f"| {name} | {report.per_class[name]:.2%} "
            f"| {report.missed[name]} | {report.invented[name]} |"
        )
    pairs = [f"{here} taken for {there} ({count}x)" for (here, there), count in report.confused]
    lines += ["", f"Most confused: {', '.join(pairs) or 'none'}."]
    return "\n".join(lines)


def tabulate(report: Report) -> dict[str, Any]:
    """A report as the result file has it."""
    rows = [
        [name, percent(report.per_class[name]), report.missed[name], report.invented[name]]
        for name in THINGS
    ]
    return {
        "scenes": report.scenes,
        "labels": report.scenes * len(THINGS),
        "labels right, %": percent(report.labels),
        "whole scenes right, %": percent(report.whole),
        "columns": ["thing", "labels right, %", "missed", "invented"],
        "rows": rows,
        "most confused": [[here, there, count] for (here, there), count in report.confused],
    }


def percent(share: float) -> float:
    """A share in per cent, with the two digits that are printed."""
    return round(100 * share, 2)


def main() -> None:
    """Measure the packaged model on the test scenes, print the result and write it."""
    images, labels = load_scenes(TEST_SEEDS)
    report = evaluate(garden_model(), images, labels)
    print(describe(report))
    write_results("garden_accuracy", tabulate(report))


if __name__ == "__main__":
    main()
