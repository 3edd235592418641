"""The command line: `python -m vitexplain_utils PHOTO` writes an overlay beside the photograph."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from PIL import Image
from torch import Tensor, nn

from .classes import class_index, class_names, top_classes
from .explain import CLASS_SPECIFIC, METHODS, explain
from .files import write_whole
from .head_fusion import HEAD_FUSIONS
from .images import crop_box, load_image, name_of, preprocess
from .models import load_model
from .overlay import overlay


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vitexplain_utils",
        description="Show what a Vision Transformer looked at in a photograph.",
    )
    parser.add_argument("photo", help="path or URL of a picture")
    parser.add_argument("--model", default="deit_tiny_patch16_224", help="timm name, or garden")
    parser.add_argument("--weights", help="local checkpoint, .safetensors or .pth")
    parser.add_argument("--method", default="gradient_rollout", choices=METHODS)
    parser.add_argument("--target", help="class index or name (default: the predicted class)")
    parser.add_argument("--head-fusion", default="mean", choices=HEAD_FUSIONS)
    parser.add_argument("--discard-ratio", type=float, default=0.0, help="in [0, 1)")
    parser.add_argument("--crop", action="store_true", help="crop the centre, as in evaluation")
    parser.add_argument("--output", type=Path, help="PNG or JPEG (default: PHOTO_METHOD.png)")
    return parser


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
        head_fusion=options.head_fusion,
        discard_ratio=options.discard_ratio,
    )
    if class_names(model):
        for top in top_classes(model, explanation.logits)[0]:
            print(f"{top.probability:6.1%}  {top.index:4d}  {top.name}")
    box = crop_box(model, image.size) if options.crop else None
    _save(overlay(image, explanation.heatmap[0], box=box), output)
    if options.method in CLASS_SPECIFIC and isinstance(explanation.target, Tensor):
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
