"""See what a Vision Transformer looked at: the path from a photograph to a heat map.

The stages' own functions lie in `models`, `methods`, `show`, `truth` and `garden`. A name is
imported when it is first asked for, because torch and timm take seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .capture import Capture, capture_attention
    from .dreaming import dream
    from .explanation import Explanation, discard_sweep, explain
    from .explorer import explore, save_page
    from .garden import garden_scene, hero_scene
    from .methods import METHODS, Method, register_method
    from .models import class_index, load_model, preprocess, top_classes
    from .recording import record_attention
    from .show import load_image, overlay, save_gif
    from .truth import evaluate_methods

__version__ = "0.2.0"

_HOMES = {
    "capture": ("Capture", "capture_attention"),
    "dreaming": ("dream",),
    "explanation": ("Explanation", "discard_sweep", "explain"),
    "explorer": ("explore", "save_page"),
    "garden": ("garden_scene", "hero_scene"),
    "methods": ("METHODS", "Method", "register_method"),
    "models": ("class_index", "load_model", "preprocess", "top_classes"),
    "recording": ("record_attention",),
    "show": ("load_image", "overlay", "save_gif"),
    "truth": ("evaluate_methods",),
}

__all__ = [
    "METHODS",
    "Capture",
    "Explanation",
    "Method",
    "capture_attention",
    "class_index",
    "discard_sweep",
    "dream",
    "evaluate_methods",
    "explain",
    "explore",
    "garden_scene",
    "hero_scene",
    "load_image",
    "load_model",
    "overlay",
    "preprocess",
    "record_attention",
    "register_method",
    "save_gif",
    "save_page",
    "top_classes",
]


def __getattr__(name: str) -> Any:
    """A name of `__all__`, or a stage, imported now (PEP 562)."""
    if name in _HOMES:
        return import_module(f".{name}", __name__)
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_HOMES})
