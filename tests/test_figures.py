from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from vitexplain_utils import hero_scene, overlay
from vitexplain_utils.show import (
    Figure,
    enlarge,
    show_curves,
    show_heads,
    show_intervals,
    show_maps,
    show_matrices,
    show_pictures,
)
from vitexplain_utils.show.figures import COLORMAP

MAPS = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))
SCENE = hero_scene(4).image
MASK = np.zeros((96, 96), dtype=bool)
MASK[24:48, 12:36] = True


@pytest.fixture(autouse=True)
def nothing_through_pyplot():
    yield
    assert plt.get_fignums() == []


def titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes]


def drawn(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(ax.images[0].get_array()) for ax in figure.axes]


def test_pictures_with_their_titles():
    pictures = [Image.new("RGB", (30, 20), colour) for colour in ("red", "lime")]
    figure = show_pictures(pictures, ["a", "b"])
    assert titles(figure) == ["a", "b"]
    for shown, picture in zip(drawn(figure), pictures, strict=True):
        assert (shown == np.asarray(picture)).all()


def test_a_picture_that_is_much_higher_than_wide_makes_no_endless_figure():
    sheet = show_maps(Image.new("RGB", (2, 900)), MAPS, ["a", "b", "c"], columns=1)
    pixels = Image.open(io.BytesIO(sheet.png())).size
    assert max(pixels) < 3000


def test_names_with_dollar_signs_are_names():
    name = r"cost $\frac$ in $"
    curves = {name: [0, 1]}
    for figure in (
        show_maps(SCENE, MAPS[:1], [name], picture_title=name),
        show_matrices(MAPS[:1], [name]),
        show_curves([0, 1], curves, xlabel=name, ylabel=name),
        show_intervals({name: {name: (0.2, 0.1, 0.3)}}, xlabel=name),
    ):
        assert figure.png()  # drawn, not read as mathematics


@pytest.mark.parametrize("shape", [(96, 96), (12, 12)])
def test_outline_lies_around_the_mask(shape):
    mask = MASK if shape == (96, 96) else MASK[::8, ::8]
    figure = show_pictures([enlarge(SCENE)] * 2, ["", ""], outlines=[None, mask])
    plain, outlined = figure.axes
    assert len(plain.collections) == 0
    (contour,) = outlined.collections
    (path,) = contour.get_paths()
    x, y = path.vertices.T
    reach = 288 / shape[0]  # a contour passes between the last pixel inside and the first outside
    for value, edge in ((x.min(), 36), (x.max(), 108), (y.min(), 72), (y.max(), 144)):
        assert abs(value - edge) <= reach / 2


def test_maps_are_overlays():
    figure = show_maps(SCENE, MAPS, ["a", "b", "c"], picture_title="scene")
    assert titles(figure) == ["scene", "a", "b", "c"]
    picture, *maps = drawn(figure)
    assert (picture == np.asarray(enlarge(SCENE))).all()
    for shown, heatmap in zip(maps, MAPS, strict=True):
        assert (shown == np.asarray(overlay(enlarge(SCENE), heatmap, colormap=COLORMAP))).all()


def test_maps_with_one_scale():
    (shown,) = drawn(show_maps(SCENE, MAPS[:1], ["a"], vmax=3.0))
    assert (shown == np.asarray(overlay(enlarge(SCENE), MAPS[0], vmax=3.0))).all()
    assert (shown != drawn(show_maps(SCENE, MAPS[:1], ["a"]))[0]).any()


@pytest.mark.parametrize(
    ("mask", "outlined"),
    [(None, [0, 0, 0, 0]), (MASK, [0, 1, 1, 1]), ([None, MASK, None], [0, 0, 1, 0])],
)
def test_masks_belong_to_maps_not_to_the_picture(mask, outlined):
    figure = show_maps(SCENE, MAPS, ["a", "b", "c"], picture_title="scene", mask=mask)
    assert [len(ax.collections) for ax in figure.axes] == outlined


def test_columns():
    figure = show_maps(SCENE, MAPS, ["a", "b", "c"], columns=2)
    assert len(figure.axes) == 3
    figure.draw_without_rendering()
    corners = [ax.get_position() for ax in figure.axes]
    assert corners[0].y0 == pytest.approx(corners[1].y0) and corners[2].y1 < corners[0].y0
    assert corners[2].x0 == pytest.approx(corners[0].x0)


def test_matrices():
    matrices = torch.rand(2, 5, 7)
    figure = show_matrices(matrices, ["a", "b"], labels=("key", "query"))
    for ax, matrix in zip(figure.axes, matrices, strict=True):
        (image,) = ax.images
        np.testing.assert_allclose(image.get_array(), matrix)
        assert image.norm.vmin == 0 and image.norm.vmax == pytest.approx(float(matrix.max()))
        assert image.norm(matrix.max().item() / 4) == pytest.approx(0.5)  # by the root
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("key", "query")
    shared = show_matrices(matrices, ["a", "b"], vmax=2.0)
    assert [ax.images[0].norm.vmax for ax in shared.axes] == [2, 2]
    show_matrices(torch.zeros(1, 3, 3), ["zeros"]).png()


def test_heads():
    maps = torch.rand(4, 3, 6, 6)
    figure = show_heads(maps)
    assert titles(figure)[:4] == ["head 0", "head 1", "head 2", ""]
    assert [ax.get_ylabel() for ax in figure.axes[::3]] == [f"block {n}" for n in range(4)]
    for ax, heatmap in zip(figure.axes, maps.flatten(0, 1), strict=True):
        np.testing.assert_allclose(ax.images[0].get_array(), heatmap)
        assert ax.images[0].norm.vmax == pytest.approx(float(heatmap.max()))
    scales = [ax.images[0].norm.vmax for ax in show_heads(maps, shared=True).axes]
    assert scales == pytest.approx([float(maps.max())] * 12)


@pytest.mark.parametrize(
    ("size", "enlarged"),
    [((96, 96), (288, 288)), ((96, 48), (288, 144)), ((512, 300), (512, 300))],
)
def test_enlarge(size, enlarged):
    large = enlarge(Image.new("L", size, 77))
    assert large.size == enlarged and large.mode == "RGB"
    assert large.getcolors() == [(enlarged[0] * enlarged[1], (77, 77, 77))]


@pytest.mark.slow
def test_png_is_the_same_every_time_and_close_to_the_figure():
    def make() -> Figure:
        return show_maps(SCENE, MAPS, ["a", "b", "c"], picture_title="scene", mask=MASK)

    figure = make()
    content = figure.png()
    assert content == figure.png() == make().png()
    exact = io.BytesIO()
    figure.savefig(exact, format="png", dpi=90)
    small, large = (
        np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
        for png in (content, exact.getvalue())
    )
    assert small.shape == large.shape
    assert abs(small - large).mean() < 6
    assert (small[large.min(-1) == 255] == 255).all()  # the paper
    assert len(content) < 0.6 * len(exact.getvalue())


def test_webp_has_twice_the_pixels_and_all_colours():
    def make() -> Figure:
        return show_pictures([SCENE], ["scene"])

    assert make().webp() == make().webp()
    small, large = (Image.open(io.BytesIO(found)) for found in (make().png(), make().webp()))
    assert large.format == "WEBP" and large.size == (2 * small.width, 2 * small.height)
    exact = io.BytesIO()
    make().savefig(exact, format="png", dpi=180)
    off = np.asarray(large).astype(int) - np.asarray(Image.open(exact).convert("RGB"))
    assert abs(off).mean() < 3


def test_a_notebook_gets_the_picture_with_its_own_words():
    figure = show_matrices(torch.eye(3)[None], ["a\nwide"])
    data, metadata = DisplayFormatter().format(figure)
    assert "image/jpeg" not in data and data["image/png"] == figure.png()
    assert metadata["image/png"] == {"alt": figure.alt()} and "a wide" in figure.alt()
    curves = show_curves([0, 1], {"one": [0, 1], "two": [1, 0]}, xlabel="along", ylabel="up")
    assert curves.alt() == "Figure: up; along; one; two"
    panels = {"left": {"x": (0, 0, 1)}, "right": {"x": (0, 0, 1)}}
    assert show_intervals(panels, xlabel="gain").alt() == "Figure: left; right; gain"
    sheet = show_heads(torch.rand(2, 2, 3, 3))
    assert sheet.alt() == "Figure: head 0; block 0; head 1; block 1"


def test_a_notebook_gets_a_photograph_with_twice_the_pixels_and_all_colours():
    figure = show_maps(SCENE, MAPS[:2], ["a", "b"], picture_title="scene")
    data, metadata = DisplayFormatter().format(figure)
    small, large = (Image.open(io.BytesIO(png)) for png in (figure.png(), data["image/jpeg"]))
    assert "image/png" not in data and large.size == (2 * small.width, 2 * small.height)
    wanted = {"alt": "Figure: scene; a; b", "width": small.width}  # shown as large as a PNG
    assert metadata["image/jpeg"] == wanted
    exact = Image.open(io.BytesIO(figure.webp()))
    assert abs(np.asarray(large).astype(int) - np.asarray(exact)).mean() < 3


@pytest.mark.parametrize("x", [[0.0, 0.5, 0.9], ["head", "block 1", "block 0"]])
def test_curves(x):
    curves = {"one": [0.1, 0.2, 0.3], "two": torch.tensor([1.0, 0.5, 0.0])}
    figure = show_curves(x, curves, xlabel="along", ylabel="up", level=("even", 0.4))
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_ylim()) == ("along", "up", (0, 1))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "two", "even"]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.1, 0.2, 0.3])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [1, 0.5, 0])
    np.testing.assert_allclose(ax.lines[2].get_ydata(), [0.4, 0.4])


def test_intervals():
    panels = {"left": {"a": (0.2, 0.1, 0.3), "b": (0.0, -0.1, 0.1)}, "right": {"c": (-1, -2, -0.5)}}
    figure = show_intervals(panels, xlabel="difference")
    left, right = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["left", "right"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["a", "b", "c"]
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the first row is on top
    level, line, point, _, open_point = left.lines
    assert list(level.get_xdata()) == [0, 0]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0.1, 0.3], [0, 0])
    assert (list(point.get_xdata()), list(open_point.get_ydata())) == ([0.2], [1])
    assert (point.get_markerfacecolor(), open_point.get_markerfacecolor()) == ("tab:blue", "white")
    assert (list(right.lines[1].get_xdata()), right.lines[2].get_ydata()[0]) == ([-2, -0.5], 2)
    with pytest.raises(ValueError, match="at least one row"):
        show_intervals({"empty": {}}, xlabel="difference")


@pytest.mark.parametrize(
    ("pictures", "names", "outlines"),
    [(1, 2, None), (2, 1, None), (0, 0, None), (2, 2, [None])],
)
def test_errors(pictures, names, outlines):
    with pytest.raises(ValueError, match="pictures, titles and outlines"):
        show_pictures([SCENE] * pictures, ["a"] * names, outlines=outlines)
