"""Pictures: from a file, a URL or a sample to an RGB image."""

from __future__ import annotations

import io
import os
import threading
import time
import urllib.request
import warnings
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

_MAX_DOWNLOAD = 50_000_000  # bytes
_DEADLINE = 30  # seconds, for all of a download
_SCHEMES = ("http://", "https://")


def load_image(source: str | os.PathLike[str] | IO[bytes]) -> Image.Image:
    """Load a picture as RGB, upright, transparency on white.

    Args:
        source: a path, an http(s) URL, or a binary file object.

    Returns:
        An RGB `PIL.Image`. Of an animation, the first frame.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a picture, is cut off, is too large to be one (a decompression
            bomb), cannot be fetched within 30 seconds or over http(s) alone, or has values whose
            range is unknown.
        TypeError: it is none of these.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("LA", (4, 2), (0, 0)).save(file, "PNG")  # black, but fully transparent
        >>> load_image(file).getpixel((0, 0))
        (255, 255, 255)
    """
    is_path = isinstance(source, str | os.PathLike)
    if not is_path and not (hasattr(source, "read") and hasattr(source, "seek")):
        raise TypeError(f"image must be a path, a URL or an open file, got {type(source).__name__}")
    name = str(source if is_path else getattr(source, "name", "the file"))
    if isinstance(source, str) and source.lower().startswith(_SCHEMES):
        source = _fetch(source)
    if not isinstance(source, str | os.PathLike):
        source.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                image.load()
                upright = ImageOps.exif_transpose(image)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise FileNotFoundError(f"image {name} cannot be opened: {error.strerror}") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"image {name} is not a picture that Pillow can read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"image {name} has more than {Image.MAX_IMAGE_PIXELS} pixels: refused, as it may be a "
            "decompression bomb"
        ) from error
    except Exception as error:  # Pillow's readers raise many kinds
        raise ValueError(f"image {name} is cut off or broken: {error}") from error
    return to_rgb(upright)


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


def photograph(name: str) -> Image.Image:
    """A picture by the name of a scikit-image sample, a path or a URL.

    Example:
        >>> photograph("astronaut").size
        (512, 512)
    """
    if name.isidentifier():
        import skimage.data

        return to_rgb(Image.fromarray(getattr(skimage.data, name)()))
    return load_image(name)


class _ToHttp(urllib.request.HTTPRedirectHandler):
    """Follows no redirection to another scheme."""

    def redirect_request(self, *request: Any) -> urllib.request.Request | None:
        """As the handler's own, for http(s)."""
        _, answer, *_, where = request
        if not where.lower().startswith(_SCHEMES):
            answer.close()
            raise ValueError(f"it is redirected to {where}, which is not http(s)")
        return super().redirect_request(*request)


def _fetch(url: str) -> IO[bytes]:
    """What lies at a URL; in a thread, because a server may take its time with every byte."""
    content, failed = io.BytesIO(), []
    done, end = threading.Event(), time.monotonic() + _DEADLINE

    def fetch() -> None:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "vitexplain-utils"})
            with urllib.request.build_opener(_ToHttp).open(request, timeout=10) as answer:
                while (part := answer.read1(1 << 16)) and content.tell() <= _MAX_DOWNLOAD:
                    content.write(part)
                    if time.monotonic() > end:
                        return
        except (OSError, ValueError, HTTPException) as error:
            if isinstance(error, HTTPError):  # an open answer as well
                error.close()
            failed.append(error)
        done.set()

    threading.Thread(target=fetch, daemon=True).start()
    if not done.wait(_DEADLINE):
        raise ValueError(f"image {url} cannot be fetched: {_DEADLINE} seconds were not enough")
    if failed:
        raise ValueError(f"image {url} cannot be fetched: {failed[0]}") from failed[0]
    if content.tell() > _MAX_DOWNLOAD:
        raise ValueError(f"image {url} has more than {_MAX_DOWNLOAD} bytes")
    return content


def name_of(source: str | Path) -> str:
    """The file name of a path or URL without its ending."""
    return Path(str(source).split("?")[0]).stem or "image"
