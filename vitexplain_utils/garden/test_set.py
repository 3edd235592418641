"""The garden scenes that ship with the package: a test set, and one scene for each notebook."""

from __future__ import annotations

import io
import operator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitexplain_utils.garden.scenes import SIZE, THINGS, Scene

FILE = Path(__file__).with_name("test_set.npz")
TEST_SCENES = 48
NOTEBOOKS = 8


@cache
def _stored() -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
    """Read images (n, 96, 96, 3), labels (n, 8) and masks (n, 8, 96, 96): test set, then heroes."""
    with np.load(FILE, allow_pickle=False) as file:
        # All pictures are one tall PNG: lossless, and smaller than the zipped pixels.
        strip = np.asarray(Image.open(io.BytesIO(file["png"].tobytes())))
        labels = file["labels"]
        masks = np.unpackbits(file["mask_bits"], axis=-1).astype(bool)
    images = strip.reshape(len(labels), SIZE, SIZE, 3)
    return images, labels, masks.reshape(len(labels), len(THINGS), SIZE, SIZE)


def _scene(index: int) -> Scene:
    images, labels, masks = _stored()
    here = [k for k, name in enumerate(THINGS) if labels[index, k]]
    return Scene(
        image=Image.fromarray(images[index]),
        labels=tuple(THINGS[k] for k in here),
        masks={THINGS[k]: masks[index, k].copy() for k in here},
    )


def garden_test_set() -> list[Scene]:
    """Return the 48 fixed test scenes: 16 with one thing, then 16 with two, then 16 with three.

    The model was not trained on them, and each class appears in 12 of them.

    Example:
        >>> [len(scene.labels) for scene in garden_test_set()[::16]]
        [1, 2, 3]
    """
    return [_scene(k) for k in range(TEST_SCENES)]


def hero_scene(notebook: int) -> Scene:
    """Return the scene that a notebook, 1 to 8, explains.

    Raises:
        TypeError: If ``notebook`` is not an int.
        ValueError: If there is no such notebook.

    Example:
        >>> hero_scene(4).labels
        ('ladybird', 'bee')
    """
    try:
        number = operator.index(notebook)
    except TypeError:
        raise TypeError(f"notebook is {notebook!r}; it must be an int") from None
    if not 1 <= number <= NOTEBOOKS:
        raise ValueError(f"notebook is {number}; it must be 1 to {NOTEBOOKS}")
    return _scene(TEST_SCENES + number - 1)
