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
from traitlets import Unicode

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
PHOTO_MODEL = MODELS[1]
_STRANGER = (
    "<b>This model knows garden scenes only.</b> It names a photograph as one of eight things "
    "whatever it shows: its answer means nothing here."
)
_COLORMAPS = ("plasma", "viridis", "inferno", "magma", "cividis", "turbo", "Greys_r")
_LABEL = {"description_width": "110px"}
# What layouts of widgets cannot say: no count on the upload button, patches over the map.
_STYLE = """<style>
.explorer-upload { font-size: 0 !important }
.explorer-upload::after { content: "Upload yours"; font-size: var(--jp-widgets-font-size) }
.explorer .widget-toggle-buttons button { padding: 0 2px }
.explorer-stack { position: relative }
.explorer-stack .explorer-patch { position: absolute; inset: 0; margin: 0; width: auto;
  height: auto; visibility: hidden }
.explorer-stack:hover .explorer-patch { visibility: visible }
@media (hover: none) { .explorer-stack .explorer-patch { visibility: visible } }
.explorer-patch > div { display: contents }
.explorer-stack .explorer-patch button { all: unset; font-size: 0; cursor: crosshair }
.explorer-stack .explorer-patch :is(button:hover, .mod-active) { box-shadow: inset 0 0 0 1px white }
</style>"""


class Controls(widgets.VBox):
    """All widgets of the panel, laid out: pictures, controls beside or below them, heads.

    What is changed most often comes first, so that it stands beside the pictures on a small screen.
    """

    def __init__(self) -> None:
        self.model = _dropdown("model", MODELS)
        self.typed_model = _typed("or type another name", timm.list_models(["deit*", "vit_*"]))
        self.picture = _dropdown("picture", ())
        self.scene = _button("New scene", "a garden scene that was never shown before")
        self.upload = widgets.FileUpload(
            accept="image/*",
            description="Upload yours",
            tooltip="a picture of your own",
            icon="",
            layout=_filling(),
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
        self.ratio, self.ratio_text = _slider(0.0, 0.999, 0.01), _number("discard ratio")
        self.blocks = _range("blocks", 0)
        self.colormap = _dropdown("colour map", _COLORMAPS)
        self.opacity, self.opacity_text = _slider(0.8, 1.0, 0.05), _number("opacity")
        self.box_on = widgets.ToggleButton(
            description="Draw a box",
            tooltip="around the thing asked about: is the peak of the map inside?",
            layout=_filling(),
        )
        self.across, self.down = _range("box, across %", 100), _range("box, down %", 100)
        self.across.value = self.down.value = 25, 75
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
            value=0, min=0, max=0, tooltip="block", layout=widgets.Layout(width="70px")
        )
        self.patch = widgets.ToggleButtons()
        self.from_token = widgets.Button(
            description="From the class token again", layout=widgets.Layout(width="auto")
        )
        self.shown, self.over, self.sheet = _Image(), _Image(), _Image()
        self.shown_text, self.over_text = widgets.HTML(), widgets.HTML()
        self.verdict, self.note, self.message = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.stranger = widgets.HTML(_STRANGER)
        self.photo_model = _button(f"Use {PHOTO_MODEL}", "a model trained on photographs")
        style = widgets.HTML(_STYLE, layout=widgets.Layout(display="none"))
        controls, heads = self._controls(), self._heads()
        super().__init__([style, _row(self._pictures(), controls), heads])
        self.rows = [*controls.children, heads.children[0]]  # for a still picture
        self._name()

    def say(self, text: str, *, error: bool = False) -> None:
        """Show a sentence below the pictures; an empty one takes the last one away."""
        role, colour = ("alert", "#c62828") if error else ("status", "inherit")
        style = f"color:{colour};line-height:1.4;min-height:1.4em"
        self.message.value = f'<div role="{role}" style="{style}">{html.escape(text)}</div>'

    def _pictures(self) -> widgets.Box:
        width = widgets.Layout(flex=f"0 1 {SIDE}px", min_width="0", margin="0 10px 0 0")
        width.overflow = "visible"  # a fraction of a pixel is no reason for a scrollbar
        whole = widgets.Layout(max_width="100%", overflow="visible")
        stack = widgets.Box([self.over, self.patch], layout=whole)
        stack.layout.align_self = stack.layout.align_items = "flex-start"
        stack.add_class("explorer-stack")
        columns = ([self.shown, self.shown_text], [stack, self.over_text])
        pair = widgets.HBox([widgets.VBox(column, layout=width) for column in columns])
        pair.layout.overflow = "visible"
        self.warned = widgets.VBox([self.stranger, widgets.HBox([self.photo_model])])
        words = [self.verdict, self.note, self.warned, self.message]
        layout = widgets.Layout(flex="3 1 400px", min_width="0", max_width="692px")
        return widgets.VBox([pair, *words], layout=layout)

    def _controls(self) -> widgets.Box:
        self.boxed = widgets.VBox([_indented(self.box_on), self.across, self.down])
        rows = [
            _pair(self.target, self.typed),
            self.method,
            widgets.HBox([self.ratio_text, self.ratio]),
            _labelled("head fusion", self.fusion),
            self.blocks,
            _labelled("computed", self.mistakes),
            self.picture,
            _indented(self.scene, self.upload),
            _pair(self.model, self.typed_model),
            self.boxed,
            self.colormap,
            widgets.HBox([self.opacity_text, self.opacity]),
            widgets.HBox([self.png, self.gif, self.page]),
        ]
        layout = widgets.Layout(flex="1 1 320px", min_width="0", max_width="692px")
        return widgets.VBox(rows, layout=layout)

    def _heads(self) -> widgets.Box:
        self.sheet.layout.display, self.sheet.layout.align_self = "none", "flex-start"
        controls = _row(self.sheet_on, self.sheet_block, self.from_token)
        return widgets.VBox([controls, self.sheet])

    def _name(self) -> None:
        """Name each widget, for the style above and for tests."""
        self.add_class("explorer")
        for name, widget in vars(self).items():
            if isinstance(widget, widgets.DOMWidget):
                widget.add_class(f"explorer-{name.replace('_', '-')}")


def show_image(widget: widgets.Image, image: Image.Image, text: str) -> None:
    """Show a picture, with what it is in words, as `show_png` does."""
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=1)  # three times as fast as the default
    show_png(widget, content.getvalue(), text)


def show_png(widget: widgets.Image, png: bytes, text: str) -> None:
    """Show a picture in its own width, or in less where there is less room."""
    widget.value, widget.tooltip = png, text
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


def _slider(value: float, highest: float, step: float) -> widgets.FloatSlider:
    """Without its own number, which would read “0,95” as 0."""
    layout = widgets.Layout(flex="1 1 0", width="auto", min_width="0", margin="2px 12px")
    return widgets.FloatSlider(value, max=highest, step=step, readout=False, layout=layout)


def _number(name: str) -> widgets.Text:
    layout = widgets.Layout(width="182px", flex="0 0 auto")
    return widgets.Text(description=name, continuous_update=False, style=_LABEL, layout=layout)


def _range(name: str, highest: int) -> widgets.IntRangeSlider:
    return widgets.IntRangeSlider(
        value=(0, highest), min=0, max=highest, description=name, style=_LABEL, layout=_wide()
    )


def _button(name: str, hint: str) -> widgets.Button:
    return widgets.Button(description=name, tooltip=hint, layout=_filling())


class _Image(widgets.Image):
    """A picture whose tooltip is its text for those who do not see it."""

    description = Unicode("").tag(sync=True)  # front ends look at it before they show a tooltip

    def __init__(self) -> None:
        layout = widgets.Layout(flex="0 1 auto", margin="0", max_width="100%", height="auto")
        layout.min_width = "0"
        super().__init__(format="png", layout=layout)


def _row(*children: widgets.Widget) -> widgets.Box:
    layout = widgets.Layout(display="flex", flex_flow="row wrap", align_items="flex-start")
    return widgets.Box(children, layout=layout)


def _pair(wide: widgets.Widget, narrow: widgets.Widget) -> widgets.Box:
    wide.layout.flex, narrow.layout.flex = "4 1 240px", "3 1 140px"
    wide.layout.min_width = narrow.layout.min_width = "0"
    return _row(wide, narrow)


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
    return widgets.HBox(buttons, layout=widgets.Layout(margin="0 0 0 118px"))
