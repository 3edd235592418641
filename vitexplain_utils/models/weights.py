"""Weights: where the files are, looked for on this machine first."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from pathlib import Path

from timm.models import load_state_dict
from torch import Tensor

HUB = "https://huggingface.co"


def in_folder(*names: str) -> Path | None:
    """The first of these files or folders that lies in `$VITEXPLAIN_WEIGHTS`."""
    folder = os.environ.get("VITEXPLAIN_WEIGHTS")
    paths = [Path(folder, name) for name in names] if folder else []
    return next((path for path in paths if path.exists()), None)


def read(path: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or `.pth` file for the model `name`; no pickle is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights {str(path)!r} is not a file")
    try:
        state: dict[str, Tensor] = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # many kinds, from pickle's to safetensors'
        raise ValueError(does_not_fit(path, name, error)) from error
    return state


def does_not_fit(path: Path, name: str, error: Exception) -> str:
    """What is said of weights that cannot be loaded."""
    return f"weights {str(path)!r} cannot be loaded into {name}: {reason(error)}"


def reason(error: Exception, limit: int = 300) -> str:
    """The beginning of what an error says, in one line."""
    return " ".join(str(error).split())[:limit]


def reachable(url: str, seconds: float = 4.0) -> bool:
    """Whether a server answers; in a thread, because looking up a name can hang for longer."""
    answers = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds)
        except urllib.error.HTTPError:
            pass  # an answer as well
        except OSError:
            return
        answers.append(True)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds + 1)
    return bool(answers)


def hub_reachable() -> bool:
    """Whether the hub answers, and may be asked."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and reachable(os.environ.get("HF_ENDPOINT", HUB))
