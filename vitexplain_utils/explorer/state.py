"""The explorer's state: a model and a picture, and what can be drawn of them; no widgets."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from ..capture import Capture, capture_attention
from ..garden import Scene
from ..methods import METHODS, Method
from ..models import (
    TopClass,
    class_index,
    library_of,
    load_model,
    preprocess,
    top_classes,
)
from ..models.classes import short_name
from ..show import Figure, overlay, show_maps, sweep_frames
from .choice import Choice, explored, heatmap_for
from .draw import box_mask, fit, head_maps, outline, thing_named, verdict, with_line
from .pictures import Picture, picture_of

RATIOS = [1 - 0.5 ** (step / 2) for step in range(20)]  # in two frames, half of what was kept goes


@dataclass(frozen=True)
class Drawn:
    """A drawn choice.

    Attributes:
        picture: the picture itself, with the outline of the thing asked about.
        overlay: the heat map over it, with the same outline.
        heatmap: `[1, rows, cols]`.
        verdict: the pointing game's, in words; empty where no right answer is known.
    """

    picture: Image.Image
    overlay: Image.Image
    heatmap: Tensor
    verdict: str


class ExplorerState:
    """A model, a picture, and the captures made of them.

    Args:
        model: a name as in `load_model`, or a loaded model.
        image: a garden scene, a PIL image, the name of a scikit-image sample, a path or a URL;
            None is the scene of notebook 8.

    Raises:
        ValueError: the model's attention cannot be explained, or as `load_model`, `load_image`.
        FileNotFoundError: no weights or no such file.

    Example:
        >>> state = ExplorerState("garden")
        >>> state.draw(Choice(target=state.find_class("bee"))).verdict
        'Pointing game: right. The peak of the map lies on the bee.'
    """

    def __init__(
        self,
        model: str | nn.Module = "garden",
        image: Picture | Scene | Image.Image | str | os.PathLike[str] | None = None,
    ) -> None:
        self.captures = Captures()
        self.model: nn.Module
        self.picture: Picture
        self.use(model=model, picture=picture_of(image))

    def use(self, *, model: str | nn.Module | None = None, picture: Picture | None = None) -> None:
        """Change to another model or picture; if that fails, all stays as it was."""
        new: nn.Module = _load(model) if isinstance(model, str) else model or self.model
        picture = picture or self.picture
        asks = library_of(new).classes != 0
        with one_thread():
            capture = capture_attention(new, preprocess(new, picture.image), gradient=asks)
            METHODS["last_attention"].heatmap(capture)  # fails here if no map can start anywhere
        classes = top_classes(new, capture.logits, capture.logits.shape[1])[0] if asks else []
        shown = fit(picture.image)
        if model is not None:
            self.captures.clear()  # they hold on to the model before
            self.model = new
            self.model_name = model if isinstance(model, str) else _name_of(new)
            self.blocks = len(capture.blocks)
        self.picture, self.shown, self.classes = picture, shown, classes
        self.logits, self.grid = capture.logits, capture.grid
        self._line: tuple[Any, np.ndarray | None] = (None, None)  # the latest outline
        self.predicted = classes[0].index if classes else None
        self.captures.get(self._key(None), lambda: capture)

    @property
    def is_stranger(self) -> bool:
        """Whether the model is the garden's and the picture is none of its scenes."""
        return self.model_name == "garden" and not self.picture.masks

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that the model allows: without classes, none that asks for one."""
        return tuple(name for name in explored() if self._allows(METHODS[name]))

    @property
    def can_mistake(self) -> bool:
        """Whether vit-explain's rule, which always starts at token 0, means something."""
        return self._allows(METHODS["vit_explain"])

    def _allows(self, method: Method) -> bool:
        can_ask = bool(self.classes) or not method.needs_gradient
        return can_ask and (library_of(self.model).class_token or not method.needs_class_token)

    def find_class(self, text: str) -> int:
        """The class with this number or name; a ValueError if there is none, or several."""
        text, count = text.strip(), len(self.classes)
        if not text.isdecimal():
            return class_index(self.model, text, self.logits)
        if int(text) >= count:
            raise ValueError(f"class {text} is not among 0 to {count - 1}")
        return int(text)

    def class_of(self, target: int | None) -> TopClass | None:
        """Name and probability of a class (None: the predicted one), if the model has classes."""
        index = self.predicted if target is None else target
        return next((top for top in self.classes if top.index == index), None)

    def names(self) -> list[str]:
        """The short names of all classes, the most probable first."""
        return list(dict.fromkeys(short_name(top.name) for top in self.classes))

    def capture(
        self, target: int | None = None, *, hold_attention: bool = True, steps: int = 1
    ) -> Capture:
        """The capture of the picture for a class: made once and kept."""
        index = self.predicted if target is None else target

        @one_thread()
        def make() -> Capture:
            x = preprocess(self.model, self.picture.image)
            return capture_attention(
                self.model,
                x,
                target=index,
                gradient=index is not None,
                hold_attention=hold_attention,
                steps=steps,
            )

        return self.captures.get(self._key(index, hold_attention, steps), make)

    def _key(self, index: int | None, hold_attention: bool = True, steps: int = 1) -> Hashable:
        index = self.predicted if index is None else index
        return self.model, self.picture, index, hold_attention, steps

    def is_kept(self, choice: Choice) -> bool:
        """Whether a choice can be drawn without running the model."""
        return self._key(choice.target, **choice.rule.capture_settings) in self.captures

    def capture_for(self, choice: Choice) -> Capture:
        """The capture that a choice's method wants."""
        return self.capture(choice.target, **choice.rule.capture_settings)

    def draw(self, choice: Choice) -> Drawn:
        """The pictures of a choice, and the verdict on it."""
        capture = self.capture_for(choice)
        with one_thread():
            heatmap = heatmap_for(capture, choice)
        top = self.class_of(choice.target)
        masks = self.answers(choice)
        line = None if top is None else self._outline(masks, top.name, choice.box)
        over = overlay(self.shown, heatmap[0], colormap=choice.colormap, opacity=choice.opacity)
        return Drawn(
            picture=with_line(self.shown, line),
            overlay=with_line(over, line),
            heatmap=heatmap,
            verdict="" if top is None else verdict(heatmap, masks, top.name),
        )

    def answers(self, choice: Choice) -> Mapping[str, np.ndarray]:
        """Where things are, by the scene or by the reader's box; empty where nobody knows."""
        top = self.class_of(choice.target)
        if self.picture.masks or choice.box is None or top is None:
            return self.picture.masks
        return {short_name(top.name): box_mask(choice.box, self.shown.size)}

    def _outline(self, masks: Mapping[str, np.ndarray], name: str, box: Any) -> np.ndarray | None:
        thing = thing_named(masks, name)
        if thing is None:
            return None
        if self._line[0] != (thing, box):
            self._line = (thing, box), outline(masks[thing], self.shown.size)
        return self._line[1]

    def heads(self, block: int, target: int | None = None, patch: int | None = None) -> Figure:
        """A sheet of one block: where each head looks, then what of it speaks for the class.

        With a `patch`, as in `head_maps`: where each head looks from there, and a line around it.
        """
        capture, top = self.capture(target), self.class_of(target)
        maps = head_maps(capture, block, patch=patch)
        count, mask = len(maps), None
        titles = [f"head {head}" for head in range(count)]
        if patch is not None:
            mask = np.arange(self.grid.rows * self.grid.cols) == patch
            mask = mask.reshape(self.grid.rows, self.grid.cols).repeat(8, 0).repeat(8, 1)
        elif top is not None:
            maps = torch.cat([maps, head_maps(capture, block, weighted=True)])
            name = shorten(short_name(top.name), 20, placeholder=" …")  # or titles would overlap
            titles += [f"head {head},\nfor {name}" for head in range(count)]
            mask = self._thing_mask(top.name)
        columns = next(n for n in (6, 5, 4, 3, 2, 1) if count % n == 0)
        return show_maps(self.shown, maps, titles, columns=columns, size=1.7, mask=mask)

    def _thing_mask(self, name: str) -> np.ndarray | None:
        thing = thing_named(self.picture.masks, name)
        return None if thing is None else self.picture.masks[thing]

    def film(self, choice: Choice) -> list[Image.Image]:
        """The frames of a sweep over discard ratios, with all else as chosen."""
        with one_thread():
            maps = choice.rule.sweep(self.capture_for(choice), RATIOS)
        return sweep_frames(
            self.shown,
            maps[:, 0],
            RATIOS,
            text="discard ratio {:.3f}",
            colormap=choice.colormap,
            opacity=choice.opacity,
        )


class Captures:
    """The latest captures, up to a number of bytes; the one used least recently goes first."""

    def __init__(self, limit: int = 300_000_000) -> None:
        self.limit = limit
        self._kept: OrderedDict[Hashable, Capture] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Capture]) -> Capture:
        """What is kept under `key`, or else what `make` gives, which is kept from then on."""
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        while self.nbytes > self.limit and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return self._kept[key]

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of all captures that are kept."""
        return sum(capture.nbytes for capture in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one core.

    One picture gains little by two, and loses much where another process, such as the browser,
    keeps one of the cores busy: every operation would wait for it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _load(name: str) -> nn.Module:
    """As `load_model`; but no weights are asked for where the model cannot be explained."""
    try:
        return load_model(name)
    except FileNotFoundError:
        if timm.is_model(name.split(".")[0]):
            with torch.device("meta"):  # its layers, without numbers in them
                library_of(timm.create_model(name)).block_modules()
        raise


def _name_of(model: nn.Module) -> str:
    configuration = getattr(model, "pretrained_cfg", None) or {}
    return str(configuration.get("architecture") or type(model).__name__)
