"""The command line: `python -m vitexplain_utils PHOTO` writes an overlay beside the photograph."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from .explanation import explain
from .methods import HEAD_FUSIONS, METHODS
from .models import class_index, class_names, crop_box, load_model, preprocess, top_classes
from .show import load_image, overlay, write_whole
from .show.pictures import name_of


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vitexplain_utils",
        description="Show what a Vision Transformer looked at in a photograph.",
    )
    offered = {name: method for name, method in METHODS.items() if method.offered}
    parser.add_argument("photo", help="path or URL of a picture")
    parser.add_argument("--model", default="deit_tiny_patch16_224", help="timm name, or garden")
    parser.add_argument("--weights", help="local checkpoint, .safetensors or .pth")
    parser.add_argument("--method", default="gradient_rollout", choices=offered)
    parser.add_argument("--target", help="class index or name (default: the predicted class)")
    parser.add_argument("--crop", action="store_true", help="crop the centre, as in evaluation")
    parser.add_argument("--output", type=Path, help="PNG or JPEG (default: PHOTO_METHOD.png)")
    group = parser.add_argument_group("settings of methods")
    for setting in _settings():
        owners = {n: m.settings[setting] for n, m in offered.items() if setting in m.settings}
        own = ", ".join(f"{name} ({value})" for name, value in owners.items())
        group.add_argument(
            f"--{setting.replace('_', '-')}",
            default=argparse.SUPPRESS,
            help=f"of, by default: {own}",
            **_kind(setting, next(iter(owners.values()))),
        )
    return parser


def _settings() -> list[str]:
    """Every setting that some offered method has."""
    found = [name for method in METHODS.values() if method.offered for name in method.settings]
    return list(dict.fromkeys(found))


def _kind(setting: str, default: Any) -> dict[str, Any]:
    """How a setting is given on a command line."""
    if setting == "blocks":
        return {"type": int, "nargs": 2, "metavar": ("FIRST", "LAST")}
    if setting == "head_fusion":
        return {"choices": HEAD_FUSIONS}
    if isinstance(default, bool):
        return {"action": argparse.BooleanOptionalAction}
    return {"type": type(default), "metavar": setting.split("_")[-1].upper()}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status (2: bad input, or an extra is missing)."""
    options = _parser().parse_args(arguments)
    try:
        run(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace) -> None:
    """Explain one photograph: print the top five classes and write the overlay."""
    output = options.output or Path(f"{name_of(options.photo)}_{options.method}.png")
    if output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"output must end in .png, .jpg or .jpeg, got {str(output)!r}")
    image = load_image(options.photo)
    model = load_model(options.model, weights=options.weights)
    target = None if options.target is None else _target(model, options.target)
    explanation = explain(
        model,
        preprocess(model, image, crop=options.crop),
        method=options.method,
        target=target,
        **{name: value for name in _settings() if (value := vars(options).get(name)) is not None},
    )
    if class_names(model):
        for top in top_classes(model, explanation.logits)[0]:
            print(f"{top.probability:6.1%}  {top.index:4d}  {top.name}")
    box = crop_box(model, image.size) if options.crop else None
    _save(overlay(image, explanation.heatmap[0], box=box), output)
    if METHODS[options.method].needs_gradient and isinstance(explanation.target, Tensor):
        index = int(explanation.target[0])
        print(f"{output}: {options.method} for {index} {class_names(model)[index]}")
    else:
        print(f"{output}: {options.method}, the same for every class")


def _target(model: nn.Module, text: str) -> int:
    return int(text) if text.removeprefix("-").isdecimal() else class_index(model, text)


def _save(picture: Image.Image, output: Path) -> None:
    content = io.BytesIO()
    picture.save(content, "PNG" if output.suffix.lower() == ".png" else "JPEG", quality=92)
    write_whole(output, content.getvalue())


if __name__ == "__main__":
    sys.exit(main())
