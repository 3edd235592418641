"""The page: an explanation as one HTML file that needs no kernel, no server and no network."""

from __future__ import annotations

import base64
import html
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..checks import check_count
from ..garden import Scene
from ..methods import HEAD_FUSIONS, METHODS, Method, fuse_heads
from ..models import TopClass
from ..models.classes import short_name
from ..show import write_whole
from .draw import fit, outline, thing_named, verdict
from .pictures import Picture, picture_of
from .state import RATIOS, ExplorerState, one_thread

Shown = Picture | Scene | Image.Image | str | os.PathLike[str]

_SIDE = 480  # pixels of the longer side of a picture in the page
_QUALITY = 85  # of its WebP
_MOST_PATCHES = 576  # 24 × 24; the attention of more of them with each other would be too large


def save_page(
    path: str | os.PathLike[str],
    model: str | nn.Module,
    images: Shown | Sequence[Shown] | Mapping[str, Shown],
    *,
    classes: int = 5,
    targets: Sequence[int | str] = (),
    methods: Sequence[str] | None = None,
    title: str = "What did the model look at?",
) -> Path:
    """Write an explanation as one HTML file, to play with in any browser.

    The page holds the pictures and all their heat maps, for each class, method, head fusion and
    discard ratio, computed here and now; it asks no kernel, server or network, and can be mailed.
    It draws a map as `overlay` does, to 2 levels of 255: of each value its root, on which opacity
    goes, is kept in 8 bits of the map's highest. A garden scene has its outlines and verdicts. Of a
    picture's file nothing but its pixels goes into the page.

    Args:
        path: where to, `.html`; an existing file is replaced only by a complete one.
        model: a name as in `load_model`, or a loaded ViT.
        images: one picture or several, each a garden scene, a PIL image, the name of a scikit-image
            sample, a path or a URL; with names of your own as `{name: picture}`.
        classes: how many of the most probable classes can be asked for; a garden scene's things can
            always be.
        targets: further classes, by index or name; the first of them is asked for first.
        methods: names in `METHODS`; the first two are shown side by side. None is all that the
            model allows and that take no seconds, attribution first.
        title: the page's heading.

    Returns:
        The path.

    Raises:
        ValueError: no pictures, an argument out of its range, an unknown class or method, or a
            model that cannot be explained; nothing is written then.
        FileNotFoundError: there is no such picture or folder, or no weights.

    Example:
        >>> import tempfile
        >>> from vitexplain_utils import hero_scene
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = save_page(Path(folder, "page.html"), "garden", hero_scene(4), classes=2)
        ...     page.name, page.stat().st_size < 300_000
        ('page.html', True)
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"path must end in .html, got {str(path)!r}")
    check_count("classes", classes)
    pictures = _pictures(images)
    state = ExplorerState(model, pictures[0])
    rules = [METHODS[name] for name in _checked(methods, state)]
    shown = []
    with one_thread():
        for picture in pictures:
            if picture is not state.picture:  # the first is there
                state.use(picture=picture)
            shown.append(_picture_data(state, rules, _asked(state, classes, targets)))
    data = {
        "colours": _text(matplotlib.colormaps["plasma"](range(256), bytes=True)[:, :3]),
        "ratios": RATIOS,
        "fusions": HEAD_FUSIONS,
        "methods": [{"label": rule.label, **_choices(rule)} for rule in rules],
        "pictures": shown,
    }
    made = f"Computed by vitexplain_utils with the model {state.model_name}."
    write_whole(path, _page(title, made, data).encode())
    return path


def _page(title: str, made: str, data: Mapping[str, Any]) -> str:
    """The file: the page's three parts, and the data, in which no tag can end or begin."""
    markup, style, script = (
        Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8")
        for kind in ("html", "css", "js")
    )
    packed = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    words = {"title": html.escape(title), "made": html.escape(made)}
    return Template(markup).substitute(words, style=style, script=script, data=packed)


def _pictures(images: Shown | Sequence[Shown] | Mapping[str, Shown]) -> list[Picture]:
    if isinstance(images, Mapping):
        pictures = [replace(picture_of(image), name=name) for name, image in images.items()]
    elif isinstance(images, Sequence) and not isinstance(images, str):
        pictures = [picture_of(image) for image in images]
    else:
        pictures = [picture_of(images)]
    if not pictures:
        raise ValueError("images must hold at least one picture")
    return pictures


def _checked(methods: Sequence[str] | None, state: ExplorerState) -> list[str]:
    """The names of methods, if the model allows them."""
    mistaken = ["vit_explain"] if state.can_mistake else []
    best_first = sorted(state.methods, key=lambda name: name != "attribution")
    names = [*best_first, *mistaken] if methods is None else list(methods)
    slow = [name for name, method in METHODS.items() if method.slow]
    allowed = [*state.methods, *mistaken, *slow]
    if not names or isinstance(methods, str) or not set(names) <= set(allowed):
        raise ValueError(f"methods must be a list of names among {allowed}, got {methods!r}")
    return list(dict.fromkeys(names))


def _asked(state: ExplorerState, count: int, targets: Sequence[int | str]) -> list[TopClass | None]:
    """The classes to ask for: those wanted, the most probable ones, and a scene's things."""
    wanted = [state.class_of(state.find_class(str(target))) for target in targets]
    things = [top for top in state.classes if thing_named(state.picture.masks, top.name)]
    return list(dict.fromkeys([*wanted, *state.classes[:count], *things])) or [None]


def _choices(rule: Method) -> dict[str, bool]:
    """What a map of a method depends on."""
    return {
        "asks": rule.needs_gradient,
        "fuses": "head_fusion" in rule.settings,
        "discards": "discard_ratio" in rule.settings,
    }


def _picture_data(
    state: ExplorerState, rules: Sequence[Method], asked: Sequence[TopClass | None]
) -> dict[str, Any]:
    """All that the page needs of one picture."""
    picture, image = state.picture, fit(state.picture.image, _SIDE)
    places: list[dict[str, list[int]]] = []
    maps: list[Tensor] = []
    verdicts: list[str] = []
    for rule in rules:
        own = _maps_of(state, rule, asked)  # [classes or 1, fusions or 1, ratios or 1, rows, cols]
        said = [
            [verdict(one[None], picture.masks, top.name) for one in of_class.flatten(0, 1)]
            for top, of_class in zip(asked, own.expand(len(asked), *own.shape[1:]), strict=True)
            if top is not None
        ]
        places.append(
            {
                "map": [len(maps), *_steps(own.shape[:3])],
                "said": [len(verdicts), *_steps((len(asked), *own.shape[1:3]))],
            }
        )
        maps.extend(own.flatten(0, 2))
        verdicts.extend(sentence for row in said for sentence in row)
    stacked = torch.stack(maps)
    sentences = list(dict.fromkeys(verdicts))
    return {
        "name": picture.name,
        "src": _webp(image),
        "width": image.width,
        "height": image.height,
        "rows": stacked.shape[1],
        "cols": stacked.shape[2],
        "classes": [_class_data(top, picture, image.size) for top in asked if top is not None],
        "places": places,
        "maps": _text(_roots(stacked)),
        "scales": [_short(float(one.max())) for one in stacked],
        "verdicts": [[sentence, _mark(sentence)] for sentence in sentences],
        "said": [sentences.index(sentence) for sentence in verdicts],
        **_attention_data(state),
    }


def _maps_of(state: ExplorerState, rule: Method, asked: Sequence[TopClass | None]) -> Tensor:
    """A method's maps `[classes, fusions, ratios, rows, cols]`, 1 of what it does not have."""
    choices = _choices(rule)
    fusions = [{"head_fusion": name} for name in HEAD_FUSIONS] if choices["fuses"] else [{}]
    maps = []
    for top in asked if choices["asks"] else asked[:1]:
        capture = state.capture(None if top is None else top.index, **rule.capture_settings)
        for fusion in fusions:
            if choices["discards"]:
                maps.append(rule.sweep(capture, RATIOS, **fusion)[:, 0])
            else:
                maps.append(rule.heatmap(capture, **fusion))
    return torch.stack(maps).unflatten(0, (-1, len(fusions))).cpu()


def _steps(shape: Sequence[int]) -> list[int]:
    """How far apart the neighbours along each axis lie in a flat list; 0 where there are none."""
    return [int(np.prod(shape[at + 1 :])) if size > 1 else 0 for at, size in enumerate(shape)]


def _attention_data(state: ExplorerState) -> dict[str, Any]:
    """For each patch how much each patch attends to it, mean over heads and blocks."""
    capture = state.capture()
    grid = capture.grid
    if grid.rows * grid.cols > _MOST_PATCHES:
        return {}
    matrices = [fuse_heads(call.attention().detach())[0] for call in capture.blocks]
    mean = torch.stack(matrices).mean(0)[grid.prefix :, grid.prefix :].T.cpu()  # [to, from]
    return {
        "attention": _text(_roots(mean)),
        "most": [_short(share) for share in mean.amax(1).tolist()],
        "leading": mean.argmax(1).tolist(),
    }


def _class_data(top: TopClass, picture: Picture, size: tuple[int, int]) -> dict[str, Any]:
    thing = thing_named(picture.masks, top.name)
    return {
        "name": short_name(top.name),
        "names": top.name,
        "probability": _short(top.probability),
        "outline": _png(outline(picture.masks[thing], size)) if thing else None,
    }


def _mark(sentence: str) -> str:
    """What a verdict says in one word; nothing where there is no right answer."""
    first = sentence.removeprefix("Pointing game: ").split(".")[0]
    return first if first in ("right", "wrong") else ""


def _roots(maps: Tensor) -> np.ndarray:
    """The roots of non-negative maps `[N, …]`, uint8, 255 the highest of each map."""
    flat = maps.double().flatten(1)
    highest = flat.amax(1, keepdim=True)
    return (255 * (flat / highest.where(highest > 0, 1)).sqrt()).round().to(torch.uint8).numpy()


def _webp(image: Image.Image) -> str:
    content = io.BytesIO()
    bare = Image.fromarray(np.asarray(image))  # without the place where it was taken
    bare.save(content, "WEBP", quality=_QUALITY, method=6)
    return _address("image/webp", content.getvalue())


def _png(line: np.ndarray) -> str:
    """A white line, bool `[height, width]`, on nothing."""
    content = io.BytesIO()
    Image.fromarray(line).save(content, "PNG", transparency=0, optimize=True)
    return _address("image/png", content.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _short(value: float) -> float:
    return float(f"{value:.4g}")
