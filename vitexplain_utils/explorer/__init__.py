"""Explorer: a panel of widgets that shows how each setting changes a heat map."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from PIL import Image
from torch import nn

from ..garden import Scene
from .page import save_page

if TYPE_CHECKING:
    from .panel import Panel

__all__ = ["explore", "save_page"]


def explore(
    model: str | nn.Module = "garden",
    image: Scene | Image.Image | str | os.PathLike[str] | None = None,
    *,
    folder: str | os.PathLike[str] = ".",
) -> Panel:
    """Open a panel that shows, setting by setting, what a ViT looked at.

    It works in JupyterLab, Notebook 7 and Voila. The model runs once per picture and class, and
    once more for attribution, whose gradient holds the attention; moving a slider only draws again.
    Flow is left out, because it takes seconds per picture. What goes wrong is said in the panel,
    which then goes on with what it had.

    Args:
        model: a name as in `load_model`, or a loaded ViT.
        image: a garden scene, a PIL image, the name of a scikit-image sample, a path or a URL;
            None is the scene of notebook 8.
        folder: where the buttons save PNG, GIF and HTML files.

    Returns:
        An ipywidgets box; a notebook shows it when it is the last line of a cell.

    Raises:
        ImportError: ipywidgets is missing.
        ValueError: the model cannot be explained, or as `load_model` and `load_image`.
        FileNotFoundError: there are no weights, or no such picture.

    Example:
        >>> panel = explore()
        >>> panel.ratio.value = 0.9
        >>> panel
        Explorer(model='garden', picture='garden, notebook 8: bee, fish, leaf')
    """
    try:
        from .panel import Panel
    except ImportError as error:
        if error.name != "ipywidgets":
            raise
        raise ImportError(
            "explore needs ipywidgets: pip install 'vitexplain-utils[notebooks]', or ipywidgets",
            name=error.name,
        ) from error
    return Panel(model, image, folder)
