"""timm: what its Vision Transformers say of themselves."""

from __future__ import annotations

import math
from typing import Any

import torch
from PIL import Image
from timm.data import (
    ImageNetInfo,
    create_transform,
    infer_imagenet_subset,
    resolve_model_data_config,
)
from torch import Tensor, nn

from .library import Library, TokenGrid


class Timm(Library):
    """A ViT of timm with plain global self-attention in `model.blocks`."""

    name = "timm"
    flags = {"fused_attn": True, "grad_checkpointing": False}  # noqa: RUF012

    def block_modules(self) -> list[nn.Module]:
        """The modules of `model.blocks`."""
        blocks = getattr(self.model, "blocks", None)
        if not isinstance(blocks, nn.Sequential | nn.ModuleList) or len(blocks) == 0:
            raise ValueError(f"{self.what} has no transformer blocks to record")
        if not hasattr(getattr(self.model, "patch_embed", None), "dynamic_feat_size"):
            raise ValueError(f"{self.what} does not say how its tokens lie on a grid")
        return list(blocks)

    def pool_module(self) -> nn.Module | None:
        """`model.attn_pool`."""
        pool = getattr(self.model, "attn_pool", None)
        if pool is not None and not hasattr(pool, "latent"):
            raise ValueError(
                f"{self.what}: what its pool {type(pool).__name__} reads cannot be recorded"
            )
        return pool

    def grid(self, x: Tensor) -> TokenGrid:
        """`num_prefix_tokens`, and rows and columns as the patch embedding makes them."""
        feature_size = getattr(getattr(self.model, "patch_embed", None), "dynamic_feat_size", None)
        prefix = getattr(self.model, "num_prefix_tokens", None)
        if feature_size is None or prefix is None:
            raise ValueError(f"{self.what} does not say how its tokens lie on a patch grid")
        return TokenGrid(prefix, *feature_size(x.shape[-2:]))

    @property
    def class_token(self) -> bool:
        """Whether there is a `cls_token`."""
        return getattr(self.model, "cls_token", None) is not None

    def reads(self, grid: TokenGrid) -> Tensor | None:
        """Class token; class and distillation token, half each; average: all patches alike."""
        if self.pool_module() is not None:
            return None
        weights = torch.zeros(grid.tokens, dtype=torch.float64)
        pooling = getattr(self.model, "global_pool", "token")
        if pooling == "avg":
            whole = getattr(self.model, "pool_include_prefix", False)
            weights[0 if whole else grid.prefix :] = 1
        elif pooling == "token" and self.class_token:
            weights[: 2 if getattr(self.model, "dist_token", None) is not None else 1] = 1
        else:
            raise ValueError(
                f"{self.what} with global_pool={pooling!r}: only class token, average and "
                "attention pooling read the tokens with weights that a map can start from"
            )
        return weights / weights.sum()

    def pool_row(self, pool: Tensor, grid: TokenGrid) -> Tensor:
        """The latent query's row; of several queries the first or, as the pool does, the mean."""
        averages = getattr(self.pool_module(), "pool", "token") == "avg"
        row = pool.mean(1) if averages else pool[:, 0]  # [B, Q, K] -> [B, K]
        return nn.functional.pad(row, (grid.tokens - row.shape[1], 0))  # some read patches only

    def logits(self, x: Tensor) -> Tensor:
        """The model's output; a ValueError where the input does not fit the model."""
        try:
            return super().logits(x)
        except AssertionError as error:  # how timm says that the size does not fit
            raise ValueError(
                f"x of shape {tuple(x.shape)} does not fit the model: {error}"
            ) from error

    def class_names(self) -> list[str] | None:
        """Names in the configuration, or ImageNet's word lists."""
        labels = (getattr(self.model, "pretrained_cfg", None) or {}).get("label_names")
        if labels is not None and len(labels) == self.classes:
            return list(labels)
        subset = infer_imagenet_subset(self.model)
        return None if subset is None else list(ImageNetInfo(subset).label_descriptions())

    def _input_configuration(self, crop: bool) -> dict[str, Any]:
        config = resolve_model_data_config(self.model)
        built_for = getattr(getattr(self.model, "patch_embed", None), "img_size", None)
        if built_for is not None:  # a model made with another img_size than its configuration's
            config["input_size"] = (3, *built_for)
        if not crop:
            config.update(crop_pct=1.0, crop_mode="squash")
        return config

    def to_input(self, image: Image.Image, crop: bool) -> Tensor:
        """By timm's own evaluation transform."""
        x: Tensor = create_transform(**self._input_configuration(crop))(image)
        return x.unsqueeze(0)

    def crop_box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The inverse of timm's resize and centre crop."""
        config = self._input_configuration(crop=True)
        width, height = size
        rows, cols = config["input_size"][1:]
        scaled_rows, scaled_cols = (math.floor(n / config["crop_pct"]) for n in (rows, cols))
        if config["crop_mode"] == "squash":
            scale_x, scale_y = scaled_cols / width, scaled_rows / height
        elif config["crop_mode"] == "center":
            scale_x = scale_y = max(scaled_cols / width, scaled_rows / height)
        else:
            raise ValueError(f"crop_mode {config['crop_mode']!r} of the model is not supported")
        half_width, half_height = cols / scale_x / 2, rows / scale_y / 2
        return (
            max(width / 2 - half_width, 0),
            max(height / 2 - half_height, 0),
            min(width / 2 + half_width, width),
            min(height / 2 + half_height, height),
        )

    def stages(self) -> list[tuple[str, list[nn.Module]]]:
        """Head, blocks from the last to the first, embedding."""
        if not isinstance(getattr(self.model, "blocks", None), nn.Sequential | nn.ModuleList):
            return super().stages()
        names, children = zip(*self.model.named_children(), strict=True)
        middle = names.index("blocks")  # timm names its parts in the order of the data's path
        blocks = list(enumerate(children[middle].children()))
        return [
            ("head", list(children[middle + 1 :])),
            *((f"block {index}", [block]) for index, block in reversed(blocks)),
            ("embedding", list(children[:middle])),
        ]
