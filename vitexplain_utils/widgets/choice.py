"""The explorer's choice: what its controls say, and the heat map that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..explain import Captured, heatmap_of
from ..mistakes import MISTAKES, mistaken_gradient_rollout

_SETTINGS = {  # flow is left out: it takes seconds, not milliseconds
    "gradient_rollout": {"head_fusion", "discard_ratio", "blocks", "mistakes"},
    "relevance": {"blocks"},
    "rollout": {"head_fusion", "discard_ratio", "blocks"},
    "last_attention": {"head_fusion", "blocks"},
}
EXPLORED = tuple(_SETTINGS)


@dataclass(frozen=True)
class Choice:
    """What the controls say; with a model and a picture it is one heat map.

    Attributes:
        method: as in `explain`, except `"flow"`.
        head_fusion: as in `explain`.
        discard_ratio: as in `explain`.
        blocks: first and last block, both included; None is all of them. A map starts at the
            tokens that the head of the model reads; blocks above the range count as if they
            passed every token on unchanged. `last_attention` is that of the range's last block.
        target: the class asked about; None is the predicted one.
        mistakes: gradient rollout with vit-explain's three mistakes.
        colormap: as in `overlay`.
        opacity: as in `overlay`.
    """

    method: str = "gradient_rollout"
    head_fusion: str = "mean"
    discard_ratio: float = 0.0
    blocks: tuple[int, int] | None = None
    target: int | None = None
    mistakes: bool = False
    colormap: str = "plasma"
    opacity: float = 0.8


def settings_of(method: str, mistakes: bool = False) -> set[str]:
    """The settings that a method has; what else a `Choice` says has no effect on it.

    Example:
        >>> sorted(settings_of("relevance")), sorted(settings_of("gradient_rollout", True))
        (['blocks'], ['discard_ratio', 'mistakes'])
    """
    own = _SETTINGS[method]
    # vit-explain's rule has only the mean of the heads, and always all blocks.
    return own - {"head_fusion", "blocks"} if mistakes and "mistakes" in own else set(own)


def heatmap_for(captured: Captured, choice: Choice) -> Tensor:
    """The heat map `[B, rows, cols]` of a choice; settings that its method lacks are ignored.

    Raises:
        ValueError: as `explain`, or a range of blocks outside the model's.

    Example:
        >>> import timm, torch
        >>> from vitexplain_utils.explain import capture_attention
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=(32, 64), depth=4).eval()
        >>> captured = capture_attention(model, torch.zeros(1, 3, 32, 64), target=7)
        >>> heatmap_for(captured, Choice("rollout", blocks=(1, 2))).shape
        torch.Size([1, 2, 4])
    """
    own = settings_of(choice.method, choice.mistakes)
    ratio = choice.discard_ratio if "discard_ratio" in own else 0.0
    if choice.mistakes and "mistakes" in own:
        if captured.gradient is None:
            raise ValueError("the mistakes need a capture made with gradient=True")
        row = mistaken_gradient_rollout(
            captured.attention, captured.gradient, MISTAKES, discard_ratio=ratio
        )
        return captured.grid.to_grid(row)
    if choice.blocks is not None and "blocks" in own:
        captured = _in_range(captured, *choice.blocks)
    fusion = choice.head_fusion if "head_fusion" in own else "mean"
    return heatmap_of(captured, method=choice.method, head_fusion=fusion, discard_ratio=ratio)


def _in_range(captured: Captured, first: int, last: int) -> Captured:
    count = len(captured.attention)
    if not 0 <= first <= last < count:
        raise ValueError(f"blocks must be first <= last in 0 to {count - 1}, got {first}, {last}")
    part = slice(first, last + 1)
    gradient = None if captured.gradient is None else captured.gradient[part]
    return replace(captured, attention=captured.attention[part], gradient=gradient)
