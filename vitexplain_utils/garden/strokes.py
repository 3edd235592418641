"""Strokes: a thing painted in part, to ask which of its parts are enough for a model."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from vitexplain_utils.garden import things


@contextmanager
def painted_in_part(name: str, strokes: Collection[int]) -> Iterator[None]:
    """Within it, scenes show one thing with some of its strokes alone; all else is as ever.

    Args:
        name: the thing.
        strokes: which of its strokes are made, counted from 0 in the order of `garden/things.py`.

    Raises:
        ValueError: no such thing, or strokes that are no whole numbers from 0 up.

    Example:
        >>> from vitexplain_utils import garden_scene
        >>> whole = garden_scene(0, ["bee"]).masks["bee"].sum()
        >>> with painted_in_part("bee", [8, 9, 10]):  # its stripes
        ...     stripes = garden_scene(0, ["bee"]).masks["bee"].sum()
        >>> bool(0 < stripes < whole)
        True
    """
    if name not in things.THINGS:
        raise ValueError(f"name must be one of {', '.join(things.THINGS)}, got {name!r}")
    if not all(isinstance(stroke, int) and stroke >= 0 for stroke in strokes):
        raise ValueError(f"strokes must be whole numbers of at least 0, got {strokes!r}")
    painter = things._PAINTERS[name]
    things._PAINTERS[name] = lambda pen, rng: painter(_Pen(pen, strokes), rng)  # type: ignore
    try:
        yield
    finally:
        things._PAINTERS[name] = painter


class _Pen:
    """A pen that leaves strokes out."""

    def __init__(self, pen: Any, strokes: Collection[int]) -> None:
        self.pen, self.strokes, self.stroke = pen, strokes, -1

    def __getattr__(self, tool: str) -> Any:  # ellipse, polygon, line
        self.stroke += 1
        return getattr(self.pen, tool) if self.stroke in self.strokes else lambda *_, **__: None
