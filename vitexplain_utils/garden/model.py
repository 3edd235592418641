"""The garden model: a small Vision Transformer that names the things in a garden scene."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from vitexplain_utils.garden.scenes import SIZE, THINGS

POOLS = ("token", "avg", "map")
WEIGHTS = Path(__file__).with_name("garden.safetensors")


def garden_model(weights: bool = True, *, pool: str = "token") -> VisionTransformer:
    """Build the garden's Vision Transformer, in eval mode, with its weights from the package.

    It takes float32 images of shape (batch, 3, 96, 96), scaled to -1..1, and returns one logit
    per thing, of shape (batch, 8); the sigmoid of each is the probability that the thing is there.

    Args:
        weights: Load the trained weights; with False they are random.
        pool: What the head reads: ``"token"`` (the class token; the one with weights in the
            package), ``"avg"`` (the mean of the patches) or ``"map"`` (attention pooling).

    Returns:
        A timm model: 144 patches of 8 x 8 pixels and a class token, 6 blocks of 3 heads.

    Raises:
        ValueError: If there are no trained weights for this pool, or no such pool.
        FileNotFoundError: If the weight file is missing from the package.

    Example:
        >>> garden_model().num_classes
        8
    """
    if pool not in POOLS or (weights and pool != "token"):
        raise ValueError(f"pool must be one of {POOLS}, with weights 'token'; got {pool!r}")
    model = VisionTransformer(
        img_size=SIZE,
        patch_size=8,
        embed_dim=96,
        depth=6,
        num_heads=3,
        num_classes=len(THINGS),
        global_pool=pool,  # type: ignore[arg-type]
        class_token=pool == "token",
    )
    model.pretrained_cfg = model.default_cfg = {  # type: ignore[assignment]
        "architecture": "garden",
        "input_size": (3, SIZE, SIZE),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "num_classes": len(THINGS),
        "label_names": THINGS,
        "multi_label": True,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    if weights:
        model.load_state_dict(load_file(WEIGHTS), strict=True)
    return model.eval()
