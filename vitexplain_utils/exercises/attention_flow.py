"""Checks of notebook 06: pipes, where the water starts, and flow without a solver."""

from __future__ import annotations

from typing import Any

import torch

from . import judge
from .compare import compare

UPPER = {("c", "c"): 0.6, ("c", "a"): 0.2, ("c", "b"): 0.2}
LOWER = {("c", "c"): 0.7, ("c", "a"): 0.1, ("c", "b"): 0.2, ("a", "a"): 1.0, ("b", "c"): 0.5}
LOWER |= {("b", "b"): 0.5}


def _flow_to_a(widened: tuple[str, str, str] | None = None) -> float:
    upper, lower = dict(UPPER), dict(LOWER)
    if widened is not None:
        (upper if widened[0] == "upper" else lower)[widened[1:]] += 0.1
    return sum(min(upper["c", m], lower.get((m, "a"), 0.0)) for m in "cab")


def check_pipes(answer: Any) -> None:
    """Which pipes of the toy, each widened alone by 0.1, raise `a`'s flow?

    Args:
        answer: a set of pipes, such as `{("upper", "c", "b")}`.

    Example:
        >>> check_pipes({("upper", "c", "c")})
        ✗ One of these pipes has room to spare: not all that could pass does.
    """
    pipes = {("upper", *ends) for ends in UPPER} | {("lower", *ends) for ends in LOWER}
    right = {pipe for pipe in pipes if _flow_to_a(pipe) > _flow_to_a() + 1e-9}
    hints = [
        (lambda found: not set(found) <= pipes, 'No such pipe. Write it as ("lower", "c", "c").'),
        (lambda found: bool(set(found) - right),
         "One of these pipes has room to spare: not all that could pass does."),
        (lambda found: set(found) < right, "Yes, and another one would do it alone as well."),
    ]  # fmt: skip
    judge(answer, lambda found: set(found) == right, hints)


def check_start(answer: Any) -> None:
    """Where is the water poured in if the head averages the patch tokens?

    Args:
        answer: a row `[T]` for the garden's T = 145.

    Example:
        >>> check_start(torch.full((145,), 1 / 145))
        ✗ The head averages the patch tokens; the class token is none of them.
    """
    right = torch.full((145,), 1 / 144)
    right[0] = 0
    wrong = [
        (torch.full((145,), 1 / 145),
         "The head averages the patch tokens; the class token is none of them."),
        (144 * right, "That pours in 1 at each patch. What is poured in must sum to 1."),
        (torch.ones(145), "That pours in 1 at each token. What is poured in must sum to 1."),
        (torch.eye(145)[0], "That is a head that reads the class token alone."),
        (right[1:], "A row has an entry for every token, the class token's too."),
    ]  # fmt: skip
    compare(answer, right, wrong, tolerance=1e-5)


def check_bound(answer: Any) -> None:
    """Flow without a solver: a function from the first block's attention to section 4's bound.

    Args:
        answer: a function from `[1, H, T, T]` to `[T - 1]`.

    Example:
        >>> check_bound(lambda first: first[0].mean(0).sum(0)[1:].clamp(max=1))
        ✗ That is attention alone; a pipe is half attention, half residual.
    """
    torch.manual_seed(0)
    first = (3 * torch.randn(1, 3, 7, 7)).softmax(-1)
    A_hat = first[0].mean(0) / 2 + torch.eye(7) / 2
    right = A_hat.sum(0)[1:].clamp(max=1)
    entering = first[0].mean(0).sum(0)[1:]
    alone = "That is attention alone; a pipe is half attention, half residual."
    wrong = [
        (entering.clamp(max=1), alone),
        (entering, alone),
        (A_hat.sum(0)[1:], "No more can arrive than was poured in."),
        (A_hat.sum(1)[1:], "That sums rows. What enters patch s comes from every token t."),
        (A_hat.sum(0).clamp(max=1), "One flow for each patch; the class token is none."),
    ]  # fmt: skip
    compare(answer, right, wrong, lambda function: function(first), tolerance=1e-5)
