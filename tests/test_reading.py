"""How long notebooks are to read, whether they say so, and whether their references resolve."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PATHS = [path for path in sorted(NOTEBOOKS.glob("*.ipynb")) if path.name[:2] in
         ("00", "01", "02", "03", "04", "05", "12")]  # fmt: skip
WORDS, CELLS, ALOUD, CELL = 2200, 18, 130, 2  # words a minute, minutes a code cell


def parts(path: Path) -> tuple[str, list[str]]:
    """Its text, and its cells of code."""
    found = nbformat.read(path, as_version=4).cells
    text = "\n\n".join(cell.source for cell in found if cell.cell_type == "markdown")
    return text, [cell.source for cell in found if cell.cell_type == "code"]


def anchors(path: Path) -> set[str]:
    """Ids that Jupyter, nbconvert and GitHub all give to a heading: only of lower-case words."""
    headings = re.findall(r"^#+ (.+)$", parts(path)[0], re.M)
    return {heading.replace(" ", "-") for heading in headings if re.fullmatch("[a-z ]+", heading)}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_short_enough_and_honest_about_time(path: Path):
    text, code = parts(path)
    words = len(text.split())
    assert words <= WORDS and len(code) <= CELLS
    said = int(re.search(r"bout (\d+) minutes", text)[1])
    assert abs(said - (words / ALOUD + CELL * len(code))) <= 3
    assert text.count("<details>") <= 1


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_exercises_say_how_hard_and_how_long(path: Path):
    text, code = parts(path)
    checks = sum(bool(re.search(r"^check_\w+\(", cell, re.M)) for cell in code)
    hard, long = "(?:easy|medium|hard)", r"\d+ minutes"
    timed = re.findall(rf"\((?:{hard}, {long}|{long}, {hard})\)", text)
    assert checks == len(timed) and (path.name.startswith("00") or 2 <= checks <= 4)
    assert not any(re.search(r"print\([^\n]*, True\)", cell) for cell in code)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_anchors_resolve(path: Path):
    for target, anchor in re.findall(r"\]\(([^)#:]*\.ipynb)#([^)]+)\)", parts(path)[0]):
        assert anchor in anchors(path.parent / target), anchor


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_sections_referred_to_exist(path: Path):
    text, code = parts(path)
    said = re.findall(r"(?:[Nn]otebook (\d\d), |[^,] )[Ss]ections? (\d+)", "\n".join([text, *code]))
    assert said or path.name[:2] == "12"
    for number, section in said:
        (of,) = NOTEBOOKS.glob(f"{number}-*.ipynb") if number else (path,)
        assert re.search(rf"^## {section}\. ", parts(of)[0], re.M), (number, section)


def test_every_word_of_the_glossary_is_wanted():
    linked = {
        anchor
        for path in NOTEBOOKS.glob("*.ipynb")
        for anchor in re.findall(r"00-start-here\.ipynb#([a-z-]+)", parts(path)[0])
    }
    words = re.findall(r"^### (.+)$", parts(PATHS[0])[0], re.M)
    assert len(words) == len(set(words)) >= 20
    assert len(linked) >= 15
