"""Run the notebooks from top to bottom: into a folder, or in place to refresh their outputs."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter

HERE = Path(__file__).parent.resolve()
# Only what every run has in common, so that a rerun changes nothing.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs of one fresh run, made in the notebooks' own folder."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(HERE)}}
    client = NotebookClient(
        notebook, timeout=600, record_timing=False, coalesce_streams=True, resources=resources
    )
    client.extra_arguments = ["--log-level=ERROR"]  # a kernel warns about its own local ports
    client.execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):  # a widget lives no longer than its kernel
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            if "alt" in cell.metadata:  # what is said by hand goes before a figure's own words
                for about in output.get("metadata", {}).values():
                    about.pop("alt", None)
    return notebook


def all_notebooks() -> list[Path]:
    """The course in its order, then the solutions."""
    return [*sorted(HERE.glob("*.ipynb")), *sorted(HERE.glob("solutions/*.ipynb"))]


def main() -> None:
    """Run all notebooks, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--into", type=Path, help="folder for executed notebooks, HTML and figures")
    where.add_argument("--in-place", action="store_true", help="refresh outputs and figures/")
    parser.add_argument("notebooks", nargs="*", type=Path, default=all_notebooks())
    options = parser.parse_args()
    into = HERE.parent if options.in_place else options.into.resolve()
    figures = into / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    os.environ["VITEXPLAIN_FIGURES"] = str(figures)  # the kernels inherit it
    for path in options.notebooks:
        start = time.perf_counter()
        notebook = execute(path)
        if options.in_place:
            nbformat.write(notebook, path)
        else:
            copy = into / path.resolve().relative_to(HERE)
            copy.parent.mkdir(exist_ok=True)
            nbformat.write(notebook, copy)
            exporter = HTMLExporter(template_name="classic")  # which gives pictures their alt text
            html, _ = exporter.from_notebook_node(notebook)
            html = re.sub(r'href="([^":]+)\.ipynb', r'href="\1.html', html)
            copy.with_suffix(".html").write_text(html, encoding="utf-8")
        name = path.resolve().relative_to(HERE).as_posix()
        print(f"{name:42s} {time.perf_counter() - start:5.1f} s", flush=True)
    if not options.in_place:
        print(f"Open {options.into}/*.html in a browser; the README's figures are in {figures}.")


if __name__ == "__main__":
    sys.exit(main())
