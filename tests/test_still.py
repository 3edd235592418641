"""The panel's still picture: every control is drawn, as it stands."""

from __future__ import annotations

import ipywidgets as widgets
import numpy as np
import pytest
from PIL import Image

from vitexplain_utils import explore, hero_scene
from vitexplain_utils.explorer.still import leaves, still

CONTROLS = (
    widgets.Dropdown, widgets.Combobox, widgets.Button, widgets.FileUpload, widgets.ToggleButton,
    widgets.ToggleButtons, widgets.FloatSlider, widgets.IntRangeSlider, widgets.BoundedIntText,
)  # fmt: skip


@pytest.fixture
def panel():
    return explore("garden", hero_scene(8))


def drawn(panel):
    figure = still([Image.new("RGB", (9, 9), "red")], ["red"], panel.rows)
    return figure, {text.get_text(): text.get_color() for text in figure.axes[-1].texts}


def test_no_control_is_missing(panel):
    shown = [leaf for row in panel.rows for leaf in leaves(row)]
    wanted = [leaf for leaf in leaves(panel) if isinstance(leaf, CONTROLS)]
    wanted.remove(panel.patch)  # lies over the picture
    assert len(wanted) >= 18 and {id(leaf) for leaf in wanted} <= {id(leaf) for leaf in shown}
    _, texts = drawn(panel)
    for name in ("method", "computed", "head fusion", "mean", "max", "min", "New scene",
                 "discard ratio", "blocks 0 to 5", "Save GIF", "leaf, 100.0%  ▾",
                 "or type any class", "as in vit-explain", "Heads of block, 0 to 5"):  # fmt: skip
        assert name in texts, name


def test_it_says_what_the_controls_say(panel):
    panel.ratio.value, panel.blocks.value = 0.5, (2, 5)
    _, texts = drawn(panel)
    assert "0.5" in texts and "2 – 5" in texts
    panel.method.value = "relevance"  # has no fusion and no ratio
    _, texts = drawn(panel)
    assert "relevance  ▾" in texts
    pale = {name for name, colour in texts.items() if colour != "black"}
    assert {"head fusion", "mean", "discard ratio", "computed"} <= pale
    assert not {"method", "relevance  ▾", "blocks 0 to 5"} & pale


def test_the_handle_is_where_the_value_is(panel):
    def handles():
        figure, _ = drawn(panel)
        return [line.get_xdata() for line in figure.axes[-1].lines if line.get_marker() == "o"]

    before = handles()
    panel.ratio.value = 0.999
    after = handles()
    moved = [not np.allclose(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [True, False, False] and after[0] > before[0] + 0.3


def test_the_pictures_are_those_given(panel):
    figure, _ = drawn(panel)
    pixels = figure.axes[0].images[0].get_array()
    assert (np.asarray(pixels) == (255, 0, 0)).all() and len(figure.axes) == 2
