"""Library: the one description of a model that everything else asks."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor, nn

from ..checks import check_module

Box = tuple[float, float, float, float]


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

    @classmethod
    def load(cls, name: str, weights: Path | None) -> nn.Module:
        """The model of this name, with weights from a file or wherever they are (`load_model`).

        Raises:
            ValueError: an unknown name, or weights that do not fit.
            FileNotFoundError: there are no weights.
        """
        raise ValueError(f"name {name!r}: models of {cls.name} cannot be loaded")

    def recording(self) -> AbstractContextManager[object]:
        """What else must hold while attention is recorded, such as a fused implementation."""
        return nullcontext()

    def block_modules(self) -> list[nn.Module]:
        """The transformer blocks, first block first, each with one self-attention to record."""
        raise ValueError(
            f"{self.what} comes from {self.name}: its classes were looked for in "
            f"{', '.join(LIBRARIES)}. Give the ViT inside it, with a callable target"
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
        """The model's output, `[B, C]`; a ValueError where the input does not fit the model."""
        try:
            logits: Any = self.model(x)
        except AssertionError as error:  # how timm and torchvision say that the size does not fit
            raise ValueError(
                f"x of shape {tuple(x.shape)} does not fit the model: {error}"
            ) from error
        except TypeError as error:
            raise ValueError(f"{self.what} cannot be called as model(x): {error}") from error
        if not isinstance(logits, Tensor):
            raise ValueError(
                f"{self.what} must return logits [B, C], not {type(logits).__name__}: give a "
                "module whose forward picks them"
            )
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

    @property
    def regresses(self) -> bool:
        """Whether the outputs are numbers (regression), not classes."""
        return self.classes == 1 and not self.multi_label

    def probabilities(self, logits: Tensor) -> Tensor:
        """What logits `[B, C]` say of each class: one sigmoid each, or a softmax over all."""
        return logits.sigmoid() if self.multi_label else logits.softmax(1)

    def class_names(self) -> list[str] | None:
        """The name of each class, if the model or its training set has any."""
        return None

    def to_input(self, image: Image.Image, crop: bool) -> Tensor:
        """An RGB picture as the model's input `[1, 3, H, W]`, whole or cropped (`preprocess`)."""
        raise ValueError(f"{self.what} does not say how a picture becomes its input")

    def crop_box(self, size: tuple[int, int]) -> Box:
        """The part of a picture of this width and height that a cropped input shows."""
        raise ValueError(f"{self.what} does not say how it crops a picture")

    def stages(self) -> list[tuple[str, list[nn.Module]]]:
        """What to randomise step by step, from the head down: names and their modules.

        What the model itself holds (class token, positions) goes with the last stage.
        """
        raise ValueError(f"{self.what} has no transformer blocks to randomise")

    def _stages(
        self, before: list[nn.Module], after: list[nn.Module]
    ) -> list[tuple[str, list[nn.Module]]]:
        """`stages`, from what comes before the blocks on the data's path and what comes after."""
        blocks = list(enumerate(self.block_modules()))
        middle = [(f"block {index}", [block]) for index, block in reversed(blocks)]
        return [("head", after), *middle, ("embedding", before)]


# The package that a model's class comes from, and the subclass of `Library`, in the module of the
# same name here, that describes it. It is imported only for a model of that package.
LIBRARIES = {"timm": "Timm", "transformers": "Transformers", "torchvision": "Torchvision"}


def library_of(model: nn.Module) -> Library:
    """The description of a model, or of what is inside a wrapper (see `unwrapped`).

    Example:
        >>> import timm
        >>> library_of(timm.create_model("vit_tiny_patch16_224", depth=1)).name
        'timm'
    """
    check_module(model)
    model = unwrapped(model)
    origins = _origins(model)
    known = next((name for name in LIBRARIES if name in origins), None)
    return Library(model) if known is None else known_library(known)(model)


def known_library(name: str) -> type[Library]:
    """The subclass of `Library` for the package of this name."""
    module = importlib.import_module(f".{name}", __package__)
    found: type[Library] = getattr(module, LIBRARIES[name])
    return found


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile`, `DataParallel` or a PEFT adapter.

    It computes the same, with the adapter, in this process and on its own device.

    Example:
        >>> inside = nn.Linear(1, 1)
        >>> unwrapped(nn.DataParallel(inside)) is inside
        True
    """
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif type(model).__name__ == "OptimizedModule":  # of torch.compile
            model = model.get_submodule("_orig_mod")
        elif "peft" in _origins(model):  # a PeftModel, or the tuner inside one
            ask: Any = getattr(model, "get_base_model", lambda tuner=model: tuner.model)
            model = ask()
        else:
            return model


def _origins(model: nn.Module) -> set[str]:
    """The packages that a model's class and its parents come from."""
    return {part.__module__.split(".")[0] for part in type(model).__mro__}


def centre_box(size: tuple[int, int], scale: tuple[float, float], crop: tuple[int, int]) -> Box:
    """The part of a picture that is left when it is scaled and its centre is cropped.

    Args:
        size: the picture's width and height.
        scale: by what its width and its height are multiplied.
        crop: width and height of what is cut out then.

    Example:
        >>> centre_box((400, 200), (0.5, 0.5), (100, 100))
        (100.0, 0.0, 300.0, 200.0)
    """
    (left, right), (upper, lower) = (
        (max(n / 2 - cut / by / 2, 0.0), min(n / 2 + cut / by / 2, float(n)))
        for n, by, cut in zip(size, scale, crop, strict=True)
    )
    return left, upper, right, lower


@contextmanager
def multihead_through_sdpa(modules: list[nn.Module]) -> Iterator[None]:
    """Let each `nn.MultiheadAttention` in `modules` call `scaled_dot_product_attention`.

    It does not where it takes its fast path (all three inputs one tensor, no gradient), nor where
    its weights are asked for.
    """

    def ask(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        query, key, *rest = args
        return (query, key.view_as(key), *rest), {**kwargs, "need_weights": False}

    with ExitStack() as undo:
        for module in modules:
            for part in module.modules():
                if isinstance(part, nn.MultiheadAttention):
                    handle = part.register_forward_pre_hook(ask, with_kwargs=True)
                    undo.callback(handle.remove)
        yield
