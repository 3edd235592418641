"""Small models of every layout that the README names, shared by the tests that loop over them."""

from __future__ import annotations

from functools import cache

import timm
import torch
from reference import lively
from torch import Tensor, nn

# name in timm, settings, size, tokens before the patches
MODELS = {
    "vit": ("vit_tiny_patch16_224", {}, (32, 48), 1),
    "deit": ("deit_tiny_patch16_224", {}, (32, 48), 1),
    "distilled": ("deit_tiny_distilled_patch16_224", {}, (32, 48), 2),
    "deit3": ("deit3_small_patch16_224", {}, (32, 48), 1),
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2", {}, (28, 42), 5),
    "dinov3": ("vit_small_patch16_dinov3", {}, (32, 48), 5),
    "beit": ("beit_base_patch16_224", {"embed_dim": 96}, (32, 48), 1),
    "eva02": ("eva02_tiny_patch14_224", {}, (28, 42), 1),
    "average pooling": ("vit_medium_patch16_gap_240", {}, (32, 48), 0),
    "average pooling and a register": ("vit_pwee_patch16_reg1_gap_256", {}, (32, 48), 1),
    "siglip": ("vit_base_patch16_siglip_224", {"embed_dim": 96}, (32, 48), 0),
    "attention pool over a class token": ("vit_pe_core_tiny_patch16_384", {}, (32, 48), 1),
    "relative positions": ("vit_relpos_small_patch16_224", {}, (32, 48), 0),
    "relative positions, class token": (
        "vit_relpos_base_patch16_clsgap_224",
        {"embed_dim": 96},
        (32, 48),
        1,
    ),
    "parallel scaling": ("vit_base_patch16_xp_224", {"embed_dim": 96}, (32, 48), 0),
}


@cache
def model_of(layout: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model, two blocks deep, with lively random weights and five classes."""
    name, settings, size, _ = MODELS[layout]
    model = timm.create_model(name, img_size=size, depth=2, num_classes=5, **settings)
    return lively(model).to(dtype)


def input_of(layout: str, batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    """A picture of noise that is higher than wide or wider than high, never square."""
    generator = torch.Generator().manual_seed(4)
    return torch.randn(batch, 3, *MODELS[layout][2], generator=generator).to(dtype)
