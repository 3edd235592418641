"""Course: what every notebook needs besides the path itself."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

from IPython.display import HTML
from torch import nn

from .models.loading import load_model


def optional_model(name: str) -> nn.Module | None:
    """The model, or None and one printed line where there are no weights for it.

    Example:
        >>> optional_model("garden") is not None
        True
    """
    try:
        return load_model(name)
    except FileNotFoundError:
        print(
            f"No weights for {name}: the photograph sections are skipped. Go online once, or put "
            f"{name}.safetensors into a folder and set VITEXPLAIN_WEIGHTS to it."
        )
        return None


def show_gif(path: str | Path) -> HTML:
    """A GIF for a notebook's output, embedded so that it also plays in an exported page."""
    encoded = base64.b64encode(Path(path).read_bytes()).decode()
    alt = f"Film: {Path(path).stem.replace('-', ' ')}"
    return HTML(f'<img alt="{alt}" src="data:image/gif;base64,{encoded}">')


def read_marks(path: str | Path) -> dict[str, dict]:
    """What a result file of the benchmarks says of each set of questions.

    Args:
        path: of a JSON file that `benchmarks/photographs.py` or `garden_table.py` wrote.

    Returns:
        For each set what the file holds, with `marks[method, measure]` a line by its columns and
        `pairs[method, other, measure]` a difference and its ends; a CAM at the last of the model's
        blocks is called so.
    """
    (found,) = json.loads(Path(path).read_text(encoding="utf-8"))["models"].values()
    for asked in found.values():
        lines = [dict(zip(asked["columns"], row, strict=True)) for row in asked.pop("rows")]
        last = f"CAM, block {asked['blocks'] - 1}"
        for line in lines:
            line["method"] = line["method"].replace(last, "CAM, last block")
        asked["marks"] = {(line["method"], line["measure"]): line for line in lines}
        asked["pairs"] = {tuple(line[:3]): line[3:] for line in asked["pairs"]}
    return found


def figures_folder() -> Path:
    """Where figures go: `$VITEXPLAIN_FIGURES`, which the make targets set, or `../figures`."""
    folder = Path(os.environ.get("VITEXPLAIN_FIGURES") or "../figures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
