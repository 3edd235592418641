"""Drift: the maps of 0.1, map by map."""

from __future__ import annotations

import golden
import numpy as np
import pytest
from torch import Tensor

from vitexplain_utils.explain import capture_attention, heatmap_of
from vitexplain_utils.mistakes import mistaken_gradient_rollout
from vitexplain_utils.widgets.choice import _in_range

NAMES = [*golden.LAYOUTS, *(f"garden {n}" for n in golden.SCENES), "photograph"]


def drawn(name: str, captured, method: str, having: dict) -> Tensor:
    if method == "vit_explain":
        row = mistaken_gradient_rollout(captured.attention, captured.gradient, **having)
        return captured.grid.to_grid(row)
    having = dict(having)
    if "blocks" in having:
        captured = _in_range(captured, *having.pop("blocks"))
    return heatmap_of(captured, method=method, **having)


def maps(name: str) -> dict[str, Tensor]:
    model, x = golden.case(name)
    captured = capture_attention(model, x, target=golden.TARGET)
    return {
        golden.key(name, method, having): drawn(name, captured, method, having)
        for method, having in golden.settings(name)
    }


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_those_of_0_1(name, request):
    if name == "photograph":
        pytest.importorskip("skimage")
        request.getfixturevalue("real_deit")
    with np.load(golden.FILE) as kept:
        expected = {key: kept[key] for key in kept.files if key.startswith(f"{name} ")}
    found = maps(name)
    assert found.keys() == expected.keys() and len(found) > 20
    for key, heatmap in found.items():
        off = abs(heatmap.numpy() - expected[key]).max()
        assert off <= 1e-5 * expected[key].max(), key
