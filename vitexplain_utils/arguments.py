"""The command line's arguments, as far as they are known without PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path


def plain_parser() -> argparse.ArgumentParser:
    """All arguments but the method and its settings, which the registry of methods knows."""
    parser = argparse.ArgumentParser(
        prog="python -m vitexplain_utils",
        description="Show what a Vision Transformer looked at in a photograph.",
        epilog="Exit status: 0, all is written; 1, some of several pictures could not be read, the "
        "others are written; 2, bad input. Methods and their settings (--method, --discard-ratio, "
        "--head-fusion, …): --help-methods",
    )
    parser.add_argument(
        "photos", nargs="+", metavar="photo", help="path or URL of a picture, or a folder of them"
    )
    parser.add_argument(
        "--model",
        default="deit_tiny_patch16_224",
        help="garden, a name in timm, local-dir:FOLDER of timm, transformers:FOLDER or "
        "transformers:ORG/NAME, torchvision:vit_b_16",
    )
    parser.add_argument("--weights", help="local checkpoint, .safetensors or .pth")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps, …")
    parser.add_argument("--batch-size", default=8, type=_count, help="pictures in one pass (8)")
    parser.add_argument(
        "--target", help="class index, name or part of one (default: the predicted class)"
    )
    parser.add_argument("--crop", action="store_true", help="crop the centre, as in evaluation")
    parser.add_argument(
        "--output",
        type=Path,
        help="PNG or JPEG (default: PHOTO_METHOD.png beside the photograph, of a URL here); of "
        "several photographs a folder; or a page for a browser, .html, of all of them, with every "
        "setting",
    )
    parser.add_argument(
        "--force", action="store_true", help="write on top of a photograph that is explained"
    )
    parser.add_argument(
        "--help-methods", action="help", help="show this with all methods' settings"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)
