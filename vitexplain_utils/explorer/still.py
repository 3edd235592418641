"""The panel as a still picture, for a page without a kernel: what its widgets say, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
from PIL import Image

from ..show import Figure

_LEFT = 0.36  # where the labels end
_PICTURES, _CONTROLS = 2.7, 4.2  # inches across


def still(
    pictures: Sequence[Image.Image], titles: Sequence[str], rows: Sequence[widgets.Widget]
) -> Figure:
    """Pictures side by side, and to the right the controls as they stand.

    Args:
        pictures: PIL images.
        titles: one for each.
        rows: of controls, each a widget or a box of them; what is switched off is drawn pale.

    Returns:
        A matplotlib figure.

    Example:
        >>> rows = [widgets.Dropdown(options=["rollout"], description="method")]
        >>> figure = still([Image.new("RGB", (9, 9))], ["a"], rows)
        >>> [text.get_text() for text in figure.axes[-1].texts]
        ['method', 'rollout  ▾']
    """
    ratios = [*[_PICTURES] * len(pictures), _CONTROLS]
    figure = Figure((sum(ratios), 4.1), layout="constrained")
    *axes, panel = figure.subplots(1, len(ratios), width_ratios=ratios)
    for ax, picture, title in zip(axes, pictures, titles, strict=True):
        ax.imshow(np.asarray(picture))
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()
    shown = [leaves(row) for row in rows if leaves(row)]
    for place, row in enumerate(shown):
        _draw_row(panel, -place, row)
    panel.set(xlim=(0, 1), ylim=(0.5 - len(shown), 0.5))
    panel.set_axis_off()
    return figure


def leaves(widget: widgets.Widget) -> list[widgets.Widget]:
    """The widgets to be seen within boxes within boxes.

    Example:
        >>> len(leaves(widgets.VBox([widgets.Label(), widgets.HBox([widgets.Label()])])))
        2
    """
    if widget.layout.display == "none":
        return []
    if isinstance(widget, widgets.Box):
        return [leaf for child in widget.children for leaf in leaves(child)]
    return [widget]


def _draw_row(ax: Any, y: float, row: list[widgets.Widget]) -> None:
    first = row[0]
    within = [leaf for leaf in row if type(leaf) not in (widgets.Label, widgets.Text)]
    named = isinstance(first, (widgets.Dropdown, widgets.Text, widgets.IntRangeSlider))
    label = first.value if isinstance(first, widgets.Label) else first.description if named else ""
    shade = "0.7" if within[0].disabled else "black"
    if label:
        ax.text(_LEFT - 0.02, y, label, ha="right", va="center", size=8, color=shade)
    edges = np.linspace(_LEFT, 1, len(within) + 1)
    for control, left, right in zip(within, edges[:-1], edges[1:], strict=True):
        _draw(ax, y, control, left, right - 0.02, "0.7" if control.disabled else "black")


def _draw(ax: Any, y: float, control: Any, left: float, right: float, shade: str) -> None:
    if isinstance(control, (widgets.FloatSlider, widgets.IntRangeSlider)):
        end, low, high = right - 0.13, control.min, max(control.max, control.min + 1e-9)
        values = np.atleast_1d(control.value)
        at = left + (values - low) / (high - low) * (end - left)
        ax.plot([left, end], [y, y], color="0.7", linewidth=1.5)
        ax.plot(at, [y] * len(at), "o", color=shade, markersize=5)
        ax.text(right, y, " – ".join(f"{v:g}" for v in values), ha="right", va="center", size=8,
                color=shade)  # fmt: skip
        return
    names, chosen = [_text(control)], None
    if isinstance(control, widgets.ToggleButtons):
        names = [option if isinstance(option, str) else option[0] for option in control.options]
        chosen = control.label
    edges = np.linspace(left, right, len(names) + 1)
    for name, start, end in zip(names, edges[:-1], edges[1:], strict=True):
        face = "0.85" if name == chosen and shade == "black" else "white"
        ax.fill([start, end, end, start], y + np.array([-0.38, -0.38, 0.38, 0.38]),
                facecolor=face, edgecolor="0.7", linewidth=0.8)  # fmt: skip
        ax.text((start + end) / 2, y, name, ha="center", va="center", size=7.5, color=shade)


def _text(control: Any) -> str:
    if isinstance(control, widgets.Dropdown):
        return f"{control.label}  ▾"
    if isinstance(control, widgets.Combobox):
        return str(control.value or control.placeholder)
    if isinstance(control, widgets.BoundedIntText):
        return str(control.value)
    return str(control.description)
