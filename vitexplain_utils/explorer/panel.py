"""The explorer's panel: what happens when a control is moved."""

from __future__ import annotations

import html
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from PIL import Image
from torch import nn

from ..garden import Scene
from ..methods import METHODS
from ..models.classes import short_name
from ..show import Figure, save_gif, write_whole
from .choice import Choice, settings_of
from .controls import MODELS, PHOTO_MODEL, Controls, colour_scale, show_image, show_png
from .draw import thing_named
from .page import save_page
from .pictures import Picture, gallery, new_scenes, uploaded
from .soon import Soon
from .state import ExplorerState
from .still import still

_TOP = 8  # classes offered at once
_GIF_BYTES = 3_000_000


class Panel(Controls):
    """The widgets of `explore`, joined to an `ExplorerState`.

    Attributes:
        state: the model, the picture and the captures.
        choice: what is shown now.
        drawn: the pictures of that.
    """

    def __init__(
        self,
        model: str | nn.Module = "garden",
        image: Scene | Image.Image | str | os.PathLike[str] | None = None,
        folder: str | os.PathLike[str] = ".",
    ) -> None:
        super().__init__()
        self.state = ExplorerState(model, image)
        self.folder = Path(folder)
        self._gallery = gallery()
        self._own = self.state.picture  # the latest that is not in the gallery
        self._new = new_scenes()
        self._quiet = False
        self._drawn_for: dict[str, tuple[Any, ...]] = {}
        self._soon = Soon(lambda: self._safely(self._draw))
        self._show(Choice(method=self.state.methods[0]))
        self._listen()

    def __repr__(self) -> str:
        return f"Explorer(model={self.state.model_name!r}, picture={self.state.picture.name!r})"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The widget, and for a page that has no kernel a still picture of it."""
        picture, words = self.still()._repr_mimebundle_()
        return {**super()._repr_mimebundle_(**kwargs), **picture}, words

    def still(self) -> Figure:
        """The panel as it stands, pictures and controls, as one picture."""
        self._soon.now()
        pictures = [self.drawn.picture, self.drawn.overlay]
        titles = [self.state.picture.name.split(":")[0], self._title()]
        return still(pictures, titles, self.rows)

    def _listen(self) -> None:
        looks = (self.colormap, self.opacity, self.sheet_on, self.sheet_block)
        answers = (self.box_on, self.across, self.down)
        computes = (self.target, self.method, self.mistakes, self.fusion, self.ratio, self.blocks)
        for control in (*looks, *answers, *computes):
            control.observe(lambda _: None if self._quiet else self._soon(), "value")
        for control, act in (
            (self.model, self._use_model),
            (self.typed_model, self._use_model),
            (self.picture, self._use_named),
            (self.typed, self._ask),
            (self.upload, self._use_files),
            (self.patch, self._look_from),
            (self.ratio_text, partial(self._type, "discard ratio", self.ratio)),
            (self.opacity_text, partial(self._type, "opacity", self.opacity)),
        ):
            control.observe(self._when_changed(act), "value")
        self.ratio.observe(lambda _: self._write_numbers(), "value")
        self.opacity.observe(lambda _: self._write_numbers(), "value")
        self.photo_model.on_click(lambda _: self._safely(lambda: self._use_model(PHOTO_MODEL)))
        self.from_token.on_click(lambda _: self._safely(lambda: self._look_from(None)))
        self.scene.on_click(lambda _: self._safely(self._use_new_scene))
        self.png.on_click(lambda _: self._safely(self._save_png))
        self.gif.on_click(lambda _: self._safely(self._save_gif))
        self.page.on_click(lambda _: self._safely(self._save_page))

    def _when_changed(self, act: Callable[[Any], None]) -> Callable[[dict[str, Any]], None]:
        def changed(change: dict[str, Any]) -> None:
            if not self._quiet and change["new"] not in ("", (), None):
                self._safely(lambda: act(change["new"]))

        return changed

    def _safely(self, act: Callable[[], None]) -> None:
        """Do it; what goes wrong becomes a sentence, and the panel goes on with what it had."""
        self.say("")
        before = copy(self.state)
        try:
            act()
        except Exception as error:  # of any kind: files, the hub and other people's models
            self.state = before
            self._put(self.choice)
            self.say(sentence(error), error=True)

    @contextmanager
    def _saying(self, text: str) -> Iterator[None]:
        """Say something while something is done, and take it back after that."""
        self.say(text)
        yield
        self.say("")

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Set controls without that being taken for a wish of the reader's."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def _use_model(self, name: str) -> None:
        with self._saying(f"Loading {name.strip()} …"):
            self.state.use(model=name.strip())
        self._show(replace(self._chosen(), target=None, blocks=None))

    def _use_named(self, name: str) -> None:
        self._use(self._own if name == self._own.name else self._gallery[name]())

    def _use_new_scene(self) -> None:
        self._own = next(self._new)
        self._use(self._own)

    def _use_files(self, files: tuple[dict[str, Any], ...]) -> None:
        picture = uploaded(files[0]["name"], bytes(files[0]["content"]))
        self._own, before = picture, self._own
        try:
            self._use(picture)
        except Exception:
            self._own = before
            raise

    def _use(self, picture: Picture) -> None:
        with self._saying("Computing …"):
            self.state.use(picture=picture)
        self._show(replace(self._chosen(), target=None))

    def _ask(self, text: str) -> None:
        self._show(replace(self._chosen(), target=self.state.find_class(text)))

    def _type(self, name: str, slider: widgets.FloatSlider, text: str) -> None:
        slider.value = number(name, text, slider.max)
        self._write_numbers()

    def _write_numbers(self) -> None:
        with self._quietly():
            self.ratio_text.value = f"{self.ratio.value:.3f}"
            self.opacity_text.value = f"{self.opacity.value:.2f}"

    def _look_from(self, patch: int | None) -> None:
        """Show each head's attention from a patch; None is from the class token again."""
        with self._quietly():
            self.patch.value, self.sheet_on.value = patch, True
        self._soon()

    def _chosen(self) -> Choice:
        """What the controls say."""
        blocks, (left, right), (top, bottom) = self.blocks.value, self.across.value, self.down.value
        return Choice(
            method=self.method.value,
            head_fusion=self.fusion.value,
            discard_ratio=round(self.ratio.value, 3),  # arrow keys drift
            blocks=None if blocks == (0, self.blocks.max) else blocks,
            target=self.target.value,
            mistakes=self.mistakes.value,
            colormap=self.colormap.value,
            opacity=round(self.opacity.value, 2),
            box=(left, top, right, bottom) if self.box_on.value else None,
        )

    def _show(self, choice: Choice) -> None:
        """Draw a choice, as far as the model allows it, and put the controls to it."""
        method = choice.method if choice.method in self.state.methods else self.state.methods[0]
        mistakes = choice.mistakes and self.state.can_mistake
        target = self.state.predicted if choice.target is None else choice.target
        choice = replace(choice, method=method, mistakes=mistakes, target=target)
        self._put(choice)
        self._paint(choice)

    def _draw(self) -> None:
        self._paint(self._chosen())

    def _put(self, choice: Choice) -> None:
        """Put every control to what a choice and the state say."""
        state, target = self.state, choice.target
        last = state.blocks - 1
        with self._quietly():
            self.model.options = [*dict.fromkeys([*MODELS, state.model_name])]
            self.model.value = state.model_name
            own = [] if self._own.name in self._gallery else [self._own.name]
            self.picture.options = [*own, *self._gallery]
            self.picture.value = state.picture.name
            self.target.options = self._class_options(target)
            self.target.value = target
            self.typed.options = state.names()
            self.method.options = [(METHODS[name].label, name) for name in state.methods]
            if self.sheet_block.max != last:  # another model; most readers ask for the last block
                self.sheet_block.max = self.blocks.max = self.sheet_block.value = last
            self.blocks.description = f"blocks 0 to {last}"
            self._put_patches()
            self.sheet_on.description = f"Heads of block, 0 to {last}"
            self.blocks.value = choice.blocks or (0, last)
            self.method.value, self.mistakes.value = choice.method, choice.mistakes
            self.fusion.value, self.ratio.value = choice.head_fusion, choice.discard_ratio
            self.colormap.value, self.opacity.value = choice.colormap, choice.opacity
            self.typed.value = self.typed_model.value = ""
            self.upload.value = ()  # so that the same file can be given once more

        self._write_numbers()

    def _put_patches(self) -> None:
        """One button for each patch, over the map."""
        rows, cols = self.state.grid.rows, self.state.grid.cols
        names = [f"patch in row {row}, column {col}" for row in range(rows) for col in range(cols)]
        options = [(name, index) for index, name in enumerate(names)]
        if list(self.patch.options) != options:
            self.patch.options, self.patch.value = options, None
            self.patch.layout.display = "grid"
            self.patch.layout.grid_template_columns = f"repeat({cols}, 1fr)"
            self.patch.layout.grid_template_rows = f"repeat({rows}, 1fr)"

    def _class_options(self, target: int | None) -> list[tuple[str, int | None]]:
        tops = self.state.classes[:_TOP]
        asked = self.state.class_of(target)
        if asked is None:
            return [("this model has no classes", None)]
        tops = tops if asked in tops else [*tops, asked]
        return [(f"{short_name(top.name)}, {top.probability:.1%}", top.index) for top in tops]

    def _paint(self, choice: Choice) -> None:
        """Draw a choice into the panel."""
        state = self.state
        with self._saying("" if state.is_kept(choice) else "Computing …"):
            drawn = state.draw(choice)
        self.choice, self.drawn = choice, drawn
        top = state.class_of(choice.target)
        if self._is_new("shown", state.picture, top and top.name, choice.box):
            show_image(self.shown, drawn.picture, state.picture.name)
        show_image(self.over, drawn.overlay, f"heat map, {self._title()}")
        thing = None if top is None else thing_named(state.answers(choice), top.name)
        thing = "your box" if thing and not state.picture.masks else thing
        line = f"; white line: {thing}" if thing else ""
        self.shown_text.value = _small(html.escape(state.picture.name + line))
        scale = colour_scale(choice.colormap, float(drawn.heatmap.max()))
        self.over_text.value = _small(f"{html.escape(self._title())}<br>{scale}")
        self.verdict.value = f"<b>{html.escape(drawn.verdict)}</b>"
        self.note.value = html.escape(note(choice, state.blocks))
        self._enable(settings_of(choice))
        self.warned.layout.display = None if state.is_stranger else "none"
        self.boxed.layout.display = "none" if state.picture.masks else None
        self.across.layout.display = self.down.layout.display = None if choice.box else "none"
        self._paint_heads(choice.target)

    def _enable(self, own: set[str]) -> None:
        """Grey out the settings that the method does not have."""
        self.fusion.disabled = "head_fusion" not in own
        self.ratio.disabled = self.gif.disabled = "discard_ratio" not in own
        self.ratio_text.disabled = self.ratio.disabled
        self.blocks.disabled = "blocks" not in own
        self.mistakes.disabled = "mistakes" not in own or not self.state.can_mistake
        self.target.disabled = self.typed.disabled = not self.state.classes

    def _paint_heads(self, target: int | None) -> None:
        on, block, patch = self.sheet_on.value, self.sheet_block.value, self.patch.value
        made_of = (self.state.model, self.state.picture, target, block, patch)
        if on and self._is_new("sheet", *made_of):
            origin = "" if patch is None else f", from the {self.patch.label}"
            text = f"heads of block {block}{origin}"
            show_png(self.sheet, self.state.heads(block, target, patch).png(), text)
        self.sheet.layout.display = None if on else "none"
        self.from_token.layout.display = None if on and patch is not None else "none"

    def _is_new(self, what: str, *made_of: Any) -> bool:
        """Whether a picture is made of something else than when this was asked before."""
        before = self._drawn_for.get(what)
        self._drawn_for[what] = made_of
        return before != made_of

    def _title(self) -> str:
        top = self.state.class_of(self.choice.target)
        method = METHODS[self.choice.method]
        if top is None or not method.needs_gradient:
            return f"{method.label}, for any class"
        return f"{method.label}, for “{short_name(top.name)}” ({top.probability:.1%})"

    def _save_png(self) -> None:
        content = io.BytesIO()
        self.state.draw(self._chosen()).overlay.save(content, "PNG")
        path = self._free_path(".png")
        write_whole(path, content.getvalue())
        self._say_saved(path)

    def _save_gif(self) -> None:
        self.say("Making the GIF …")
        frames = self.state.film(self._chosen())
        self._say_saved(save_gif(frames, self._free_path(".gif"), max_bytes=_GIF_BYTES))

    def _save_page(self) -> None:
        self.say("Making the page …")
        target = self.target.value
        targets = [] if target is None else [target]
        path = self._free_path(".html")
        self._say_saved(save_page(path, self.state.model, self.state.picture, targets=targets))

    def _free_path(self, ending: str) -> Path:
        """A file name that says what is shown and that no file has yet."""
        top = self.state.class_of(self.target.value)
        words = [self.state.picture.name, short_name(top.name) if top else "", self.method.value]
        stem = re.sub(r"[^a-z0-9]+", "-", " ".join(["explorer", *words]).lower()).strip("-")
        paths = (self.folder / f"{stem[:90]}{end}{ending}" for end in _endings())
        return next(path for path in paths if not path.exists())

    def _say_saved(self, path: Path) -> None:
        self.say(f"Saved {path.resolve()} ({path.stat().st_size / 1000:.0f} kB).")


def note(choice: Choice, blocks: int) -> str:
    """What a reader should know of a choice, in a sentence or two.

    Example:
        >>> note(Choice("relevance", blocks=(2, 3)), blocks=6)
        'Blocks 2 to 3 of 0 to 5: those above count as if they passed every token on unchanged.'
    """
    notes = []
    if choice.rule.name == "vit_explain":
        notes.append(
            "As in vit-explain: gradient before the softmax, blocks in reverse, columns "
            "normalised; the mean of the heads, whatever is chosen."
        )
    if not choice.rule.needs_gradient:
        notes.append("This method has one map for all classes.")
    first, last = choice.blocks or (0, blocks - 1)
    if choice.method == "last_attention":
        notes.append(f"It shows block {last}, the last of the range, alone.")
    elif (first, last) != (0, blocks - 1):
        added = "the others add nothing"  # attribution is a sum over blocks
        passed = "those above count as if they passed every token on unchanged"
        others = added if choice.method == "attribution" else passed
        notes.append(f"Blocks {first} to {last} of 0 to {blocks - 1}: {others}.")
    return " ".join(notes)


def sentence(error: Exception) -> str:
    """An error as one sentence for a reader.

    Example:
        >>> sentence(ValueError("no such class"))
        'No such class.'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if len(text) <= 400 else f"{text[:400]} …"
    return text[0].upper() + text[1:] + ("" if text.endswith((".", "?", "!", "…")) else ".")


def number(name: str, text: str, highest: float) -> float:
    """A typed number from 0 to `highest`, with a point or a comma.

    Example:
        >>> number("discard ratio", "0,95", 0.999)
        0.95
    """
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = -1
    if not 0 <= value <= highest:
        raise ValueError(f"{name} must be a number from 0 to {highest:g}, got {text!r}")
    return value


def _small(content: str) -> str:
    return f'<div style="line-height:1.4;font-size:12px">{content}</div>'


def _endings() -> Iterator[str]:
    yield ""
    yield from (f"-{number}" for number in count(2))
