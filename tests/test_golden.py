"""Drift: the maps of 0.1, map by map; 0.1 did not hold the attention."""

from __future__ import annotations

import golden
import numpy as np
import pytest
from torch import Tensor

from vitexplain_utils import METHODS, capture_attention

NAMES = [*golden.LAYOUTS, *(f"garden {n}" for n in golden.SCENES), "photograph"]


def maps(name: str) -> dict[str, Tensor]:
    model, x = golden.case(name)
    capture = capture_attention(model, x, target=golden.TARGET, hold_attention=False)
    plain = {name: method.having(hold_attention=False) if method.needs_gradient else method
             for name, method in METHODS.items()}  # fmt: skip
    return {
        golden.key(name, method, having): plain[method].heatmap(capture, **having)
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
