"""Loading: a ViT by name, with weights from wherever they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checks import check_path
from .library import LIBRARIES, known_library


def load_model(
    name: str,
    *,
    weights: str | Path | None = None,
    img_size: int | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Load a model in eval mode; `"garden"` is the one that comes with this package.

    The names, and where their weights come from:

    * `"garden"`: its own.
    * `"deit_tiny_patch16_224"`, any of `timm.list_models()`: a file, timm's cache, the hub.
    * `"local-dir:FOLDER"`, as timm's `save_for_hf` writes it: the folder.
    * `"transformers:FOLDER"`, `"transformers:ORG/NAME"`: the folder, the cache, the hub.
    * `"torchvision:vit_b_16"`: a file, torch's cache, PyTorch's server.

    A file is `weights`, or lies in the folder `$VITEXPLAIN_WEIGHTS` under the model's name. What is
    on this machine comes first. Checkpoints are read without executing pickled code, and models'
    own code is never run. The number of classes follows the checkpoint.

    Args:
        name: as above; timm's with or without a weight tag.
        weights: a local checkpoint, `.safetensors` or `.pth`.
        img_size: of a model of timm, pictures of so many pixels a side instead of those that it was
            trained on: more patches of the same size, positions interpolated; `preprocess` follows.
        device: where the model goes.

    Returns:
        An ordinary `nn.Module` of its library.

    Raises:
        ValueError: an unknown name, a checkpoint that does not fit, or a size that patches do not
            fill.
        FileNotFoundError: there are no weights; the message says the ways to provide them.
        ImportError: a model of transformers without that package.

    Example:
        >>> model = load_model("garden")
        >>> type(model).__name__, model.training
        ('VisionTransformer', False)
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be a model's name, as 'garden', got {name!r}")
    if weights is not None:
        check_path("weights", weights)
    path = None if weights is None else Path(weights)
    library, _, rest = name.partition(":")
    if name == "garden":
        if path is not None:
            raise ValueError(f"weights {str(path)!r}: 'garden' has its own")
        from ..garden import garden_model

        model: nn.Module = garden_model()
    elif library in LIBRARIES:
        model = known_library(library).load(rest, path)
    else:
        model = known_library("timm").load(name, path)
    if img_size is not None:
        _resize(model, img_size)
    if not isinstance(device, str | int | torch.device):
        raise ValueError(f"device must be a name or a torch.device, got {device!r}")
    try:
        return model.eval().to(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device {device!r} cannot be used here: {error}") from error


def _resize(model: Any, img_size: int) -> None:
    if not hasattr(model, "set_input_size"):
        raise ValueError(f"img_size {img_size!r}: {type(model).__name__} takes one size only")
    patch = model.patch_embed.patch_size[0]
    whole = isinstance(img_size, int) and not isinstance(img_size, bool)
    if not whole or img_size < 1 or img_size % patch:
        raise ValueError(f"img_size must be whole patches of {patch} pixels, got {img_size!r}")
    model.set_input_size(img_size=(img_size, img_size))
