"""What `make student` writes: the course without outputs, folded answers and solutions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "notebooks" / "student.py"
LESSONS = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("class") / "student"
    for _ in range(2):  # a second time over the first
        subprocess.run([sys.executable, SCRIPT, folder], check=True)
    return folder


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def test_it_is_the_whole_course_and_no_solution(written):
    assert sorted(path.name for path in (written / "notebooks").iterdir()) == LESSONS
    assert not list(written.rglob("*solutions*"))


@pytest.mark.parametrize("name", LESSONS)
def test_a_notebook_for_students(written, name):
    theirs, ours = read(written / "notebooks" / name), read(ROOT / "notebooks" / name)
    assert [cell.id for cell in theirs.cells] == [cell.id for cell in ours.cells]
    for cell, own in zip(theirs.cells, ours.cells, strict=True):
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count, cell.source) == ([], None, own.source)
        else:
            assert "details>" not in cell.source and "solutions/" not in cell.source
            kept = re.sub(r"<details>.*?</details>| Solutions: \S+\.", "", own.source, flags=re.S)
            assert cell.source.split() == kept.split()
            for target in re.findall(r"\]\(([^)#:]+)[#)]", cell.source):
                assert (written / "notebooks" / target).exists(), target


def test_what_notebooks_read_lies_beside_them(written):
    results = ROOT / "benchmarks" / "results"
    for file in results.iterdir():
        assert (written / "benchmarks" / "results" / file.name).read_bytes() == file.read_bytes()


def test_the_course_itself_is_never_stripped():
    before = {path: path.read_bytes() for path in (ROOT / "notebooks").glob("*.ipynb")}
    ran = subprocess.run([sys.executable, SCRIPT, ROOT], capture_output=True, text=True)
    assert ran.returncode == 1 and "folder must not be" in ran.stderr
    assert {path: path.read_bytes() for path in before} == before
