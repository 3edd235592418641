"""Models: which are known, what they say of themselves, and how pictures become their input."""

from .classes import TopClass, class_index, class_names, top_classes
from .inputs import crop_box, preprocess
from .library import Library, TokenGrid, library_of
from .loading import load_model
from .texts import text_target

__all__ = [
    "Library",
    "TokenGrid",
    "TopClass",
    "class_index",
    "class_names",
    "crop_box",
    "library_of",
    "load_model",
    "preprocess",
    "text_target",
    "top_classes",
]
