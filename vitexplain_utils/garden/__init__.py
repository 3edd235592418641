"""The garden: generated scenes with known answers, and a small Vision Transformer trained on them.

Because every scene knows exactly where each thing is, a heat map made on it can be marked right
or wrong. Everything here works offline.
"""

from vitexplain_utils.garden.model import garden_model
from vitexplain_utils.garden.scenes import THINGS, Scene, garden_scene
from vitexplain_utils.garden.test_set import garden_test_set, hero_scene

__all__ = [
    "THINGS",
    "Scene",
    "garden_model",
    "garden_scene",
    "garden_test_set",
    "hero_scene",
]
