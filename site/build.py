"""Build the site: the course as committed, a playground, the marks and the reference.

Nothing of the course is run. The pages are laid out in `build/site-pages`, and Sphinx makes of them
`build/site`. Pictures of photographs need the weights of DeiT-Tiny; without them they are left out.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path
from string import Template

import nbformat
from sphinx.cmd.build import main as sphinx

import vitexplain_utils
from vitexplain_utils import hero_scene, save_page
from vitexplain_utils.course import optional_model, read_marks

HERE = Path(__file__).parent.resolve()
ROOT = HERE.parent
PAGES = ROOT / "build" / "site-pages"
FIGURES = ("first.webp", "hero.webp", "forest.png", "cheat-sheet.png", "cheat-sheet.pdf")
STAGES = ("models", "methods", "show", "truth", "garden")
SETS = ("garden", "mosaics", "boxes", "things")
PHOTOGRAPHS = ("coffee", "camera", "cat", "astronaut", "rocket")  # of scikit-image
README_LINKS = {
    "../README.md#which-models": "../models.md",
    "../README.md#what-you-will-learn": "../index.md#the-course",
}


def page_of(path: Path) -> nbformat.NotebookNode:
    """A notebook with its number in its title, and with a description of each picture."""
    notebook = nbformat.read(path, as_version=4)
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for link, page in README_LINKS.items():
                cell.source = cell.source.replace(f"]({link})", f"]({page})")
            heading = [heading, *re.findall(r"^#+ (.+)$", cell.source, re.M)][-1]
        else:
            cell.metadata.mystnb = {"image": {"alt": alt_of(cell, heading)}}
    first = notebook.cells[0]
    first.source = first.source.replace("# ", f"# {path.name[:2]} · ", 1)
    return notebook


def alt_of(cell: nbformat.NotebookNode, heading: str) -> str:
    """What a cell's picture shows: said by hand, by the figure itself, or by the section."""
    kinds = [about for output in cell.outputs for about in output.get("metadata", {}).values()]
    own = (about.get("alt") for about in kinds)
    return cell.metadata.get("alt") or next(filter(None, own), f"Figure of the section “{heading}”")


def lay_out_course() -> None:
    """The notebooks, their solutions, and what is for teachers."""
    for path in sorted((ROOT / "notebooks").rglob("[0-9]*.ipynb")):
        copy = PAGES / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(page_of(path), copy)
    shutil.copy(ROOT / "notebooks" / "TEACHING.md", PAGES / "notebooks")
    shutil.copytree(ROOT / "figures", PAGES / "figures")  # of which Sphinx takes what is shown


def lay_out_reference() -> None:
    """A page for the root's names, and one for each stage with the rest of its own."""
    (PAGES / "api").mkdir()
    known = ", ".join([*vitexplain_utils.__all__, "set"])  # matplotlib gives each Figure a `set`
    for stage in STAGES:
        name = f"vitexplain_utils.{stage}"
        text = f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n   :members:\n"
        (PAGES / "api" / f"{stage}.rst").write_text(f"{text}   :exclude-members: {known}\n")
    shutil.copy(HERE / "api.rst", PAGES / "api" / "index.rst")


def playground(models: bool) -> str:
    """Write the pages to play with; a sentence with the links to them."""
    folder = PAGES / "extra" / "playground"
    folder.mkdir(parents=True)
    scenes = [hero_scene(number) for number in range(1, 7)]
    title = "What did the model look at?"
    count = len(scenes) if models else 1
    save_page(folder / "garden.html", "garden", scenes[:count], title=title)
    said = 'The same on <a href="playground/garden.html">a page of its own</a>'
    deit = optional_model("deit_tiny_patch16_224") if models else None
    if deit is None:
        return f"{said}."
    save_page(folder / "photographs.html", deit, PHOTOGRAPHS, classes=4, title=title)
    return f'{said}, and <a href="playground/photographs.html">with five photographs</a>.'


def marks() -> dict[str, str]:
    """The table of marks, and how many questions were asked."""
    results = ROOT / "benchmarks" / "results"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| \d\.\d\d / ", readme, re.M)  # the same as there
    sets = {**read_marks(results / "photographs.json"),
            "garden": read_marks(results / "garden.json")["garden"]}  # fmt: skip
    perturbed = "deletion and insertion"

    def mark(asked: str, row: str, measure: str) -> str:
        line = sets[asked]["marks"].get((row, measure))
        return "–" if line is None else f"{line['mean']:.2f}"

    table = [f"| method | {' | '.join(SETS)} | insertion − deletion |", "|---" * 6 + "|"]
    for row in rows:
        pairs = [f"{mark(asked, row, 'peak inside')} / {mark(asked, row, 'energy inside')}"
                 for asked in SETS]  # fmt: skip
        table.append(
            f"| {row} | {' | '.join(pairs)} | {mark(perturbed, row, 'insertion − deletion')} |"
        )
    asked = {name: f"{sets[name]['questions']:,}" for name in SETS}
    return {**asked, "perturbed": str(sets[perturbed]["questions"]), "marks": "\n".join(table)}


def main() -> int:
    """Lay out the pages and let Sphinx build them; 0 if nothing is amiss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "build" / "site")
    parser.add_argument("--quick", action="store_true", help="a playground of one scene")
    options = parser.parse_args()
    for folder in (PAGES, options.folder):
        shutil.rmtree(folder, ignore_errors=True)
    (PAGES / "extra" / "figures").mkdir(parents=True)
    for name in FIGURES:
        shutil.copy(ROOT / "figures" / name, PAGES / "extra" / "figures")
    shutil.copy(ROOT / "README.md", PAGES)  # pages include parts of it
    words = {"playground": playground(models=not options.quick), **marks()}
    for path in HERE.glob("*.md"):
        text = Template(path.read_text(encoding="utf-8")).substitute(words)
        (PAGES / path.name).write_text(text, encoding="utf-8")
    lay_out_course()
    lay_out_reference()
    how = ["--quiet", "--fail-on-warning", "--keep-going", "--fresh-env", "--conf-dir", str(HERE)]
    return sphinx([*how, "--doctree-dir", f"{PAGES}-read", str(PAGES), str(options.folder)])


if __name__ == "__main__":
    sys.exit(main())
