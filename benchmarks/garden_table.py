"""How true are the maps? Every method, every known mistake and every baseline, on garden scenes.

For each thing that the model finds in scenes with two or three things, all measures of the
package, with 95 % bootstrap intervals over scenes. Deletion and insertion take a forward pass per
step, so they are measured on a part of the questions. Grad-CAM of two other packages stands beside
as an outside reference where they are installed: `pip install grad-cam torchcam`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from itertools import count, islice

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from tqdm import tqdm

from vitexplain_utils import (
    Scene,
    ask_garden,
    evaluate_methods,
    garden_scene,
    load_model,
    randomised_models,
    rank_correlation,
)
from vitexplain_utils.baselines import centre_map, constant_map, edge_map, random_map
from vitexplain_utils.evaluation import Method, format_table
from vitexplain_utils.explain import Captured, capture_attention, heatmap_of
from vitexplain_utils.garden import Questions
from vitexplain_utils.mistakes import MISTAKES, mistaken_gradient_rollout

FIRST_SEED = 6_000_000  # seeds below are for training, validation, accuracy and the test set
MAIN = ["peak inside", "energy inside", "share on asked-for", "class likeness"]
MORE = ["mean IoU", "pixel accuracy", "average precision"]


def mistaken(captured: Captured, mistakes: tuple[str, ...]) -> Tensor:
    row = mistaken_gradient_rollout(captured.attention, captured.gradient or [], mistakes)
    return captured.grid.to_grid(row)


def patches_as_channels(captured: Captured, tokens: Tensor) -> Tensor:
    grid = captured.grid
    return tokens[:, grid.prefix :].mT.unflatten(2, (grid.rows, grid.cols))  # [B, D, rows, cols]


def grad_cam(captured: Captured) -> Tensor:
    """Grad-CAM of the package `grad-cam`, at the layer that its documentation names for ViTs."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = [ClassifierOutputTarget(int(index)) for index in captured.target]
    layers = [captured.model.blocks[-1].norm1]
    reshape = partial(patches_as_channels, captured)
    with GradCAM(captured.model, layers, reshape_transform=reshape) as cam:
        maps = torch.from_numpy(cam(captured.x, targets))
    return adaptive_avg_pool2d(maps, (captured.grid.rows, captured.grid.cols))


def layer_cam(captured: Captured) -> Tensor:
    """Layer-CAM of the package `torchcam`, at the same layer."""
    from torchcam.methods import LayerCAM

    layer = captured.model.blocks[-1].norm1
    reshape = partial(patches_as_channels, captured)
    x = captured.x.detach().clone().requires_grad_()
    with LayerCAM(captured.model, target_layer=layer, reshape_transform=reshape) as cam:
        return cam(captured.target.tolist(), captured.model(x))[0].nan_to_num()


def methods(flow: bool) -> dict[str, Method]:
    """Every row of the table."""
    rows: dict[str, Method] = {
        "gradient rollout": heatmap_of,
        "gradient rollout, discard 0.9": partial(heatmap_of, discard_ratio=0.9),
        "gradient rollout, residual 0.9": partial(heatmap_of, residual_weight=0.9),
        "relevance": partial(heatmap_of, method="relevance"),
    }
    for name, peer in (("pytorch_grad_cam", grad_cam), ("torchcam", layer_cam)):
        try:
            __import__(name)
        except ImportError:
            print(f"{name} is not installed: its row is left out")
        else:
            rows[f"{peer.__name__.replace('_', '-')} ({name})"] = peer
    rows["last attention"] = partial(heatmap_of, method="last_attention")
    for fusion in ("mean", "max", "min"):
        for ratio in (0.0, 0.9):
            rows[f"rollout, {fusion}, discard {ratio}"] = partial(
                heatmap_of, method="rollout", head_fusion=fusion, discard_ratio=ratio
            )
    if flow:
        rows["flow"] = partial(heatmap_of, method="flow")
    for mistake in MISTAKES:
        rows[f"mistake: {mistake}"] = partial(mistaken, mistakes=(mistake,))
    rows["all three mistakes"] = partial(mistaken, mistakes=MISTAKES)
    baselines = (edge_map, centre_map, random_map, constant_map)
    return rows | {f"baseline: {b.__name__.removesuffix('_map')}": b for b in baselines}


def scenes() -> Iterator[Scene]:
    """Scenes with two or three things."""
    for seed in count(FIRST_SEED):
        scene = garden_scene(seed)
        if len(scene.labels) > 1:
            yield scene


def first_questions(asked: Questions, scenes: int) -> Questions:
    """The questions about the first scenes."""
    wanted = int((asked.scenes < scenes).sum())
    return asked.batches(wanted)[0]


def cascade(model: torch.nn.Module, asked: Questions, rows: dict[str, Method]) -> None:
    """Print how like the original each map stays while the model forgets, from the head down."""
    captured = capture_attention(model, asked.x, target=asked.targets)
    original = {name: method(captured) for name, method in rows.items()}
    likeness: dict[str, list[str]] = {name: [] for name in rows}
    stages = []
    for stage, forgetful in tqdm(randomised_models(model), desc="randomised", disable=None):
        stages.append(stage)
        captured = capture_attention(forgetful, asked.x, target=asked.targets)
        for name, method in rows.items():
            values = rank_correlation(original[name], method(captured))
            likeness[name].append(f"{values.mean():.2f}")
    print(f"| method | {' | '.join(stages)} |\n{'|---' * (len(stages) + 1)}|")
    for name, values in likeness.items():
        print(f"| {name} | {' | '.join(values)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--flow", action="store_true", help="attention flow as well (minutes)")
    parser.add_argument("--perturbed", type=int, default=24, help="scenes for deletion, insertion")
    options = parser.parse_args()
    start = time.perf_counter()
    model = load_model("garden")
    rows = methods(options.flow)
    drawn = list(
        tqdm(islice(scenes(), options.scenes), total=options.scenes, desc="scenes", disable=None)
    )
    asked = ask_garden(model, drawn)
    table = evaluate_methods(model, asked, rows)
    print(f"\n{len(asked)} things found in {options.scenes} scenes\n")
    print(format_table(table, MAIN), end="\n\n")
    print(format_table(table, MORE), end="\n\n")
    few = first_questions(asked, options.perturbed)
    table = evaluate_methods(model, few, rows, steps=12)
    print(f"{len(few)} questions about {options.perturbed} scenes; patches blurred in 12 steps\n")
    print(format_table(table, ["deletion", "insertion"]), end="\n\n")
    print(
        "rank correlation with the original map while the model is randomised from the head down\n"
    )
    cascade(model, few, {name: rows[name] for name in rows if "(" not in name and name != "flow"})
    print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
