"""The explorer's controls: its widgets and where they stand, without what they do."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from functools import cache
from typing import Any

import ipywidgets as widgets
import matplotlib
import numpy as np
import timm
from PIL import Image

from ..methods import HEAD_FUSIONS, METHODS
from .choice import explored
from .draw import SIDE

MODELS = (
    "garden",
    "deit_tiny_patch16_224",
    "deit_small_patch16_224",
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
)
_COLORMAPS = ("plasma", "viridis", "inferno", "magma", "cividis", "turbo", "Greys_r")
_LABEL = {"description_width": "170px"}


class Controls(widgets.VBox):
    """All widgets of the panel, laid out: pictures, controls beside or below them, heads."""

    def __init__(self) -> None:
        self.model = _dropdown("model", MODELS)
        self.typed_model = _typed("or type another name", timm.list_models(["deit*", "vit_*"]))
        self.picture = _dropdown("picture", ())
        self.scene = _button("New scene", "a garden scene that was never shown before")
        self.upload = widgets.FileUpload(
            accept="image/*", description="Upload yours", layout=_filling()
        )
        self.target = _dropdown("class", ())
        self.typed = _typed("or type any class", ())
        self.method = _dropdown("method", [(METHODS[name].label, name) for name in explored()])
        self.mistakes = widgets.ToggleButtons(
            options=[("as it should be", False), ("as in vit-explain", True)],
            tooltips=["the right computation", "with vit-explain's three mistakes"],
            style={"button_width": "calc(50% - 4px)"},
            layout=_filling(),
        )
        self.fusion = widgets.ToggleButtons(
            options=HEAD_FUSIONS,
            style={"button_width": "calc(33.3% - 4px)"},
            layout=_filling(),
        )
        self.ratio = _slider("discard ratio", 0.0, 0.999, 0.001, ".3f")
        self.blocks = widgets.IntRangeSlider(
            value=(0, 0), min=0, max=0, description="blocks", style=_LABEL, layout=_wide()
        )
        self.colormap = _dropdown("colour map", _COLORMAPS)
        self.opacity = _slider("opacity", 0.8, 1.0, 0.05, ".2f")
        self.png = _button("Save PNG", "save the heat map over the picture")
        self.gif = _button("Save GIF", "save a film over discard ratios")
        self.page = _button("Save page", "save every map of the picture as one page for a browser")
        self.sheet_on = widgets.ToggleButton(
            description="Heads of block",
            tooltip="show every head of one block",
            icon="th",
            layout=widgets.Layout(width="auto"),
        )
        self.sheet_block = widgets.BoundedIntText(
            value=0, min=0, max=0, layout=widgets.Layout(width="70px")
        )
        self.shown, self.over, self.sheet = _image(), _image(), _image()
        self.shown_text, self.over_text = widgets.HTML(), widgets.HTML()
        self.verdict, self.note, self.message = widgets.HTML(), widgets.HTML(), widgets.HTML()
        controls, heads = self._controls(), self._heads()
        super().__init__([_row(self._pictures(), controls), heads])
        self.rows = [*controls.children, heads.children[0]]  # for a still picture
        self._name_for_tests()

    def say(self, text: str, *, error: bool = False) -> None:
        """Show a sentence below the pictures; an empty one takes the last one away."""
        role, colour = ("alert", "#c62828") if error else ("status", "inherit")
        style = f"color:{colour};line-height:1.4;min-height:1.4em"
        self.message.value = f'<div role="{role}" style="{style}">{html.escape(text)}</div>'

    def _pictures(self) -> widgets.Box:
        width = widgets.Layout(width=f"{SIDE}px", flex="0 0 auto", margin="0 10px 0 0")
        pair = _row(
            widgets.VBox([self.shown, self.shown_text], layout=width),
            widgets.VBox([self.over, self.over_text], layout=width),
        )
        words = [self.verdict, self.note, self.message]
        return widgets.VBox([pair, *words], layout=widgets.Layout(flex="0 1 692px"))

    def _controls(self) -> widgets.Box:
        rows = [
            _pair(self.model, self.typed_model),
            self.picture,
            _indented(self.scene, self.upload),
            _pair(self.target, self.typed),
            self.method,
            _labelled("computed", self.mistakes),
            _labelled("head fusion", self.fusion),
            self.ratio,
            self.blocks,
            self.colormap,
            self.opacity,
            _indented(self.png, self.gif, self.page),
        ]
        return widgets.VBox(rows, layout=widgets.Layout(flex="1 1 440px", max_width="692px"))

    def _heads(self) -> widgets.Box:
        self.sheet.layout.display = "none"
        self.sheet.layout.max_width, self.sheet.layout.align_self = "100%", "flex-start"
        return widgets.VBox([widgets.HBox([self.sheet_on, self.sheet_block]), self.sheet])

    def _name_for_tests(self) -> None:
        for name, widget in vars(self).items():
            if isinstance(widget, widgets.DOMWidget):
                widget.add_class(f"explorer-{name.replace('_', '-')}")


def show_image(widget: widgets.Image, image: Image.Image) -> None:
    """Show a picture in its own size: without a fixed one, a box around it would squash it."""
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=1)  # three times as fast as the default
    widget.value = content.getvalue()
    widget.layout.width, widget.layout.height = f"{image.width}px", f"{image.height}px"


def show_sheet(widget: widgets.Image, png: bytes) -> None:
    """Show a figure in its own width, or in less where there is less room."""
    widget.value = png
    widget.layout.width = f"{Image.open(io.BytesIO(png)).width}px"


def colour_scale(colormap: str, highest: float) -> str:
    """The colours of a map, from 0 to its highest value, as HTML."""
    style = "width:110px;height:10px;margin:0 6px"
    bar = f'<img alt="colour scale" src="{_bar(colormap)}" style="{style}">'
    return f"0{bar}{highest:.2g}, the map's maximum"


@cache
def _bar(colormap: str) -> str:
    colours = matplotlib.colormaps[colormap](np.linspace(0, 1, 64))[None, :, :3]
    content = io.BytesIO()
    Image.fromarray((255 * colours).round().astype(np.uint8)).save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def _wide() -> widgets.Layout:
    return widgets.Layout(width="auto")


def _dropdown(name: str, options: Sequence[Any]) -> widgets.Dropdown:
    return widgets.Dropdown(options=options, description=name, style=_LABEL, layout=_wide())


def _typed(hint: str, options: Sequence[str]) -> widgets.Combobox:
    return widgets.Combobox(
        placeholder=hint, options=options, continuous_update=False, layout=_wide()
    )


def _slider(name: str, value: float, highest: float, step: float, form: str) -> widgets.FloatSlider:
    return widgets.FloatSlider(
        value=value,
        min=0,
        max=highest,
        step=step,
        description=f"{name}, 0 to {highest:g}",
        readout_format=form,
        style=_LABEL,
        layout=_wide(),
    )


def _button(name: str, hint: str) -> widgets.Button:
    return widgets.Button(description=name, tooltip=hint, layout=_filling())


def _image() -> widgets.Image:
    return widgets.Image(format="png", layout=widgets.Layout(flex="0 0 auto"))


def _row(*children: widgets.Widget) -> widgets.Box:
    layout = widgets.Layout(display="flex", flex_flow="row wrap", align_items="flex-start")
    return widgets.Box(children, layout=layout)


def _pair(wide: widgets.Widget, narrow: widgets.Widget) -> widgets.Box:
    wide.layout.flex, narrow.layout.flex = "4 1 0", "3 1 0"
    wide.layout.min_width = narrow.layout.min_width = "0"
    return widgets.HBox([wide, narrow])


def _filling() -> widgets.Layout:
    return widgets.Layout(flex="1 1 0", width="auto", min_width="0")


def _labelled(name: str, control: widgets.Widget) -> widgets.Box:
    """A row like the others; these buttons would wrap below a label of their own."""
    layout = widgets.Layout(
        width=_LABEL["description_width"],
        justify_content="flex-end",
        margin="2px 8px 2px 2px",
        flex="0 0 auto",
    )
    label = widgets.Label(name, layout=layout)
    return widgets.HBox([label, control])


def _indented(*buttons: widgets.Widget) -> widgets.Box:
    return widgets.HBox(buttons, layout=widgets.Layout(margin="0 0 0 178px"))
