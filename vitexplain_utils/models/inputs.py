"""Inputs: from a picture to the tensor a model wants."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor, nn

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
    if not isinstance(image, Image.Image):
        raise TypeError(f"image must be a PIL image (see load_image), got {type(image).__name__}")
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
    return library_of(model).crop_box(size)


def check_count(name: str, value: int) -> None:
    """Raise a ValueError unless an argument is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_input(model: nn.Module, x: Tensor) -> None:
    """Raise a ValueError unless `x` is a finite `[B, 3, H, W]` on the model's device."""
    if not isinstance(x, Tensor) or x.ndim != 4 or not x.is_floating_point() or len(x) == 0:
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must be a float tensor [B, 3, H, W] as from preprocess, got {got}")
    parameter = next(model.parameters(), None)
    if parameter is not None and parameter.device != x.device:
        raise ValueError(f"x is on {x.device}, the model on {parameter.device}: move one of them")
    if not all(end.isfinite() for end in x.detach().aminmax()):  # NaN is an end as well
        raise ValueError("x holds NaN or inf")
