"""What the command line does: overlays of photographs, or a page of them."""

from __future__ import annotations

import argparse
import io
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from .arguments import plain_parser
from .explanation import Explanation, explain
from .explorer import save_page
from .explorer.choice import explored
from .explorer.pictures import Picture
from .methods import HEAD_FUSIONS, METHODS
from .models import (
    class_index,
    class_names,
    crop_box,
    library_of,
    load_model,
    preprocess,
    top_classes,
)
from .show import load_image, overlay, write_whole
from .show.pictures import name_of


def full_parser() -> argparse.ArgumentParser:
    """What every method takes, and the settings of each, from the registry."""
    parser = plain_parser()
    offered = {name: method for name, method in METHODS.items() if method.offered}
    parser.add_argument("--method", default="attribution", choices=offered)
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


def command(arguments: list[str]) -> int:
    """What `main` does once the registry is there."""
    options = full_parser().parse_args(arguments)
    try:
        options.device = _device(options.device)
        return run(options)
    except (ValueError, OSError, ImportError) as error:
        print(_said(error), file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    """Explain the photographs, a batch at a time; returns 1 if one of several is broken, else 0."""
    sources = [source for photo in options.photos for source in _pictures(photo)]
    if options.output is not None and options.output.suffix.lower() in (".html", ".htm"):
        return _write_page(options, sources)
    alone = len(sources) == 1 and sources == options.photos  # and not a folder of one
    outputs = _outputs(options, sources, alone)
    read = {sources[0]: load_image(sources[0])} if len(sources) == 1 else {}
    with _said_if_slow(f"loading {options.model}"):
        model = load_model(options.model, weights=options.weights, device=options.device)
    target = None if options.target is None else _target(model, options.target)
    for folder in {output.parent for output in outputs.values()}:
        folder.mkdir(parents=True, exist_ok=True)
    status = 0
    firsts = range(0, len(sources), options.batch_size)
    for first in tqdm(firsts, unit="batch", disable=True if len(sources) == 1 else None):
        batch: list[tuple[Image.Image, Path]] = []
        for source in sources[first : first + options.batch_size]:
            try:
                batch.append((read.get(source) or load_image(source), outputs[source]))
            except (ValueError, OSError) as error:
                status = 1
                tqdm.write(_said(error), file=sys.stderr)
        for x, pictures in _by_input(model, batch, options.crop):
            with _said_if_slow(f"explaining by {options.method}"):
                explanation = _explanation(model, target, options, x)
            _report(model, options, explanation, pictures)
    return status


@contextmanager
def _said_if_slow(what: str) -> Iterator[None]:
    """Say in a terminal what is being done when it takes more than two seconds."""
    timer = threading.Timer(2, tqdm.write, [f"{what} …"], {"file": sys.stderr})
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _write_page(options: argparse.Namespace, sources: list[str]) -> int:
    """Write one page of all photographs, with the method that is asked for first."""
    given = [name for name in _settings() if name in vars(options)] + ["crop"] * options.crop
    if given:
        raise ValueError(
            f"output {str(options.output)!r} is a page, which has every setting and no crop: leave "
            f"out {', '.join(given)}"
        )
    pictures = [Picture(name_of(source), load_image(source)) for source in sources]
    with _said_if_slow(f"loading {options.model}"):
        model = load_model(options.model, weights=options.weights, device=options.device)
    methods = None  # all, attribution first
    if options.method != "attribution":
        asks = library_of(model).classes != 0
        others = [name for name in explored() if asks or not METHODS[name].needs_gradient]
        methods = [options.method, *others]
    targets = [] if options.target is None else [options.target]
    with _said_if_slow(f"drawing {options.output}"):
        save_page(options.output, model, pictures, targets=targets, methods=methods)
    tqdm.write(f"{options.output}: a page to open in a browser")
    return 0


def _said(error: Exception) -> str:
    return f"error: {' '.join(str(error).split())}"


def _pictures(photo: str) -> list[str]:
    """The photograph itself, or all pictures of a folder, by their endings, but no overlays."""
    if not Path(photo).is_dir():
        return [photo]
    endings = Image.registered_extensions()
    overlays = tuple(f"_{method}.png" for method in METHODS)
    found = [
        str(path)
        for path in sorted(Path(photo).iterdir())
        if path.suffix.lower() in endings and not path.name.endswith(overlays)
    ]
    if not found:
        raise ValueError(f"folder {photo!r} holds no picture")
    return found


def _outputs(options: argparse.Namespace, sources: list[str], alone: bool) -> dict[str, Path]:
    """Where each overlay goes: a file for one photograph, files of a folder for several."""
    output: Path | None = options.output
    if len(set(sources)) < len(sources):
        raise ValueError("photos: a picture is given twice")
    if alone and output is not None:
        if output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise ValueError(f"output must end in .png, .jpg or .jpeg, got {str(output)!r}")
        if not output.resolve().parent.is_dir():
            raise FileNotFoundError(f"output {str(output)!r}: its folder does not exist")
        outputs = {sources[0]: output}
    elif output is not None and (output.suffix or output.is_file()):
        raise ValueError(f"output of several photographs is a folder, got {str(output)!r}")
    else:
        outputs = {source: _folder(source, output) / f"{name_of(source)}_{options.method}.png"
                   for source in sources}  # fmt: skip
    photographs = {Path(source).resolve() for source in sources}
    seen: dict[str, str] = {}
    for source, path in outputs.items():  # on some systems A.png is a.png
        if (other := seen.setdefault(str(path).lower(), source)) != source:
            raise ValueError(f"photos {other!r} and {source!r} would both be written to {path}")
        if path.resolve() in photographs and not options.force:
            raise ValueError(f"output {str(path)!r} is a photograph itself: --force replaces it")
    return outputs


def _folder(source: str, output: Path | None) -> Path:
    """The folder that was asked for, or the photograph's own; of a URL the current one."""
    if output is not None:
        return output
    return Path(source).parent if Path(source).is_file() else Path()


def _by_input(
    model: nn.Module, batch: list[tuple[Image.Image, Path]], crop: bool
) -> Iterable[tuple[Tensor, list[tuple[Image.Image, Path]]]]:
    """The pictures whose inputs are of one size, together: some models keep the picture's form."""
    inputs = [preprocess(model, image, crop=crop) for image, _ in batch]
    for shape in dict.fromkeys(x.shape for x in inputs):
        chosen = [index for index, x in enumerate(inputs) if x.shape == shape]
        yield torch.cat([inputs[index] for index in chosen]), [batch[index] for index in chosen]


def _explanation(
    model: nn.Module, target: int | None, options: argparse.Namespace, x: Tensor
) -> Explanation:
    given = vars(options)
    settings = {name: given[name] for name in _settings() if given.get(name) is not None}
    return explain(model, x, method=options.method, target=target, **settings)


def _report(
    model: nn.Module,
    options: argparse.Namespace,
    explanation: Explanation,
    batch: list[tuple[Image.Image, Path]],
) -> None:
    """Write the overlay of each picture, say where it is, and print the top five classes."""
    names, regresses = class_names(model), library_of(model).regresses
    best = top_classes(model, explanation.logits) if names and not regresses else []
    for index, (image, output) in enumerate(batch):
        asked = f"{options.method}, the same for every class"
        if METHODS[options.method].needs_gradient and isinstance(explanation.target, Tensor):
            chosen = int(explanation.target[index])
            asked = f"{options.method} for {chosen} {names[chosen]}"
        lines = [f"{output}: {asked}"]
        if regresses:
            numbers = ", ".join(f"{number:.4g}" for number in explanation.logits[index].tolist())
            lines.append(f"output {numbers}")
        for top in best[index] if best else ():
            lines.append(f"{top.probability:6.1%}  {top.index:4d}  {top.name}")
        box = crop_box(model, image.size) if options.crop else None
        _save(overlay(image, explanation.heatmap[index], box=box), output)
        tqdm.write("\n".join(lines))


def _device(text: str) -> torch.device:
    """A device that is there."""
    try:
        device = torch.device(text)
        torch.zeros(1, device=device).item()  # which "meta" has not
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"argument --device: {text!r} cannot be used here: {reason}") from error
    return device


def _target(model: nn.Module, text: str) -> int:
    """The class, noticed before the model runs if there is none such."""
    if not text.removeprefix("-").isdecimal():
        return class_index(model, text)
    classes = library_of(model).classes
    if classes and not 0 <= int(text) < classes:
        raise ValueError(f"target must be a class index in [0, {classes}), got {text}")
    return int(text)


def _save(picture: Image.Image, output: Path) -> None:
    content = io.BytesIO()
    picture.save(content, "PNG" if output.suffix.lower() == ".png" else "JPEG", quality=92)
    write_whole(output, content.getvalue())
