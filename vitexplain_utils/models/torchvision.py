"""torchvision: what its Vision Transformers say of themselves."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import InterpolationMode, functional

from . import weights as files
from .library import Box, Library, TokenGrid, centre_box, multihead_through_sdpa


class Torchvision(Library):
    """A `VisionTransformer` of torchvision, `vit_b_16` to `vit_h_14`.

    Such a model does not say how its pictures were prepared. Here that is ImageNet's mean and
    standard deviation, and the resizing of torchvision's weights of the model's size: bilinear, to
    256 for 224 pixels; bicubic, to the size itself, for larger ones.
    """

    name = "torchvision"
    model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        if not isinstance(model, models.VisionTransformer):
            self.what += " of torchvision"

    @classmethod
    def load(cls, name: str, weights: Path | None) -> nn.Module:
        """By torchvision's own builder, with settings that follow the checkpoint."""
        known = models.list_models(include="vit_*")
        if name not in known:
            raise ValueError(
                f"name 'torchvision:{name}' is not a ViT of torchvision: {', '.join(known)}"
            )
        path = weights or _find_weights(name)
        state = files.read(path, name)
        try:
            model: nn.Module = models.get_model(name, weights=None, **_settings(state, name))
            model.load_state_dict(state)
        except Exception as error:  # many kinds
            raise ValueError(files.does_not_fit(path, name, error)) from error
        return model

    def recording(self) -> AbstractContextManager[object]:
        """Each block's `nn.MultiheadAttention` without its fast path."""
        return multihead_through_sdpa(self.block_modules())

    def block_modules(self) -> list[nn.Module]:
        """The modules of `model.encoder.layers`."""
        if not isinstance(self.model, models.VisionTransformer):
            raise ValueError(
                f"{self.what} has no global self-attention over all tokens: of torchvision only "
                "VisionTransformer (vit_b_16 to vit_h_14) has"
            )
        return list(self.model.encoder.layers)

    def grid(self, x: Tensor) -> TokenGrid:
        """A class token, and patches of `patch_size`."""
        return TokenGrid(1, *(length // self.model.patch_size for length in x.shape[-2:]))

    @property
    def class_token(self) -> bool:
        """Always."""
        return True

    def reads(self, grid: TokenGrid) -> Tensor:
        """The class token."""
        weights = torch.zeros(grid.tokens, dtype=torch.float64)
        weights[0] = 1
        return weights

    @property
    def classes(self) -> int | None:
        """As many as the last linear layer of the head has outputs."""
        head = getattr(self.model, "heads", None)
        if head is None:
            return super().classes
        sizes = [part.out_features for part in head.modules() if isinstance(part, nn.Linear)]
        return sizes[-1] if sizes else 0

    def class_names(self) -> list[str] | None:
        """ImageNet's, for a head of a thousand."""
        names = models.ViT_B_16_Weights.DEFAULT.meta["categories"]
        return list(names) if self.classes == len(names) else None

    def _scaling(self) -> tuple[int, int, InterpolationMode]:
        """Input size, the size that is cropped to it, and the interpolation."""
        self.block_modules()
        size = self.model.image_size
        large = size > 224
        mode = InterpolationMode.BICUBIC if large else InterpolationMode.BILINEAR
        return size, size if large else round(size * 256 / 224), mode

    def to_input(self, image: Image.Image, crop: bool) -> Tensor:
        """As torchvision's own preset, or with the whole picture squashed."""
        size, resized, mode = self._scaling()
        image = functional.resize(image, [resized] if crop else [size, size], mode, antialias=True)
        x = functional.to_tensor(functional.center_crop(image, [size, size]))
        return functional.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])[None]

    def crop_box(self, size: tuple[int, int]) -> Box:
        """The centre of the picture, its shorter side scaled."""
        cut, resized, _ = self._scaling()
        scale = resized / min(size)
        return centre_box(size, (scale, scale), (cut, cut))

    def stages(self) -> list[tuple[str, list[nn.Module]]]:
        """Head, blocks, embedding; the positions lie in the encoder, which goes with the last."""
        self.block_modules()
        encoder = self.model.encoder
        return self._stages([self.model.conv_proj, encoder], [encoder.ln, self.model.heads])


def _settings(state: dict[str, Tensor], name: str) -> dict[str, int]:
    """The number of classes and the picture's size that a checkpoint was made for."""
    heads = [key for key in state if re.fullmatch(r"heads\..*weight", key)]
    if "encoder.pos_embedding" not in state or not heads:
        raise ValueError("it has no encoder.pos_embedding or no heads")
    patches = state["encoder.pos_embedding"].shape[1] - 1
    patch = int(name.rsplit("_", 1)[1])
    return {"num_classes": len(state[heads[-1]]), "image_size": round(patches**0.5) * patch}


def _find_weights(name: str) -> Path:
    url = models.get_model_weights(name).DEFAULT.url
    found = files.in_folder(f"{name}.safetensors", f"{name}.pth", Path(url).name)
    if found is None:
        cached = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
        if not cached.is_file() and files.reachable(url):
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(cached), hash_prefix=cached.stem[-8:])
        found = cached if cached.is_file() else None
    if found is None:
        raise FileNotFoundError(
            f"no weights for torchvision:{name}. Three ways to provide them: (1) load_model("
            f"'torchvision:{name}', weights='FILE.pth' or '.safetensors'); (2) put {name}.pth into "
            "a folder and set VITEXPLAIN_WEIGHTS to it; (3) be online once: torch downloads "
            f"{Path(url).name} into its cache"
        )
    return found
