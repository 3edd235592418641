"""Checks of notebook 10: from the map to the photograph, and from tokens to the map."""

from __future__ import annotations

from typing import Any

import torch

from .compare import compare


def check_peak(answer: Any) -> None:
    """Where in an 800 × 600 photograph, cropped to its middle square, is the peak at patch (6, 11)?

    The model takes 384 × 384 pixels in patches of 16, so 24 × 24 patches.

    Args:
        answer: x and y in the photograph's pixels.

    Example:
        >>> check_peak((287.5, 162.5))
        ✗ That is within the crop. Where does the crop begin?
    """
    wrong = [
        ((287.5, 162.5), "That is within the crop. Where does the crop begin?"),
        ((375, 150), "That is the patch's upper left corner, not its centre."),
        ((275, 150), "That is the patch's upper left corner, within the crop."),
        ((262.5, 287.5), "Patch (row, column): rows go down, columns to the right."),
        ((184, 104), "Those are pixels of the model's input, not of the photograph."),
        ((362.5, 137.5), "Rows and columns are counted from 0."),
        ((11.5 * 800 / 24, 162.5), "That is right for a squashed picture. This one was cropped."),
    ]
    compare(answer, (387.5, 162.5), wrong, tolerance=1e-3)


def check_to_map(answer: Any) -> None:
    """From a row over the tokens of a DINOv2 with 4 registers, at 224 pixels, to its map.

    Args:
        answer: a function from `[B, T]` to `[B, 16, 16]`; patches of 14 pixels.

    Example:
        >>> check_to_map(lambda row: row[:, 1:257].reshape(-1, 16, 16))
        ✗ A class token is not all of the prefix.
    """
    row = torch.arange(2 * 261, dtype=torch.float64).reshape(2, 261)
    right = row[:, 5:].reshape(2, 16, 16)
    wrong = [
        (row[:, :256].reshape(2, 16, 16), "The prefix comes first, the patches last."),
        (row[:, 1:257].reshape(2, 16, 16), "A class token is not all of the prefix."),
        (row[:, 4:260].reshape(2, 16, 16), "Four registers, and what else?"),
        (right.mT, "Patches come row by row."),
        (row[:, 5:], "The right tokens. Now rows and columns."),
        (right[0], "The whole batch, not its first picture alone."),
    ]
    compare(answer, right, wrong, lambda function: function(row))
