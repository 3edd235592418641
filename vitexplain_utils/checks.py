"""Checks: bad arguments are named, with what is allowed, before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn


def check_number(
    name: str, value: Any, low: float, high: float, *, whole: bool = False, below: bool = False
) -> None:
    """Raise a ValueError unless a value is a number from `low` to `high`.

    Args:
        name: of the argument.
        value: what was given.
        low: the least that is allowed.
        high: the most, infinity for no limit.
        whole: whether it must be a whole number.
        below: whether `high` itself is too much.

    Example:
        >>> check_number("opacity", 0.5, 0, 1)
        >>> check_number("opacity", "0.5", 0, 1)
        Traceback (most recent call last):
        ValueError: opacity must be a number in [0, 1], got '0.5'
    """
    number = value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
    kind = (Integral,) if whole else (Integral, Real)
    good = isinstance(number, kind) and not isinstance(number, bool)
    good = good and low <= float(number) <= high and float(number) != torch.inf
    if not good or (below and number == high):
        what = "a whole number" if whole else "a number"
        upto = f"in [{low}, {high}{')' if below else ']'}"
        upto = upto if high < torch.inf else f"of at least {low}"
        raise ValueError(f"{name} must be {what} {upto}, got {_short(value)}")


def check_count(name: str, value: Any) -> None:
    """Raise a ValueError unless an argument is a whole number of at least 1."""
    check_number(name, value, 1, torch.inf, whole=True)


def check_flag(name: str, value: Any) -> None:
    """Raise a ValueError unless an argument is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {_short(value)}")


def check_numbers(name: str, value: Any, ndim: int, shape: str, *, whole: bool = False) -> None:
    """Raise a ValueError unless an argument is a float tensor of so many axes.

    None but the first may be empty. With `whole`, a tensor of whole numbers will do.
    """
    good = isinstance(value, Tensor) and value.ndim == ndim and not value.is_complex()
    good = good and (whole or value.is_floating_point())
    if not good or 0 in value.shape[1:] or value.layout != torch.strided:
        kind = "tensor" if whole else "float tensor"
        raise ValueError(f"{name} must be a {kind} {shape}, got {_short(value)}")


def check_finite(name: str, *tensors: Tensor) -> None:
    """Raise a ValueError if tensors hold NaN or inf."""
    ends = [end for tensor in tensors if tensor.numel() for end in tensor.detach().aminmax()]
    if not all(end.isfinite() for end in ends):  # NaN is an end as well
        raise ValueError(f"{name} must be finite, and holds NaN or inf")


def check_weights(name: str, *tensors: Tensor) -> None:
    """Raise a ValueError if tensors hold NaN, inf or negative numbers."""
    for tensor in tensors:
        wrong = tensor[~((tensor >= 0) & tensor.isfinite())]
        if len(wrong):
            raise ValueError(f"{name} must be finite and non-negative, got {float(wrong[0])}")


def check_sequence(name: str, value: Any, what: str) -> None:
    """Raise a ValueError unless an argument has a length and elements, and is no string."""
    good = isinstance(value, Iterable) and hasattr(value, "__len__")
    if not good or isinstance(value, str | bytes) or getattr(value, "ndim", 1) == 0:
        raise ValueError(f"{name} must be a sequence of {what}, got {_short(value)}")
    if len(value) == 0:
        raise ValueError(f"{name} must hold at least one of {what}, got none")


def check_picture(name: str, value: Any) -> None:
    """Raise a TypeError unless an argument is a PIL image; a ValueError if it has no pixels."""
    if not isinstance(value, Image.Image):
        raise TypeError(f"{name} must be a PIL image (see load_image), got {_short(value)}")
    if 0 in value.size:
        raise ValueError(f"{name} has no pixels: its size is {value.size}")


def check_path(name: str, value: Any) -> None:
    """Raise a TypeError unless an argument is a path."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, got {_short(value)}")


def check_module(value: Any) -> None:
    """Raise a TypeError unless a model is a module."""
    if not isinstance(value, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module (see load_model), got {_short(value)}")


def _short(value: Any) -> str:
    """What was given, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}, {value.layout}, shape {tuple(value.shape)}"
    if hasattr(value, "shape") or isinstance(value, nn.Module):
        return f"{type(value).__name__} {tuple(getattr(value, 'shape', ()))}"
    text = repr(value)
    if isinstance(value, str | bytes | Real | Sequence) and len(text) <= 60:
        return text
    return type(value).__name__ if value is not None else "None"
