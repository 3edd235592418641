"""What the project's files say of each other."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import vitexplain_utils

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "ortools": "ortools-python",
    "playwright": "playwright-python",
}


def toml() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirement(text: str) -> tuple[str, str]:
    name, version = re.fullmatch(r"([A-Za-z0-9_-]+)>=([0-9.]+)", text.strip()).groups()
    name = CONDA_NAMES.get(name, name)
    return name.replace("_", "-").lower(), version


def test_environment_has_the_same_dependencies():
    project = toml()["project"]
    wanted = {("python", project["requires-python"].removeprefix(">="))}
    for group in (project["dependencies"], *project["optional-dependencies"].values()):
        wanted |= {requirement(text) for text in group}
    lines = (ROOT / "environment.yml").read_text().splitlines()
    listed = [line.removeprefix("  - ") for line in lines if re.match(r"  - [^-\s]", line)]
    found = {requirement(text) for text in listed if ">=" in text}
    assert found == wanted
    assert [text for text in listed if ">=" not in text] == ["conda-forge", "pip", "pip:"]


def test_versions_agree():
    version = vitexplain_utils.__version__
    assert toml()["project"]["version"] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_readme_names_only_what_exists():
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", readme)):
        assert re.search(rf"^{target}:", makefile, re.M), target
    links = re.findall(r"\]\(([^)#]+)\)", readme) + re.findall(r'(?:src|href)="([^"#]+)"', readme)
    for target in links:
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_public_names_exist_and_are_documented():
    for name in vitexplain_utils.__all__:
        thing = getattr(vitexplain_utils, name)
        assert not callable(thing) or thing.__doc__, name


def test_readme_example_runs(tmp_path: Path):
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    garden = example.replace('"deit_tiny_patch16_224"', '"garden"').replace(
        "photo.jpg", "photo.png"
    )
    vitexplain_utils.hero_scene(4).image.save(tmp_path / "photo.png")
    subprocess.run([sys.executable, "-W", "error", "-c", garden], cwd=tmp_path, check=True)
    assert list(tmp_path.glob("*.png"))
