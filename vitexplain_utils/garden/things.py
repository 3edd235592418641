"""The eight things of the garden, each drawn from a few ellipses, polygons and lines."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

THINGS = ("ladybird", "bee", "fish", "leaf", "flower", "mushroom", "star", "snail")
OVERSAMPLE = 4

Colour = tuple[int, ...]
Points = Sequence[tuple[float, float]]

BLACK: Colour = (28, 24, 30)
WHITE: Colour = (250, 247, 240)
_CIRCLE = [(math.cos(math.tau * k / 28), math.sin(math.tau * k / 28)) for k in range(28)]


class _Pen:
    """Draws in a thing's own coordinates: the unit disk, y down, before turn and mirror."""

    def __init__(self, radius: float, turn: float, mirror: bool) -> None:
        half = math.ceil(radius) + 1
        self.scale = radius * OVERSAMPLE
        side = 2 * half * OVERSAMPLE
        self.tile = Image.new("RGBA", (side, side))
        self.draw = ImageDraw.Draw(self.tile)
        self.cos, self.sin = self.scale * math.cos(turn), self.scale * math.sin(turn)
        self.flip, self.centre = -1.0 if mirror else 1.0, half * OVERSAMPLE

    def place(self, points: Points) -> list[tuple[float, float]]:
        """Turn unit coordinates into pixels of the tile."""
        mid, cos, sin, flip = self.centre, self.cos, self.sin, self.flip
        return [(mid + cos * flip * x - sin * y, mid + sin * flip * x + cos * y) for x, y in points]

    def polygon(self, points: Points, colour: Colour) -> None:
        self.draw.polygon(self.place(points), fill=colour)

    def line(self, points: Points, colour: Colour, width: float) -> None:
        pixels = max(2, round(width * self.scale))
        self.draw.line(self.place(points), fill=colour, width=pixels, joint="curve")

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, turn: float = 0.0
    ) -> None:
        self.polygon(_oval(x, y, rx, ry, turn), colour)


def _oval(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> Points:
    cos, sin = math.cos(turn), math.sin(turn)
    return [(x + rx * c * cos - ry * s * sin, y + rx * c * sin + ry * s * cos) for c, s in _CIRCLE]


def random_colour(
    rng: np.random.Generator,
    hue: tuple[float, float],
    saturation: tuple[float, float],
    value: tuple[float, float],
) -> Colour:
    """Return a random colour from a box in hue, saturation and value."""
    h, s, v = (rng.uniform(*bounds) for bounds in (hue, saturation, value))
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(h % 1.0, s, v))


def _mix(colour: Colour, other: Colour, amount: float) -> Colour:
    return tuple(
        round((1 - amount) * a + amount * b) for a, b in zip(colour[:3], other[:3], strict=True)
    )


def _ladybird(pen: _Pen, rng: np.random.Generator) -> None:
    red = random_colour(rng, (-0.02, 0.04), (0.82, 0.97), (0.78, 0.95))
    for y in (-0.28, 0.12, 0.5):
        pen.line([(-0.92, y + 0.12), (-0.5, y), (0.5, y), (0.92, y + 0.12)], BLACK, 0.09)
    pen.line([(-0.36, -0.98), (-0.16, -0.7), (0.16, -0.7), (0.36, -0.98)], BLACK, 0.08)
    pen.ellipse(0, -0.56, 0.5, 0.36, BLACK)
    pen.ellipse(0, 0.18, 0.76, 0.77, red)
    pen.ellipse(-0.27, -0.7, 0.11, 0.1, WHITE)
    pen.ellipse(0.27, -0.7, 0.11, 0.1, WHITE)
    pen.ellipse(-0.3, -0.28, 0.2, 0.11, _mix(red, WHITE, 0.45), turn=-0.6)
    pen.line([(0, -0.56), (0, 0.93)], BLACK, 0.09)
    size = rng.uniform(0.13, 0.17)
    for x, y in ((0.4, -0.16), (0.3, 0.56), (0.5, 0.26))[: rng.integers(2, 4)]:
        pen.ellipse(x, y, size, size, BLACK)
        pen.ellipse(-x, y, size, size, BLACK)


def _bee(pen: _Pen, rng: np.random.Generator) -> None:
    yellow = random_colour(rng, (0.11, 0.15), (0.75, 0.95), (0.9, 1.0))
    wing = (*random_colour(rng, (0.5, 0.62), (0.05, 0.15), (0.92, 1.0)), 215)
    for side in (-1, 1):
        pen.ellipse(side * 0.5, 0.14, 0.36, 0.2, wing, turn=side * 0.35)
        pen.ellipse(side * 0.58, -0.2, 0.42, 0.23, wing, turn=-side * 0.4)
    pen.polygon([(-0.1, 0.8), (0.1, 0.8), (0, 1.0)], BLACK)
    pen.line([(-0.3, -0.98), (-0.1, -0.7), (0.1, -0.7), (0.3, -0.98)], BLACK, 0.08)
    pen.ellipse(0, -0.62, 0.28, 0.25, BLACK)
    width, height = rng.uniform(0.38, 0.46), 0.68
    pen.ellipse(0, 0.2, width, height, yellow)
    for top in (-0.34, 0.06, 0.44):
        edge = [top - 0.2, top - 0.11, top - 0.02]
        spans = [(width * math.sqrt(1 - (y / height) ** 2), y + 0.2) for y in edge]
        pen.polygon(spans + [(-x, y) for x, y in reversed(spans)], BLACK)
    for side in (-1, 1):
        pen.ellipse(side * 0.13, -0.68, 0.06, 0.07, WHITE)


def _fish(pen: _Pen, rng: np.random.Generator) -> None:
    hue = rng.choice([0.05, 0.53, 0.58, 0.93])
    body = random_colour(rng, (hue - 0.03, hue + 0.03), (0.6, 0.85), (0.8, 0.98))
    fin = _mix(body, BLACK, 0.25)
    pen.polygon([(0.42, 0), (0.96, -0.42), (0.82, 0), (0.96, 0.42)], fin)
    pen.polygon([(-0.3, -0.3), (0.02, -0.72), (0.4, -0.62), (0.34, -0.2)], fin)
    pen.polygon([(-0.05, 0.3), (0.24, 0.66), (0.3, 0.24)], fin)
    pen.ellipse(-0.18, 0, 0.74, 0.46, body)
    pen.ellipse(-0.2, 0.17, 0.56, 0.25, _mix(body, WHITE, 0.4))
    if rng.random() < 0.5:
        for x in (-0.12, 0.24):
            tall = 0.44 * math.sqrt(1 - ((x + 0.18) / 0.74) ** 2)
            pen.line([(x, -tall), (x + 0.07, 0), (x, tall)], WHITE, 0.13)
    else:
        pen.line([(-0.36, -0.3), (-0.26, 0), (-0.36, 0.3)], fin, 0.07)
        pen.polygon([(-0.1, 0.02), (0.24, -0.1), (0.24, 0.22)], fin)
    pen.ellipse(-0.56, -0.1, 0.15, 0.15, WHITE)
    pen.ellipse(-0.59, -0.1, 0.085, 0.085, BLACK)
    pen.line([(-0.86, 0.14), (-0.76, 0.2), (-0.64, 0.18)], fin, 0.06)


def _leaf(pen: _Pen, rng: np.random.Generator) -> None:
    green = random_colour(rng, (0.22, 0.36), (0.6, 0.85), (0.5, 0.78))
    vein = _mix(green, WHITE, 0.45)
    wide = rng.uniform(0.48, 0.62)
    heights = np.linspace(-1, 1, 15)
    widths = wide * np.sin(np.pi * ((heights + 1) / 2) ** 0.85)
    right = [(float(x), float(0.85 * y - 0.13)) for x, y in zip(widths, heights, strict=True)]
    left = [(-x, y) for x, y in right]
    pen.line([(0, 0.5), (0.03, 0.84), (0.1, 0.99)], _mix(green, BLACK, 0.25), 0.1)
    pen.polygon(right + left[::-1], green)
    pen.polygon([*left, (0.0, 0.66)], _mix(green, BLACK, 0.18))
    for y in (-0.42, -0.12, 0.18):
        reach = 0.72 * wide
        pen.line([(-reach, y - 0.14), (0, y + 0.12), (reach, y - 0.14)], vein, 0.06)
    pen.line([(0, -0.86), (0, 0.66)], vein, 0.08)


def _flower(pen: _Pen, rng: np.random.Generator) -> None:
    hue = rng.choice([0.6, 0.75, 0.83, 0.92, 0.99])
    petal = random_colour(rng, (hue - 0.04, hue + 0.03), (0.05, 0.65), (0.88, 1.0))
    shade = _mix(petal, (110, 40, 120), 0.22)
    count = int(rng.integers(5, 9))
    wide = 1.5 / count + 0.06
    for k in range(count):
        turn = math.tau * k / count
        x, y = math.cos(turn), math.sin(turn)
        pen.ellipse(0.57 * x, 0.57 * y, 0.42, wide + 0.03, shade, turn)
        pen.ellipse(0.57 * x, 0.57 * y, 0.39, wide - 0.03, petal, turn)
    for k in range(count):
        turn = math.tau * k / count
        pen.line([(0, 0), (0.58 * math.cos(turn), 0.58 * math.sin(turn))], shade, 0.05)
    heart = random_colour(rng, (0.11, 0.15), (0.75, 0.95), (0.92, 1.0))
    pen.ellipse(0, 0, 0.31, 0.31, _mix(heart, (150, 70, 0), 0.5))
    pen.ellipse(-0.02, -0.02, 0.25, 0.25, heart)


def _mushroom(pen: _Pen, rng: np.random.Generator) -> None:
    red = random_colour(rng, (-0.02, 0.04), (0.75, 0.95), (0.7, 0.92))
    cream = random_colour(rng, (0.09, 0.14), (0.08, 0.22), (0.9, 1.0))
    foot = rng.uniform(0.24, 0.32)
    stem = [(-0.19, -0.1), (0.19, -0.1), (foot, 0.78), (0.16, 0.94), (-0.16, 0.94), (-foot, 0.78)]
    pen.polygon(stem, cream)
    pen.polygon([(0.06, 0), (0.19, 0), (foot, 0.78), (0.16, 0.94)], _mix(cream, BLACK, 0.14))
    pen.ellipse(0, 0.0, 0.78, 0.2, _mix(cream, (150, 110, 80), 0.4))
    dome = [(0.92 * c, 0.02 - 0.92 * s) for c, s in _CIRCLE[:15]]
    pen.polygon([*dome, (-0.8, 0.14), (-0.4, 0.05), (0.4, 0.05), (0.8, 0.14)], red)
    size = rng.uniform(0.12, 0.16)
    for x, y, much in ((-0.5, -0.26, 1.0), (0.02, -0.56, 1.25), (0.5, -0.3, 1.1), (0, -0.16, 0.8)):
        pen.ellipse(x, y, size * much, 0.9 * size * much, WHITE)


def _star(pen: _Pen, rng: np.random.Generator) -> None:
    yellow = random_colour(rng, (0.12, 0.155), (0.7, 0.92), (0.93, 1.0))
    inner = rng.uniform(0.44, 0.52)
    tips = []
    for k in range(10):
        turn, reach = math.tau * k / 10 - math.pi / 2, 0.98 if k % 2 == 0 else inner
        tips.append((reach * math.cos(turn), reach * math.sin(turn)))
    pen.polygon(tips, yellow)
    for k in range(0, 10, 2):
        pen.polygon([(0, 0), tips[k], tips[k + 1]], _mix(yellow, (205, 110, 0), 0.38))


def _snail(pen: _Pen, rng: np.random.Generator) -> None:
    skin = random_colour(rng, (0.06, 0.13), (0.25, 0.5), (0.75, 0.95))
    shell = random_colour(rng, (0.0, 0.1), (0.4, 0.75), (0.55, 0.85))
    for x in (-0.86, -0.62):
        pen.line([(-0.66, 0.2), (x, -0.36)], skin, 0.1)
        pen.ellipse(x, -0.38, 0.09, 0.09, BLACK)
    pen.ellipse(-0.66, 0.2, 0.22, 0.24, skin)
    pen.polygon(
        [(-0.87, 0.24), (-0.44, 0.2), (-0.2, 0.44), (0.5, 0.5), (0.97, 0.73), (-0.5, 0.74)], skin
    )
    pen.ellipse(-0.5, 0.5, 0.3, 0.24, skin)
    pen.ellipse(0.18, 0.0, 0.62, 0.6, _mix(shell, BLACK, 0.35))
    pen.ellipse(0.18, 0.0, 0.56, 0.54, shell)
    spiral = []
    for k in range(40):
        turn, reach = k / 39 * 4.4 * math.pi, 0.04 + 0.48 * k / 39
        spiral.append((0.18 + reach * math.cos(turn), reach * math.sin(turn)))
    pen.line(spiral, _mix(shell, BLACK, 0.55), 0.09)
    pen.line([(-0.82, 0.3), (-0.72, 0.36)], _mix(skin, BLACK, 0.6), 0.06)


_PAINTERS: dict[str, Callable[[_Pen, np.random.Generator], None]] = {
    "ladybird": _ladybird,
    "bee": _bee,
    "fish": _fish,
    "leaf": _leaf,
    "flower": _flower,
    "mushroom": _mushroom,
    "star": _star,
    "snail": _snail,
}


def draw_thing(
    name: str, radius: float, turn: float, mirror: bool, rng: np.random.Generator
) -> Image.Image:
    """Draw one thing, turned clockwise by ``turn`` radians, on a transparent square.

    Returns:
        An RGBA picture with sides of 2 (ceil(radius) + 1) pixels.

    Example:
        >>> draw_thing("bee", 15.0, 0.3, False, np.random.default_rng(0)).size
        (32, 32)
    """
    pen = _Pen(radius, turn, mirror)
    _PAINTERS[name](pen, rng)
    return pen.tile.reduce(OVERSAMPLE)
