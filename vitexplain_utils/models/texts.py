"""Texts: a sentence as the question, for models that know pictures and words (CLIP, SigLIP)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .library import library_of


def text_target(
    model: nn.Module, text: str, *, rather_than: str | None = None, tokenizer: Any = None
) -> Callable[[Tensor], Tensor]:
    """What `explain` is asked for by a sentence: how near the picture is to it.

    The target is the cosine of the picture's embedding `e` and the text's `t`, as CLIP compares
    them (Radford et al. 2021, arXiv:2103.00020), or, with `rather_than`, `cos(e, t) − cos(e, t′)`:
    what speaks for this sentence and not for that one. A cosine by itself also holds what every
    sentence has in common; the difference does not.

    Args:
        model: a `CLIPModel`, `SiglipModel` or `Siglip2Model` of transformers.
        text: the sentence, as "a photo of a bee".
        rather_than: the sentence that it is held against.
        tokenizer: the model's; None loads it from where the model came from.

    Returns:
        A function of the picture's embeddings `[B, D]` that gives `[B]`.

    Raises:
        ValueError: the model has no text tower, a text is empty, or there is no tokenizer.

    With CLIP in the hub's cache:

        model = load_model("transformers:openai/clip-vit-base-patch32")
        target = text_target(model, "a photo of a bee", rather_than="a photo of a wasp")
        explanation = explain(model, preprocess(model, image), target=target)

    Example:
        >>> text_target(nn.Linear(1, 1), "a bee")
        Traceback (most recent call last):
        ValueError: model Linear has no text tower: give a CLIPModel or alike
    """
    inside: Any = library_of(model).model
    if not hasattr(inside, "get_text_features"):
        raise ValueError(f"{library_of(model).what} has no text tower: give a CLIPModel or alike")
    texts = [text] if rather_than is None else [text, rather_than]
    if not all(isinstance(each, str) and each.strip() for each in texts):
        raise ValueError(f"text and rather_than must be sentences, got {texts!r}")
    if tokenizer is None:
        tokenizer = _tokenizer(inside)
    embeddings = _embed(inside, tokenizer, texts)  # [1 or 2, D]

    def target(features: Tensor) -> Tensor:
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        cosines = functional.normalize(wide, dim=-1) @ embeddings.to(wide).mT  # [B, 1 or 2]
        return cosines[:, 0] if rather_than is None else cosines[:, 0] - cosines[:, 1]

    return target


def _tokenizer(model: Any) -> Any:
    from transformers import AutoTokenizer

    from .transformers import folder_of

    source = model.config._name_or_path
    try:
        return AutoTokenizer.from_pretrained(folder_of(source))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model {type(model).__name__} from {source!r} has no tokenizer: give tokenizer="
        ) from error


def _embed(model: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    """The texts' embeddings, each of length 1, in eval mode."""
    # SigLIP was trained on texts filled up to their full length, and reads the last token.
    length = model.config.text_config.max_position_embeddings
    padding = True if model.config.model_type == "clip" else "max_length"
    tokens = tokenizer(texts, return_tensors="pt", padding=padding, max_length=length)
    if tokens["input_ids"].shape[1] > length:
        raise ValueError(f"text and rather_than must have at most {length} tokens: {texts!r}")
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.text_model.modules()]
    model.text_model.eval()
    try:
        with torch.inference_mode(False), torch.no_grad():  # the first lets gradients in again
            out = model.get_text_features(**{key: t.to(device) for key, t in tokens.items()})
            return functional.normalize(out.pooler_output, dim=-1)
    finally:
        for module, mode in modes:
            module.training = mode
