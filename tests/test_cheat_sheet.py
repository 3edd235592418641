"""The cheat sheet: its ten lines run, and its files are one page and small."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import torch
from PIL import Image

import vitexplain_utils
from vitexplain_utils import hero_scene, truth

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "figures"


def api() -> str:
    cells = nbformat.read(ROOT / "notebooks" / "readme-figures.ipynb", as_version=4).cells
    (cell,) = [cell for cell in cells if cell.id == "cheat-sheet-api"]
    (assigned,) = ast.parse(cell.source).body
    return ast.literal_eval(assigned.value).strip()


def test_its_ten_lines_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scene = hero_scene(4)
    names = {name: getattr(vitexplain_utils, name) for name in vitexplain_utils.__all__}
    names |= {**vars(truth), "image": scene.image}
    names["mask"] = torch.from_numpy(scene.masks["bee"])[None]
    assert len(api().splitlines()) == 10
    exec(api(), names)
    assert (tmp_path / "bee.png").is_file()
    assert names["maps"].shape == (3, 1, 12, 12) and names["x"].shape == (1, 3, 96, 96)
    assert truth.pointing_game(names["explanation"].heatmap, names["mask"]).item()


def test_its_files():
    assert (FIGURES / "cheat-sheet.png").stat().st_size <= 300_000
    with Image.open(FIGURES / "cheat-sheet.png") as picture:
        assert picture.size == (1521, 1079)
    page = (FIGURES / "cheat-sheet.pdf").read_bytes()
    assert page.startswith(b"%PDF") and len(page) <= 300_000 and b"CreationDate" not in page
    assert page.count(b"/Type /Page ") + page.count(b"/Type /Page\n") == 1
