"""The explorer's drawing: what goes over a picture, and the verdict in words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from ..capture import Capture
from ..methods import METHODS
from ..models.classes import short_name
from ..show.pictures import to_rgb
from ..truth import pointing_game

SIDE = 336  # pixels of the longer side of a shown picture: whole patches in 12, 14 and 16 rows


def fit(image: Image.Image, side: int = SIDE) -> Image.Image:
    """The picture enlarged or shrunk until its longer side has `side` pixels.

    Example:
        >>> fit(Image.new("RGB", (4000, 3000))).size
        (336, 252)
    """
    scale = side / max(image.size)
    width, height = (max(round(edge * scale), 1) for edge in image.size)
    return to_rgb(image).resize((width, height), Image.Resampling.BICUBIC)


def outline(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A line, two pixels wide, around a mask that is laid over a picture.

    Args:
        mask: bool, of any shape `[h, w]`.
        size: the picture's width and height.

    Returns:
        Where the line is, bool `[height, width]`.

    Example:
        >>> mask = np.zeros((4, 4), dtype=bool)
        >>> mask[1:3, 1:3] = True
        >>> line = outline(mask, (40, 40))
        >>> [bool(line[20, x]) for x in (0, 10, 20)]
        [False, True, False]
    """
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    # A little blur takes the stairs out of the line; its place stays.
    smooth = grey.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))
    inside = smooth.point(lambda value: 255 * (value >= 128))
    wide, narrow = inside.filter(ImageFilter.MaxFilter(3)), inside.filter(ImageFilter.MinFilter(3))
    return np.asarray(wide) > np.asarray(narrow)


def box_mask(box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """A box as a mask.

    Args:
        box: left, top, right and bottom, in percent.
        size: the picture's width and height.

    Returns:
        Bool `[height, width]`, of at least one pixel.

    Example:
        >>> box_mask((50, 0, 100, 50), (4, 4)).astype(int).tolist()
        [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    """
    (left, right), (top, bottom) = (
        (min(n * low // 100, n - 1), n * high // 100)
        for n, low, high in zip(size, box[:2], box[2:], strict=True)
    )
    mask = np.zeros(size[::-1], dtype=bool)
    mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
    return mask


def with_line(image: Image.Image, line: np.ndarray | None) -> Image.Image:
    """The picture with a white line where `line`, bool `[height, width]`, says."""
    if line is None:
        return image
    pixels = np.array(image)
    pixels[line] = 255
    return Image.fromarray(pixels)


def verdict(heatmap: Tensor, masks: Mapping[str, np.ndarray], name: str) -> str:
    """The pointing game in words: on what does the peak of the map lie?

    Args:
        heatmap: `[1, rows, cols]`.
        masks: where each thing is; may be empty.
        name: the class asked about, with its synonyms.

    Returns:
        A sentence or two; nothing where no right answer is known.

    Example:
        >>> mask = np.zeros((4, 4), dtype=bool)
        >>> mask[:2, :2] = True
        >>> verdict(torch.tensor([[[3.0, 1.0], [1.0, 1.0]]]), {"bee": mask}, "bee")
        'Pointing game: right. The peak of the map lies on the bee.'
    """
    if not masks:
        return ""
    asked = thing_named(masks, name)
    if not bool(heatmap.any()):
        return f"The map is 0 everywhere: nothing in it speaks for “{asked or short_name(name)}”."
    hits = [
        thing
        for thing, mask in masks.items()
        if mask.any() and bool(pointing_game(heatmap, torch.from_numpy(mask)[None]))
    ]
    where = f"on the {hits[0]}" if hits else "on the background"
    if asked is None:
        none = f"No {short_name(name)} in this scene, so no right answer."
        return f"{none} The peak of the map lies {where}."
    if asked in hits:
        return f"Pointing game: right. The peak of the map lies on the {asked}."
    return f"Pointing game: wrong. The peak of the map lies {where}, not on the {asked}."


def thing_named(masks: Mapping[str, np.ndarray], name: str) -> str | None:
    """The thing in a picture that a class name, or one of its synonyms, means.

    Example:
        >>> thing_named({"ladybird": np.ones((4, 4), dtype=bool)}, "ladybug, ladybird")
        'ladybird'
    """
    return next((word for word in name.split(", ") if word in masks), None)


def head_maps(
    capture: Capture, block: int, *, weighted: bool = False, patch: int | None = None
) -> Tensor:
    """Where each head of a block looks from the tokens that the model's head reads, or a patch.

    Args:
        capture: one image's capture.
        block: which block.
        patch: the patch it looks from, counted along the rows; None is what the head reads.
        weighted: times the gradient, negatives set to 0: what of it speaks for the class.

    Returns:
        `[H, rows, cols]`.

    Raises:
        ValueError: no such block or patch, or `weighted` without a gradient.

    Example:
        >>> from vitexplain_utils import capture_attention, hero_scene, load_model, preprocess
        >>> model = load_model("garden")
        >>> capture = capture_attention(model, preprocess(model, hero_scene(8).image))
        >>> head_maps(capture, 5).shape
        torch.Size([3, 12, 12])
    """
    if not 0 <= block < len(capture.blocks):
        raise ValueError(f"block must be in 0 to {len(capture.blocks) - 1}, got {block!r}")
    call = capture.blocks[block]
    matrices = call.attention()  # [1, H, T, T]
    if weighted:
        matrices = (matrices * call.gradient()).clamp(min=0)
    if patch is None:
        # A pool's heads are not the block's: their mean is where each of the block's heads starts.
        row = METHODS["last_attention"].start(capture)  # [1, T]
        return capture.grid.to_grid((row @ matrices[0])[:, 0])  # [H, 1, T] -> [H, rows, cols]
    count = capture.grid.rows * capture.grid.cols
    if not 0 <= patch < count:
        raise ValueError(f"patch must be in 0 to {count - 1}, got {patch!r}")
    return capture.grid.to_grid(matrices[0, :, capture.grid.prefix + patch])
