"""Golden maps: what 0.1 drew for every method and setting, kept in `golden_maps.npz`.

Everything is in float64, and weights and inputs come from NumPy's legacy generator, whose numbers
never change: a map that differs has been computed differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import combinations, product
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn

from vitexplain_utils import hero_scene, load_image, load_model, preprocess

FILE = Path(__file__).with_name("golden_maps.npz")
FUSIONS = ("mean", "max", "min")
MISTAKES = ("pre_softmax", "reversed_blocks", "columns")
TARGET = 3

# name, settings, size
LAYOUTS = {
    "vit": ("vit_tiny_patch16_224", {}, (32, 48)),
    "deit": ("deit_tiny_patch16_224", {}, (32, 48)),
    "distilled": ("deit_tiny_distilled_patch16_224", {}, (32, 48)),
    "deit3": ("deit3_small_patch16_224", {"embed_dim": 96}, (32, 48)),
    "registers": ("vit_small_patch14_reg4_dinov2", {"embed_dim": 96}, (28, 42)),
    "dinov3": ("vit_small_patch16_dinov3", {}, (32, 48)),
    "beit": ("beit_base_patch16_224", {"embed_dim": 96}, (32, 48)),
    "eva02": ("eva02_tiny_patch14_224", {}, (28, 42)),
    "average": ("vit_medium_patch16_gap_240", {"embed_dim": 96, "num_heads": 2}, (32, 48)),
    "siglip": ("vit_base_patch16_siglip_224", {"embed_dim": 96}, (32, 48)),
    "relative": ("vit_relpos_small_patch16_224", {"embed_dim": 96, "num_heads": 2}, (32, 48)),
}
SCENES = (4, 7)
WITH_CLASS_TOKEN = ("vit", "deit", "distilled", "garden 4", "garden 7", "photograph")


def seeded(model: nn.Module) -> nn.Module:
    """Weights under which attention is far from uniform, the same everywhere and for ever."""
    random = np.random.RandomState(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                values = random.standard_normal(tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(values * parameter[0].numel() ** -0.5))
            elif "gamma" in name:
                parameter.fill_(1)
            elif name.endswith("bias"):
                values = random.standard_normal(tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(values / 10))
    return model.double().eval()


@cache
def case(name: str) -> tuple[nn.Module, Tensor]:
    """A model and its input."""
    if name in LAYOUTS:
        timm_name, settings, size = LAYOUTS[name]
        small = {"depth": 3, "num_classes": 5, "img_size": size}
        model = seeded(timm.create_model(timm_name, **{**small, **settings}))
        return model, torch.from_numpy(np.random.RandomState(1).standard_normal((2, 3, *size)))
    if name.startswith("garden"):
        model = load_model("garden")
        image = hero_scene(int(name.split()[1])).image
    else:
        import skimage.data

        model = load_model("deit_tiny_patch16_224")
        image = load_image(Path(skimage.data.__file__).with_name("astronaut.png"))
    x = preprocess(model, image).double()
    return model.double(), x


def settings(name: str) -> Iterator[tuple[str, dict]]:
    """Every method with its settings; `blocks` is a range, `mistakes` are vit-explain's."""
    for method in ("rollout", "gradient_rollout"):
        for fusion, ratio in product(FUSIONS, (0.0, 0.5, 0.9)):
            yield method, dict(head_fusion=fusion, discard_ratio=ratio)
        for weight in (0.0, 0.3):
            yield method, dict(discard_ratio=0.5, residual_weight=weight)
        for blocks in ((0, 1), (1, 2), (1, 1)):
            yield method, dict(blocks=blocks, discard_ratio=0.5)
    yield "relevance", {}
    yield "relevance", dict(blocks=(1, 2))
    for fusion in FUSIONS:
        yield "last_attention", dict(head_fusion=fusion)
    yield "last_attention", dict(blocks=(0, 1))
    if name in LAYOUTS:
        yield "flow", {}
        yield "flow", dict(head_fusion="max", discard_ratio=0.5, residual_weight=0.3)
    if name in WITH_CLASS_TOKEN:
        for count in range(4):
            for mistakes in combinations(MISTAKES, count):
                yield "vit_explain", dict(mistakes=mistakes)
        yield "vit_explain", dict(mistakes=MISTAKES, discard_ratio=0.7)


def key(name: str, method: str, having: dict) -> str:
    """The name of a map in the file."""
    return " ".join([name, method, *(f"{k}={v}" for k, v in having.items())])
