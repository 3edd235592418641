"""Questions: "where do you see the bee?", for every thing the model finds in garden scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn

from ..garden import THINGS, Scene
from ..models import library_of, preprocess


@dataclass(frozen=True)
class Questions:
    """`N` questions with known answers.

    Attributes:
        x: `[N, 3, 96, 96]`, the model's input.
        targets: `[N]`, the class asked for.
        masks: `[N, 96, 96]`, bool, where that thing is.
        others: `[N, 96, 96]`, bool, where all other things of the scene are.
        scenes: `[N]`, which scene each question is about; those of one scene stand together.
    """

    x: Tensor
    targets: Tensor
    masks: Tensor
    others: Tensor
    scenes: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, size: int = 64) -> list[Questions]:
        """The questions in parts of at most `size`."""
        parts = [getattr(self, field.name).split(size) for field in fields(self)]
        return [Questions(*tensors) for tensors in zip(*parts, strict=True)]


def ask_garden(model: nn.Module, scenes: Sequence[Scene]) -> Questions:
    """One question for each thing that the model finds in scenes with two or three things.

    Things that the model misses are left out: a map cannot show where it saw what it did not see.

    Args:
        model: a model with the garden's eight classes.
        scenes: garden scenes; those with a single thing are skipped.

    Raises:
        ValueError: nothing is left to ask.

    Example:
        >>> from vitexplain_utils import load_model
        >>> from vitexplain_utils.garden import garden_test_set
        >>> questions = ask_garden(load_model("garden"), garden_test_set()[16:18])
        >>> questions.x.shape[1:], questions.masks.shape[1:]
        (torch.Size([3, 96, 96]), torch.Size([96, 96]))
    """
    several = [scene for scene in scenes if len(scene.labels) > 1]
    rows: list[tuple[Tensor, int, np.ndarray, np.ndarray, int]] = []
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
    images, targets, masks, others, places = zip(*rows, strict=True)
    return Questions(
        torch.stack(images),
        torch.tensor(targets),
        torch.from_numpy(np.stack(masks)),
        torch.from_numpy(np.stack(others)),
        torch.tensor(places),
    )
