"""Twin: modules of their own on the same weights, so that a model is run and never changed."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from .library import unwrapped


def twin(model: nn.Module) -> nn.Module:
    """A copy of a model's modules, in eval mode, that shares the memory of its weights.

    Flags, hooks and `requires_grad` of the twin are its own: what is done to it is seen neither by
    the model nor by another thread that runs it or another twin. No parameter of the twin asks for
    a gradient. Parts in `torch.compile` are taken out of it.

    Args:
        model: any module. One with a `forward` of its own per instance that cannot be bound to a
            copy (as accelerate's hooks write it) has no twin.

    Returns:
        The twin, or the model itself where there can be none.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> copy, x = twin(model), torch.ones(1, 2)
        >>> bool((copy(x) == model[0](x)).all()), model.training, copy.training
        (True, True, False)
        >>> copy[0].weight.data_ptr() == model[0].weight.data_ptr()
        True
    """
    twins: dict[int, nn.Module] = {}
    bound: list[tuple[dict[str, Any], str, MethodType]] = []  # methods to bind to their twins
    with torch.inference_mode(False), torch.no_grad():
        made = _copied(model, twins, bound)
    for attributes, name, method in bound:
        owner = twins.get(id(method.__self__))
        if owner is not None:
            attributes[name] = MethodType(method.__func__, owner)
    stuck = any("forward" in vars(part) and not _own(part) for part in twins.values())
    return model if stuck else made


def eval_twin(model: nn.Module) -> nn.Module:
    """The twin of a model, taken out of its wrappers: it answers as in eval mode.

    Raises:
        ValueError: there can be no twin, and the model is in training mode.

    Example:
        >>> eval_twin(nn.Dropout()).training
        False
    """
    double = twin(unwrapped(model))
    if double.training:
        raise ValueError(f"model {type(model).__name__} is in training mode: call model.eval()")
    return double


def _copied(
    module: nn.Module,
    twins: dict[int, nn.Module],
    bound: list[tuple[dict[str, Any], str, MethodType]],
) -> nn.Module:
    if type(module).__name__ == "OptimizedModule":  # of torch.compile
        module = module.get_submodule("_orig_mod")
    if id(module) in twins:
        return twins[id(module)]
    made = twins[id(module)] = object.__new__(type(module))
    attributes = vars(made)
    for name, value in vars(module).items():
        if name[0] == "_" and isinstance(value, dict):  # hooks, parameters, modules, …
            value = value.copy()
        elif isinstance(value, MethodType):
            bound.append((attributes, name, value))
        attributes[name] = value
    attributes.update(training=False, _compiled_call_impl=None)
    for held in (attributes["_parameters"], attributes["_buffers"]):
        held.update({name: _shared(tensor) for name, tensor in held.items()})
    parts = attributes["_modules"]
    parts.update(
        {name: _copied(part, twins, bound) for name, part in parts.items() if part is not None}
    )
    return made


def _shared(tensor: Tensor | None) -> Tensor | None:
    """The same numbers, asking for no gradient; kinds of tensors that know more stay themselves."""
    if tensor is None or type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
        return tensor
    return tensor.detach().clone() if tensor.is_inference() else tensor.detach()


def _own(part: nn.Module) -> bool:
    """Whether the `forward` that is written on a twin itself runs on that twin."""
    forward = vars(part)["forward"]
    return isinstance(forward, MethodType) and forward.__self__ is part
