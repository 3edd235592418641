"""The explorer's choice: what its controls say, and the heat map that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..capture import Capture
from ..methods import METHODS, Method

_SETTINGS = ("head_fusion", "discard_ratio", "blocks")  # those that have a control


def explored() -> list[str]:
    """The methods that the explorer shows: not those that take seconds."""
    return [name for name, method in METHODS.items() if method.offered and not method.slow]


@dataclass(frozen=True)
class Choice:
    """What the controls say; with a model and a picture it is one heat map.

    Attributes:
        method: as in `explain`, except slow ones.
        head_fusion: as in `explain`.
        discard_ratio: as in `explain`.
        blocks: as in `explain`; `last_attention` is that of the range's last block.
        target: the class asked about; None is the predicted one.
        mistakes: gradient rollout with vit-explain's three mistakes.
        colormap: as in `overlay`.
        opacity: as in `overlay`.
        box: left, top, right and bottom of the thing asked about, in percent of the picture, as a
            reader drew it; None where no box is drawn.
    """

    method: str = "gradient_rollout"
    head_fusion: str = "mean"
    discard_ratio: float = 0.0
    blocks: tuple[int, int] | None = None
    target: int | None = None
    mistakes: bool = False
    colormap: str = "plasma"
    opacity: float = 0.8
    box: tuple[int, int, int, int] | None = None

    @property
    def rule(self) -> Method:
        """The method with the settings that it has; what else the choice says has no effect."""
        mistaken = self.mistakes and self.method == "gradient_rollout"
        method = METHODS["vit_explain" if mistaken else self.method]
        own = {name: getattr(self, name) for name in _SETTINGS if name in method.settings}
        return method.having(**own)


def settings_of(choice: Choice) -> set[str]:
    """The controls that have an effect on a choice's map.

    Example:
        >>> sorted(settings_of(Choice("relevance"))), sorted(settings_of(Choice(mistakes=True)))
        (['blocks'], ['blocks', 'discard_ratio', 'mistakes'])
    """
    own = {name for name in _SETTINGS if name in choice.rule.settings}
    return own | {"mistakes"} if choice.method == "gradient_rollout" else own


def heatmap_for(capture: Capture, choice: Choice) -> Tensor:
    """The heat map `[B, rows, cols]` of a choice.

    Raises:
        ValueError: as `Method.heatmap`.

    Example:
        >>> import timm, torch
        >>> from vitexplain_utils import capture_attention
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=(32, 64), depth=4).eval()
        >>> capture = capture_attention(model, torch.zeros(1, 3, 32, 64), target=7)
        >>> heatmap_for(capture, Choice("rollout", blocks=(1, 2))).shape
        torch.Size([1, 2, 4])
    """
    return choice.rule.heatmap(capture)
