from __future__ import annotations

import io
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from vitexplain_utils import hero_scene, overlay, save_gif
from vitexplain_utils.show import enlarge, films, label_frame, save_webp, sweep_frames

pytestmark = pytest.mark.slow

RATIOS = [step / 20 for step in range(20)]


@pytest.fixture(scope="module")
def frames() -> list[Image.Image]:
    """Twenty overlays that change little by little, each with its label."""
    generator = torch.Generator().manual_seed(0)
    first, last = torch.rand(2, 12, 12, generator=generator) ** 3
    maps = torch.stack([(1 - ratio) * first + ratio * last for ratio in RATIOS])
    return sweep_frames(enlarge(hero_scene(5).image, 192), maps, RATIOS)


def pixels(frames: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(frame.convert("RGB")) for frame in frames]).astype(int)


def read(path: Path) -> np.ndarray:
    return iio.imread(path)[..., :3].astype(int)


def plain(*colours: str) -> list[Image.Image]:
    return [Image.new("RGB", (20, 10), colour) for colour in colours]


@pytest.mark.parametrize(
    "colours",
    [
        ["red"],
        ["red", "blue", "red"],
        ["red", "red"],
        ["white"] * 5,
        ["black", "black", "blue", "blue", "blue", "black"],
    ],
)
def test_as_many_frames_as_given(tmp_path, colours):
    path = save_gif(plain(*colours), tmp_path / "a.gif", duration=70)
    found = read(path)
    assert len(found) == len(colours)
    assert abs(found - pixels(plain(*colours))).max() <= 1
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == len(colours)
        for index in range(len(colours)):
            image.seek(index)
            assert image.info["duration"] == 70


def test_few_colours_are_exact(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3, 8, 10, 3), dtype=np.uint8)  # 240 pixels
    frames = [Image.fromarray(frame) for frame in noise]
    assert (read(save_gif(frames, tmp_path / "a.gif")) == noise).all()


@pytest.mark.parametrize("colors", [2, 16, 255])
def test_no_more_colours_than_asked_for(frames, tmp_path, colors):
    found = read(save_gif(frames, tmp_path / "a.gif", colors=colors))
    assert len(found) == len(frames)
    assert len(np.unique(found.reshape(-1, 3), axis=0)) <= colors


def test_overlays_stay_close(frames, tmp_path):
    path = save_gif(frames, tmp_path / "a.gif")
    assert path.stat().st_size <= 500_000
    off = abs(read(path) - pixels(frames))
    assert off.mean() < 3 and np.percentile(off, 99) < 12 and off.max() < 40


def test_no_bands(frames, tmp_path, monkeypatch):
    """Seen from some way off, dithering brings the colours nearer to the true ones."""

    def off_at_a_distance(path: Path) -> float:
        off = (read(path) - pixels(frames))[:, :192]
        return abs(off.reshape(len(frames), 48, 4, 48, 4, 3).mean((2, 4))).mean()

    dithered = off_at_a_distance(save_gif(frames, tmp_path / "a.gif", colors=64))
    monkeypatch.setattr(films, "_DITHER", 1e-9)
    assert dithered < 0.95 * off_at_a_distance(save_gif(frames, tmp_path / "b.gif", colors=64))


def test_what_is_still_does_not_flicker(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    moving = np.repeat(photo[None], 12, axis=0)
    moving[:, 20:40, 20:40] = np.random.default_rng(1).integers(0, 256, (12, 20, 20, 3))
    found = read(save_gif([Image.fromarray(frame) for frame in moving], tmp_path / "a.gif"))
    changed = (found != found[:1]).any((0, 3))
    assert changed[20:40, 20:40].mean() > 0.9
    changed[20:40, 20:40] = False
    assert not changed.any()


@pytest.mark.parametrize(("duration", "found"), [(20, 20), (150, 150), (1000, 1000), (155, 150)])
def test_duration(tmp_path, duration, found):
    path = save_gif(plain("red", "blue"), tmp_path / "a.gif", duration=duration)
    assert iio.immeta(path)["duration"] == found


@pytest.mark.parametrize("loop", [0, 3])
def test_loop(tmp_path, loop):
    path = save_gif(plain("red", "blue"), tmp_path / "a.gif", loop=loop)
    assert iio.immeta(path)["loop"] == loop
    assert iio.immeta(save_gif(plain("red", "blue"), tmp_path / "b.gif"))["loop"] == 0  # for ever


def test_same_bytes_every_time(frames, tmp_path):
    one, two = (save_gif(frames, tmp_path / name).read_bytes() for name in ("a.gif", "b.gif"))
    assert one == two


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_any_mode_of_picture(tmp_path, mode):
    given = [frame.convert(mode) for frame in plain("black", "white")]
    assert (read(save_gif(given, tmp_path / "a.gif")) == pixels(given)).all()


def test_size_limit(frames, tmp_path):
    """A tighter limit costs precision; one that cannot be held is an error, and nothing changes."""
    path = tmp_path / "a.gif"
    size = save_gif(frames, path).stat().st_size
    limit = round(0.6 * size)
    tight = save_gif(frames, tmp_path / "tight.gif", max_bytes=limit)
    assert tight.stat().st_size <= limit
    assert len(read(tight)) == len(frames)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"\d+ bytes, more than max_bytes=9999"):
        save_gif(frames, path, max_bytes=9999)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="max_bytes=10"):
        save_gif(plain("red"), tmp_path / "b.gif", max_bytes=10)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a.gif", "tight.gif"]


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_gif(plain("red"), tmp_path / "a.gif")
    before = path.read_bytes()

    def refuse(self: Path, target: Path) -> Path:
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="full"):
        save_gif(plain("blue"), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (dict(frames=[]), "frames must hold at least one"),
        (dict(frames=[Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5))]), r"\(4, 5\)"),
        (dict(path="a.png"), "gif"),
        (dict(duration=19), "duration"),
        (dict(duration=float("nan")), "duration"),
        (dict(duration=float("inf")), "duration"),
        (dict(loop=-1), "loop"),
        (dict(colors=1), "colors"),
        (dict(colors=256), "colors"),
    ],
)
def test_errors(tmp_path, given, named):
    settings = dict(frames=plain("red", "blue"), path="a.gif") | given
    settings["path"] = tmp_path / settings["path"]
    with pytest.raises(ValueError, match=named):
        save_gif(**settings)
    assert list(tmp_path.iterdir()) == []


def test_frames_that_are_not_pictures(tmp_path):
    with pytest.raises(TypeError, match="ndarray"):
        save_gif([np.zeros((4, 4, 3), dtype=np.uint8)], tmp_path / "a.gif")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        save_gif(plain("red"), tmp_path / "nowhere" / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_webp_has_all_frames_in_their_colours(tmp_path):
    colours = ["black", "white", "white", "blue"]
    path = save_webp(plain(*colours), tmp_path / "a.webp", duration=70, loop=3)
    found = Image.open(io.BytesIO(path.read_bytes()))
    assert found.info["loop"] == 3
    shown = []
    for index in range(found.n_frames):
        found.seek(index)
        picture = np.asarray(found.convert("RGB")).astype(int)
        shown += [picture] * (found.info["duration"] // 70)  # two alike are one
    assert abs(np.stack(shown) - pixels(plain(*colours))).max() <= 4


def test_webp_is_smaller_than_the_gif_and_the_same_every_time(frames, tmp_path):
    one, two = (save_webp(frames, tmp_path / name).read_bytes() for name in ("a.webp", "b.webp"))
    assert one == two
    assert 2 * len(one) < save_gif(frames, tmp_path / "a.gif").stat().st_size
    with pytest.raises(ValueError, match=r"\d+ bytes, more than max_bytes=999"):
        save_webp(frames, tmp_path / "c.webp", max_bytes=999)
    for name, named in (("d.gif", "must end in .webp"), ("no/d.webp", "no")):
        with pytest.raises((ValueError, FileNotFoundError), match=named):
            save_webp(frames, tmp_path / name)
    with pytest.raises(ValueError, match="quality"):
        save_webp(frames, tmp_path / "e.webp", quality=0)
    assert sorted(found.suffix for found in tmp_path.iterdir()) == [".gif", ".webp", ".webp"]


@pytest.mark.parametrize("size", [(96, 96), (300, 200), (640, 480)])
def test_label_is_below_the_picture_and_fits(size):
    picture = Image.new("RGB", size, "green")
    labelled = np.asarray(label_frame(picture, "discard ratio 0.95"))
    assert (labelled[: size[1]] == np.asarray(picture)).all()
    label = labelled[size[1] :]
    assert 18 <= len(label) <= 28 and label.shape[1] == size[0]
    rows, cols = np.nonzero(label.min(-1) < 128)
    assert np.ptp(rows) >= 7  # digits large enough to read
    assert rows.min() > 0 and rows.max() < len(label) - 1
    assert cols.min() > 0 and cols.max() < size[0] - 1
    assert abs(cols.min() - (size[0] - 1 - cols.max())) <= 3  # in the middle


def test_labels_differ():
    picture = Image.new("RGB", (300, 300))
    one, two = (label_frame(picture, f"ratio {ratio}").tobytes() for ratio in (0.85, 0.9))
    assert one != two


def test_frames_have_one_scale():
    """A colour means the same number in all frames: half a map is drawn as half a map."""
    image, heatmap = Image.new("RGB", (64, 48), "gray"), torch.rand(3, 4)
    frames = sweep_frames(image, torch.stack([heatmap, heatmap / 2]), [0, 0.5])
    for frame, drawn, ratio in zip(frames, [heatmap, heatmap / 2], ["0.00", "0.50"], strict=True):
        expected = overlay(image, drawn, vmax=float(heatmap.max()))
        assert frame.tobytes() == label_frame(expected, f"discard ratio {ratio}").tobytes()


def test_frames_side_by_side_have_one_scale_each():
    image = Image.new("RGB", (64, 48), "gray")
    left, right = torch.rand(3, 4), 100 * torch.rand(3, 4)
    maps = torch.stack([torch.stack([left, right]), torch.stack([left / 2, right / 2])])
    frames = sweep_frames(image, maps, [0, 0.5], names=["one", "two"], text="{:.0%}")
    for part, heatmap in ((slice(0, 64), left), (slice(72, 136), right)):
        alone = [overlay(image, m, vmax=float(heatmap.max())) for m in (heatmap, heatmap / 2)]
        assert (pixels(frames)[:, :48, part] == pixels(alone)).all()
    assert {frame.size for frame in frames} == {(136, 48 + 18 + 18)}
    swapped = sweep_frames(image, maps, [0, 0.5], names=["one", "other"], text="{:.0%}")
    differs = (pixels(frames) != pixels(swapped)).any((0, 3))
    assert differs[48:66, 72:].any()
    differs[48:66, 72:] = False
    assert not differs.any()


def test_frames_of_maps_of_zeros():
    image = Image.new("RGB", (64, 48), "gray")
    frames = sweep_frames(image, torch.zeros(2, 3, 4), [0, 0.5])
    assert (pixels(frames)[:, :48] == pixels([overlay(image, torch.zeros(3, 4))])).all()


@pytest.mark.parametrize(
    ("shape", "ratios", "names", "named"),
    [
        ((2, 3, 4), [0], None, "heatmaps"),
        ((3, 4), [0, 0.5, 0.9], None, "heatmaps"),
        ((0, 3, 4), [], None, "discard_ratios"),
        ((1, 2, 3, 4), [0], ["one"], "names"),
    ],
)
def test_frames_errors(shape, ratios, names, named):
    with pytest.raises(ValueError, match=named):
        sweep_frames(Image.new("RGB", (8, 8)), torch.rand(shape), ratios, names=names)


def test_frames_have_the_given_opacity():
    image, maps = Image.new("RGB", (40, 40), "red"), torch.rand(2, 5, 5)
    frames = sweep_frames(image, maps, [0, 0.5], opacity=0.3)
    wanted = overlay(image, maps[1], opacity=0.3, vmax=float(maps.max()))
    assert np.array_equal(np.asarray(frames[1])[:40], np.asarray(wanted))
