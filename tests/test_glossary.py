"""The glossary of notebook 00: its anchors are the same in Jupyter, nbconvert and on GitHub."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))


def text(path: Path, kind: str = "markdown") -> str:
    found = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in found if cell.cell_type == kind)


WORDS = re.findall(r"^### (.+)$", text(NOTEBOOKS / "00-start-here.ipynb"), re.M)
ANCHORS = {word.replace(" ", "-") for word in WORDS}


def test_only_lower_case_words_have_one_anchor_everywhere():
    assert len(ANCHORS) == len(WORDS) >= 20
    assert all(re.fullmatch("[a-z ]+", word) for word in WORDS)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_links_into_it_resolve_to_the_letter(path: Path):
    assert set(re.findall(r"00-start-here\.ipynb#([^)]+)\)", text(path))) <= ANCHORS


def test_it_is_linked_to():
    linked = {a for path in PATHS for a in re.findall(r"00-start-here\.ipynb#([^)]+)", text(path))}
    assert len(linked) >= 15


@pytest.mark.parametrize("path", [p for p in PATHS if p.name < "06"], ids=lambda path: path.stem)
def test_a_check_prints_what_it_found_not_a_literal(path: Path):
    assert not re.search(r"print\([^\n]*, (True|False)\)", text(path, "code"))
