"""Photographs: questions with known answers about a folder of one's own pictures.

    images/dog.jpg             any picture that Pillow reads
    masks/dog__ball.png        white where the thing is, black elsewhere; of the photograph's size
    labels.csv                 file,mask,targets,label
                               dog.jpg,dog__ball.png,852 722,ball
                               dog.jpg,dog__lead.png,,lead

A row is a thing. `targets` are the model's classes for it, several where its name is a group of
them; a thing of no class of the model has none and is only "another thing" to those beside it.
`mask` and `label` may be left out: what lies on a photograph without masks is not marked, but
deletion and insertion need no mask, nor do mosaics. `label` is for people.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from ..models import preprocess
from ..models.library import library_of
from ..models.twin import eval_twin
from ..show import load_image
from .questions import Questions, Row, stack_questions

COLUMNS = ("file", "mask", "targets", "label")
SMALLEST = 0.02  # share of the picture that must be left of a thing where others do not cover it
APART = 0.05  # of the smaller of two things; they are a pair if they share less

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Thing:
    """A row of `labels.csv`.

    Attributes:
        where: the file and the row, for messages.
        image: the photograph.
        mask: where the thing is, or None.
        targets: the model's classes for it.
        label: its name.
    """

    where: str
    image: Path
    mask: Path | None
    targets: tuple[int, ...]
    label: str


def ask_photographs(
    model: nn.Module,
    folder: str | Path,
    *,
    among: int = 1,
    above: float = 0.0,
    pairs: bool = False,
) -> Questions:
    r"""One question for each thing that the model sees in photographs with known answers.

    The whole photograph is squashed to the model's input by `preprocess`, and masks with it. The
    class asked for is the most probable of a thing's `targets`. What other things cover is nobody's
    alone and taken out of the mask.

    Args:
        model: a classifier.
        folder: `images/`, `masks/` and `labels.csv`, as this module describes them.
        among: ask only where that class is among so many of the model's most probable ones.
        above: ask only where its probability is above this.
        pairs: ask about one thing against one other that it overlaps by less than 5 % of the
            smaller, and not about a thing against all others; the same thing comes once per pair.

    Returns:
        The `Questions`. A thing is left out if the model does not see it, or if less than 2 % of
        the picture is left of its mask; `left_out` counts them.

    Raises:
        FileNotFoundError: `labels.csv`, a photograph or a mask is not there; with its row.
        ValueError: a file cannot be read, columns are unknown, a mask does not fit its photograph
            or marks nothing or everything, a target is no class of the model; with file and row.
            Or nothing is left to ask, or the model regresses.

    Example:
        >>> import tempfile
        >>> from vitexplain_utils import hero_scene, load_model
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "images").mkdir()
        >>> hero_scene(7).image.save(folder / "images" / "scene.png")
        >>> table = folder / "labels.csv"
        >>> _ = table.write_text("file,targets\nscene.png,0 1 2 3 4 5 6\nscene.png,7\n")
        >>> print(ask_photographs(load_model("garden"), folder))
        1 questions about 1 pictures; left out: 1 not the model's first class
    """
    model = eval_twin(model)
    things = read_labels(folder, _classes(model))
    left_out: Counter[str] = Counter()
    rows: list[Row] = []
    for place, (image, same) in enumerate(_by_photograph(things)):
        x, seen = _look(model, image, same, among, above, left_out)
        masks = [_squashed_mask(thing, image, x) for thing in same]
        for index, target in seen.items():
            rest = [mask for other, mask in enumerate(masks) if other != index]
            groups = [[mask] for mask in rest if _apart(masks[index], mask)] if pairs else [rest]
            for group in groups:
                others = np.any([np.zeros_like(masks[index]), *group], axis=0)
                mask = masks[index] & ~others
                if same[index].mask is not None and mask.mean() < SMALLEST:
                    left_out[f"of less than {SMALLEST:.0%} of the picture beside others"] += 1
                else:
                    rows.append((x, target, mask, others, place))
    if not rows:
        raise ValueError(f"folder {folder}: nothing is left to ask: {dict(left_out)}")
    return stack_questions(rows, left_out)


def mosaic_questions(
    model: nn.Module,
    folder: str | Path,
    *,
    seed: int = 0,
    count: int | None = None,
    above: float = 0.5,
) -> Questions:
    """Mosaics of four photographs of different classes, each asked for: the grid pointing game.

    Böhle et al. 2021 (arXiv:2104.00032), Rao et al. 2022 (arXiv:2205.10435). The answer is the
    right quarter, of which a map that hears no question gets 0.25. Mosaics have the size of the
    model's input: for larger ones load it with another `img_size`.

    Args:
        model: a classifier.
        folder: as in `ask_photographs`, with one row for each photograph; masks are not used.
        seed: of the draw.
        count: mosaics, at most; None is as many as can be made with no photograph in two.
        above: only photographs that the model, shown the whole of one, names right with more than
            this probability.

    Returns:
        The `Questions`, four for each mosaic.

    Raises:
        FileNotFoundError: as `ask_photographs`.
        ValueError: as `ask_photographs`, a photograph in two rows, or no four of different classes.
    """
    model = eval_twin(model)
    things = read_labels(folder, _classes(model))
    left_out: Counter[str] = Counter()
    quarters: list[Image.Image] = []
    targets: list[int] = []
    for image, same in _by_photograph(things):
        if len(same) > 1:
            raise ValueError(f"{same[1].where}: a photograph of a mosaic must have one row")
        x, seen = _look(model, image, same, 1, above, left_out)
        if seen:
            size = (x.shape[2] // 2, x.shape[1] // 2)
            quarters.append(ImageOps.fit(image, size, Image.Resampling.BICUBIC))
            targets.append(seen[0])
    fours = _deal(targets, seed)[:count]
    if not fours:
        raise ValueError(
            f"folder {folder}: no four photographs of different classes that the model names "
            f"right; left out: {dict(left_out)}"
        )
    left_out["not in a mosaic"] = len(targets) - 4 * len(fours)
    rows: list[Row] = []
    for place, four in enumerate(fours):
        x = preprocess(model, mosaic([quarters[index] for index in four]))[0]
        down, across = (np.arange(side) * 2 // side for side in x.shape[1:])
        for quarter, index in enumerate(four):
            mask = 2 * down[:, None] + across == quarter
            rows.append((x, targets[index], mask, ~mask, place))
    return stack_questions(rows, left_out)


def mosaic(images: Sequence[Image.Image]) -> Image.Image:
    """Four pictures as one, row by row; the others are cropped to the size of the first.

    Example:
        >>> mosaic([Image.new("RGB", (30, 20))] * 4).size
        (60, 40)
    """
    if len(images) != 4:
        raise ValueError(f"images must be four, got {len(images)}")
    width, height = images[0].size
    whole = Image.new("RGB", (2 * width, 2 * height))
    for quarter, image in enumerate(images):
        row, col = divmod(quarter, 2)
        cropped = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        whole.paste(cropped, (col * width, row * height))
    return whole


def read_labels(folder: str | Path, classes: int | None = None) -> list[Thing]:
    """The rows of a folder's `labels.csv`, checked: columns, files and targets.

    Args:
        folder: as this module describes it.
        classes: how many the model has; None checks no targets against it.

    Raises:
        FileNotFoundError, ValueError: as `ask_photographs`.
    """
    path = Path(folder) / "labels.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel begins with a mark
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            lines = [(f"{path}, row {reader.line_num}", line) for line in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a table in UTF-8: {error}") from error
    if not {"file", "targets"} <= set(columns) <= set(COLUMNS) or len({*columns}) < len(columns):
        raise ValueError(
            f"{path}, row 1: columns must be file and targets, and may be mask and label; "
            f"got {', '.join(columns) or 'none'}"
        )
    if not lines:
        raise ValueError(f"{path} names no photograph")
    return [_thing(Path(folder), where, line, classes) for where, line in lines]


def _thing(folder: Path, where: str, line: dict[str, str], classes: int | None) -> Thing:
    if None in line or None in line.values():
        raise ValueError(f"{where}: not as many cells as there are columns")
    where = f"{where} ({line['file']})"
    image = folder / "images" / line["file"]
    mask = folder / "masks" / line["mask"] if line.get("mask") else None
    for file in (image, *([] if mask is None else [mask])):
        if not file.is_file():
            raise FileNotFoundError(f"{where}: {file} does not exist")
    try:
        targets = tuple(int(number) for number in line["targets"].split())
        good = all(0 <= target < (classes or target + 1) for target in targets)
    except ValueError:
        good = False
    if not good:
        limit = "" if classes is None else f" below {classes}"
        raise ValueError(
            f"{where}: targets must be class indices{limit}, apart by spaces; got "
            f"{line['targets']!r}"
        )
    return Thing(where, image, mask, targets, line.get("label", ""))


def _by_photograph(things: Sequence[Thing]) -> Iterator[tuple[Image.Image, list[Thing]]]:
    """Each photograph with all its things."""
    grouped: dict[Path, list[Thing]] = {}
    for thing in things:
        grouped.setdefault(thing.image, []).append(thing)
    for image, same in grouped.items():
        yield _load(image, same[0]), same


def _load(path: Path, thing: Thing) -> Image.Image:
    try:
        return load_image(path)
    except ValueError as error:
        raise ValueError(f"{thing.where}: {error}") from error


def _classes(model: nn.Module) -> int | None:
    """How many classes a model has, which must be one that can be asked for a class."""
    library = library_of(model)
    if library.regresses:
        raise ValueError(f"{library.what} gives numbers, so no class can be asked for")
    return library.classes


@torch.no_grad()
def _look(
    model: nn.Module,
    image: Image.Image,
    things: Sequence[Thing],
    among: int,
    above: float,
    left_out: Counter[str],
) -> tuple[Tensor, dict[int, int]]:
    """The photograph as input `[3, H, W]`, and the class of each thing that the model sees."""
    library = library_of(model)
    x = preprocess(model, image)
    probability = library.probabilities(library.logits(x).double())[0]
    seen: dict[int, int] = {}
    for index, thing in enumerate(things):
        if not thing.targets:
            left_out["of no class of the model"] += 1
            continue
        target = max(thing.targets, key=lambda number: probability[number].item())
        if int((probability > probability[target]).sum()) >= among:
            first = "not the model's first class" if among == 1 else f"not among its first {among}"
            left_out[first] += 1
        elif above and probability[target] <= above:
            left_out[f"of a probability of at most {above}"] += 1
        else:
            seen[index] = target
    return x[0], seen


def _squashed_mask(thing: Thing, image: Image.Image, x: Tensor) -> BoolArray:
    """Where a thing is, at the input's size; nowhere if it has no mask."""
    rows, cols = x.shape[1:]
    if thing.mask is None:
        return np.zeros((rows, cols), dtype=bool)
    mask = _load(thing.mask, thing).convert("L")
    if mask.size != image.size:
        raise ValueError(
            f"{thing.where}: mask {thing.mask} is {mask.width}×{mask.height} pixels, its "
            f"photograph {image.width}×{image.height}"
        )
    small = np.asarray(mask.resize((cols, rows), Image.Resampling.NEAREST)) > 127
    if not small.any() or small.all():
        raise ValueError(
            f"{thing.where}: mask {thing.mask} must be white on the thing and black elsewhere, and "
            f"is {'white' if small.any() else 'black'} all over"
        )
    return small


def _apart(first: BoolArray, second: BoolArray) -> bool:
    """Whether two things overlap by less than 5 % of the smaller."""
    return int((first & second).sum()) < APART * min(first.sum(), second.sum())


def _deal(targets: Sequence[int], seed: int) -> list[list[int]]:
    """Fours of different classes in a random order, none of them in two."""
    generator = torch.Generator().manual_seed(seed)
    deck = torch.randperm(len(targets), generator=generator).tolist()
    fours: list[list[int]] = []
    while True:
        four: dict[int, int] = {}  # by class
        for index in deck:
            if len(four) < 4:
                four.setdefault(targets[index], index)
        if len(four) < 4:
            return fours
        fours.append(list(four.values()))
        deck = [index for index in deck if index not in four.values()]
