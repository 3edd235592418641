"""Baselines: maps that know nothing of the model, which every method must beat."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..capture import Capture


def constant_map(capture: Capture) -> Tensor:
    """The same value everywhere: its energy inside a thing is the thing's share of the picture.

    Args:
        capture: as from `capture_attention`; only its shapes count.

    Returns:
        `[B, rows, cols]`, all ones.

    Example:
        >>> from vitexplain_utils import capture_attention, hero_scene, load_model, preprocess
        >>> model = load_model("garden")
        >>> capture = capture_attention(model, preprocess(model, hero_scene(7).image))
        >>> constant_map(capture).sum()
        tensor(144.)
    """
    return capture.x.new_ones(len(capture.x), capture.grid.rows, capture.grid.cols).float()


def centre_map(capture: Capture) -> Tensor:
    """A Gaussian hill in the middle: photographers put things there (the centre prior).

    Args:
        capture: as from `capture_attention`; only its shapes count.

    Returns:
        `[B, rows, cols]`, in (0, 1]; the standard deviation is a quarter of each side.
    """
    grid = capture.grid
    down, across = (
        torch.exp(-(torch.linspace(-1, 1, n + 2)[1:-1] ** 2) / (2 * 0.5**2))
        for n in (grid.rows, grid.cols)
    )
    hill = (down[:, None] * across).to(capture.x.device)
    return hill.expand(len(capture.x), -1, -1)


def random_map(capture: Capture, *, seed: int = 0) -> Tensor:
    """Uniform noise, another for each image, the same for the same seed.

    Args:
        capture: as from `capture_attention`; only its shapes count.
        seed: of the noise.

    Returns:
        `[B, rows, cols]`, in [0, 1).
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (len(capture.x), capture.grid.rows, capture.grid.cols)
    return torch.rand(shape, generator=generator).to(capture.x.device)


def edge_map(capture: Capture) -> Tensor:
    """How much brightness changes within each patch: a map of the picture, not of the model.

    Adebayo et al. 2018 (arXiv:1810.03292) found that some explanations are hardly more than this.

    Args:
        capture: as from `capture_attention`.

    Returns:
        `[B, rows, cols]`, non-negative: mean length of the brightness gradient in each patch.
    """
    grey = capture.x.float().mean(1)
    down = functional.pad(grey.diff(dim=1), (0, 0, 0, 1))
    across = functional.pad(grey.diff(dim=2), (0, 1))
    steps = (down**2 + across**2).sqrt()
    return functional.adaptive_avg_pool2d(steps, (capture.grid.rows, capture.grid.cols))
