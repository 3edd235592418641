"""See what a Vision Transformer looked at: the path from a photograph to a heat map."""

from .capture import AttentionRecord, record_attention
from .classes import TopClass, class_index, class_names, top_classes
from .discard import discard_lowest
from .evaluation import evaluate_methods
from .explain import METHODS, Explanation, explain
from .flow import attention_flow
from .garden import Scene, ask_garden, garden_scene, garden_test_set, hero_scene
from .gif import label_frame, save_gif
from .head_fusion import HEAD_FUSIONS, fuse_heads
from .images import crop_box, load_image, preprocess
from .measures import (
    average_precision,
    energy_inside,
    mean_iou,
    pixel_accuracy,
    pointing_game,
    share_on_target,
)
from .models import load_model
from .overlay import overlay
from .perturbation import deletion_insertion, occlusion
from .relevance import relevance
from .rollout import gradient_rollout, rollout
from .sanity import randomised_models, rank_correlation
from .sweep import discard_sweep
from .widgets import explorer

__version__ = "0.1.0"

__all__ = [
    "HEAD_FUSIONS",
    "METHODS",
    "AttentionRecord",
    "Explanation",
    "Scene",
    "TopClass",
    "ask_garden",
    "attention_flow",
    "average_precision",
    "class_index",
    "class_names",
    "crop_box",
    "deletion_insertion",
    "discard_lowest",
    "discard_sweep",
    "energy_inside",
    "evaluate_methods",
    "explain",
    "explorer",
    "fuse_heads",
    "garden_scene",
    "garden_test_set",
    "gradient_rollout",
    "hero_scene",
    "label_frame",
    "load_image",
    "load_model",
    "mean_iou",
    "occlusion",
    "overlay",
    "pixel_accuracy",
    "pointing_game",
    "preprocess",
    "randomised_models",
    "rank_correlation",
    "record_attention",
    "relevance",
    "rollout",
    "save_gif",
    "share_on_target",
    "top_classes",
]
