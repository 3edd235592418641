"""Questions: "where do you see the bee?", for every thing that the model finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import check_sequence
from ..garden import THINGS, Scene
from ..models import library_of, preprocess
from ..models.twin import eval_twin


@dataclass(frozen=True)
class Questions:
    """`N` questions with known answers.

    Attributes:
        x: `[N, 3, H, W]`, the model's input.
        targets: `[N]`, the class asked for.
        masks: `[N, H, W]`, bool, where that thing is; nothing where nobody knows.
        others: `[N, H, W]`, bool, where all other things of the picture are; nothing if none are.
        scenes: `[N]`, which picture each question is about; those about one stand together.
        left_out: how many things were not asked about, by reason.
    """

    x: Tensor
    targets: Tensor
    masks: Tensor
    others: Tensor
    scenes: Tensor
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.targets)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        return (
            f"{len(self)} questions about {len(self.scenes.unique())} pictures; "
            f"left out: {reasons or 'nothing'}"
        )

    def select(self, index: Tensor | slice) -> Questions:
        """Some of the questions."""
        names = ("x", "targets", "masks", "others", "scenes")
        return Questions(**{name: getattr(self, name)[index] for name in names})

    def batches(self, size: int = 64) -> list[Questions]:
        """The questions in parts of at most `size`."""
        return [self.select(slice(n, n + size)) for n in range(0, len(self), size)]


Row = tuple[Tensor, int, np.ndarray, np.ndarray, int]  # of x, targets, masks, others, scenes


def stack_questions(rows: Sequence[Row], left_out: Mapping[str, int]) -> Questions:
    """The questions of at least one row; what is left out for no reason is not mentioned."""
    images, targets, masks, others, scenes = zip(*rows, strict=True)
    x = torch.stack(images)
    return Questions(
        x,
        torch.tensor(targets),
        torch.from_numpy(np.stack(masks)).to(x.device),
        torch.from_numpy(np.stack(others)).to(x.device),
        torch.tensor(scenes),
        {reason: count for reason, count in left_out.items() if count},
    )


def ask_garden(model: nn.Module, scenes: Sequence[Scene]) -> Questions:
    """One question for each thing that the model finds in scenes with two or three things.

    Things that the model misses are left out: a map cannot show where it saw what it did not see.

    Args:
        model: a model with the garden's eight classes.
        scenes: garden scenes; those with a single thing are skipped.

    Raises:
        ValueError: the model has other classes, or nothing is left to ask.

    Example:
        >>> from vitexplain_utils import load_model
        >>> from vitexplain_utils.garden import garden_test_set
        >>> questions = ask_garden(load_model("garden"), garden_test_set()[16:18])
        >>> questions.x.shape[1:], questions.masks.shape[1:]
        (torch.Size([3, 96, 96]), torch.Size([96, 96]))
    """
    model = eval_twin(model)
    check_sequence("scenes", scenes, "garden scenes")
    if not all(isinstance(scene, Scene) for scene in scenes):
        raise ValueError("scenes must be garden scenes, as from garden_scene")
    if library_of(model).classes != len(THINGS):
        raise ValueError(
            f"model has {library_of(model).classes} classes, not the garden's {len(THINGS)}"
        )
    several = [scene for scene in scenes if len(scene.labels) > 1]
    rows: list[Row] = []
    for first in range(0, len(several), 64):
        part = several[first : first + 64]
        x = torch.cat([preprocess(model, scene.image) for scene in part])
        with torch.no_grad():
            logits = library_of(model).logits(x)
        for index, scene in enumerate(part):
            for name in scene.labels:
                target = THINGS.index(name)
                if logits[index, target] > 0:
                    rest = [mask for other, mask in scene.masks.items() if other != name]
                    others = np.any(rest, axis=0)
                    rows.append((x[index], target, scene.masks[name], others, first + index))
    if not rows:
        raise ValueError("scenes must hold one with two or three things that the model finds")
    things = sum(len(scene.labels) for scene in several)
    return stack_questions(rows, {"missed by the model": things - len(rows)})
