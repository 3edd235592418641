"""Show: pictures in, and heat maps out as overlays, figures and films."""

from .figures import (
    Figure,
    enlarge,
    show_curves,
    show_heads,
    show_intervals,
    show_maps,
    show_matrices,
    show_pictures,
    signed_picture,
)
from .files import write_whole
from .films import label_frame, save_gif, save_webp, sweep_frames
from .overlays import overlay
from .pictures import load_image, photograph

__all__ = [
    "Figure",
    "enlarge",
    "label_frame",
    "load_image",
    "overlay",
    "photograph",
    "save_gif",
    "save_webp",
    "show_curves",
    "show_heads",
    "show_intervals",
    "show_maps",
    "show_matrices",
    "show_pictures",
    "signed_picture",
    "sweep_frames",
    "write_whole",
]
