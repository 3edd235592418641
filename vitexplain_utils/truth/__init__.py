"""Truth: questions with known answers, and measures of how well a map answers them."""

from .baselines import centre_map, constant_map, edge_map, random_map
from .evaluation import Captures, bootstrap_interval, evaluate_methods, format_table
from .measures import (
    average_precision,
    energy_inside,
    mean_iou,
    pixel_accuracy,
    pointing_game,
    share_on_target,
)
from .perturbation import Curves, deletion_insertion, occlusion, replace_patches, without_detail
from .questions import Questions, ask_garden
from .sanity import randomised_models, rank_correlation

__all__ = [
    "Captures",
    "Curves",
    "Questions",
    "ask_garden",
    "average_precision",
    "bootstrap_interval",
    "centre_map",
    "constant_map",
    "deletion_insertion",
    "edge_map",
    "energy_inside",
    "evaluate_methods",
    "format_table",
    "mean_iou",
    "occlusion",
    "pixel_accuracy",
    "pointing_game",
    "random_map",
    "randomised_models",
    "rank_correlation",
    "replace_patches",
    "share_on_target",
    "without_detail",
]
