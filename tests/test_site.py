"""The site, as a reader's browser meets it: links, anchors, pictures, formulas, marks.

What `make site` left in `build/site` is taken, unless what it is made of has changed since; else a
small one is built, if what builds it is installed (`pip install -e ".[site]"`).
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from browser import launched

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("[0-9]*.ipynb"))
BUILDERS = ("sphinx", "myst_nb", "furo", "ziamath")
HEAVIEST = 1_500_000  # bytes: a page, its pictures, and the pages that it shows in frames
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = ROOT / "build" / "site"
    made_of = [*NOTEBOOKS, *(ROOT / "site").iterdir(), ROOT / "README.md"]
    made_of += (ROOT / "vitexplain_utils").rglob("*.py")
    when = (built / "index.html").stat().st_mtime if (built / "index.html").is_file() else 0
    if all(path.stat().st_mtime <= when for path in made_of):
        return built
    missing = [name for name in BUILDERS if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(f"no fresh build/site (make site), and to build one lacks {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, ROOT / "site" / "build.py", folder, "--quick"], check=True)
    return folder


class Page(HTMLParser):
    """What a page refers to, and what can be referred to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.text.append(data)

    def of(self, *names: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag in names]

    @property
    def anchors(self) -> set[str]:
        return {attributes["id"] for _, attributes in self.tags if "id" in attributes}

    @property
    def links(self) -> list[str]:
        return [attributes["href"] for attributes in self.of("a") if "href" in attributes]

    @property
    def resources(self) -> list[str]:
        """What a browser fetches by itself."""
        shown = [attributes.get("src", "") for attributes in self.of("img", "script", "iframe")]
        needed = [
            link["href"] for link in self.of("link") if link.get("rel") in ("stylesheet", "icon")
        ]
        return [address for address in (*shown, *needed) if address and address[:5] != "data:"]

    def file(self, address: str) -> Path:
        return (self.path.parent / unquote(urlsplit(address).path)).resolve()


@cache
def read(path: Path) -> Page:
    return Page(path)


def pages(site: Path) -> list[Page]:
    return [read(path) for path in sorted(site.rglob("*.html"))]


def test_every_page_is_there(site):
    names = {page.path.relative_to(site).with_suffix("").as_posix() for page in pages(site)}
    course = {path.relative_to(ROOT).with_suffix("").as_posix() for path in NOTEBOOKS}
    stages = {f"api/{name}" for name in ("models", "methods", "show", "truth", "garden")}
    others = {"index", "truth", "cheat-sheet", "solutions", "notebooks/TEACHING", "api/index"}
    assert course | stages | others | {"playground/garden"} <= names
    linked = {page.file(link) for page in pages(site) for link in page.links}
    framed = {page.file(one["src"]) for page in pages(site) for one in page.of("iframe")}
    lost = {page.path.resolve() for page in pages(site)} - linked - framed
    assert {path.name for path in lost} <= {"search.html"}  # which its form opens


def test_no_dead_link_or_anchor(site):
    count = 0
    for page in pages(site):
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https"):
                continue
            assert not parts.scheme and not parts.netloc, f"{page.path.name}: {link}"
            target = page.file(link) if parts.path else page.path.resolve()
            assert target.is_file(), f"{page.path.name}: {link}"
            if parts.fragment and target.suffix == ".html":
                found = read(target).anchors
                assert unquote(parts.fragment) in found, f"{page.path.name}: {link}"
                count += 1
    assert count > 300


def test_no_page_fetches_from_elsewhere(site):
    for page in pages(site):
        for address in page.resources:
            assert page.file(address).is_file(), f"{page.path.name}: {address}"
            assert not urlsplit(address).netloc, f"{page.path.name}: {address}"
    for style in site.rglob("*.css"):
        said = style.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", said), style.name


def test_pictures_have_a_text(site):
    for page in pages(site):
        for picture in page.of("img"):
            assert len(picture.get("alt", "").split()) >= 1, (
                f"{page.path.name}: {picture['src'][:80]}"
            )
        assert all(frame.get("title") for frame in page.of("iframe"))
    (forest,) = [one for one in read(site / "truth.html").of("img") if "forest" in one["src"]]
    assert forest["alt"].startswith("Forest plot with four panels")


def test_no_page_is_heavy(site):
    for page in pages(site):
        files = {
            page.file(one["src"]) for one in page.of("img", "iframe") if one["src"][:5] != "data:"
        }
        size = sum(path.stat().st_size for path in {*files, page.path.resolve()})
        assert size <= HEAVIEST, f"{page.path.name}: {size:,} bytes"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_notebook_is_whole(site, path):
    """All its formulas, pictures and printed lines, as they were committed."""
    page = read((site / path.relative_to(ROOT)).with_suffix(".html"))
    cells = nbformat.read(path, as_version=4).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    formulas = re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.sub(r"`[^`]*`", "", prose), re.S)
    drawn = [one["aria-label"] for one in page.of("svg") if one.get("role") == "img"]
    assert [" ".join(label.split()) for label in drawn] == [
        " ".join((block or inline).split()) for block, inline in formulas
    ]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = [
        output
        for output in outputs
        if {"image/png", "image/jpeg", "text/html"} & {*output.get("data", {})}
    ]
    assert len(page.of("img")) == len(pictures) + len(re.findall(r"!\[[^]]*\]\(", prose))
    text = " ".join("".join(page.text).split())
    for output in outputs:
        assert " ".join(output.get("text", "").split()) in text
    for cell in cells:
        if "alt" in cell.metadata:
            assert cell.metadata.alt in [picture["alt"] for picture in page.of("img")]


def test_the_marks_are_those_of_the_readme(site):
    """Which are those of the result files, as test_results.py sees to."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+ \| \d\.\d\d / .+) \|$", readme, re.M)
    html = (site / "truth.html").read_text(encoding="utf-8").split("marks docutils")[1]
    shown = [re.sub(r"</?p>|\s+$", "", " | ".join(re.findall(r"<td>(.*?)</td>", row, re.S)))
             for row in re.findall(r"<tr.*?</tr>", html, re.S)]  # fmt: skip
    assert len(rows) == 24 and shown[1:] == rows


def test_the_workflow_runs_make_site():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "site.yml").read_text())
    said = [step.get("run") for step in workflow["jobs"]["build"]["steps"]]
    assert "make site" in said and re.search(r"^site:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("name", ["index", "notebooks/04-gradient-rollout", "truth", "api/truth"])
def test_in_a_browser(site, name):
    """Nothing is asked of another host, and nothing is wider than a telephone."""
    with launched() as chromium:
        page = chromium.new_page(viewport={"width": 390, "height": 844})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / f"{name}.html").as_uri())
        page.wait_for_load_state("networkidle")
        assert asked and all(url.startswith(("file:", "data:", "blob:")) for url in asked)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
