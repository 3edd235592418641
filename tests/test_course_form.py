"""The course as a reader meets it: how long it is, and whether what it points at is there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
COURSE = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
SOLUTIONS = sorted(NOTEBOOKS.glob("solutions/*.ipynb"))
PAGES = [*COURSE, *SOLUTIONS, NOTEBOOKS / "TEACHING.md"]
EXERCISES = {path.stem[3:].replace("-", "_"): path.stem[:2] for path in COURSE}  # module: notebook
MAX_WORDS, MAX_CODE = 2200, 18
READ, RUN = 130, 2  # words a minute, read aloud; minutes a code cell


@cache
def cells(path: Path) -> tuple[nbformat.NotebookNode, ...]:
    return tuple(nbformat.read(path, as_version=4).cells)


@cache
def text(path: Path) -> str:
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    return "\n".join(cell.source for cell in cells(path) if cell.cell_type == "markdown")


def notebook(number: str) -> Path | None:
    return next((path for path in COURSE if path.stem.startswith(f"{number}-")), None)


def size(path: Path) -> tuple[int, int]:
    return len(text(path).split()), sum(cell.cell_type == "code" for cell in cells(path))


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_half_as_long(path: Path):
    words, code = size(path)
    assert words <= MAX_WORDS and code <= MAX_CODE, f"{words} words, {code} code cells"


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_the_time_is_that_of_reading_aloud(path: Path):
    words, code = size(path)
    said = re.search(r"\*\*What you need\.\*\*.*", text(path))
    minutes = [int(number) for number in re.findall(r"(\d+) minutes", said[0])]
    wanted = words / READ + RUN * code
    assert any(abs(number - wanted) <= 8 for number in minutes), f"{minutes}, not {wanted:.0f}"


# ---- links and anchors


def links(path: Path) -> list[tuple[str, str]]:
    found = re.findall(r"\]\(([^)\s]+)\)", text(path))
    return [(file, anchor) for file, _, anchor in (link.partition("#") for link in found)
            if not file.startswith(("http", "mailto:"))]  # fmt: skip


def anchors(path: Path) -> set[str]:
    """Of all headings, as Jupyter, nbconvert and GitHub write them, in lower case."""
    headings = re.findall(r"^#+ (.+)$", text(path), re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_links_and_anchors(path: Path):
    assert path.exists()
    for file, anchor in links(path):
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), file
        if anchor and target.suffix in (".ipynb", ".md"):
            assert anchor.lower() in anchors(target), f"{file}#{anchor}"


# ---- sections

LIST = r"[1-9]\d?(?:(?:, | and | to |–)[1-9]\d?)*"
OTHER = r"(?:\[)?(?<![\d.,])(\d\d)(?:\]\([^)]*\))?,? "  # 04 or [04](…), before the section
REFERENCE = re.compile(rf"(?:{OTHER})?(?:§§? ?|\b[Ss]ections? )({LIST})")
APPENDIX = re.compile(rf"(?:{OTHER})?\b[Aa]ppendix ([A-Z])\b")


def sections(path: Path) -> set[str]:
    named = re.findall(r"^## (?:(\d+)\. |Appendix ([A-Z]))", text(path), re.M)
    return {number or letter for number, letter in named}


def references(prose: str, own: str | None) -> list[tuple[str | None, str]]:
    """Notebook and section of each reference; `own` is the notebook that is meant by none."""
    prose = " ".join(prose.split())
    found = [(number or own, place) for number, places in REFERENCE.findall(prose)
             for place in re.findall(r"\d+", places)]  # fmt: skip
    return found + [(number or own, letter) for number, letter in APPENDIX.findall(prose)]


def test_references_are_understood():
    said = "as section 3 checks; notebook 04, section 6; [01](01-a.ipynb), sections 1 to 4, 7 and 9"
    assert references(said, "07") == [("07", "3"), ("04", "6"), *(("01", n) for n in "1479")]
    assert references("07 §3, §4, appendix B; 1,370 sections", "08") == [
        ("07", "3"), ("08", "4"), ("08", "B"),
    ]  # fmt: skip


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_sections_that_are_named_exist(path: Path):
    own = path.stem[:2] if path.suffix == ".ipynb" else None
    prose = text(path)
    if path.suffix == ".ipynb":
        prose += "\n".join(cell.source for cell in cells(path) if cell.cell_type == "code")
    check(references(prose, own), path.name)


def test_sections_that_the_package_names_exist():
    for path in (ROOT / "vitexplain_utils").rglob("*.py"):
        own = EXERCISES.get(path.stem) if path.parent.name == "exercises" else None
        check(references(path.read_text(encoding="utf-8"), own), path.name)
    check(references((ROOT / "README.md").read_text(encoding="utf-8"), None), "README.md")


def check(found: list[tuple[str | None, str]], where: str) -> None:
    for number, place in found:
        named = None if number is None else notebook(number)
        assert named is not None, f"{where}: section {place} of what?"
        assert place in sections(named), f"{where}: notebook {number} has no section {place}"


# ---- exercises


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_exercises_say_how_hard_they_are(path: Path):
    if path.stem[:2] in ("00", "12"):
        pytest.skip("no exercises of its own, or one large one")
    code = [cell.source for cell in cells(path) if cell.cell_type == "code"]
    asked = [source for source in code if re.search(r"^check_\w+\(\w+\)$", source, re.M)]
    assert 2 <= len(asked) <= 3 and all(re.search(r"= \.\.\.", source) for source in asked)
    said = re.findall(
        r"^\*\*Exercise (\d)(?::[^*]+)?\*\* \((?:easy|medium|hard), \d+ minutes\)", text(path), re.M
    )
    assert said == [str(number) for number in range(1, len(asked) + 1)]
    assert text(path).count("<details>") <= 1
