"""What must hold of pictures, whatever their size: patches and pixels, boxes, films."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import properties
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from vitexplain_utils import overlay, preprocess, save_gif
from vitexplain_utils.models import crop_box, library_of
from vitexplain_utils.models.library import TokenGrid

SHAPES = st.sampled_from([(32, 32), (48, 32), (32, 64)])
CROPS = st.sampled_from([None, (0.9, "center"), (0.8, "squash"), (1.0, "center")])


@given(*[st.integers(lowest, 6) for lowest in (0, 1, 1)], st.data())
def test_a_token_lies_in_its_row_and_column(prefix, rows, cols, data):
    grid = TokenGrid(prefix, rows, cols)
    row, col = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))
    tokens = torch.arange(2 * grid.tokens).view(2, -1)
    assert grid.tokens == prefix + rows * cols
    assert grid.to_grid(tokens).shape == (2, rows, cols)
    assert grid.to_grid(tokens)[:, row, col].tolist() == [
        first + prefix + row * cols + col for first in (0, grid.tokens)
    ]


@cache
def seeing(shape: tuple[int, int], crop: tuple[float, str] | None) -> nn.Module:
    """A ViT whose embedding of a patch is its mean brightness."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=shape, depth=1, embed_dim=48)
    part, mode = crop or (1.0, "center")
    model.pretrained_cfg = {**model.pretrained_cfg, "crop_pct": part, "crop_mode": mode}
    nn.init.ones_(model.patch_embed.proj.weight)
    nn.init.zeros_(model.patch_embed.proj.bias)
    return model.eval()


def lit(size, box, shape, cell) -> tuple[Image.Image, tuple[slice, slice]]:
    """A black picture in which the pixels of one patch are white, and where these are."""
    (left, upper, right, lower), (row, col), (rows, cols) = box, cell, shape
    down = [round(upper + (lower - upper) * edge / rows) for edge in (row, row + 1)]
    across = [round(left + (right - left) * edge / cols) for edge in (col, col + 1)]
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[slice(*down), slice(*across)] = 255
    return Image.fromarray(pixels), (slice(*down), slice(*across))


@given(SHAPES, CROPS, st.integers(40, 200), st.integers(40, 200), st.data())
def test_a_lit_patch_is_its_token_and_lights_its_pixels(shape, crop, width, height, data):
    """From the photograph's pixels to the token, and from the token's cell to the pixels."""
    model = seeing(shape, crop)
    box = crop_box(model, (width, height)) if crop else (0, 0, width, height)
    grid = library_of(model).grid(torch.zeros(1, 3, *shape))
    assert (grid.rows, grid.cols) == (shape[0] // 16, shape[1] // 16)
    cell = data.draw(st.integers(0, grid.rows - 1)), data.draw(st.integers(0, grid.cols - 1))
    image, pixels = lit((width, height), box, (grid.rows, grid.cols), cell)
    with torch.no_grad():
        patches = model.patch_embed(preprocess(model, image, crop=bool(crop)))
    prefix = torch.full((grid.prefix,), 1e9)  # the brightest of all is no patch
    heatmap = grid.to_grid(torch.cat([prefix, patches[0, :, 0]]))
    heatmap = (heatmap - heatmap.min()) / (heatmap.max() - heatmap.min())
    assert heatmap[cell] == 1
    heatmap[cell] = 0
    assert heatmap.max() < 0.25  # what resizing and whole pixels leave beside it
    heatmap.zero_()[cell] = 1
    shown = np.asarray(overlay(Image.new("RGB", (width, height)), heatmap, box=box)).astype(int)
    colour = shown.max(-1) - shown.min(-1)
    peak = np.argwhere(colour == colour.max()).mean(0)
    assert all(place.start <= at <= place.stop - 1 for place, at in zip(pixels, peak, strict=True))


@st.composite
def boxes(draw) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """A picture's size and a box in it, with edges between pixels too."""
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    edges = []
    for length in size:
        ends = st.floats(0, length, width=32)
        edges.append(sorted(draw(st.tuples(ends, ends).filter(lambda e: e[0] != e[1]))))
    (left, right), (upper, lower) = edges
    return size, (left, upper, right, lower)


@given(boxes(), st.integers(1, 4), st.integers(1, 4), st.floats(0, 1), st.integers(0, 255))
def test_an_even_map_colours_its_box_and_nothing_else(case, rows, cols, opacity, grey):
    size, box = case
    image = Image.new("L", size, grey)
    shown = np.asarray(overlay(image, np.ones((rows, cols)), box=box, opacity=opacity)).astype(int)
    left, upper, right, lower = (round(edge) for edge in box)
    inside = np.zeros(shown.shape[:2], dtype=bool)
    inside[upper : max(lower, upper + 1), left : max(right, left + 1)] = True
    colour = 255 * np.array(matplotlib.colormaps["plasma"](1.0)[:3])
    wanted = (1 - opacity) * (0.7 * grey + 60) + opacity * colour
    assert shown.shape[:2] == size[::-1]
    assert (abs(shown[inside] - wanted) <= 1).all()
    assert (abs(shown[~inside] - 0.4 * grey) <= 1).all()


@st.composite
def films(draw) -> list[Image.Image]:
    """Frames of one size, some the same, of few colours or many."""
    width, height = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    most = draw(st.sampled_from([2, 4, 256]))
    generator = np.random.default_rng(draw(properties.SEEDS))
    different = generator.integers(0, most, (3, height, width, 3)) * (255 // (most - 1))
    order = draw(st.lists(st.integers(0, 2), min_size=1, max_size=6))
    return [Image.fromarray(different[index].astype(np.uint8)) for index in order]


@given(films(), st.integers(2, 60), st.integers(2, 255))
def test_as_many_frames_come_out_as_go_in(frames, hundredths, colors):
    """In order, each for as long as asked; of few colours the very pixels, but for the last."""
    given = np.stack([np.asarray(frame) for frame in frames]).astype(int)
    with tempfile.TemporaryDirectory() as folder:
        path = save_gif(frames, Path(folder, "a.gif"), duration=10 * hundredths, colors=colors)
        with Image.open(path) as film:
            assert getattr(film, "n_frames", 1) == len(frames)
            found = []
            for index in range(len(frames)):
                film.seek(index)
                assert film.info["duration"] == 10 * hundredths
                found.append(np.asarray(film.convert("RGB")).astype(int))
    off = abs(np.stack(found) - given)
    if len(np.unique(given.reshape(-1, 3), axis=0)) <= colors:
        assert off.max() <= 1
        assert off.reshape(len(frames), -1)[:, :-1].max(initial=0) == 0
