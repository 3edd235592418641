"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from reference import lively
from torch import Tensor, nn

from vitexplain_utils import load_model

collect_ignore = ["mutation"]  # a program, with packages of its own
torch.set_num_threads(1)  # models this small gain nothing by more


@pytest.fixture
def tiny() -> nn.Module:
    """A plain ViT with class token: 32×48 pixels, a 2×3 grid, two blocks, seven classes."""
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=(32, 48), depth=2, embed_dim=48, num_classes=7
    )
    return lively(model)


@pytest.fixture
def tiny_x() -> Tensor:
    return torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def garden() -> nn.Module:
    """The bundled model."""
    return load_model("garden")


@pytest.fixture(scope="session")
def deit_tiny() -> nn.Module:
    """The whole DeiT-Tiny with random weights and ten classes."""
    return timm.create_model("deit_tiny_patch16_224", num_classes=10).eval()


@pytest.fixture(scope="session")
def deit_checkpoint(deit_tiny: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights as a file."""
    path = tmp_path_factory.mktemp("weights") / "deit_tiny_patch16_224.pth"
    torch.save({"model": deit_tiny.state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def real_deit() -> nn.Module:
    """The trained DeiT-Tiny."""
    folder = os.environ.get("VITEXPLAIN_WEIGHTS")
    if not folder or not Path(folder, "deit_tiny_patch16_224.safetensors").is_file():
        pytest.skip("no deit_tiny_patch16_224.safetensors in a folder $VITEXPLAIN_WEIGHTS")
    return load_model("deit_tiny_patch16_224")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No folder of weights, an empty cache, and a hub at which nobody answers."""
    monkeypatch.delenv("VITEXPLAIN_WEIGHTS", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A small picture file."""
    path = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path
