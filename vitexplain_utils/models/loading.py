"""Loading: a ViT by name, with weights from wherever they are."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from .library import LIBRARIES, known_library


def load_model(
    name: str, *, weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> nn.Module:
    """Load a model in eval mode; `"garden"` is the one that comes with this package.

    | name | weights |
    |---|---|
    | `"garden"` | its own |
    | `"deit_tiny_patch16_224"`, any of `timm.list_models()` | a file, timm's cache, the hub |
    | `"local-dir:FOLDER"`, as timm's `save_for_hf` writes it | the folder |
    | `"transformers:FOLDER"`, `"transformers:ORG/NAME"` | the folder, the cache, the hub |
    | `"torchvision:vit_b_16"` | a file, torch's cache, PyTorch's server |

    A file is `weights`, or lies in the folder `$VITEXPLAIN_WEIGHTS` under the model's name. What is
    on this machine comes first. Checkpoints are read without executing pickled code, and models'
    own code is never run. The number of classes follows the checkpoint.

    Args:
        name: as above; timm's with or without a weight tag.
        weights: a local checkpoint, `.safetensors` or `.pth`.
        device: where the model goes.

    Returns:
        An ordinary `nn.Module` of its library.

    Raises:
        ValueError: an unknown name, or a checkpoint that does not fit.
        FileNotFoundError: there are no weights; the message says the ways to provide them.
        ImportError: a model of transformers without that package.

    Example:
        >>> model = load_model("garden")
        >>> type(model).__name__, model.training
        ('VisionTransformer', False)
    """
    path = None if weights is None else Path(weights)
    library, _, rest = name.partition(":")
    if name == "garden":
        from ..garden import garden_model

        model: nn.Module = garden_model()
    elif library in LIBRARIES:
        model = known_library(library).load(rest, path)
    else:
        model = known_library("timm").load(name, path)
    return model.eval().to(device)
