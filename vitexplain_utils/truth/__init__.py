"""Truth: questions with known answers, and measures of how well a map answers them."""

from .baselines import centre_map, constant_map, edge_map, random_map
from .evaluation import (
    Captures,
    bootstrap_interval,
    class_pairs,
    compare_marks,
    evaluate_methods,
    format_table,
    question_marks,
)
from .measures import (
    average_precision,
    energy_inside,
    mean_iou,
    pixel_accuracy,
    pointing_game,
    share_on_target,
)
from .perturbation import Curves, deletion_insertion, occlusion, replace_patches, without_detail
from .photographs import ask_photographs, mosaic, mosaic_questions, read_labels
from .questions import Questions, ask_garden
from .sanity import randomised_models, rank_correlation

__all__ = [
    "Captures",
    "Curves",
    "Questions",
    "ask_garden",
    "ask_photographs",
    "average_precision",
    "bootstrap_interval",
    "centre_map",
    "class_pairs",
    "compare_marks",
    "constant_map",
    "deletion_insertion",
    "edge_map",
    "energy_inside",
    "evaluate_methods",
    "format_table",
    "mean_iou",
    "mosaic",
    "mosaic_questions",
    "occlusion",
    "pixel_accuracy",
    "pointing_game",
    "question_marks",
    "random_map",
    "randomised_models",
    "rank_correlation",
    "read_labels",
    "replace_patches",
    "share_on_target",
    "without_detail",
]
