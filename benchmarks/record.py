"""Record: the committed result files, from which README and notebooks have their numbers."""

from __future__ import annotations

import json
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vitexplain_utils import __version__
from vitexplain_utils.show import write_whole

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "timm")
SPACE = re.compile(r"\s+")


def write_results(
    name: str, found: dict, *, quick: bool = False, packages: tuple[str, ...] = ()
) -> None:
    """Write `benchmarks/results/NAME.json` (of a quick run into `build/results`).

    Versions come first; innermost lists and objects stand on one line each.
    """
    versions = {"python": platform.python_version(), "vitexplain-utils": __version__}
    versions |= {package: installed(package) for package in PACKAGES + packages}
    text = json.dumps({"versions": versions, **found}, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda row: f"[{SPACE.sub(' ', row[1])}]", text)
    folder = ROOT / ("build" if quick else "benchmarks") / "results"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{name}.json", (text + "\n").encode())
    print(f"\nwritten: {folder.relative_to(ROOT) / name}.json")


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
