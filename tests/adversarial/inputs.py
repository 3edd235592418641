"""Bad arguments: for each a call that must raise an error that names the argument."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import vitexplain_utils as vu
from vitexplain_utils import methods, models, show, truth
from vitexplain_utils.garden import garden_test_set

NAN, INF = float("nan"), float("inf")
Case = tuple[str, Callable[[], object]]  # what the message must hold, and the call
PICTURE = Image.new("RGB", (40, 30))


@cache
def garden() -> nn.Module:
    return vu.load_model("garden")


def scene() -> Tensor:
    return vu.preprocess(garden(), vu.hero_scene(4).image)


def small(**settings: Any) -> nn.Module:
    settings = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_classes": 7, **settings}
    return timm.create_model("vit_tiny_patch16_224", **settings).eval()


def explained(x: Any, **settings: Any) -> object:
    return vu.explain(garden(), x, **settings)


def x_cases() -> list[Case]:
    """Inputs that are no float `[B, 3, H, W]` of the model."""
    x = scene()
    bad = [
        None, 3, "photo.jpg", PICTURE, np.zeros((1, 3, 96, 96), np.float32), [x], x[0], x[None],
        x[:0], x.long(), x.bool(), x.to(torch.complex64), x.double(), x.half(), x[:, :1], x[:, :2],
        x.repeat(1, 2, 1, 1), x[..., :95], x[..., :1], x[:, :, :0], x * NAN, x * INF,
        x.to_sparse(), x.to("meta"),
    ]  # fmt: skip
    calls: list[Callable[[Any], object]] = [
        explained,
        partial(vu.capture_attention, garden()),
        lambda value: vu.discard_sweep(garden(), value, [0.5]),
        lambda value: truth.deletion_insertion(garden(), value, torch.ones(1, 12, 12), 1),
        lambda value: truth.occlusion(garden(), value, 1, grid=(12, 12)),
    ]
    return [("x |grid", partial(call, value)) for value in bad for call in calls]


def target_cases() -> list[Case]:
    x = scene()
    bad = [-1, 8, 1.5, NAN, "bee", b"bee", [], [1, 2], [[1]], torch.tensor([1.5]), True,
           torch.tensor([9]), {"bee": 1}, {1}, np.array(["bee"]), 10**30, PICTURE]  # fmt: skip
    asked = [("target", partial(explained, x, target=value)) for value in bad]
    asked += [("target", partial(explained, x.repeat(2, 1, 1, 1), target=v, batch_size=1))
              for v in bad if v is not bad[7]]  # fmt: skip
    functions = [lambda y: y, lambda y: None, lambda y: 1.0, lambda y: y[:, 0].detach(),
                 lambda y: y.sum(), lambda y: y[:, :2]]  # fmt: skip
    asked += [("target", partial(explained, x, target=function)) for function in functions]
    perturbed = [None, *bad, functions[0]]
    asked += [("target", partial(truth.deletion_insertion, garden(), x, torch.ones(1, 12, 12), t))
              for t in perturbed]  # fmt: skip
    asked += [("target", partial(truth.occlusion, garden(), x, t, grid=(12, 12)))
              for t in perturbed]  # fmt: skip
    return asked


def setting_cases() -> list[Case]:
    x = scene()
    ratios = [-0.1, 1, 1.5, NAN, INF, "0.5", None, [0.5], torch.tensor([0.1, 0.2]), True, 1j]
    counts = [0, -1, 1.5, "2", None, True, [1], NAN]
    given: dict[str, list[Any]] = {
        "discard_ratio": ratios,
        "residual_weight": ratios,
        "head_fusion": ["median", None, 1, "MEAN", ["mean"], b"mean"],
        "blocks": [(0,), (1, 0), (-1, 2), (0, 6), "01", 3, (0.0, 2.0), (None, 1), (0, 1, 2),
                   (True, 2)],
        "hold_attention": [1, None, "no"],
        "steps": counts,
    }  # fmt: skip
    asked: list[Case] = []
    for name, values in given.items():
        method = "gradient_rollout"
        asked += [(name, partial(explained, x, method=method, **{name: value}))
                  for value in values if (name, value) != ("blocks", None)]  # fmt: skip
    asked += [("batch_size", partial(explained, x, batch_size=v)) for v in counts if v is not None]
    asked += [("method", partial(explained, x, method=v)) for v in ("rolout", None, 3, [], b"flow")]
    asked += [("has no setting", partial(explained, x, discard=0.5)),
              ("has no setting", partial(explained, x, discard_ratio=0.5))]  # fmt: skip
    sweeps = [[], None, 0.5, "0.5", [0.5, 1.0], [NAN], ["0.5"], [None], torch.tensor(0.5)]
    asked += [("discard_ratios", partial(vu.discard_sweep, garden(), x, v)) for v in sweeps]
    asked += [("hold_attention", partial(vu.capture_attention, garden(), x, hold_attention=2)),
              ("gradient", partial(vu.capture_attention, garden(), x, gradient="no"))]  # fmt: skip
    return asked


def tensor_cases() -> list[Case]:
    """The stage functions on tensors: shapes, kinds, NaN, inf and negative attention."""
    a = torch.rand(2, 3, 5, 5).softmax(-1)
    g = torch.randn(2, 3, 5, 5)
    negative, nan, inf = -a, a.clone(), a.clone()
    nan[0, 0, 1, 2], inf[0, 0, 1, 2] = NAN, INF
    wrong = [[], None, a, 3, "A", [a, a[:1]], [a[0]], [a[..., :4]], [a.numpy()], [a.long()],
             [negative], [nan], [inf]]  # fmt: skip
    asked: list[Case] = []
    for values in wrong:
        if values is a:
            continue  # a stack of blocks is a sequence of [H, T, T]: the wrong shape of [a[0]]
        asked += [("attention", partial(methods.rollout, values)),
                  ("attention", partial(methods.gradient_rollout, values, [g])),
                  ("attention", partial(methods.relevance, values, [g])),
                  ("attention", partial(methods.attribution, values, [g])),
                  ("attention", partial(methods.attention_flow, values))]  # fmt: skip
    grads = [None, [], [g, g], [g[:1]], [g * NAN], [g * INF], 3, [g.numpy()], [None]]
    for function in (methods.gradient_rollout, methods.relevance, methods.attribution):
        asked += [("gradient", partial(function, [a], value)) for value in grads]
    for value in (None, a[0], a.numpy(), a.long(), nan, inf, 3, "A"):
        asked.append(("attention", partial(methods.fuse_heads, value)))
    for value in (None, a, a[0].numpy(), a[0, :, :4], negative[0], nan[0], inf[0], 3, a[0].long()):
        asked.append(("fused", partial(methods.discard_lowest, value, 0.5)))
    starts = [torch.ones(4), torch.ones(3, 5), "row", 3, torch.full((5,), NAN), -torch.ones(5),
              np.ones(5)]  # fmt: skip
    asked += [("start", partial(methods.rollout, [a], start=value)) for value in starts]
    asked += [("rows", partial(methods.attribution, [a], [g], rows=value)) for value in (1, None)]
    return asked


def truth_cases() -> list[Case]:
    x, heatmap = scene(), torch.rand(1, 12, 12)
    mask = torch.zeros(1, 96, 96, dtype=torch.bool)
    mask[:, :8] = True
    maps = [None, heatmap[0], heatmap.numpy(), -heatmap, heatmap * NAN, heatmap[:, :0],
            heatmap.repeat(2, 1, 1), "map"]  # fmt: skip
    masks = [
        None,
        mask[0],
        mask.numpy(),
        mask.float(),
        mask & False,
        mask[:, :4],
        mask.repeat(2, 1, 1),
    ]
    measures = [truth.pointing_game, truth.energy_inside, truth.mean_iou, truth.pixel_accuracy,
                truth.average_precision]  # fmt: skip
    asked: list[Case] = []
    for measure in measures:
        asked += [("heatmap", partial(measure, value, mask)) for value in maps]
        asked += [("mask", partial(measure, heatmap, value)) for value in masks]
    asked += [("others", partial(truth.share_on_target, heatmap, mask, value)) for value in masks]
    dele = partial(truth.deletion_insertion, garden(), x)
    asked += [
        ("heatmap", partial(dele, value, 1))
        for value in (
            None,
            heatmap[0],
            heatmap.numpy(),
            heatmap * NAN,
            heatmap.repeat(2, 1, 1),
            "map",
        )
    ]
    asked += [("grid", partial(dele, torch.rand(1, 7, 7), 1))]
    asked += [("fill", partial(dele, heatmap, 1, fill=value)) for value in ("black", None, 0)]
    counts = [0, -1, 2.5, "2", None, True]
    asked += [("steps", partial(dele, heatmap, 1, steps=value)) for value in counts]
    asked += [("batch_size", partial(dele, heatmap, 1, batch_size=value)) for value in counts]
    grids = [2, (12,), (0, 12), (7, 12), (12, 12, 1), None, (12.0, 12.0), "12"]
    asked += [("grid", partial(truth.occlusion, garden(), x, 1, grid=value)) for value in grids]
    asked += [
        ("first", partial(truth.rank_correlation, value, heatmap))
        for value in (None, heatmap[0], heatmap * NAN, heatmap.numpy(), torch.rand(1, 5, 5))
    ]
    scenes = garden_test_set()[16:18]
    thousand = small(num_classes=1000, img_size=96)
    asked += [("classes", partial(truth.ask_garden, thousand, scenes)),
              ("scenes", partial(truth.ask_garden, garden(), [])),
              ("scenes", partial(truth.ask_garden, garden(), [PICTURE])),
              ("scenes", partial(truth.ask_garden, garden(), None)),
              ("methods", partial(vu.evaluate_methods, garden(),
                                  truth.ask_garden(garden(), scenes), {}))]  # fmt: skip
    return asked


def show_cases() -> list[Case]:
    heatmap = torch.rand(12, 12)
    over = partial(vu.overlay, PICTURE, heatmap)
    asked: list[Case] = []
    for value in (None, "photo.jpg", np.zeros((4, 4, 3)), torch.zeros(3, 4, 4)):
        asked += [("image", partial(vu.overlay, value, heatmap)),
                  ("image", partial(vu.preprocess, garden(), value)),
                  ("image", partial(show.label_frame, value, "text")),
                  ("frames", partial(vu.save_gif, [value], "/tmp/x.gif"))]  # fmt: skip
    asked += [
        ("heatmap", partial(vu.overlay, PICTURE, value))
        for value in (
            None,
            "map",
            heatmap[None],
            heatmap[:0],
            heatmap * NAN,
            3,
            PICTURE,
            [[1], [2, 3]],
            heatmap + 1j,
        )
    ]
    asked += [("opacity", partial(over, opacity=v)) for v in (-1, 2, NAN, "0.5", None)]
    asked += [("vmin", partial(over, vmin=v)) for v in (NAN, INF, "0", None, 9)]
    asked += [("vmax", partial(over, vmax=v)) for v in (NAN, INF, "1", -1)]
    asked += [("colormap", partial(over, colormap=v)) for v in ("plazma", None, 3, [])]
    asked += [
        ("box", partial(over, box=v))
        for v in (
            (0, 0, 0, 5),
            (5, 5, 1, 1),
            (0, 0, 99, 99),
            (0, 0, 1),
            3,
            "box",
            (NAN,) * 4,
            (None,) * 4,
        )
    ]
    asked += [
        ("size", partial(models.crop_box, garden(), value))
        for value in ((0, 5), (5,), None, 3, (-1, 4), ("4", "5"))
    ]
    gif = partial(vu.save_gif, [PICTURE, PICTURE])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.gif")
    asked += [("frames", partial(vu.save_gif, value, path)) for value in ([], None, 3, [3], "ab")]
    asked += [("path", partial(gif, value)) for value in ("x.png", None, 3, "x")]
    for name, values in {
        "duration": (0, 19, NAN, "100", None), "loop": (-1, 1.5, "1", None, 70_000, True),
        "colors": (1, 256, 2.5, "9", None), "max_bytes": (0, -1, "9", None),
    }.items():  # fmt: skip
        asked += [(name, partial(gif, path, **{name: value})) for value in values]
    maps = torch.rand(2, 12, 12)
    frames = partial(show.sweep_frames, PICTURE)
    asked += [
        ("heatmaps", partial(frames, value, [0, 0.5]))
        for value in (None, maps[0], maps.numpy(), maps[:1], "maps", maps * NAN)
    ]
    asked += [("discard_ratios", partial(frames, maps, value)) for value in (None, 3, ["a", "b"])]
    asked += [
        ("names|text", partial(frames, maps, [0, 0.5], names=value))
        for value in (["a", "b"], 3, [3])
    ]
    asked += [
        ("text", partial(frames, maps, [0, 0.5], text=value))
        for value in ("{} {}", "{nobody}", 3, None)
    ]
    asked += [
        ("image", partial(show.label_frame, Image.new("RGB", (0, 4)), "text")),
        ("text", partial(show.label_frame, PICTURE, 3)),
        ("text", partial(show.label_frame, PICTURE, "two\nlines")),
    ]
    sources = [None, 3, PICTURE, b"bytes", ["a.jpg"], "", "ftp://nowhere/x.png", "file:///etc/x"]
    asked += [("image", partial(vu.load_image, value)) for value in sources]
    return asked


def model_cases() -> list[Case]:
    """Models that cannot be explained, and what asks them for classes."""
    x = torch.randn(1, 3, 32, 32)
    logits = vu.explain(garden(), scene()).logits

    class Told(timm.models.vision_transformer.VisionTransformer):
        """A ViT whose output is something else."""

        given: Callable[[Tensor], Any]

        def forward(self, x: Tensor, *_: Any) -> Any:
            return type(self).given(super().forward(x))

    def told(given: Callable[[Tensor], Any]) -> nn.Module:
        kind = type("Told", (Told,), {"given": staticmethod(given)})
        return kind(img_size=32, embed_dim=48, depth=2, num_heads=3, num_classes=7).eval()

    class TakesTwo(timm.models.vision_transformer.VisionTransformer):
        def forward(self, x: Tensor, other: Tensor) -> Tensor:
            return super().forward(x)

    outputs = [lambda y: (y, y), lambda y: {"logits": y}, lambda y: None, lambda y: y[0],
               lambda y: y[:, None], lambda y: [y], lambda y: y.numpy(force=True)]  # fmt: skip
    asked: list[Case] = [("logits", partial(vu.explain, told(given), x)) for given in outputs]
    asked += [
        ("logits", partial(vu.explain, told(given), x, method="rollout")) for given in outputs
    ]
    two = TakesTwo(img_size=32, embed_dim=48, depth=2, num_heads=3).eval()
    asked += [
        ("model", partial(vu.explain, two, x)),
        ("model", partial(vu.explain, timm.create_model("resnet18"), x)),
        ("model", partial(vu.explain, None, x)),
        ("model", partial(vu.explain, "garden", x)),
        ("model", partial(vu.explain, nn.Linear(3, 3), x)),
        ("model", partial(vu.explain, small, x)),
        ("model", partial(vu.capture_attention, "garden", x)),
        ("model", partial(models.class_names, None)),
        ("model", partial(vu.preprocess, "garden", PICTURE)),
        ("model", partial(vu.record_attention("garden").__enter__)),
    ]
    asked += [
        ("k ", partial(vu.top_classes, garden(), logits, k=value))
        for value in (0, -1, 1.5, "2", None, True)
    ]
    asked += [
        ("logits", partial(vu.top_classes, garden(), value))
        for value in (None, logits[0], logits[:, :3], "logits", logits.numpy(), logits * NAN)
    ]
    asked += [
        ("target", partial(vu.class_index, garden(), value))
        for value in ("", "dragon", None, 3, "e")
    ]
    asked += [
        ("name", partial(vu.load_model, value))
        for value in ("deit_tini", "", None, 3, "torchvision:resnet18", "torchvision:", PICTURE)
    ]
    asked += [
        ("weights", partial(vu.load_model, "garden", weights=value))
        for value in ("no/such/file.pth", Path("/no/such.safetensors"), 3)
    ]
    asked += [
        ("img_size", partial(vu.load_model, "garden", img_size=value))
        for value in (0, -8, 97, 96.0, "96", (96, 96), True)
    ]
    asked += [
        ("device", partial(vu.load_model, "garden", device=value))
        for value in ("gpu", "cuda:99", 3.5)
    ]
    padded = small(dynamic_img_pad=True, dynamic_img_size=True)
    asked += [("padded", partial(vu.explain, padded, torch.randn(1, 3, 40, 33)))]
    return asked


GROUPS: dict[str, Callable[[], list[Case]]] = {
    "x": x_cases,
    "targets": target_cases,
    "settings": setting_cases,
    "tensors": tensor_cases,
    "truth": truth_cases,
    "pictures": show_cases,
    "models": model_cases,
}
CLEAR = (ValueError, TypeError, FileNotFoundError)


def verdict(said: str, call: Callable[[], object]) -> str | None:
    """None if the call is refused clearly; else what is wrong with it."""
    try:
        got = call()
    except CLEAR as error:
        text = str(error)
        own = any(part in str(error.__traceback__ and last_file(error)) for part in ("vitexplain",))
        if not any(name.strip() in text for name in said.split("|")) or not own:
            return f"{type(error).__name__} does not name {said.strip()!r}: {text[:160]}"
        return None
    except Exception as error:
        return f"raw {type(error).__name__}: {str(error)[:160]}"
    return f"accepted, gave {type(got).__name__}"


def last_file(error: BaseException) -> str:
    """The file that raised."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return "" if frame is None else frame.tb_frame.f_code.co_filename
