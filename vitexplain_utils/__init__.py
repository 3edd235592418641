"""See what a Vision Transformer looked at: the path from a photograph to a heat map.

The stages' own functions lie in `models`, `methods`, `show`, `truth` and `garden`.
"""

from .capture import Capture, capture_attention
from .explanation import Explanation, discard_sweep, explain
from .explorer import explore, save_page
from .garden import garden_scene, hero_scene
from .methods import METHODS, Method, register_method
from .models import class_index, load_model, preprocess, top_classes
from .recording import record_attention
from .show import load_image, overlay, save_gif
from .truth import evaluate_methods

__version__ = "0.2.0"

__all__ = [
    "METHODS",
    "Capture",
    "Explanation",
    "Method",
    "capture_attention",
    "class_index",
    "discard_sweep",
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
