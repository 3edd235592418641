"""A picture for a page of `save_page`, and the page read back: its data, pictures, maps."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitexplain_utils import garden_scene


def wide_picture() -> Image.Image:
    """A picture that knows no answers, of another shape than a scene."""
    image = Image.new("RGB", (150, 90), "khaki")
    image.paste(garden_scene(5).image.resize((60, 60)), (80, 20))
    return image


def page_data(path: Path) -> dict[str, Any]:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())
    return json.loads(found[1])


def picture_in(address: str) -> Image.Image:
    """The picture of a `data:` address, as a browser decodes it."""
    return Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))


def place(steps: list[int], target: int = 0, fusion: int = 0, ratio: int = 0) -> int:
    """Where the page looks for a choice."""
    return steps[0] + target * steps[1] + fusion * steps[2] + ratio * steps[3]


def roots_in(text: str, rows: int, cols: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, rows, cols)


def values_of(picture: dict[str, Any], index: int) -> np.ndarray:
    """One map, as the page knows it."""
    roots = roots_in(picture["maps"], picture["rows"], picture["cols"])
    return (roots[index] / 255.0) ** 2 * picture["scales"][index]
