"""What the project's files say of each other."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vitexplain_utils

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
    extras = {**project["optional-dependencies"]}
    for own in ("mutation", "site"):  # conda-forge may lack them, and no other target needs them
        extras.pop(own)
    for group in (project["dependencies"], *extras.values()):
        wanted |= {requirement(text) for text in group}
    lines = (ROOT / "environment.yml").read_text().splitlines()
    listed = [line.removeprefix("  - ") for line in lines if re.match(r"  - [^-\s]", line)]
    found = {requirement(text) for text in listed if ">=" in text}
    assert found == wanted
    assert [text for text in listed if ">=" not in text] == ["conda-forge", "pip", "pip:"]


def test_the_version_stands_in_one_place():
    version, config = vitexplain_utils.__version__, toml()
    assert "version" not in config["project"] and config["project"]["dynamic"] == ["version"]
    source = config["tool"]["setuptools"]["dynamic"]["version"]
    assert source == {"attr": "vitexplain_utils.__version__"}
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_readme_names_only_what_exists():
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", readme)):
        assert re.search(rf"^{target}:", makefile, re.M), target
    links = re.findall(r"\]\(([^)#]+)\)", readme) + re.findall(r'(?:src|href)="([^"#]+)"', readme)
    for target in links:
        elsewhere = target.startswith(
            ("http", "../../")
        )  # the second: this project's own on GitHub
        assert elsewhere or (ROOT / target).exists(), target


def test_public_names_exist_and_are_documented():
    for name in vitexplain_utils.__all__:
        thing = getattr(vitexplain_utils, name)
        assert not callable(thing) or thing.__doc__, name


@pytest.mark.slow
def test_readme_example_runs(tmp_path: Path):
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    garden = example.replace('"deit_tiny_patch16_224"', '"garden"').replace(
        "photo.jpg", "photo.png"
    )
    vitexplain_utils.hero_scene(4).image.save(tmp_path / "photo.png")
    subprocess.run([sys.executable, "-W", "error", "-c", garden], cwd=tmp_path, check=True)
    assert list(tmp_path.glob("*.png"))


def test_readme_has_the_measured_memory():
    """Its table is that of the file that the benchmark wrote."""
    readme = (ROOT / "README.md").read_text()
    file = json.loads((ROOT / "benchmarks" / "results" / "memory.json").read_text())
    columns = [model["beside the model, MB"] for model in file["models"]]
    rows = [case for case in columns[0] if f"| {case} | {columns[0][case]:,} |" in readme]
    assert len(rows) == 7
    for case in rows:
        assert f"| {case} | {' | '.join(f'{column[case]:,}' for column in columns)} |\n" in readme
    for model in file["models"]:
        assert f"{model['matrices of all blocks, MB']:,}" in readme


@pytest.mark.slow
def test_contributing_example_runs(tmp_path: Path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    example = "\n".join(blocks)
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "| last_positive | 0." in ran.stdout and "| gradient_rollout |" in ran.stdout


def test_no_module_hides_behind_a_function_of_its_name():
    for path in (ROOT / "vitexplain_utils").rglob("*.py"):
        package = ".".join(path.relative_to(ROOT).parent.parts)
        if path.stem not in ("__init__", "__main__"):
            module = importlib.import_module(f"{package}.{path.stem}")
            assert getattr(sys.modules[package], path.stem) is module


LAYERS = (
    "checks garden show models recording capture dreaming methods truth explanation explorer "
    "arguments command_line __main__ course exercises"
)


def test_imports_go_one_way():
    """Nothing imports what stands above it (CONTRIBUTING.md lists the order)."""
    order = LAYERS.split()
    for path in (ROOT / "vitexplain_utils").rglob("*.py"):
        parts = path.relative_to(ROOT / "vitexplain_utils").with_suffix("").parts
        if parts == ("__init__",):
            continue
        for dots, name in re.findall(r"^\s*from (\.+)([a-z_]*)", path.read_text(), re.M):
            if len(dots) == len(parts):  # up to the package itself
                assert order.index(name) <= order.index(parts[0]), f"{path.name} imports {name}"


def test_the_root_offers_a_handful():
    assert 15 <= len(vitexplain_utils.__all__) <= 22


@pytest.mark.slow
def test_the_root_imports_a_name_when_it_is_asked_for():
    code = (
        "import sys, vitexplain_utils as package\n"
        "heavy = {'torch', 'timm', 'matplotlib', 'numpy', 'PIL'}\n"
        "print(heavy & set(sys.modules) or 'nothing')\n"
        "package.garden_scene, package.methods.METHODS\n"
        "print('torch' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["nothing", "True"]
    homes = vitexplain_utils._HOMES
    assert sorted(name for names in homes.values() for name in names) == sorted(
        vitexplain_utils.__all__
    )
    for home, names in homes.items():
        for name in names:
            module = importlib.import_module(f"vitexplain_utils.{home}")
            assert getattr(vitexplain_utils, name) is getattr(module, name)
    assert {*homes, *vitexplain_utils.__all__} <= set(dir(vitexplain_utils))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vitexplain_utils.nothing
