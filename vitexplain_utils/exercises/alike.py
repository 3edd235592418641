"""Alike: whether an answer is the wanted number or tensor."""

from __future__ import annotations

from typing import Any

import torch


def same(given: Any, wanted: Any, tolerance: float = 1e-4) -> bool:
    """Whether a number, a tuple or a tensor has the wanted shape and, nearly, the wanted values.

    Example:
        >>> same(0.33333, 1 / 3), same(torch.ones(2), torch.ones(1, 2))
        (True, False)
    """
    given, wanted = (torch.as_tensor(value).detach().double() for value in (given, wanted))
    return given.shape == wanted.shape and torch.allclose(given, wanted, tolerance, tolerance)
