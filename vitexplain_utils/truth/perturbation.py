"""Perturbation: replace patches in the order of a map, and see what the model says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checks import check_count, check_finite, check_numbers
from ..models.inputs import check_input
from ..models.library import library_of
from ..models.targets import choose_target
from ..models.twin import eval_twin
from ..recording import at_least_float32

FILLS = ("blur", "light blur", "mean")


@dataclass(frozen=True)
class Curves:
    """What the model says of the target while patches go and come.

    Attributes:
        fraction: `[S+1]`, the share of patches that were changed, from 0 to 1.
        deletion: `[B, S+1]`, the target's probability while the map's highest patches are replaced.
        insertion: `[B, S+1]`, the same while they are put into a picture where all are replaced.
    """

    fraction: Tensor
    deletion: Tensor
    insertion: Tensor

    @property
    def deletion_auc(self) -> Tensor:
        """Area under each deletion curve, `[B]`; the lower, the better the map."""
        return torch.trapezoid(self.deletion, self.fraction)

    @property
    def insertion_auc(self) -> Tensor:
        """Area under each insertion curve, `[B]`; the higher, the better the map."""
        return torch.trapezoid(self.insertion, self.fraction)


@torch.no_grad()
def deletion_insertion(
    model: nn.Module,
    x: Tensor,
    heatmap: Tensor,
    target: int | Sequence[int] | Tensor,
    *,
    fill: str = "blur",
    steps: int = 16,
    batch_size: int = 64,
) -> Curves:
    """Deletion and insertion curves (Petsiuk et al. 2018, arXiv:1806.07421), patch by patch.

    They need no known answer. That paper's RISE deletes to zero and inserts into a blurred picture;
    here both have the same `fill`, by default the blur. Whole patches are replaced, because a ViT
    reads whole patches. Of
    equal values the earlier patches, row by row, come first. Insertion, read backwards, is deletion
    of the map's lowest patches first (least relevant first; Samek et al. 2017, arXiv:1509.06321):
    the area is the same, so it takes no third curve.

    Args:
        model: a classifier; it answers as in eval mode.
        x: its input `[B, 3, H, W]`.
        heatmap: `[B, rows, cols]`, of any sign; its grid must divide `H` and `W`.
        target: a class index, or one per image.
        fill: what replaces a patch, `"blur"`, `"light blur"` or `"mean"` (see `without_detail`).
        steps: points on a curve after the first; at most one per patch.
        batch_size: pictures in one forward pass.

    Returns:
        The `Curves`, in float64, on the CPU.

    Raises:
        ValueError: an unknown fill, shapes or devices that do not fit, numbers that are not finite,
            a target that is no class, or steps or a batch size below 1.

    Example:
        >>> from vitexplain_utils import hero_scene, load_model, preprocess
        >>> model = load_model("garden")
        >>> x = preprocess(model, hero_scene(7).image)
        >>> deletion_insertion(model, x, torch.rand(1, 12, 12), 0, steps=4).deletion.shape
        torch.Size([1, 5])
    """
    check_numbers("heatmap", heatmap, 3, "[B, rows, cols]", whole=True)
    grid = (heatmap.shape[1], heatmap.shape[2])
    _check(model, x, grid, batch_size)
    if len(heatmap) != len(x):
        raise ValueError(f"heatmap must have one map per image of {len(x)}, got {len(heatmap)}")
    if heatmap.device != x.device:
        raise ValueError(f"heatmap is on {heatmap.device}, x on {x.device}: move one of them")
    check_finite("heatmap", heatmap)
    check_count("steps", steps)
    model = eval_twin(model)
    index, filled = _indices(model, x, target), without_detail(x, fill)
    patches = grid[0] * grid[1]
    points = torch.linspace(0, patches, min(steps, patches) + 1).round().long()
    order = heatmap.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)  # 0 for the map's highest patch
    first = rank[:, None] < points.to(rank.device)[:, None]  # [B, S+1, patches]
    # deletion, then insertion, which begins where that ends and ends where it begins
    chosen = torch.cat([first, ~first[:, 1:-1]], 1).view(-1, *grid)
    image = torch.arange(len(x)).repeat_interleave(2 * len(points) - 2)
    parts = []
    for which, places in zip(image.split(batch_size), chosen.split(batch_size), strict=True):
        mixed = replace_patches(x[which], filled[which], places)
        parts.append(_probability(model, mixed, index[which]))
    probability = torch.cat(parts).cpu().view(len(x), -1)
    deletion, between = probability.tensor_split([len(points)], dim=1)
    insertion = torch.cat([deletion[:, -1:], between, deletion[:, :1]], 1)
    return Curves(points.double() / patches, deletion, insertion)


@torch.no_grad()
def occlusion(
    model: nn.Module,
    x: Tensor,
    target: int | Sequence[int] | Tensor,
    *,
    grid: tuple[int, int],
    fill: str = "blur",
    batch_size: int = 64,
) -> Tensor:
    """How far the target's logit falls when one patch alone is replaced (Zeiler & Fergus 2014).

    `y(x) − y(x with patch p replaced)`, arXiv:1311.2901. The true effect of each single patch, at
    the price of one forward pass per patch; it says nothing of patches together.

    Args:
        model: a classifier; it answers as in eval mode.
        x: its input, `[B, 3, H, W]`.
        target: a class index, or one per image.
        grid: rows and columns of patches.
        fill: as in `deletion_insertion`.
        batch_size: pictures in one forward pass.

    Returns:
        `[B, rows, cols]`, float32 or float64; negative where the patch spoke against the target.

    Raises:
        ValueError: as `deletion_insertion`.

    Example:
        >>> from vitexplain_utils import hero_scene, load_model, preprocess
        >>> model = load_model("garden")
        >>> occlusion(model, preprocess(model, hero_scene(7).image), 0, grid=(12, 12)).shape
        torch.Size([1, 12, 12])
    """
    _check(model, x, grid, batch_size)
    model = eval_twin(model)
    index, filled = _indices(model, x, target), without_detail(x, fill)
    patches = grid[0] * grid[1]
    single = torch.eye(patches, dtype=torch.bool, device=x.device).view(patches, *grid)
    effects = []
    for one, blank, which in zip(x[:, None], filled[:, None], index, strict=True):
        before = _logits(model, one)[0, which]
        for places in single.split(batch_size):
            effects.append(before - _logits(model, replace_patches(one, blank, places))[:, which])
    return torch.cat(effects).view(-1, *grid)


def replace_patches(x: Tensor, filled: Tensor, chosen: Tensor) -> Tensor:
    """`x` with the chosen patches of `[B, rows, cols]` (bool) taken from `filled`.

    Example:
        >>> chosen = torch.tensor([[[True, False]]])
        >>> replace_patches(torch.ones(1, 1, 1, 4), torch.zeros(1, 1, 1, 4), chosen)
        tensor([[[[0., 0., 1., 1.]]]])
    """
    down, across = x.shape[2] // chosen.shape[1], x.shape[3] // chosen.shape[2]
    pixels = chosen.repeat_interleave(down, 1).repeat_interleave(across, 2)[:, None]
    return torch.where(pixels, filled, x)


def without_detail(x: Tensor, fill: str) -> Tensor:
    """What patches are replaced by: each picture blurred, or its mean colour.

    The blur is Gaussian, with a standard deviation of an eighth of the picture's shorter side, so
    that a thing of some patches is gone, and its neighbours' light is not; the light one's is a
    sixteenth.

    Example:
        >>> without_detail(torch.arange(4.0).view(1, 1, 2, 2), "mean")
        tensor([[[[1.5000, 1.5000],
                  [1.5000, 1.5000]]]])
    """
    if fill not in FILLS:
        raise ValueError(f"fill must be one of {FILLS}, got {fill!r}")
    wide = at_least_float32(x)
    if fill == "mean":
        return wide.mean((2, 3), keepdim=True).to(x.dtype).expand_as(x)
    sigma = min(x.shape[2:]) / (8 if fill == "blur" else 16)
    reach = math.ceil(2.5 * sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=wide.dtype, device=x.device)
    weights = torch.exp(-((offsets / sigma) ** 2) / 2)
    weights = (weights / weights.sum()).expand(x.shape[1], 1, -1)
    padded = functional.pad(wide, (reach,) * 4, mode="replicate")
    across = functional.conv2d(padded, weights[:, :, None], groups=x.shape[1])
    return functional.conv2d(across, weights[..., None], groups=x.shape[1]).to(x.dtype)


def _probability(model: nn.Module, x: Tensor, index: Tensor) -> Tensor:
    """The probability of each picture's class: of a softmax or, with several labels, a sigmoid."""
    logits, library = _logits(model, x).double(), library_of(model)
    if library.regresses:
        raise ValueError(f"{library.what} gives numbers, so there is no probability to follow")
    return library.probabilities(logits).gather(1, index[:, None])[:, 0]


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    logits = library_of(model).logits(x)
    if not bool(logits.isfinite().all()):
        raise ValueError("the model's output is not finite: x or the weights overflow")
    return at_least_float32(logits)


def _indices(model: nn.Module, x: Tensor, target: int | Sequence[int] | Tensor) -> Tensor:
    """The class of each picture, `[B]`, checked against what the model gives."""
    if target is None or callable(target):
        raise ValueError(f"target must be a class index or one per image, got {target!r}")
    library = library_of(model)
    if library.classes == 0:
        raise ValueError(f"{library.what} has no classifier, so it has no target")
    logits = library.logits(x[:1])
    index = choose_target(library, logits.expand(len(x), *logits.shape[1:]), target, needed=False)
    assert isinstance(index, Tensor)  # as for every class of a classifier
    return index


def _check(model: nn.Module, x: Tensor, grid: tuple[int, int], batch_size: int) -> None:
    check_input(model, x)
    check_count("batch_size", batch_size)
    pair = isinstance(grid, Sequence) and len(grid) == 2
    if not pair or not all(
        isinstance(n, int) and n > 0 and not size % n
        for n, size in zip(grid, x.shape[2:], strict=True)
    ):
        raise ValueError(
            "grid must be rows and columns that divide the height and width of x, "
            f"{x.shape[2]} and {x.shape[3]}; got {grid!r}"
        )
