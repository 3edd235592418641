from __future__ import annotations

import base64
import json
import re

import huggingface_hub.constants
import pytest
from PIL import Image
from safetensors.torch import save_file

from vitexplain_utils import load_image, save_gif
from vitexplain_utils.course import figures_folder, optional_model, read_marks, show_gif
from vitexplain_utils.show import photograph

NAME = "deit_tiny_patch16_224"


@pytest.fixture
def no_hub(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("VITEXPLAIN_WEIGHTS", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vitexplain_utils.models.weights.reachable", lambda *_: False)


def test_without_weights_one_line_and_none(no_hub, capsys):
    assert optional_model(NAME) is None
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and NAME in out and "VITEXPLAIN_WEIGHTS" in out and err == ""


def test_with_weights_the_model_and_no_word(no_hub, deit_tiny, tmp_path, monkeypatch, capsys):
    save_file(deit_tiny.state_dict(), tmp_path / f"{NAME}.safetensors")
    monkeypatch.setenv("VITEXPLAIN_WEIGHTS", str(tmp_path))
    assert optional_model(NAME).num_classes == 10
    assert capsys.readouterr().out == ""


def test_a_misspelt_model_is_an_error_not_a_missing_file(no_hub):
    with pytest.raises(ValueError, match="deit_tini"):
        optional_model("deit_tini")


def test_photograph_of_scikit_image():
    pytest.importorskip("skimage")
    assert photograph("astronaut").size == (512, 512)
    grey = photograph("camera")
    assert grey.mode == "RGB" and len({*grey.getpixel((100, 100))}) == 1


def test_photograph_of_a_path(photo):
    assert photograph(str(photo)).tobytes() == load_image(photo).tobytes()
    with pytest.raises(FileNotFoundError):
        photograph("no/such/photo.png")


def test_gif_is_embedded_whole(tmp_path):
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    path = save_gif(frames, tmp_path / "two-frames.gif")
    html = show_gif(path).data
    encoded = re.search(r'src="data:image/gif;base64,([^"]+)"', html)[1]
    assert base64.b64decode(encoded) == path.read_bytes()
    assert 'alt="Film: two frames"' in html and str(tmp_path) not in html


def test_figures_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VITEXPLAIN_FIGURES", str(tmp_path / "some" / "where"))
    assert figures_folder() == tmp_path / "some" / "where" and figures_folder().is_dir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setenv("VITEXPLAIN_FIGURES", "")
    figures_folder()
    assert (tmp_path / "figures").is_dir()


def test_marks_of_a_result_file(tmp_path):
    lines = [["Grad-CAM, block 1", "peak inside", 0.5], ["Grad-CAM, block 11", "peak inside", 0.25]]
    asked = {"blocks": 12, "columns": ["method", "measure", "mean"], "rows": lines}
    asked["pairs"] = [["a", "b", "peak inside", 0.1, 0.0, 0.2]]
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"models": {"some": {"boxes": asked}}}))
    boxes = read_marks(path)["boxes"]
    assert boxes["marks"]["Grad-CAM, last block", "peak inside"]["mean"] == 0.25
    assert boxes["marks"]["Grad-CAM, block 1", "peak inside"]["mean"] == 0.5
    assert boxes["pairs"] == {("a", "b", "peak inside"): [0.1, 0.0, 0.2]}
