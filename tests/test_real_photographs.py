"""The trained DeiT-Tiny on photographs: the right thing is found, and only by the right pairing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from vitexplain_utils import load_image, preprocess, record_attention
from vitexplain_utils.methods import gradient_rollout

# Regions as rows and columns of the 14×14 grid, ends excluded.
LOWER_RIGHT, UPPER_RIGHT = (7, 14, 7, 14), (0, 7, 7, 14)
HELMET, SHUTTLE = (9, 14, 7, 14), (0, 8, 9, 13)
DOGS_HEAD, CAT = (0, 5, 5, 9), (7, 14, 2, 13)


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    data = pytest.importorskip("skimage.data")
    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="module")
def dog_and_cat() -> Image.Image:
    path = Path(os.environ.get("VITEXPLAIN_WEIGHTS", ""), "..", "images", "both.png")
    if not path.is_file():
        pytest.skip("no picture both.png in the folder images beside $VITEXPLAIN_WEIGHTS")
    return load_image(path)


def maps(model, image: Image.Image, target: int, head_fusion: str) -> list[torch.Tensor]:
    """The map with each block's own gradient, and with the blocks' gradients reversed."""
    with record_attention(model) as record:
        gradient = record.gradient(model(preprocess(model, image))[0, target])
    rows = [
        gradient_rollout(record.attention, g, head_fusion=head_fusion, discard_ratio=0.9)
        for g in (gradient, gradient[::-1])
    ]
    return [row[0, 1:].reshape(14, 14).detach() for row in rows]


def share(heatmap: torch.Tensor, region: tuple[int, int, int, int]) -> float:
    top, bottom, left, right = region
    return float(heatmap[top:bottom, left:right].sum() / heatmap.sum())


def peak_in(heatmap: torch.Tensor, region: tuple[int, int, int, int]) -> bool:
    row, col = divmod(int(heatmap.argmax()), 14)
    top, bottom, left, right = region
    return top <= row < bottom and left <= col < right


@pytest.mark.parametrize(
    ("target", "quarter", "at_least", "thing"),
    [(560, LOWER_RIGHT, 0.5, HELMET), (812, UPPER_RIGHT, 0.4, SHUTTLE)],
)
def test_astronaut(real_deit, astronaut, target, quarter, at_least, thing):
    def found(heatmap: torch.Tensor) -> bool:
        return peak_in(heatmap, thing) and share(heatmap, quarter) >= at_least

    right, reversed_pairs = maps(real_deit, astronaut, target, "mean")
    assert found(right)
    assert not found(reversed_pairs)


@pytest.mark.parametrize("head_fusion", ["mean", "max"])
@pytest.mark.parametrize(("target", "thing"), [(560, HELMET), (812, SHUTTLE)])
def test_peak_on_the_astronauts_things(real_deit, astronaut, head_fusion, target, thing):
    assert peak_in(maps(real_deit, astronaut, target, head_fusion)[0], thing)


@pytest.mark.parametrize("head_fusion", ["mean", "max"])
@pytest.mark.parametrize(("target", "thing"), [(243, DOGS_HEAD), (282, CAT)])
def test_dog_and_cat(real_deit, dog_and_cat, head_fusion, target, thing):
    right, reversed_pairs = maps(real_deit, dog_and_cat, target, head_fusion)
    assert peak_in(right, thing)
    assert not peak_in(reversed_pairs, thing)
