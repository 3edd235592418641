"""GIF: frames to an animation that loops, small enough for a web page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .files import write_whole
from .images import to_rgb


def label_frame(image: Image.Image, text: str) -> Image.Image:
    """The picture with a line of text below it, for a frame of an animation.

    Args:
        image: a PIL image.
        text: short enough for the picture's width.

    Returns:
        An RGB image, higher by the label.

    Example:
        >>> label_frame(Image.new("RGB", (300, 300)), "discard ratio 0.90").size
        (300, 326)
    """
    height = max(18, round(image.width * 0.088))
    framed = Image.new("RGB", (image.width, image.height + height), "white")
    framed.paste(to_rgb(image))
    font = ImageFont.load_default(size=round(height * 0.66))
    middle = (image.width / 2, image.height + height / 2)
    ImageDraw.Draw(framed).text(middle, text, fill="black", font=font, anchor="mm")
    return framed


def save_gif(
    frames: Sequence[Image.Image],
    path: str | os.PathLike[str],
    *,
    duration: float = 150.0,
    loop: int = 0,
    colors: int = 128,
    max_bytes: int = 500_000,
) -> Path:
    """Write frames as a looping GIF, all with one palette made for them, without dithering.

    One palette without dithering keeps still pixels still, so that they cost nothing, and gives
    the colours of these very frames, so that a smooth map shows no bands.

    Args:
        frames: PIL images of one size.
        path: where to; an existing file is replaced only by a complete one.
        duration: of each frame, in milliseconds, at least 20 (browsers slow down shorter ones).
        loop: how often it plays; 0 is for ever.
        colors: size of the palette, 2 to 256.
        max_bytes: the largest file allowed.

    Returns:
        The path.

    Raises:
        ValueError: no frames, different sizes, an argument out of its range, or the file would be
            larger than `max_bytes`; nothing is written then.

    Example:
        >>> import tempfile
        >>> frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in (0, 90, 180)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_gif(frames, Path(folder, "red.gif")).stat().st_size < 1000
        True
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"path must end in .gif, got {str(path)!r}")
    if len({frame.size for frame in frames}) != 1:
        sizes = sorted({frame.size for frame in frames})
        raise ValueError(f"frames must hold pictures of one size, got {sizes or 'no frames'}")
    if duration < 20 or loop < 0 or not 2 <= colors <= 256:
        raise ValueError(
            "duration must be at least 20, loop at least 0 and colors in 2..256; "
            f"got {duration!r}, {loop!r}, {colors!r}"
        )
    arrays = [np.asarray(to_rgb(frame)) for frame in frames]
    montage = Image.fromarray(np.concatenate(arrays))
    palette = montage.quantize(colors, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    indexed = [to_rgb(f).quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
    content = iio.imwrite(
        "<bytes>",
        [np.asarray(frame.convert("RGB")) for frame in indexed],
        extension=".gif",
        duration=duration,
        loop=loop,
    )
    if len(content) > max_bytes:
        raise ValueError(
            f"the GIF would have {len(content)} bytes, more than max_bytes={max_bytes}: give fewer "
            "or smaller frames, or fewer colors"
        )
    write_whole(path, content)
    return path
