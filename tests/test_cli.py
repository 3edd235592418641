from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitexplain_utils import METHODS, command_line, explain, load_image, overlay, preprocess
from vitexplain_utils import __main__ as cli
from vitexplain_utils.models import crop_box

pytestmark = pytest.mark.slow

OFFERED = [name for name, method in METHODS.items() if method.offered]


@pytest.fixture
def small_model(monkeypatch, tiny):
    """The command line with a tiny model in place of whatever is asked for."""
    monkeypatch.setattr(command_line, "load_model", lambda name, weights=None, device=None: tiny)
    return tiny


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory, empty."""
    path = tmp_path / "work"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


def run(capsys, *arguments: object) -> tuple[int, list[str], list[str]]:
    status = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err.splitlines()


@pytest.mark.parametrize("method", OFFERED)
def test_writes_the_overlay(method, small_model, photo, folder, capsys):
    status, out, err = run(capsys, photo, "--method", method)
    assert (status, err) == (0, [])
    beside = photo.with_name(f"photo_{method}.png")
    assert sorted(photo.parent.iterdir()) == sorted([photo, beside, folder])
    assert list(folder.iterdir()) == []
    image = load_image(photo)
    explanation = explain(small_model, preprocess(small_model, image), method=method)
    written = load_image(beside)
    assert np.array_equal(np.asarray(written), np.asarray(overlay(image, explanation.heatmap[0])))
    best = int(explanation.logits.argmax())
    assert len(out) == 6
    assert out[1].endswith(f"{best}  class {best}")
    specific = METHODS[method].needs_gradient
    asked = f"for {best} class {best}" if specific else "the same for every class"
    assert out[0].startswith(f"{beside}: {method}") and out[0].endswith(asked)


def test_all_options(small_model, photo, folder, capsys):
    status, out, _ = run(
        capsys,
        photo,
        "--target=class 4",
        "--method=gradient_rollout",
        "--head-fusion=max",
        "--discard-ratio=0.5",
        "--crop",
        "--output=maps.png",
    )
    assert status == 0
    assert out[0] == "maps.png: gradient_rollout for 4 class 4"
    image = load_image(photo)
    x = preprocess(small_model, image, crop=True)
    own = {"method": "gradient_rollout", "head_fusion": "max", "discard_ratio": 0.5}
    explanation = explain(small_model, x, target=4, **own)
    box = crop_box(small_model, image.size)
    expected = np.asarray(overlay(image, explanation.heatmap[0], box=box))
    assert np.array_equal(np.asarray(load_image("maps.png")), expected)


@pytest.mark.parametrize("target", ["4", "class 4"])
def test_target_by_number_or_name(target, small_model, photo, folder, capsys):
    assert run(capsys, photo, "--target", target)[1][0].endswith("for 4 class 4")


@pytest.mark.parametrize(
    ("name", "kind"), [("o.jpg", "JPEG"), ("o.JPEG", "JPEG"), ("o.PNG", "PNG")]
)
def test_kind_of_output(name, kind, small_model, photo, folder, capsys):
    assert run(capsys, photo, "--output", name)[0] == 0
    with Image.open(name) as written:
        assert written.format == kind


def test_own_checkpoint(deit_checkpoint, photo, folder, capsys):
    status, out, _ = run(capsys, photo, "--weights", deit_checkpoint, "--method", "last_attention")
    assert status == 0
    assert len(out) == 6
    assert photo.with_name("photo_last_attention.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.png"], "none.png"),
        (["notes.txt"], "notes.txt"),
        (["{photo}", "--target", "class"], "target 'class' matches 7 classes"),
        (["{photo}", "--target", "zebra"], "target 'zebra' matches 0 classes"),
        (["{photo}", "--target", "7"], "target must be a class index"),
        (["{photo}", "--target", "-1"], "target must be a class index"),
        (["{photo}", "--target", "²"], "target '²'"),
        (["{photo}", "--method", "rollout", "--discard-ratio", "1.5"], "discard_ratio must"),
        (["{photo}", "--method", "rollout", "--discard-ratio", "nan"], "discard_ratio must"),
        (["{photo}", "--method", "relevance", "--head-fusion", "max"], "head_fusion"),
        (["{photo}", "--output", "map.gif"], "output"),
        (["{photo}", "--output", "missing/map.png"], "missing/map.png"),
        (["{photo}", "--output", "notes.txt/map.png"], "notes.txt/map.png"),
        (["{photo}", "--output", "{photo}"], "is a photograph itself: --force replaces it"),
        (["http://127.0.0.1:1/photo.png"], "cannot be fetched"),
        (["http://a b/photo.png"], "cannot be fetched"),
    ],
)
def test_bad_input(arguments, said, small_model, photo, folder, capsys, monkeypatch):
    monkeypatch.setattr(small_model, "forward", lambda x: 1 / 0)  # noticed before it runs
    Path("notes.txt").write_text("no picture")
    arguments = [argument.replace("{photo}", str(photo)) for argument in arguments]
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert len(err) == 1
    assert err[0].startswith("error: ")
    assert said in err[0]
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert sorted(photo.parent.iterdir()) == sorted([photo, folder])


def test_on_top_of_the_photograph_by_force(small_model, photo, folder, capsys):
    before = photo.read_bytes()
    assert run(capsys, photo, "--output", photo, "--force")[0] == 0
    assert photo.read_bytes() != before and load_image(photo).size == (60, 40)


def test_a_link_is_written_through(small_model, photo, folder, capsys):
    Path("there").mkdir()
    Path("map.png").symlink_to(Path("there", "real.png"))
    assert run(capsys, photo, "--output", "map.png")[0] == 0
    assert Path("map.png").is_symlink() and load_image("there/real.png").size == (60, 40)
    link = photo.with_name("link.png")
    link.symlink_to(photo)
    status, _, err = run(capsys, photo, "--output", link)
    assert status == 2 and "is a photograph itself" in err[0]


def test_what_takes_long_is_said_in_a_terminal(small_model, photo, folder, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(threading, "Timer", Soon)
    assert run(capsys, photo)[2] == [
        "loading deit_tiny_patch16_224 …",
        "explaining by attribution …",
    ]


class Soon(threading.Timer):
    """A timer whose time is up at once."""

    def __init__(self, _seconds: float, function, *given) -> None:
        super().__init__(0, function, *given)

    def start(self) -> None:
        super().start()
        self.join()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "deit_tiny_patch16_225"], "deit_tiny_patch16_224"),
        (["--weights", "none.pth"], "none.pth"),
        (["--weights", "{photo}"], "photo.png' cannot be loaded"),
    ],
)
def test_bad_model(arguments, said, photo, folder, capsys):
    arguments = [argument.replace("{photo}", str(photo)) for argument in arguments]
    status, _, err = run(capsys, photo, *arguments)
    assert status == 2
    assert len(err) == 1
    assert said in err[0]
    assert list(folder.iterdir()) == []


@pytest.fixture
def album(photo, tmp_path) -> Path:
    """Three pictures, a broken one, and a file that is none."""
    album = tmp_path / "album"
    album.mkdir()
    for index, name in enumerate(("a.png", "b.jpg", "c.PNG")):
        load_image(photo).rotate(90 * index, expand=True).save(album / name)
    (album / "broken.jpg").write_bytes(b"no picture")
    (album / "notes.txt").write_text("not looked at")
    return album


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_folder(batch_size, album, small_model, folder, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(
        command_line, "load_model", lambda name, **_: asked.append(name) or small_model
    )
    status, out, err = run(
        capsys, album, "--target", "4", "--output", "maps", "--batch-size", batch_size
    )
    assert status == 1
    assert [line for line in err if "it/s" not in line and "batch" not in line] == [
        f"error: image {album / 'broken.jpg'} is not a picture that Pillow can read"
    ]
    names = ["a_attribution.png", "b_attribution.png", "c_attribution.png"]
    assert sorted(path.name for path in (folder / "maps").iterdir()) == names
    assert sum(line.endswith("for 4 class 4") for line in out) == 3
    assert len(asked) == 1
    for name, source in zip(names, ("a.png", "b.jpg", "c.PNG"), strict=True):
        image = load_image(album / source)
        heatmap = explain(small_model, preprocess(small_model, image), target=4).heatmap[0]
        expected = np.asarray(overlay(image, heatmap)).astype(int)
        written = np.asarray(load_image(folder / "maps" / name)).astype(int)
        assert np.abs(written - expected).max() <= 1  # a batch rounds otherwise


def test_a_folder_of_one(album, small_model, folder, capsys):
    for name in ("b.jpg", "c.PNG", "broken.jpg"):
        (album / name).unlink()
    assert run(capsys, album, "--output", "maps/new")[0] == 0
    assert [path.name for path in (folder / "maps" / "new").iterdir()] == ["a_attribution.png"]


def test_several_photographs(album, photo, small_model, folder, capsys):
    assert run(capsys, photo, album / "b.jpg")[0] == 0
    assert photo.with_name("photo_attribution.png").is_file()
    assert (album / "b_attribution.png").is_file()


def test_overlays_of_an_earlier_run_are_no_photographs(album, small_model, folder, capsys):
    (album / "broken.jpg").unlink()
    for _ in range(2):
        status, out, _ = run(capsys, album)
        assert status == 0 and sum("_attribution.png: " in line for line in out) == 3
    assert len(list(album.glob("*_attribution.png"))) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{album}/a.png", "{album}/../photo.png", "--output", "map.png"], "is a folder"),
        (["{album}", "{album}/a.png"], "given twice"),
        (["{photo}", "{album}/photo.png", "--output", "maps"], "both be written to maps/photo_"),
        (["{album}", "--target", "zebra"], "target 'zebra'"),
        (["."], "holds no picture"),
    ],
)
def test_several_that_cannot_be(arguments, said, album, photo, small_model, folder, capsys):
    places = {"{album}": str(album), "{photo}": str(photo)}
    for key, place in places.items():
        arguments = [argument.replace(key, place) for argument in arguments]
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert said in err[-1]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("device", ["cuda:99", "warp", "meta"])
def test_a_device_that_is_not_there(device, folder, capsys):
    status, _, err = run(capsys, "none.png", "--device", device)
    assert status == 2 and f"argument --device: '{device}' cannot be used here" in err[-1]


@pytest.mark.parametrize("arguments", [["--batch-size", "0"], ["--method", "magic"]])
def test_options_that_are_refused_before_anything_is_read(arguments, folder, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["none.png", *arguments])
    assert caught.value.code == 2
    assert f"argument {arguments[0]}: " in capsys.readouterr().err


def test_help_needs_no_pytorch_and_help_methods_lists_every_setting():
    code = (
        "import sys\n"
        "from vitexplain_utils.__main__ import main\n"
        "try: main(['--help'])\n"
        "finally: print('torch' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--help-methods" in ran.stdout and ran.stdout.endswith("False\n")
    ran = subprocess.run(
        [sys.executable, "-m", "vitexplain_utils", "--help-methods"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in OFFERED:
        assert name in ran.stdout
        for setting in METHODS[name].settings:
            assert f"--{setting.replace('_', '-')}" in ran.stdout


def test_device(small_model, photo, folder, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(
        command_line,
        "load_model",
        lambda name, device, **_: asked.append(str(device)) or small_model,
    )
    assert run(capsys, photo, "--device", "cpu")[0] == 0
    assert asked == ["cpu"]


def test_a_regression_prints_its_number(small_model, photo, folder, capsys):
    small_model.reset_classifier(1)
    status, out, _ = run(capsys, photo)
    assert status == 0
    assert out[1].startswith("output ") and len(out) == 2


def test_flow_without_or_tools(small_model, photo, folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ortools.graph.python.max_flow", None)
    status, _, err = run(capsys, photo, "--method", "flow")
    assert status == 2
    assert err == ["error: attention flow needs OR-tools: pip install 'vitexplain-utils[flow]'"]
    assert list(folder.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file(small_model, photo, folder, capsys, monkeypatch):
    Path("map.png").write_bytes(b"old")

    def full(self: Path, content: bytes) -> None:
        self.open("wb").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    status, _, err = run(capsys, photo, "--output", "map.png")
    assert (status, len(err)) == (2, 1)
    assert Path("map.png").read_bytes() == b"old"
    assert [path.name for path in folder.iterdir()] == ["map.png"]


def test_as_a_program(folder):
    done = subprocess.run(
        [sys.executable, "-m", "vitexplain_utils", "none.png"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: image none.png")
    assert done.stderr.count("\n") == 1
