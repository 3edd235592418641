"""timm: what its Vision Transformers say of themselves."""

from __future__ import annotations

import difflib
import math
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.data import (
    ImageNetInfo,
    create_transform,
    infer_imagenet_subset,
    resolve_model_data_config,
)
from torch import Tensor, nn

from . import weights as files
from .library import Box, Library, TokenGrid, centre_box


class Timm(Library):
    """A ViT of timm with plain global self-attention in `model.blocks`."""

    name = "timm"
    flags = {"fused_attn": True, "grad_checkpointing": False}  # noqa: RUF012

    @classmethod
    def load(cls, name: str, weights: Path | None) -> nn.Module:
        """By timm's own `create_model`, from a file, timm's cache or the hub."""
        if name.startswith("local-dir:"):
            return _load_saved(name, weights)
        if not timm.is_model(name.split(".")[0]):
            close = difflib.get_close_matches(name, ["garden", *timm.list_models()], n=3)
            hint = f"; close: {', '.join(close)}" if close else ""
            raise ValueError(f"name {name!r} is not a model of timm{hint}")
        try:
            timm.get_pretrained_cfg(name)
        except RuntimeError as error:  # an unknown weight tag
            raise ValueError(f"name {name!r}: {error}") from error
        return _create(name, weights or _find_weights(name))

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
        embed: Any = self.model.patch_embed
        pads = getattr(embed, "dynamic_img_pad", False)
        if pads and any(n % patch for n, patch in zip(x.shape[-2:], embed.patch_size, strict=True)):
            raise ValueError(
                f"x of {x.shape[2]}×{x.shape[3]} pixels would be padded by the model: give whole "
                f"patches of {embed.patch_size}"
            )
        if type(getattr(embed, "backbone", None)).__name__ == "MbConvStages":  # of ViTamin
            warnings.warn(
                f"{self.what}: each of its patches looks at pixels half a patch further up and "
                "left than where its map shows it",
                stacklevel=2,
            )
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

    @property
    def classes(self) -> int | None:
        """As many as the classifier has outputs, also where it was replaced by hand."""
        ask = getattr(self.model, "get_classifier", None)
        return getattr(ask() if ask else None, "out_features", super().classes)

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

    def crop_box(self, size: tuple[int, int]) -> Box:
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
        return centre_box(size, (scale_x, scale_y), (cols, rows))

    def stages(self) -> list[tuple[str, list[nn.Module]]]:
        """Head, blocks from the last to the first, embedding."""
        if not isinstance(getattr(self.model, "blocks", None), nn.Sequential | nn.ModuleList):
            return super().stages()
        names, children = zip(*self.model.named_children(), strict=True)
        middle = names.index("blocks")  # timm names its parts in the order of the data's path
        return self._stages(list(children[:middle]), list(children[middle + 1 :]))


def _create(name: str, path: Path) -> nn.Module:
    state = files.read(path, name)
    try:
        overlay: dict[str, Any] = {"state_dict": state, "custom_load": False, "label_offset": 0}
        classes = _count_classes(name, state)
        if classes is not None:
            overlay["num_classes"] = classes
        kwargs: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        model: Any = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs
        )
    except Exception as error:  # many kinds
        raise ValueError(files.does_not_fit(path, name, error)) from error
    model.pretrained_cfg["state_dict"] = None  # timm keeps a reference
    return model


def _count_classes(name: str, state: dict[str, Any]) -> int | None:
    cfg = timm.get_pretrained_cfg(name)
    classifier = cfg.classifier if cfg is not None else None
    first = classifier[0] if isinstance(classifier, list | tuple) else classifier
    head = state.get(f"{first}.weight")
    return None if head is None else len(head)


def _load_saved(name: str, weights: Path | None) -> nn.Module:
    """A model with its configuration, as `timm.models.save_for_hf` writes it."""
    if weights is not None:
        raise ValueError(f"weights {str(weights)!r}: {name!r} has its own")
    try:
        model: nn.Module = timm.create_model(name, pretrained=True)
    except Exception as error:  # many kinds
        raise ValueError(f"name {name!r} cannot be loaded: {files.reason(error)}") from error
    return model


def _find_weights(name: str) -> Path:
    found = files.in_folder(f"{name}.safetensors") or _hub_file(name)
    if found is None:
        raise FileNotFoundError(
            f"no weights for {name}. Three ways to provide them: (1) load_model({name!r}, "
            f"weights='FILE.safetensors' or '.pth'); (2) put {name}.safetensors into a folder and "
            "set VITEXPLAIN_WEIGHTS to it; (3) be online once: timm downloads them into its cache"
        )
    return found


def _hub_file(name: str) -> Path | None:
    """The checkpoint in the hub's cache, downloaded if need be and possible."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.hf_hub_id:
        return None
    names = (
        [cfg.hf_hub_filename] if cfg.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    )
    for file in names:
        cached = try_to_load_from_cache(cfg.hf_hub_id, file)
        if isinstance(cached, str):
            return Path(cached)
    if not files.hub_reachable():
        return None
    for file in names:
        try:
            return Path(hf_hub_download(cfg.hf_hub_id, file))
        except Exception:  # not there under this name, gated, or the connection broke
            continue
    return None
