"""Small models of every layout that the README names, shared by the tests that loop over them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import timm
import torch
import torchvision
import transformers
from reference import lively
from torch import Tensor, nn

from vitexplain_utils.models import library_of

# name in timm, settings, size, tokens before the patches
TIMM = {
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

VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 16,
}
SQUARE = {**VISION, "image_size": 32}
TEXT = {
    **{name: VISION[name] for name in ("hidden_size", "num_attention_heads", "intermediate_size")},
    "num_hidden_layers": 1,
    "vocab_size": 50,
    "max_position_embeddings": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FIVE = {"num_labels": 5}
BOTH = {"vision_config": SQUARE, "text_config": TEXT, "projection_dim": 8}
# Attention over patches of any number: SigLIP 2 takes no picture's size.
ANY_SIZE = {"vision_config": {**VISION, "num_patches": 4}}

# class in transformers, its configuration's settings, tokens before the patches, and the weights
# with which the head reads a class token, a distillation token, and all patches together
TRANSFORMERS = {
    "ViTForImageClassification": ({**SQUARE, **FIVE}, 1, (1, 0, 0)),
    "DeiTForImageClassification": ({**SQUARE, **FIVE}, 2, (1, 0, 0)),
    "DeiTForImageClassificationWithTeacher": ({**SQUARE, **FIVE}, 2, (0.5, 0.5, 0)),
    "BeitForImageClassification": (
        {**SQUARE, **FIVE, "use_relative_position_bias": True},
        1,
        (0, 0, 1),
    ),
    "Dinov2ForImageClassification": ({**SQUARE, **FIVE}, 1, (0.5, 0, 0.5)),
    "Dinov2WithRegistersForImageClassification": ({**SQUARE, **FIVE}, 5, (0.5, 0, 0.5)),
    "CLIPForImageClassification": ({"vision_config": SQUARE, **FIVE}, 1, (0, 0, 1)),
    "SiglipForImageClassification": ({"vision_config": SQUARE, **FIVE}, 0, (0, 0, 1)),
    "Siglip2ForImageClassification": ({**ANY_SIZE, **FIVE}, 0, (0, 0, 1)),
    "ViTModel": (SQUARE, 1, (1, 0, 0)),
    "DeiTModel": (SQUARE, 2, (1, 0, 0)),
    "BeitModel": (
        {**SQUARE, "use_mean_pooling": False, "use_shared_relative_position_bias": True},
        1,
        (1, 0, 0),
    ),
    "Dinov2Model": (SQUARE, 1, (1, 0, 0)),
    "DINOv3ViTModel": ({**SQUARE, "num_register_tokens": 4}, 5, (1, 0, 0)),
    "CLIPVisionModel": (SQUARE, 1, (1, 0, 0)),
    "CLIPVisionModelWithProjection": ({**SQUARE, "projection_dim": 8}, 1, (1, 0, 0)),
    "CLIPModel": (BOTH, 1, (1, 0, 0)),
    "SiglipVisionModel": (SQUARE, 0, None),
    "SiglipModel": ({"vision_config": SQUARE, "text_config": TEXT}, 0, None),
    "Siglip2Model": ({**ANY_SIZE, "text_config": TEXT}, 0, None),
}
OTHERS = [*TRANSFORMERS, "torchvision"]
MODELS = [*TIMM, *OTHERS]
TORCHVISION = {
    "image_size": 48,
    "patch_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 32,
    "mlp_dim": 64,
    "num_classes": 5,
}


@cache
def model_of(layout: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model, two blocks deep, with lively random weights and five classes or features."""
    if layout in TIMM:
        name, settings, size, _ = TIMM[layout]
        model = timm.create_model(name, img_size=size, depth=2, num_classes=5, **settings)
    elif layout in TRANSFORMERS:
        made = getattr(transformers, layout)
        model = made(made.config_class(**TRANSFORMERS[layout][0]))
    else:
        model = torchvision.models.VisionTransformer(**TORCHVISION)
    return lively(model).to(dtype)


def size_of(layout: str) -> tuple[int, int]:
    """Never square, where the library allows it."""
    return TIMM[layout][2] if layout in TIMM else (48, 48) if layout == "torchvision" else (32, 48)


def grid_of(layout: str) -> tuple[int, int]:
    """Rows and columns of patches."""
    return (3, 3) if layout == "torchvision" else (2, 3)


def prefix_of(layout: str) -> int:
    """Tokens before the patches."""
    return TIMM[layout][3] if layout in TIMM else TRANSFORMERS.get(layout, (0, 1))[1]


def input_of(layout: str, batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    """A picture of noise."""
    generator = torch.Generator().manual_seed(4)
    return torch.randn(batch, 3, *size_of(layout), generator=generator).to(dtype)


def third(logits: Tensor) -> Tensor:
    """What a model without classes is asked for."""
    return logits[:, 3]


def target_of(layout: str) -> int | Callable[[Tensor], Tensor]:
    """Class 3, or feature 3."""
    return 3 if library_of(model_of(layout)).classes else third
