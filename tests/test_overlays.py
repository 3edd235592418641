from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from vitexplain_utils import overlay

PICTURE = Image.new("RGB", (120, 80), (100, 150, 200))
GREY = 141  # 0.299 · 100 + 0.587 · 150 + 0.114 · 200 = 140.75
LIGHT = 0.7 * GREY + 60
DARK = 0.4 * GREY


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def blend(value: float, opacity: float, colormap: str = "plasma") -> list[int]:
    colour = 255 * np.array(matplotlib.colormaps[colormap](value)[:3])
    weight = opacity * value**0.5
    return (LIGHT * (1 - weight) + colour * weight).round().astype(int).tolist()


def colourfulness(picture: Image.Image) -> np.ndarray:
    values = pixels(picture)
    return values.max(-1) - values.min(-1)


def hot_cell(row: int, col: int) -> torch.Tensor:
    heatmap = torch.zeros(4, 6)
    heatmap[row, col] = 1
    return heatmap


@pytest.mark.parametrize("size", [(120, 80), (31, 200), (1, 1)])
@pytest.mark.parametrize("shape", [(14, 14), (3, 5), (1, 1)])
def test_size_and_mode(size, shape):
    picture = overlay(Image.new("RGB", size), torch.rand(shape))
    assert picture.size == size
    assert picture.mode == "RGB"


def test_zero_map_is_the_grey_picture():
    values = pixels(overlay(PICTURE, torch.zeros(4, 6)))
    assert (values == round(LIGHT)).all()


@pytest.mark.parametrize("value", [0.25, 1.0, 4.0, 9.0])
@pytest.mark.parametrize("opacity", [0, 0.5, 0.8, 1])
@pytest.mark.parametrize("colormap", ["plasma", "viridis"])
def test_known_blend(value, opacity, colormap):
    heatmap = torch.full((4, 6), value)
    picture = overlay(PICTURE, heatmap, opacity=opacity, vmax=4, colormap=colormap)
    expected = blend(min(value / 4, 1.0), opacity, colormap)
    assert (np.abs(pixels(picture) - expected) <= 1).all()


def test_vmin_and_vmax_hold_the_scale_still():
    low, high = torch.full((4, 6), 2.0), torch.full((4, 6), 3.0)
    pictures = [overlay(PICTURE, heatmap, vmin=1, vmax=5) for heatmap in (low, high)]
    for picture, value in zip(pictures, (0.25, 0.5), strict=True):
        assert (np.abs(pixels(picture) - blend(value, 0.8)) <= 1).all()
    own = [pixels(overlay(PICTURE, heatmap)) for heatmap in (low, high)]
    assert (own[0] == own[1]).all()  # each on its own maximum
    assert (np.abs(own[0] - blend(1.0, 0.8)) <= 1).all()


def test_below_vmin_nothing_is_coloured():
    assert (colourfulness(overlay(PICTURE, torch.full((4, 6), 1.0), vmin=2, vmax=3)) == 0).all()


@pytest.mark.parametrize("row", [0, 2, 3])
@pytest.mark.parametrize("col", [0, 3, 5])
def test_hot_cell_lies_where_its_patch_is(row, col):
    """Cells of 20×20: the patch's centre has the full colour, other patches' centres none."""
    colours = colourfulness(overlay(PICTURE, hot_cell(row, col)))
    centres = colours[10::20, 10::20]
    assert centres.shape == (4, 6)
    assert np.unravel_index(centres.argmax(), centres.shape) == (row, col)
    others = np.ones((4, 6), dtype=bool)
    others[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2] = False
    assert (centres[others] == 0).all()
    upper, left = np.argwhere(colours > 0).min(0)
    lower, right = np.argwhere(colours > 0).max(0)
    assert (upper, left) == (max(20 * row - 10, 0), max(20 * col - 10, 0))
    assert (lower, right) == (min(20 * row + 29, 79), min(20 * col + 29, 119))


def test_hot_cell_in_a_box():
    """A box of 60×40 from (30, 20): cells of 10×10, and darkness around it."""
    picture = overlay(PICTURE, hot_cell(2, 4), box=(30, 20, 90, 60))
    colours, values = colourfulness(picture), pixels(picture)
    upper, left = np.argwhere(colours > 0).min(0)
    lower, right = np.argwhere(colours > 0).max(0)
    assert (upper, left, lower, right) == (20 + 15, 30 + 35, 20 + 34, 30 + 54)
    outside = np.ones((80, 120), dtype=bool)
    outside[20:60, 30:90] = False
    assert (values[outside] == round(DARK)).all()
    assert values[21, 31].tolist() == [round(LIGHT)] * 3


def test_box_of_the_whole_picture_is_no_box():
    heatmap = torch.rand(4, 6)
    whole = overlay(PICTURE, heatmap, box=(0, 0, 120, 80))
    assert whole.tobytes() == overlay(PICTURE, heatmap).tobytes()


def test_box_is_rounded_and_never_empty():
    picture = overlay(PICTURE, torch.ones(4, 6), box=(10.4, 20.2, 10.45, 20.3))
    assert np.argwhere(colourfulness(picture) > 0).tolist() == [[20, 10]]


def test_a_thin_box_at_the_far_edge():
    picture = overlay(PICTURE, torch.ones(4, 6), box=(119.6, 0, 120, 80))
    assert picture.size == (120, 80)


@pytest.mark.parametrize("kind", [torch.float16, torch.float64, torch.long])
def test_kinds_of_maps(kind):
    heatmap = torch.tensor([[0, 1], [2, 4]])
    expected = overlay(PICTURE, heatmap.float()).tobytes()
    assert overlay(PICTURE, heatmap.to(kind)).tobytes() == expected
    assert overlay(PICTURE, heatmap.to(kind).numpy()).tobytes() == expected


def test_inputs_are_not_modified():
    picture, heatmap = PICTURE.copy(), torch.rand(4, 6)
    before = heatmap.clone()
    overlay(picture, heatmap)
    assert picture.tobytes() == PICTURE.tobytes()
    assert torch.equal(heatmap, before)


@pytest.mark.parametrize(
    ("heatmap", "arguments", "named"),
    [
        (torch.ones(1, 4, 6), {}, r"batch.*heatmap\[0\]"),
        (torch.ones(24), {}, "heatmap"),
        (torch.ones(0, 6), {}, "heatmap"),
        (torch.tensor([[0.0, float("nan")]]), {}, "heatmap"),
        (torch.tensor([[0.0, float("inf")]]), {}, "heatmap"),
        (torch.ones(4, 6, dtype=torch.complex64), {}, r"heatmap must be.*complex64"),
        ([[0.0, 1.0]], {}, r"heatmap must be.*list"),
        (
            torch.ones(4, 6),
            dict(box=(0, 0, 50, 80, 90)),
            "box must be left, upper, right and lower",
        ),
        (torch.ones(4, 6), dict(box=(0, 0, 50)), "box must be left, upper, right and lower"),
        (torch.ones(4, 6), dict(box=(0, 0, "50", 80)), "each edge of box"),
        (torch.ones(4, 6), dict(opacity=1.5), "opacity"),
        (torch.ones(4, 6), dict(opacity=-0.1), "opacity"),
        (torch.ones(4, 6), dict(opacity=float("nan")), "opacity"),
        (torch.ones(4, 6), dict(colormap="rainbows"), "colormap"),
        (torch.ones(4, 6), dict(vmin=2, vmax=1), "vmin"),
        (torch.ones(4, 6), dict(vmax=float("inf")), "vmax"),
        (torch.ones(4, 6), dict(vmin=float("nan")), "vmin"),
        (torch.ones(4, 6), dict(box=(0, 0, 121, 80)), "box"),
        (torch.ones(4, 6), dict(box=(-1, 0, 120, 80)), "box"),
        (torch.ones(4, 6), dict(box=(50, 0, 50, 80)), "box"),
        (torch.ones(4, 6), dict(box=(0, float("nan"), 50, 80)), "box"),
    ],
)
def test_errors(heatmap, arguments, named):
    with pytest.raises(ValueError, match=named):
        overlay(PICTURE, heatmap, **arguments)


LARGE = """
import torch
from pathlib import Path
from PIL import Image
from vitexplain_utils import overlay

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kibibytes) * 1024

overlay(Image.new("RGB", (40, 30)), torch.rand(14, 14))
image = Image.new("RGB", (6000, 4000), "teal")
before = status("VmRSS")
overlay(image, torch.rand(14, 14))
print((status("VmHWM") - before) / (6000 * 4000))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_large_photograph_takes_few_bytes_a_pixel():
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    assert 4 < float(done.stdout) <= 24
