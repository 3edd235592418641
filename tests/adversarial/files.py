"""Pictures cut off and with bytes changed, of every kind that is in use."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, features

from vitexplain_utils import load_image

KINDS = [kind for kind in ("AVIF", "WEBP", "PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM")
         if kind != "AVIF" or features.check("avif")]  # fmt: skip
EACH = 60
NOISE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def broken_files() -> Iterator[tuple[str, bytes]]:
    for kind in KINDS:
        whole = io.BytesIO()
        Image.fromarray(NOISE).save(whole, kind)
        content, generator = whole.getvalue(), np.random.default_rng(0)
        for turn in range(EACH):
            broken = bytearray(content)
            if turn % 2:
                del broken[int(generator.integers(1, len(content))) :]
            else:
                for place in generator.integers(0, len(content), 20):
                    broken[place] = int(generator.integers(256))
            yield kind, bytes(broken)


def read_broken(content: bytes) -> str:
    """What becomes of a broken file: read all the same, refused, or a raw error."""
    try:
        return "read" if load_image(io.BytesIO(content)).mode == "RGB" else "raw error"
    except ValueError as error:
        return "refused" if str(error).startswith("image the file ") else "raw error"
    except Exception:
        return "raw error"
