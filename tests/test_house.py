"""What those who join find: recipes that run, forms, and a matrix that is what the files say."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from reference import array, naive_rollout
from torch import Tensor, nn
from torch.nn import functional

from vitexplain_utils import capture_attention, explain
from vitexplain_utils.models.library import LIBRARIES, library_of

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return x + functional.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2)


class ViT(nn.Module):
    """The plainest there is."""

    patch_size = 4

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).mT
        return self.head(
            self.blocks(torch.cat([self.token.expand(len(x), -1, -1), patches], 1))[:, 0]
        )


def test_the_recipe_for_a_library(monkeypatch):
    """Its file in the package, its line in `LIBRARIES`, and a model is explained."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    (code,) = [block for block in blocks if "(Library)" in block]
    module = ModuleType("plainvit")
    exec(code, vars(module))
    monkeypatch.setitem(sys.modules, "vitexplain_utils.models.plainvit", module)
    monkeypatch.setitem(LIBRARIES, "plainvit", "Plainvit")
    monkeypatch.setattr(ViT, "__module__", "plainvit.vit")
    torch.manual_seed(0)
    model, x = ViT().eval(), torch.randn(2, 3, 8, 12)
    assert library_of(model).name == "plainvit"
    capture = capture_attention(model, x, target=3)
    for image, heatmap in enumerate(explain(model, x, method="rollout").heatmap):
        row = naive_rollout([array(call.attention()[image]) for call in capture.blocks])
        assert array(heatmap.flatten()) == pytest.approx(row[1:], abs=1e-6)
    assert explain(model, x, target=3).heatmap.shape == (2, 2, 3)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms(path):
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert form == {"blank_issues_enabled": False}
        return
    assert form["name"] and form["description"]
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in asked}) == len(asked) >= 3
    assert all(part["attributes"]["label"] for part in asked)
    assert sum(part.get("validations", {}).get("required", False) for part in asked) >= 2


def test_continuous_integration_runs_what_the_files_name():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    jobs, makefile = workflow["jobs"], (ROOT / "Makefile").read_text()
    matrix = jobs["quick"]["strategy"]["matrix"]
    pythons = [text.split("::")[-1].strip() for text in PROJECT["classifiers"] if "3." in text]
    assert matrix["python"] == pythons == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    assert f"Python {pythons[0]}–{pythons[-1]} " in (ROOT / "README.md").read_text()
    assert [system.split("-")[0] for system in matrix["system"]] == ["ubuntu", "macos", "windows"]
    assert "schedule" in workflow[True]  # YAML reads `on` as true
    for job in jobs.values():
        for step in job["steps"]:
            if step.get("run", "").startswith("make "):
                assert re.search(rf"^{step['run'].split()[1]}:", makefile, re.M), step


def test_addresses_are_the_same_wherever_they_stand():
    """There is none yet; the first release adds them (CONTRIBUTING.md)."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    urls = PROJECT.get("urls", {})
    assert urls.get("Repository") == citation.get("repository-code")
    assert set(urls) in (set(), {"Homepage", "Repository", "Issues", "Changelog"})


def test_the_changelog_begins_with_what_is_not_released():
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "Unreleased"
    assert headings[1:] == sorted(headings[1:], key=lambda v: v.split("."), reverse=True)


def test_security_names_only_tests_that_exist():
    security = (ROOT / "SECURITY.md").read_text()
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    names = re.findall(r"`(test_[a-z_]+)`", security)
    assert len(names) >= 4
    assert all(f"def {name}(" in tests for name in names)
    assert all((ROOT / path).is_file() for path in re.findall(r"`(tests/[a-z_]+\.py)`", security))


def test_the_explorer_is_served_to_this_machine_only():
    recipe = re.search(r"^explorer:.*?\n\n", (ROOT / "Makefile").read_text(), re.M | re.S)[0]
    assert "--Voila.ip=127.0.0.1" in recipe
    package = "\n".join(path.read_text() for path in (ROOT / "vitexplain_utils").rglob("*.py"))
    assert not re.search(r"http\.server|socketserver|import socket|\.listen\(|\.bind\(", package)
