"""The explorer's pictures: shipped scenes, new scenes, photographs and uploads."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import numpy as np
from PIL import Image

from ..garden import Scene, garden_scene, garden_test_set, hero_scene
from ..garden.test_set import NOTEBOOKS
from ..show.pictures import load_image, name_of, photograph, to_rgb

PHOTOGRAPHS = ("astronaut", "camera", "cat", "coffee", "rocket")  # inside scikit-image's wheel


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture with its name and, for a garden scene, the right answers.

    Attributes:
        name: what the panel calls it.
        image: RGB, in its own size.
        masks: for each thing in it where it is, bool `[H, W]`; empty where nobody knows.
    """

    name: str
    image: Image.Image
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)


def gallery() -> dict[str, Callable[[], Picture]]:
    """Name and maker of each shipped picture.

    Example:
        >>> names = list(gallery())
        >>> len(names), names[7]
        (61, 'garden, notebook 8: bee, fish, leaf')
    """
    scenes = [(f"notebook {n}", hero_scene(n)) for n in range(1, NOTEBOOKS + 1)]
    tests = [(f"test {n}", scene) for n, scene in enumerate(garden_test_set())]
    photographs = {f"photograph: {name}": partial(_photograph, name) for name in PHOTOGRAPHS}
    return {**_ready(scenes), **photographs, **_ready(tests)}


def new_scenes() -> Iterator[Picture]:
    """Garden scenes of two or three things that are not in the gallery.

    The model was trained on none of a seed below 1,000,000.

    Example:
        >>> next(new_scenes()).name
        'garden, new scene 3: bee, leaf'
    """
    for seed in count(1):
        scene = garden_scene(seed)
        if len(scene.labels) > 1:
            yield _of_scene(f"new scene {seed}", scene)


def uploaded(name: str, content: bytes) -> Picture:
    """The picture in an uploaded file.

    Raises:
        ValueError: it is not a picture; the message names the file.

    Example:
        >>> uploaded("notes.txt", b"some words")
        Traceback (most recent call last):
        ValueError: image notes.txt is not a picture that Pillow can read
    """
    return Picture(f"yours: {name}", load_image(_Named(name, content)))


def picture_of(image: Picture | Scene | Image.Image | str | os.PathLike[str] | None) -> Picture:
    """Anything that shows something as a `Picture`.

    Args:
        image: a `Picture` itself, a garden scene, a PIL image, the name of a scikit-image sample,
            a path or a URL; None is the scene of notebook 8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `load_image`.

    Example:
        >>> picture_of(hero_scene(4)).name
        'garden, your scene: ladybird, bee'
    """
    if image is None:
        return _of_scene("notebook 8", hero_scene(8))
    if isinstance(image, Picture):
        return image
    if isinstance(image, Scene):
        return _of_scene("your scene", image)
    if isinstance(image, Image.Image):
        return Picture("your picture", to_rgb(image))
    if isinstance(image, str) and image in PHOTOGRAPHS:
        return _photograph(image)
    path = os.fspath(image)
    return Picture(f"yours: {name_of(path)}", photograph(path))


class _Named(io.BytesIO):
    """Bytes with the name that errors call them by."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(content)
        self.name = name


def _ready(scenes: list[tuple[str, Scene]]) -> dict[str, Callable[[], Picture]]:
    pictures = [_of_scene(where, scene) for where, scene in scenes]
    return {picture.name: partial(_same, picture) for picture in pictures}


def _same(picture: Picture) -> Picture:
    return picture


def _of_scene(where: str, scene: Scene) -> Picture:
    return Picture(f"garden, {where}: {', '.join(scene.labels)}", scene.image, scene.masks)


def _photograph(name: str) -> Picture:
    return Picture(f"photograph: {name}", photograph(name))
