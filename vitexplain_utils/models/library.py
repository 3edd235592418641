"""Library: the one description of a model that everything else asks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor, nn


@dataclass(frozen=True)
class TokenGrid:
    """`prefix` tokens (class, distillation, registers), then `rows × cols` patches."""

    prefix: int
    rows: int
    cols: int

    @property
    def tokens(self) -> int:
        """`T`, the number of all tokens."""
        return self.prefix + self.rows * self.cols

    def to_grid(self, row: Tensor) -> Tensor:
        """The patch tokens of `[..., T]` on their grid, `[..., rows, cols]`."""
        return row[..., self.prefix :].unflatten(-1, (self.rows, self.cols))


class Library:
    """What must be known of a model, answered once; one subclass for each library of models.

    This class itself stands for a model of no known library: it gives logits, so its output can be
    perturbed and measured, and cannot be explained.

    Args:
        model: any module.
    """

    name: ClassVar[str] = "no known library"
    # Attributes of modules that are set to these values while attention is recorded.
    flags: ClassVar[dict[str, Any]] = {}

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.what = f"model {type(model).__name__}"

    def recording(self) -> AbstractContextManager[object]:
        """What else must hold while attention is recorded, such as a fused implementation."""
        return nullcontext()

    def block_modules(self) -> list[nn.Module]:
        """The transformer blocks, first block first, each with one self-attention to record."""
        known = ", ".join(library for library, _ in LIBRARIES)
        raise ValueError(
            f"{self.what} comes from {self.name}: its classes were looked for in {known}"
        )

    def pool_module(self) -> nn.Module | None:
        """The attention pool after the blocks, if the head reads the tokens through one."""
        return None

    def grid(self, x: Tensor) -> TokenGrid:
        """The layout of the tokens for an input `[B, 3, H, W]`."""
        raise ValueError(f"{self.what} does not say how its tokens lie on a patch grid")

    @property
    def class_token(self) -> bool:
        """Whether token 0 is a class token."""
        return False

    def reads(self, grid: TokenGrid) -> Tensor | None:
        """The row a map starts from: with which weights `[T]` the head reads the last tokens.

        None where an attention pool reads them: its attention says how.
        """
        raise ValueError(f"{self.what} does not say which tokens its head reads")

    def pool_row(self, pool: Tensor, grid: TokenGrid) -> Tensor:
        """What the head reads of the tokens, `[B, T]`, by its pool's fused matrix `[B, Q, K]`."""
        raise ValueError(f"{self.what} has no attention pool")

    def logits(self, x: Tensor) -> Tensor:
        """The model's output, `[B, C]`."""
        logits: Tensor = self.model(x)
        return logits

    @property
    def classes(self) -> int | None:
        """The number of classes; 0 for a model without a classifier, None if it does not say."""
        return getattr(self.model, "num_classes", None)

    @property
    def multi_label(self) -> bool:
        """Whether each class has a probability of its own (a sigmoid), not a share (a softmax)."""
        configuration = getattr(self.model, "pretrained_cfg", None) or {}
        return bool(configuration.get("multi_label", False))

    def class_names(self) -> list[str] | None:
        """The name of each class, if the model or its training set has any."""
        return None

    def to_input(self, image: Image.Image, crop: bool) -> Tensor:
        """An RGB picture as the model's input `[1, 3, H, W]`, whole or cropped (`preprocess`)."""
        raise ValueError(f"{self.what} does not say how a picture becomes its input")

    def crop_box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The part of a picture of this width and height that a cropped input shows."""
        raise ValueError(f"{self.what} does not say how it crops a picture")

    def stages(self) -> list[tuple[str, list[nn.Module]]]:
        """What to randomise step by step, from the head down: names and their modules.

        What the model itself holds (class token, positions) goes with the last stage.
        """
        raise ValueError(f"{self.what} has no transformer blocks to randomise")


def _timm(model: nn.Module) -> Library:
    from .timm import Timm

    return Timm(model)


# The name of a Python package, and how a model whose class comes from there is described. What
# imports a library is called only for a model that has imported it already.
LIBRARIES = [("timm", _timm)]


def library_of(model: nn.Module) -> Library:
    """The description of a model.

    Example:
        >>> import timm
        >>> library_of(timm.create_model("vit_tiny_patch16_224", depth=1)).name
        'timm'
    """
    origins = {part.__module__.split(".")[0] for part in type(model).__mro__}
    for package, describe in LIBRARIES:
        if package in origins:
            return describe(model)
    return Library(model)
