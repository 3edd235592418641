"""Write the course for a class: no outputs, no folded answers, no solutions."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

import nbformat

HERE = Path(__file__).parent.resolve()
FOLDED = re.compile(r"\n*<details>.*?</details>\n*", re.S)
BESIDE = ("README.md", "figures", "benchmarks/results")  # what notebooks link to or read
SOLUTIONS = re.compile(r" Solutions: \[[^]]*\]\([^)]*\)\.")


def for_students(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without what gives answers away; its cells keep their order and ids."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = SOLUTIONS.sub("", FOLDED.sub("\n\n", cell.source)).strip("\n")
    return notebook


def main() -> None:
    """Write the numbered notebooks, and beside them what they read, as one folder to hand out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a new one, or one written by this command")
    folder = parser.parse_args().folder.resolve()
    notebooks = folder / "notebooks"
    if notebooks == HERE:
        raise SystemExit(f"folder must not be the course's own, {folder}: its outputs would go")
    notebooks.mkdir(parents=True, exist_ok=True)
    paths = sorted(HERE.glob("[0-9]*.ipynb"))
    for path in paths:
        nbformat.write(for_students(nbformat.read(path, as_version=4)), notebooks / path.name)
    for name in BESIDE:
        source, copy = HERE.parent / name, folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, dirs_exist_ok=True)
        else:
            shutil.copy(source, copy)
    print(f"{len(paths)} notebooks in {notebooks}")


if __name__ == "__main__":
    sys.exit(main())
