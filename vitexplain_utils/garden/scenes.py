"""Garden scenes: small pictures of one to three things whose places are known exactly.

Every scene comes from one integer seed. The seed feeds three separate random streams, for the
things and their places, for the background, and for the noise, so that leaving one thing out
of a scene changes nothing else in it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from vitexplain_utils.garden.things import THINGS, draw_thing, random_colour

SIZE = 96
RADII = (11.5, 19.0)
# Insects, leaves, flowers and stars lie any way round; the others stay nearly upright.
TILT = {"fish": 0.6, "mushroom": 0.45, "snail": 0.35}

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Scene:
    """A garden picture and everything there is to know about it.

    Attributes:
        image: The picture, RGB, 96 x 96 pixels.
        labels: Names of the things in it, in the order of ``THINGS``.
        masks: For each label, a bool array of shape (96, 96): the pixels where it is seen.
    """

    image: Image.Image
    labels: tuple[str, ...]
    masks: dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class _Placement:
    """Where one thing goes, and the seed of its own looks."""

    name: str
    x: int
    y: int
    radius: float
    turn: float
    mirror: bool
    seed: int


def _plan(rng: np.random.Generator, names: Sequence[str]) -> list[_Placement]:
    """Find places for the things: inside the frame and clear of each other."""
    radii = rng.uniform(*RADII, size=len(names))
    while True:
        half = np.ceil(radii)[:, None] + 1
        centres = np.floor(rng.uniform(half, SIZE - half + 1, size=(len(names), 2)))
        gaps = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        near = gaps < 0.95 * (radii[:, None] + radii[None])
        if near.sum() == len(names):  # each is near itself only
            break
        radii = np.maximum(0.99 * radii, RADII[0])
    return [
        _Placement(
            name=name,
            x=int(x),
            y=int(y),
            radius=float(radius),
            turn=float(rng.uniform(-1, 1)) * TILT.get(name, math.pi),
            mirror=bool(rng.random() < 0.5),
            seed=int(rng.integers(2**32)),
        )
        for name, radius, (x, y) in zip(names, radii, centres, strict=True)
    ]


def _background(rng: np.random.Generator) -> FloatArray:
    """Return a soft random garden floor, float32 (96, 96, 3): noise summed over five scales."""
    base = random_colour(rng, (0.0, 1.0), (0.1, 0.5), (0.35, 0.8))
    if rng.random() < 0.5:
        base = random_colour(rng, (0.12, 0.5), (0.2, 0.5), (0.35, 0.78))
    floor = np.full((SIZE, SIZE, 3), base, dtype=np.float32)
    strength = rng.uniform(0.5, 1.2)
    for cells, swing in ((2, 28), (4, 26), (8, 18), (16, 12), (32, 8)):
        grey = rng.integers(256, size=(cells + 1, cells + 1, 1))
        tint = rng.integers(256, size=(cells + 1, cells + 1, 3))
        small = (0.6 * grey + 0.4 * tint).astype(np.uint8)
        smooth = Image.fromarray(small).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        floor += strength * swing * (np.asarray(smooth, dtype=np.float32) / 100 - 1.275)
    return floor


def _tile(placement: _Placement) -> tuple[FloatArray, FloatArray]:
    """Draw one thing; return its shaded colours (h, w, 3) and its opacity (h, w) in 0..1."""
    rng = np.random.default_rng(placement.seed)
    small = draw_thing(placement.name, placement.radius, placement.turn, placement.mirror, rng)
    pixels = np.asarray(small, dtype=np.float32)
    # A darker rim and light from the upper left lift the thing off the background.
    rim = np.asarray(small.getchannel("A").filter(ImageFilter.BoxBlur(1)), dtype=np.float32) / 255
    ramp = np.linspace(-1, 1, len(rim), dtype=np.float32)
    light = (0.45 + 0.55 * rim) * (1.04 - 0.07 * (ramp[:, None] + ramp[None]))
    return pixels[..., :3] * light[..., None], pixels[..., 3] / np.float32(255)


def _paint(
    seed: int, things: Sequence[str] | None, leave_out: str | None = None
) -> tuple[Image.Image, dict[str, NDArray[np.bool_]]]:
    """Paint the scene of a seed, all of it or with one thing left out."""
    plan_rng, floor_rng, noise_rng = map(
        np.random.default_rng, np.random.SeedSequence(seed).spawn(3)
    )
    if things is None:
        things = plan_rng.choice(THINGS, size=plan_rng.integers(1, 4), replace=False).tolist()
    canvas = _background(floor_rng)
    masks: dict[str, NDArray[np.bool_]] = {}
    for placement in _plan(plan_rng, sorted(things, key=THINGS.index)):
        if placement.name == leave_out:
            continue
        colours, opacity = _tile(placement)
        half = len(opacity) // 2
        rows = slice(placement.y - half, placement.y + half)
        columns = slice(placement.x - half, placement.x + half)
        canvas[rows, columns] += opacity[..., None] * (colours - canvas[rows, columns])
        for below in masks.values():
            below[rows, columns] &= opacity < 0.5
        mask = np.zeros((SIZE, SIZE), dtype=bool)
        mask[rows, columns] = opacity >= 0.5
        masks[placement.name] = mask
    brightness = noise_rng.uniform(0.85, 1.1)
    grain = noise_rng.normal(0, 4, size=canvas.shape)
    pixels = np.clip(np.rint(brightness * canvas + grain), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels), masks


def _check_seed(seed: int) -> int:
    if isinstance(seed, bool | np.bool_):
        raise TypeError(f"seed is {seed!r}; it must be an int, 0 or more")
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed is {seed!r}; it must be an int, 0 or more") from None
    if number < 0:
        raise ValueError(f"seed is {number}; it must be an int, 0 or more")
    return number


def _check_things(things: Sequence[str] | None) -> None:
    if things is None:
        return
    if isinstance(things, str) or not isinstance(things, Sequence):
        raise TypeError(f"things is {things!r}; it must be a tuple or list of names, or None")
    for name in things:
        if name not in THINGS:
            raise ValueError(f"things holds {name!r}; allowed are {', '.join(THINGS)}")
    if not 1 <= len(things) <= 3 or len(set(things)) < len(things):
        raise ValueError(f"things is {things!r}; it must name 1 to 3 different things")


def garden_scene(seed: int, things: Sequence[str] | None = None) -> Scene:
    """Paint the garden scene of a seed: the same seed gives the same scene, bit for bit.

    Args:
        seed: Any int from 0 up.
        things: One to three different names out of ``THINGS``; by default the seed chooses.

    Returns:
        The scene: a picture of 96 x 96 pixels, its labels, and one mask for each label.

    Raises:
        TypeError: If ``seed`` is not an int or ``things`` not a sequence of names.
        ValueError: If ``seed`` is negative, or ``things`` has an unknown or repeated name, no
            name, or more than three.

    Example:
        >>> scene = garden_scene(4, things=("bee", "ladybird"))
        >>> scene.image.size, scene.labels
        ((96, 96), ('ladybird', 'bee'))
    """
    seed = _check_seed(seed)
    _check_things(things)
    image, masks = _paint(seed, things)
    return Scene(image=image, labels=tuple(masks), masks=masks)
