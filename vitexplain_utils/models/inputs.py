"""Inputs: from a picture to the tensor a model wants."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor, nn

from ..checks import check_module, check_number, check_numbers, check_picture, check_sequence
from ..show.pictures import to_rgb
from .library import library_of


def preprocess(model: nn.Module, image: Image.Image, *, crop: bool = False) -> Tensor:
    """Turn a picture into a model's input, by the model's own configuration.

    By default the whole picture is resized (squashed) to the input size, so that a heat map covers
    all of it. With `crop` it is the model's official evaluation transform: resize, then crop the
    centre; give `crop_box` to `overlay` then.

    Args:
        model: its size, mean, standard deviation and interpolation are used: timm's data
            configuration, the image processor that lies where a model of transformers came from
            (or its family's, if it was made in memory), torchvision's preset of the model's size.
        image: a PIL image.
        crop: resize and crop instead of resizing the whole.

    Returns:
        `[1, 3, H, W]` in the model's dtype and on its device.

    Raises:
        TypeError: `image` is not a PIL image.
        ValueError: the model is of no known library, or has no image processor.

    Example:
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=(32, 64), depth=1)
        >>> preprocess(model, Image.new("RGB", (300, 200))).shape
        torch.Size([1, 3, 32, 64])
    """
    check_picture("image", image)
    x = library_of(model).to_input(to_rgb(image), crop)
    parameter = next(model.parameters(), torch.empty(0))
    return x.to(device=parameter.device, dtype=parameter.dtype)


def crop_box(model: nn.Module, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of a picture that `preprocess(..., crop=True)` shows to the model.

    Args:
        model: as in `preprocess`.
        size: the picture's width and height.

    Returns:
        Left, upper, right and lower edge, in pixels of the picture.

    Raises:
        ValueError: the model crops in a way that is not supported.

    Example:
        >>> import timm
        >>> model = timm.create_model("deit_tiny_patch16_224", depth=1)  # crop_pct 0.9
        >>> [round(edge) for edge in crop_box(model, (800, 400))]
        [219, 19, 581, 381]
    """
    check_sequence("size", size, "a width and a height")
    if len(size) != 2:
        raise ValueError(f"size must be a width and a height, got {size!r}")
    for edge in size:
        check_number("size", edge, 1, torch.inf)
    return library_of(model).crop_box(size)


def check_input(model: nn.Module, x: Tensor) -> None:
    """Raise a ValueError unless `x` is a finite `[B, 3, H, W]` as the model takes it."""
    check_module(model)
    check_numbers("x", x, 4, "[B, 3, H, W] as from preprocess")
    if len(x) == 0:
        raise ValueError(f"x must be of at least one picture, got shape {tuple(x.shape)}")
    first = next((part for part in model.modules() if type(part) is nn.Conv2d), None)
    parameter = next(model.parameters(), None) if first is None else first.weight
    if parameter is None:
        return
    if parameter.device != x.device:
        raise ValueError(f"x is on {x.device}, the model on {parameter.device}: move one of them")
    if first is not None and x.shape[1] != first.in_channels:
        raise ValueError(
            f"x of shape {tuple(x.shape)} has {x.shape[1]} channels, the model takes "
            f"{first.in_channels}"
        )
    cast = torch.is_autocast_enabled(x.device.type) or not parameter.is_floating_point()
    if x.dtype != parameter.dtype and not cast:
        raise ValueError(f"x is {x.dtype}, the model {parameter.dtype}: convert one of them")
    if not all(end.isfinite() for end in x.detach().aminmax()):  # NaN is an end as well
        raise ValueError("x holds NaN or inf")
