"""Sanity: does a map depend on the model at all, and on the class?"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..checks import check_finite, check_numbers
from ..models.library import library_of


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation of two maps: 1 for the same order of patches, −1 for the reverse.

    Pearson's correlation of the ranks; equal values share the mean of their ranks (Spearman 1904).

    Args:
        first: `[B, rows, cols]`.
        second: of the same shape.

    Returns:
        `[B]`, float64, in [−1, 1]; 0 where a map is constant, since it orders nothing.

    Raises:
        ValueError: other shapes, or values that are not finite.

    Example:
        >>> first = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
        >>> rank_correlation(first, first**3), rank_correlation(first, -first)
        (tensor([1.0000], dtype=torch.float64), tensor([-1.0000], dtype=torch.float64))
    """
    for name, heatmap in (("first", first), ("second", second)):
        check_numbers(name, heatmap, 3, "[B, rows, cols]", whole=True)
        check_finite(name, heatmap)
    if first.shape != second.shape:
        raise ValueError(
            "first and second must be [B, rows, cols] of one shape, got "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
    ranks = torch.stack([_ranks(first), _ranks(second)])
    ranks = ranks - ranks.mean(-1, keepdim=True)
    lengths = ranks.norm(dim=-1).prod(0)
    return (ranks.prod(0).sum(-1) / lengths.where(lengths > 0, 1)).clamp(-1, 1)


def randomised_models(model: nn.Module, *, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Cascading randomisation (Adebayo et al. 2018, arXiv:1810.03292), from the head down.

    First the head loses what it has learnt, then the last block as well, and so on down to the
    embedding. A map of the model should lose its likeness to the original on the way; one that
    does not at all shows the picture. How much it must lose is contested: weights forgotten from
    the head down leave much of what early layers compute, and noise passes (Binder et al. 2023,
    arXiv:2211.12486; Hedström et al. 2024, arXiv:2401.06465). So it refutes, and ranks nothing.

    Layers are initialised anew by their own `reset_parameters`: as PyTorch does, not as timm or
    transformers initialise a ViT (truncated normal weights, zero biases). Parameters that belong
    to no such layer (class token, positions, layer scale) are shuffled.

    Args:
        model: a ViT; it is copied and stays as it is.
        seed: of the new weights.

    Yields:
        The name of what was randomised last (`"head"`, `"block 5"`, …, `"block 0"`,
        `"embedding"`), and the model so far: one copy, which changes with the next step.

    Raises:
        ValueError: the model has no transformer blocks.

    Example:
        >>> from vitexplain_utils import load_model
        >>> names = [name for name, model in randomised_models(load_model("garden"))]
        >>> names[0], names[1], names[-1], len(names)
        ('head', 'block 5', 'embedding', 8)
    """
    library = library_of(model)
    library.stages()  # refuses before anything is copied
    model = copy.deepcopy(library.model)
    stages = library_of(model).stages()
    for step, (name, modules) in enumerate(stages):
        _randomise(modules, model if step == len(stages) - 1 else None, seed + step)
        yield name, model


@torch.no_grad()
def _randomise(modules: list[nn.Module], owner: nn.Module | None, seed: int) -> None:
    """Forget what `modules` have learnt, and what `owner` itself holds."""
    parameter = next((p for module in modules for p in module.parameters()), torch.empty(0))
    devices = [parameter.device] if parameter.is_cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        inside = [part for module in modules for part in module.modules()]
        for part in inside if owner is None else [*inside, owner]:
            reset = getattr(part, "reset_parameters", None)
            if part is not owner and callable(reset):
                reset()
                continue
            for loose in part.parameters(recurse=False):
                shuffled = loose.flatten()[torch.randperm(loose.numel(), device=loose.device)]
                loose.copy_(shuffled.view_as(loose))


def _ranks(heatmap: Tensor) -> Tensor:
    """Mean ranks `[B, rows*cols]` in float64, from 1."""
    values = heatmap.detach().flatten(1).contiguous()
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, values)
    upto = torch.searchsorted(ordered, values, right=True)
    return (below + upto + 1).double() / 2
