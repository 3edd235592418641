"""Loading: any ViT of timm by name, with weights from wherever they are."""

from __future__ import annotations

import difflib
import os
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict
from torch import nn

_HUB = "https://huggingface.co"


def load_model(
    name: str, *, weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> nn.Module:
    """Load a timm model in eval mode; `"garden"` is the one that comes with this package.

    Without `weights` it takes `<name>.safetensors` from the folder `$VITEXPLAIN_WEIGHTS`, else
    what timm finds in the hub's cache or on the hub. Checkpoints are read without executing
    pickled code. The number of classes follows the checkpoint.

    Args:
        name: any name of `timm.list_models()`, with or without a weight tag, or `"garden"`.
        weights: a local checkpoint, `.safetensors` or `.pth`.
        device: where the model goes.

    Returns:
        An ordinary timm `nn.Module`.

    Raises:
        ValueError: an unknown name, or a checkpoint that does not fit.
        FileNotFoundError: there are no weights; the message says the three ways to provide them.

    Example:
        >>> model = load_model("garden")
        >>> type(model).__name__, model.training
        ('VisionTransformer', False)
    """
    if name == "garden":
        from ..garden import garden_model

        model: nn.Module = garden_model()
        return model.to(device)
    if not timm.is_model(name.split(".")[0]):
        close = difflib.get_close_matches(name, ["garden", *timm.list_models()], n=3)
        raise ValueError(f"name {name!r} is not a model of timm; close: {', '.join(close) or '–'}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # an unknown weight tag
        raise ValueError(f"name {name!r}: {error}") from error
    path = Path(weights) if weights is not None else _find_weights(name)
    return _create(name, path).eval().to(device)


def _create(name: str, path: Path) -> nn.Module:
    if not path.is_file():
        raise FileNotFoundError(f"weights {str(path)!r} is not a file")
    try:
        state = load_state_dict(str(path), weights_only=True)
        overlay: dict[str, Any] = {"state_dict": state, "custom_load": False, "label_offset": 0}
        classes = _count_classes(name, state)
        if classes is not None:
            overlay["num_classes"] = classes
        kwargs: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        model: Any = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs
        )
    except Exception as error:  # many kinds, from pickle's to safetensors'
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"weights {str(path)!r} cannot be loaded into {name}: {reason}") from error
    model.pretrained_cfg["state_dict"] = None  # timm keeps a reference
    return model


def _count_classes(name: str, state: dict[str, Any]) -> int | None:
    cfg = timm.get_pretrained_cfg(name)
    classifier = cfg.classifier if cfg is not None else None
    first = classifier[0] if isinstance(classifier, list | tuple) else classifier
    head = state.get(f"{first}.weight")
    return None if head is None else len(head)


def _find_weights(name: str) -> Path:
    folder = os.environ.get("VITEXPLAIN_WEIGHTS")
    if folder and (path := Path(folder) / f"{name}.safetensors").is_file():
        return path
    found = _hub_file(name)
    if found is None:
        raise FileNotFoundError(
            f"no weights for {name}. Three ways to provide them: (1) load_model({name!r}, "
            f"weights='FILE.safetensors' or '.pth'); (2) put {name}.safetensors into a folder and "
            "set VITEXPLAIN_WEIGHTS to it; (3) be online once: timm downloads them into its cache"
        )
    return found


def _hub_file(name: str) -> Path | None:
    """The checkpoint in the hub's cache, downloaded if need be and possible."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.hf_hub_id:
        return None
    files = (
        [cfg.hf_hub_filename] if cfg.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    )
    for file in files:
        cached = try_to_load_from_cache(cfg.hf_hub_id, file)
        if isinstance(cached, str):
            return Path(cached)
    if constants.HF_HUB_OFFLINE or not _reachable(os.environ.get("HF_ENDPOINT", _HUB)):
        return None
    for file in files:
        try:
            return Path(hf_hub_download(cfg.hf_hub_id, file))
        except Exception:  # not there under this name, gated, or the connection broke
            continue
    return None


def _reachable(url: str, seconds: float = 4.0) -> bool:
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
