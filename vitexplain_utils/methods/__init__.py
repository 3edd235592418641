"""Methods: every way from a capture to a heat map, one file each, in one registry."""

from dataclasses import fields
from typing import TypeVar

from .attention_attribution import Attribution, attribution
from .attention_rollout import Rollout, rollout
from .discard import discard_lowest
from .generic_relevance import Relevance, relevance
from .gradient_attention_rollout import GradientRollout, gradient_rollout
from .head_fusion import HEAD_FUSIONS, fuse_heads
from .last_block import LastAttention
from .maximum_flow import Flow, attention_flow
from .method import GradientMethod, Method
from .vit_explain import MISTAKES, VitExplain, mistaken_gradient_rollout, pre_softmax_gradient

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        GradientRollout(),
        Relevance(),
        Attribution(),
        Rollout(),
        Flow(),
        LastAttention(),
        VitExplain(),
    )
}

Class = TypeVar("Class", bound=type[Method])


def register_method(method: Class) -> Class:
    """Add a method of your own to `METHODS`; a decorator of its class.

    From then on, in this process, `explain`, `discard_sweep`, the command line, the explorer and
    `evaluate_methods` know it by its name.

    Args:
        method: a subclass of `Method` or `GradientMethod` with a `name` and a `label`; decorated
            with `@dataclass(frozen=True, kw_only=True)` if it has settings of its own.

    Returns:
        The class itself.

    Raises:
        ValueError: there is a method of this name already, `name` or `label` is missing, or it
            sets settings and is no dataclass.

    Example:
        >>> @register_method
        ... class Raw(LastAttention):
        ...     name = "raw"
        ...     label = "raw attention"
        >>> METHODS.pop("raw").label
        'raw attention'
    """
    for name in ("name", "label"):
        if not isinstance(getattr(method, name, None), str):
            raise ValueError(f"method {method.__name__} needs a {name}, a string")
    settings = {field.name for field in fields(method)}
    own = {*vars(method).get("__annotations__", {}), *(settings & vars(method).keys())}
    if own and "__dataclass_fields__" not in vars(method):
        raise ValueError(
            f"method {method.__name__} sets {', '.join(sorted(own))}: decorate it with "
            "@dataclass(frozen=True, kw_only=True)"
        )
    if method.name in METHODS:
        raise ValueError(f"method name {method.name!r} is taken: METHODS has it already")
    METHODS[method.name] = method()
    return method


def offered_method(name: str) -> Method:
    """The method of this name, if `explain` offers it; a ValueError if not."""
    offered = tuple(known for known, method in METHODS.items() if method.offered)
    if name not in offered:
        raise ValueError(f"method must be one of {offered}, got {name!r}")
    return METHODS[name]


__all__ = [
    "HEAD_FUSIONS",
    "METHODS",
    "MISTAKES",
    "Attribution",
    "Flow",
    "GradientMethod",
    "GradientRollout",
    "LastAttention",
    "Method",
    "Relevance",
    "Rollout",
    "VitExplain",
    "attention_flow",
    "attribution",
    "discard_lowest",
    "fuse_heads",
    "gradient_rollout",
    "mistaken_gradient_rollout",
    "offered_method",
    "pre_softmax_gradient",
    "register_method",
    "relevance",
    "rollout",
]
