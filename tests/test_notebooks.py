"""The notebooks' form, checked without a kernel; nbval checks what they compute."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LESSONS = [path for path in PATHS if path.name[0].isdigit()]
TAUGHT = [path for path in LESSONS if path.name[:2] not in ("00", "12")]  # the way in, the capstone
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
SKELETON = ["## Setup", "## Exercises", "## Limits", "## Summary", "## Further reading"]
MAX_LINES = 15  # of code in a cell, not counting blank lines and imports
TAGS = {"parameters", "nbval-ignore-output"}


def cells(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


def outputs(path: Path) -> list[nbformat.NotebookNode]:
    return [output for cell in cells(path, "code") for output in cell.outputs]


def test_the_series_is_complete():
    numbers = [int(path.name[:2]) for path in LESSONS]
    assert numbers == list(range(13))
    assert (ROOT / "notebooks" / "readme-figures.ipynb") in PATHS


@pytest.mark.parametrize("path", TAUGHT, ids=lambda path: path.stem)
def test_skeleton(path: Path):
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    assert text.startswith("# ")
    for part in ("**What you will do.**", "**What you will learn**", "**What you need.**"):
        assert part in text
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert [heading for heading in headings if heading in SKELETON] == SKELETON
    numbers = [int(m[1]) for h in headings if (m := re.match(r"## (\d+)\. ", h))]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 4
    assert "redict, then look" in text and "How to read it" in text


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_cells(path: Path):
    notebook = nbformat.read(path, as_version=4)
    code = cells(path, "code")
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    for cell in code:
        assert set(cell.metadata.get("tags", [])) <= TAGS, cell.id
        if "nbval-ignore-output" in cell.metadata.get("tags", []):  # weights that may be missing
            assert "deit" in cell.source or "clip" in cell.source, cell.id
        lesson = path.stem != "readme-figures"  # which draws, and is not read
        if lesson and not cell.source.startswith(("import ", "from ")):
            assert len([line for line in cell.source.splitlines() if line]) <= MAX_LINES, cell.id
        assert not cell.source.rstrip().endswith(";"), cell.id
        assert not re.search(r"^\s*[!%]|clear_output|pip install|tqdm", cell.source, re.M), cell.id
    assert all(re.fullmatch(r"[a-z][a-z0-9-]+", cell.id) for cell in notebook.cells)


@pytest.mark.parametrize("path", [*PATHS, *SOLUTIONS], ids=lambda path: path.stem)
def test_outputs_are_those_of_one_fresh_run(path: Path):
    code = cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any(cell.outputs for cell in code)
    for output in outputs(path):
        assert output.output_type != "error" and output.get("name") != "stderr"


@pytest.mark.parametrize("path", [*PATHS, *SOLUTIONS], ids=lambda path: path.stem)
def test_file(path: Path):
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size <= 1_500_000
    pictures = re.compile(r'"image/(png|jpeg)": "[^"]*"|base64,[A-Za-z0-9+/=]+')
    assert not re.search(r"/(home|Users|root|work|tmp|usr)/|[A-Z]:\\\\", pictures.sub("", text))


@pytest.mark.parametrize("path", [LESSONS[0], *TAUGHT], ids=lambda path: path.stem)
def test_photograph_sections_were_run(path: Path):
    photographs = [
        cell
        for cell in cells(path, "code")
        if "nbval-ignore-output" in cell.metadata.get("tags", [])
    ]
    assert photographs and any(
        {"image/png", "image/jpeg"} & {*output.get("data", {})}
        for cell in photographs
        for output in cell.outputs
    )


@pytest.mark.parametrize("path", [*PATHS, *SOLUTIONS], ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path):
    for cell in cells(path, "markdown"):
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solutions_solve_the_exercises(path: Path):
    lesson = path.parents[1] / path.name
    asked = re.findall(r"^(check_\w+)\(", "\n".join(c.source for c in cells(lesson, "code")), re.M)
    solved = re.findall(r"^(check_\w+)\(", "\n".join(c.source for c in cells(path, "code")), re.M)
    assert asked == solved and 2 <= len(asked) <= 4
    printed = "".join(output.get("text", "") for output in outputs(path))
    assert printed.count("✓ Right.") == len(asked) and "✗" not in printed
    given = "".join(output.get("text", "") for output in outputs(lesson))
    assert given.count("○ Nothing filled in yet") == len(asked) and "✓ Right." not in given
