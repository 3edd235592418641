"""Images: from a file to the tensor a model wants."""

from __future__ import annotations

import io
import math
import os
import urllib.request
import warnings
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

_MAX_DOWNLOAD = 50_000_000  # bytes


def load_image(source: str | os.PathLike[str] | IO[bytes]) -> Image.Image:
    """Load a picture as RGB, upright, transparency on white.

    Args:
        source: a path, an http(s) URL, or a binary file object.

    Returns:
        An RGB `PIL.Image`. Of an animation, the first frame.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a picture, is cut off, is too large to be one (a decompression
            bomb), cannot be fetched, or has values whose range is unknown.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("LA", (4, 2), (0, 0)).save(file, "PNG")  # black, but fully transparent
        >>> load_image(file).getpixel((0, 0))
        (255, 255, 255)
    """
    is_path = isinstance(source, str | os.PathLike)
    name = str(source if is_path else getattr(source, "name", "the file"))
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        source = _fetch(source)
    if not isinstance(source, str | os.PathLike):
        source.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                image.load()
                return to_rgb(ImageOps.exif_transpose(image))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise FileNotFoundError(f"image {name} cannot be opened: {error.strerror}") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"image {name} is not a picture that Pillow can read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"image {name} has more than {Image.MAX_IMAGE_PIXELS} pixels: refused, as it may be a "
            "decompression bomb"
        ) from error
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"image {name} is cut off or broken: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as RGB: 16 bits scaled to 8, transparency laid on white."""
    if image.mode.startswith("I"):  # Pillow's own conversion clips at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"image of mode {image.mode} has values outside 0..65535")
        return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("F", "LAB"):
        raise ValueError(f"image of mode {image.mode} has no fixed range: convert it to RGB first")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def preprocess(model: nn.Module, image: Image.Image, *, crop: bool = False) -> Tensor:
    """Turn a picture into a model's input, by the model's own configuration.

    By default the whole picture is resized (squashed) to the input size, so that a heat map covers
    all of it. With `crop` it is the official evaluation transform of timm: resize, then crop the
    centre; give `crop_box` to `overlay` then.

    Args:
        model: a timm model; its size, mean, standard deviation and interpolation are used.
        image: a PIL image.
        crop: resize and crop instead of resizing the whole.

    Returns:
        `[1, 3, H, W]` in the model's dtype and on its device.

    Raises:
        TypeError: `image` is not a PIL image.

    Example:
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=(32, 64), depth=1)
        >>> preprocess(model, Image.new("RGB", (300, 200))).shape
        torch.Size([1, 3, 32, 64])
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"image must be a PIL image (see load_image), got {type(image).__name__}")
    config = _data_config(model, crop)
    x = create_transform(**config)(to_rgb(image)).unsqueeze(0)
    parameter = next(model.parameters(), torch.empty(0))
    return x.to(device=parameter.device, dtype=parameter.dtype)


def crop_box(model: nn.Module, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of a picture that `preprocess(..., crop=True)` shows to the model.

    Args:
        model: a timm model.
        size: the picture's width and height.

    Returns:
        Left, upper, right and lower edge, in pixels of the picture.

    Example:
        >>> import timm
        >>> model = timm.create_model("deit_tiny_patch16_224", depth=1)  # crop_pct 0.9
        >>> [round(edge) for edge in crop_box(model, (800, 400))]
        [219, 19, 581, 381]
    """
    config = _data_config(model, crop=True)
    width, height = size
    rows, cols = config["input_size"][1:]
    scaled_rows, scaled_cols = (math.floor(n / config["crop_pct"]) for n in (rows, cols))
    if config["crop_mode"] == "squash":
        scale_x, scale_y = scaled_cols / width, scaled_rows / height
    elif config["crop_mode"] == "center":
        scale_x = scale_y = max(scaled_cols / width, scaled_rows / height)
    else:
        raise ValueError(f"crop_mode {config['crop_mode']!r} of the model is not supported")
    half_width, half_height = cols / scale_x / 2, rows / scale_y / 2
    return (
        max(width / 2 - half_width, 0),
        max(height / 2 - half_height, 0),
        min(width / 2 + half_width, width),
        min(height / 2 + half_height, height),
    )


def _data_config(model: nn.Module, crop: bool) -> dict[str, Any]:
    config = resolve_model_data_config(model)
    built_for = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if built_for is not None:  # a model made with another img_size than its configuration's
        config["input_size"] = (3, *built_for)
    if not crop:
        config.update(crop_pct=1.0, crop_mode="squash")
    return config


def _fetch(url: str) -> IO[bytes]:
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "vitexplain-utils"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            content = answer.read(_MAX_DOWNLOAD + 1)
    except (OSError, ValueError, HTTPException) as error:
        raise ValueError(f"image {url} cannot be fetched: {error}") from error
    if len(content) > _MAX_DOWNLOAD:
        raise ValueError(f"image {url} has more than {_MAX_DOWNLOAD} bytes")
    return io.BytesIO(content)


def name_of(source: str | Path) -> str:
    """The file name of a path or URL without its ending."""
    return Path(str(source).split("?")[0]).stem or "image"
