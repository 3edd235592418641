"""transformers: what its Vision Transformers say of themselves."""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from PIL import Image
from torch import Tensor, nn

from . import weights as files
from .library import Box, Library, TokenGrid, centre_box, multihead_through_sdpa

_NEEDED = (
    "models of transformers need transformers 5.18 or later: "
    "pip install 'vitexplain-utils[transformers]'"
)
try:
    import transformers
except ImportError as error:
    raise ImportError(_NEEDED, name="transformers") from error
if [int(part) for part in transformers.__version__.split(".")[:2]] < [5, 18]:
    raise ImportError(f"{_NEEDED}; here is {transformers.__version__}", name="transformers")

# A vision tower's model type: tokens before the patches (registers come on top), and the image
# processor of a model that was made in memory.
_FAMILIES = {
    "vit": (1, "ViTImageProcessor"),
    "deit": (2, "DeiTImageProcessor"),
    "beit": (1, "BeitImageProcessor"),
    "dinov2": (1, "BitImageProcessor"),
    "dinov2_with_registers": (1, "BitImageProcessor"),
    "dinov3_vit": (1, "ViTImageProcessor"),
    "clip_vision_model": (1, "CLIPImageProcessor"),
    "siglip_vision_model": (0, "SiglipImageProcessor"),
    "siglip2_vision_model": (0, "Siglip2ImageProcessor"),
}
_CLASSIFIERS = ("ForImageClassification", "ForImageClassificationWithTeacher")
_TOWERS = ("Model", "ModelWithProjection")


class Transformers(Library):
    """A ViT of transformers: `…ForImageClassification`, or a bare tower, which gives features.

    A map starts from what the head reads of the last tokens: the class token; class and
    distillation token, half each (DeiT with teacher); all patches alike (BEiT's mean pooling, and
    the classifiers on CLIP and SigLIP); SigLIP's attention pool. DINOv2's classifier reads the
    class token *and* the mean of the patches, each with weights of its own: a map starts half from
    the class token, half from all patches alike.

    A tower's features are what it calls its image embedding (CLIP and SigLIP, with the projection
    if there is one) or its pooled output. Pictures of another size than the model's are taken where
    the family interpolates its positions.
    """

    name = "transformers"
    model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        inside = model.base_model if self._classifies else model
        self.tower: Any = getattr(model, "vision_model", inside)
        self.config: Any = getattr(self.tower, "config", model.config)

    @classmethod
    def load(cls, name: str, weights: Path | None) -> nn.Module:
        """By `from_pretrained`: a folder, the hub's cache, the hub."""
        if weights is not None:
            raise ValueError(f"weights {str(weights)!r}: transformers:{name} has its own")
        source = folder_of(name)
        try:
            config: Any = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
            named = (config.architectures or [""])[0]
            _check_class(named, config.model_type, f"transformers:{name}")
            return _from_pretrained(getattr(transformers, named), source)
        except Exception as error:  # many kinds
            raise ValueError(
                f"name 'transformers:{name}' cannot be loaded: {files.reason(error, 500)}"
            ) from error

    @contextmanager
    def recording(self) -> Iterator[None]:
        """The fused attention of each block, whatever was chosen, and of SigLIP's pool."""
        parts = [part for block in self.block_modules() for part in block.modules()]
        holders = [vars(part) for part in parts if vars(part).get("config") is not None]
        before = [holder["config"] for holder in holders]
        fused = {id(config): copy.copy(config) for config in before}  # other models share them
        for config in fused.values():
            config._attn_implementation = "sdpa"
        pool = self.pool_module()
        try:
            for holder, config in zip(holders, before, strict=True):
                holder["config"] = fused[id(config)]
            with multihead_through_sdpa([] if pool is None else [pool]):
                yield
        finally:
            for holder, config in zip(holders, before, strict=True):
                holder["config"] = config

    def block_modules(self) -> list[nn.Module]:
        """The modules of the tower's list of layers."""
        _check_class(_class_name(self.model), self.config.model_type, self.what)
        layers = (
            module
            for name, module in self.tower.named_modules()
            if isinstance(module, nn.ModuleList) and name.split(".")[-1] in ("layer", "layers")
        )
        blocks = list(next(layers))
        if not blocks:
            raise ValueError(f"{self.what} has no transformer blocks to record")
        return blocks

    def pool_module(self) -> nn.Module | None:
        """SigLIP's head, where it is what is read."""
        return None if self._classifies else getattr(self.tower, "head", None)

    def grid(self, x: Tensor) -> TokenGrid:
        """The family's prefix and registers, and patches of `patch_size`."""
        self.block_modules()
        prefix = _FAMILIES[self.config.model_type][0]
        sizes = zip(x.shape[-2:], _pair(self.config.patch_size), strict=True)
        return TokenGrid(
            prefix + (getattr(self.config, "num_register_tokens", None) or 0),
            *(length // patch for length, patch in sizes),
        )

    @property
    def class_token(self) -> bool:
        """All families but SigLIP have one."""
        return bool(_FAMILIES.get(self.config.model_type, (0,))[0])

    def reads(self, grid: TokenGrid) -> Tensor | None:
        """What the class says above, as weights `[T]`."""
        if self.pool_module() is not None:
            return None
        family = self.config.model_type.split("_")[0]
        pooler = getattr(self.tower, "pooler", None)
        patches = family in ("clip", "siglip", "siglip2", "dinov2") and self._classifies
        patches |= family == "beit" and pooler is not None and self.config.use_mean_pooling
        weights = torch.zeros(grid.tokens, dtype=torch.float64)
        if patches:
            weights[grid.prefix :] = 1 / (grid.rows * grid.cols)
        elif family.startswith("siglip"):
            raise ValueError(f"{self.what} has no head that reads its tokens")
        if not patches or family == "dinov2":
            weights[: 2 if hasattr(self.model, "distillation_classifier") else 1] = 1
        return weights / weights.sum()

    def pool_row(self, pool: Tensor, grid: TokenGrid) -> Tensor:
        """The probe's row."""
        return pool[:, 0]  # [B, 1, T] -> [B, T]

    def logits(self, x: Tensor) -> Tensor:
        """Logits, or a tower's features."""
        height, width = _pair(self.config.patch_size)
        if x.shape[2] < height or x.shape[3] < width:
            raise ValueError(f"x of shape {tuple(x.shape)} is smaller than a patch")
        inputs: dict[str, Any] = {"pixel_values": x}
        takes = inspect.signature(self.tower.forward).parameters
        if "spatial_shapes" in takes:
            inputs = _as_patches(x, self.config.patch_size)
        elif "interpolate_pos_encoding" in takes and x.shape[-2:] != _pair(self.config.image_size):
            inputs["interpolate_pos_encoding"] = True
        run = self.model.get_image_features if hasattr(self.model, "text_model") else self.model
        out = run(**inputs, return_dict=True)
        given = (getattr(out, name, None) for name in ("logits", "image_embeds", "pooler_output"))
        found = out if isinstance(out, Tensor) else next((v for v in given if v is not None), None)
        return out.last_hidden_state[:, 0] if found is None else found

    @property
    def _classifies(self) -> bool:
        return _class_name(self.model).endswith(_CLASSIFIERS)

    @property
    def classes(self) -> int | None:
        """As many as the classifier has outputs, also where it was replaced; 0 for a tower."""
        if not self._classifies:
            return 0
        head = getattr(self.model, "classifier", getattr(self.model, "cls_classifier", None))
        return getattr(head, "out_features", self.model.config.num_labels)

    @property
    def multi_label(self) -> bool:
        """By the configuration's `problem_type`."""
        return self.model.config.problem_type == "multi_label_classification"

    def class_names(self) -> list[str] | None:
        """The configuration's `id2label`."""
        names = {int(index): name for index, name in self.model.config.id2label.items()}
        return [str(names.get(index) or f"class {index}") for index in range(self.classes or 0)]

    @property
    def regresses(self) -> bool:
        """By the configuration's `problem_type`, or because there is one output alone."""
        said = self.model.config.problem_type == "regression"
        return super().regresses or (self._classifies and said)

    def _processor(self) -> Any:
        """The model's image processor, from where the model came from; its family's in memory."""
        source = self.model.config._name_or_path or self.config._name_or_path
        if source:
            try:
                return transformers.AutoImageProcessor.from_pretrained(folder_of(source))
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"{self.what}: {source!r} has no image processor; save yours there with "
                    "processor.save_pretrained, or give explain the pixel_values that it makes"
                ) from error
        made: Any = getattr(transformers, _FAMILIES[self.config.model_type][1])
        if "Siglip2" in made.__name__:
            return made(patch_size=self.config.patch_size, max_num_patches=self.config.num_patches)
        height, width = _pair(self.config.image_size)
        return made(size={"height": height, "width": width}, do_center_crop=False)

    def to_input(self, image: Image.Image, crop: bool) -> Tensor:
        """By the model's own image processor; squashed, if not cropped, before it."""
        self.block_modules()
        processor = self._processor()
        options: dict[str, Any] = {}
        if not crop:
            height, width = self._size(processor)
            image = image.resize((width, height), Image.Resampling(int(processor.resample)))
            options = {"do_resize": False}
            if getattr(processor, "do_pad", None):
                options["do_pad"] = False
        made = processor(images=image, return_tensors="pt", **options)
        x: Tensor = made["pixel_values"]
        if "spatial_shapes" in made:
            x = _as_image(x, made["spatial_shapes"][0].tolist(), processor.patch_size)
        return x

    def _size(self, processor: Any) -> tuple[int, int]:
        """Height and width of what a processor gives."""
        if hasattr(processor, "max_num_patches"):
            side = math.isqrt(processor.max_num_patches) * processor.patch_size
            return side, side
        crops = getattr(processor, "do_center_crop", False)
        size = processor.crop_size if crops else processor.size
        if "height" not in size:
            return _pair(self.config.image_size)
        return size["height"], size["width"]

    def crop_box(self, size: tuple[int, int]) -> Box:
        """The inverse of the processor's resize and centre crop."""
        processor = self._processor()
        width, height = size
        if getattr(processor, "crop_pct", None) or getattr(processor, "do_pad", None):
            raise ValueError(
                f"{self.what}: where its {type(processor).__name__} crops or pads is not known"
            )
        if not getattr(processor, "do_center_crop", False):
            return 0.0, 0.0, float(width), float(height)
        scaled, cut = processor.size, processor.crop_size
        if not processor.do_resize:
            scale = 1.0, 1.0
        elif "shortest_edge" in scaled:
            scale = (scaled["shortest_edge"] / min(size),) * 2
        else:
            scale = scaled["width"] / width, scaled["height"] / height
        if cut["width"] > round(width * scale[0]) or cut["height"] > round(height * scale[1]):
            raise ValueError(f"{self.what}: its {type(processor).__name__} pads what it crops")
        return centre_box(size, scale, (cut["width"], cut["height"]))

    def stages(self) -> list[tuple[str, list[nn.Module]]]:
        """Head, blocks, embedding: parts lie in the order of the data's path."""
        blocks = self.block_modules()
        children = list(self.tower.children())
        holder = next(i for i, child in enumerate(children) if blocks[0] in child.modules())
        outside = list(self.model.children()) if self.tower is not self.model else []
        after = outside[outside.index(self.tower) + 1 :] if outside else []
        return self._stages(children[:holder], [*children[holder + 1 :], *after])


def _class_name(model: nn.Module) -> str:
    """The class of transformers that a model is of, itself or by inheritance."""
    origins = (part for part in type(model).__mro__ if part.__module__.startswith("transformers."))
    return next(origins).__name__


def _check_class(name: str, family: str, what: str) -> None:
    """Raise a ValueError unless this class of this family is a tower or a classifier on one."""
    if family == "timm_wrapper":
        raise ValueError(f"{what} holds a model of timm: give its timm_model")
    if family not in (*_FAMILIES, "clip", "siglip", "siglip2"):
        raise ValueError(
            f"{what} is of type {family!r}; of transformers these have global self-attention over "
            f"all tokens that can be recorded: {', '.join(_FAMILIES)}"
        )
    if not name.endswith((*_CLASSIFIERS, *_TOWERS)) or name.endswith("PreTrainedModel"):
        raise ValueError(
            f"{what} is neither a tower (…Model) nor …ForImageClassification of transformers, but "
            f"{name or 'of no class: its config.json names no architectures'}"
        )


def folder_of(name: str) -> str:
    """A folder, or a repository's folder in the hub's cache, downloaded if need be and possible."""
    from huggingface_hub import snapshot_download

    if not name:
        raise FileNotFoundError("transformers: a folder or a name of the hub must follow")
    found = Path(name) if Path(name).is_dir() else files.in_folder(name, name.split("/")[-1])
    if found is not None:
        if (found / "adapter_config.json").is_file() and not (found / "config.json").is_file():
            raise ValueError(
                f"{str(found)!r} holds an adapter alone: load its base, and explain "
                "peft.PeftModel.from_pretrained(base, folder)"
            )
        return str(found)
    if name.count("/") > 1 or Path(name).is_absolute():
        raise FileNotFoundError(f"transformers:{name} is not a folder")
    wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
    for local in (True, False):
        if local or files.hub_reachable():
            try:
                return snapshot_download(name, allow_patterns=wanted, local_files_only=local)
            except Exception:  # not in the cache; no such repository, gated, or interrupted
                continue
    raise FileNotFoundError(
        f"no model transformers:{name}. Three ways to provide it: (1) the folder that "
        "save_pretrained wrote, 'transformers:FOLDER'; (2) put such a folder, named "
        f"{name.split('/')[-1]}, into a folder and set VITEXPLAIN_WEIGHTS to that; (3) be online "
        "once: it is downloaded from the hub into its cache"
    )


def _from_pretrained(made: Any, source: str) -> nn.Module:
    """The model with all its weights; a pooler that was never trained is left out."""
    options: dict[str, Any] = {"trust_remote_code": False, "output_loading_info": True}
    with _quiet():
        model, info = made.from_pretrained(source, **options)
        if any(key.startswith("pooler.") for key in info["missing_keys"]):
            model, info = made.from_pretrained(source, add_pooling_layer=False, **options)
    if info["missing_keys"]:
        raise ValueError(f"there are no weights for {', '.join(sorted(info['missing_keys']))}")
    lost = [key for key in info["unexpected_keys"] if re.search(r"\.layers?\.\d+\.", f".{key}")]
    if lost:
        raise ValueError(f"there is no place for {', '.join(sorted(lost)[:3])}, …")
    found: nn.Module = model
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar and its report on weights, which is read here."""
    logging = transformers.utils.logging
    bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    hub = are_progress_bars_disabled()  # transformers switches it as well
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
        if hub:
            disable_progress_bars()


def _pair(size: Any) -> tuple[int, int]:
    """Height and width of a size that may be one number."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _as_patches(x: Tensor, patch: int) -> dict[str, Tensor]:
    """A picture as SigLIP 2 takes it: a row of patches, each row by row and channels last."""
    batch, _, height, width = x.shape
    rows, cols = height // patch, width // patch
    if (height, width) != (rows * patch, cols * patch):
        raise ValueError(f"x of {height}×{width} pixels has no whole patches of {patch}×{patch}")
    patches = x.unflatten(3, (cols, patch)).unflatten(2, (rows, patch))  # [B, 3, r, p, c, p]
    return {
        "pixel_values": patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2),  # [B, r c, 3pp]
        "pixel_attention_mask": torch.ones(batch, rows * cols, dtype=torch.int32, device=x.device),
        "spatial_shapes": torch.tensor([[rows, cols]] * batch, device=x.device),
    }


def _as_image(patches: Tensor, shape: list[int], patch: int) -> Tensor:
    """The inverse of `_as_patches` without its padding, `[1, 3, H, W]`."""
    rows, cols = shape
    parts = patches[:, : rows * cols].unflatten(2, (patch, patch, -1)).unflatten(1, (rows, cols))
    return parts.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)  # [B, r, c, p, p, 3] -> image
