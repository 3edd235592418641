"""Evaluation: many methods, many questions with known answers, one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..capture import Capture, capture_attention
from ..methods import METHODS, Method
from .measures import (
    average_precision,
    energy_inside,
    mean_iou,
    pixel_accuracy,
    pointing_game,
    share_on_target,
)
from .perturbation import deletion_insertion
from .questions import Questions
from .sanity import rank_correlation

Maps = Callable[[Capture], Tensor]


def evaluate_methods(
    model: nn.Module,
    questions: Questions,
    methods: Mapping[str, Maps] | None = None,
    *,
    steps: int | None = None,
    batch_size: int = 64,
    resamples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> list[dict[str, str | float | int]]:
    """Mark every method by every measure, with 95 % bootstrap intervals (Efron 1979).

    Scenes, not questions, are drawn anew for the intervals, because questions about one scene are
    not independent. `class likeness` is the mean rank correlation of the maps for different things
    of one scene: a method that does not hear the question has 1.

    Args:
        model: the model that is explained.
        questions: as from `ask_garden`.
        methods: for each name a function from a capture to maps `[B, rows, cols]`, as `centre_map`,
            or a `Method`, as `METHODS["rollout"].having(head_fusion="max")`; None is all of
            `METHODS` that `explain` offers and that are not slow.
        steps: points on deletion and insertion curves (slow); None leaves these two out.
        batch_size: questions at a time.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        progress: show a progress bar in a terminal.

    Returns:
        One dict per method and measure, with keys `method`, `measure`, `mean`, `low`, `high` and
        `count`, as `pandas.DataFrame` takes them.

    Raises:
        ValueError: no methods, or as the measures.

    Example:
        >>> from vitexplain_utils import load_model
        >>> from vitexplain_utils.garden import garden_test_set
        >>> from vitexplain_utils.truth import ask_garden, centre_map
        >>> model = load_model("garden")
        >>> questions = ask_garden(model, garden_test_set()[16:20])
        >>> rows = evaluate_methods(model, questions, {"centre": centre_map})
        >>> rows[0]["measure"], rows[0]["count"]
        ('peak inside', 8)
    """
    if methods is None:
        methods = {name: m for name, m in METHODS.items() if m.offered and not m.slow}
    if not methods:
        raise ValueError("methods must hold at least one, got none")
    marks: dict[tuple[str, str], list[Tensor]] = {}
    maps: dict[str, list[Tensor]] = {name: [] for name in methods}
    total = len(questions) * len(methods)
    with tqdm(total=total, unit="map", disable=None if progress else True) as bar:
        for part in questions.batches(batch_size):
            captures = Captures(model, part)
            for name, method in methods.items():
                heatmap = captures.maps(method)
                maps[name].append(heatmap)
                for measure, values in _mark(model, part, heatmap, steps).items():
                    marks.setdefault((name, measure), []).append(values.double())
                bar.update(len(part))
    alike, scenes = _pairs(questions.scenes)
    rows = []
    for name, measure in marks:
        values = torch.cat(marks[name, measure])
        rows.append(_row(name, measure, values, questions.scenes, resamples, seed))
    for name, parts in maps.items():
        heatmaps = torch.cat(parts)
        if len(scenes):
            values = rank_correlation(heatmaps[alike[0]], heatmaps[alike[1]])
            rows.append(_row(name, "class likeness", values, scenes, resamples, seed))
    return rows


def bootstrap_interval(
    values: Tensor, groups: Tensor, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % bootstrap interval of a mean, whole groups drawn with replacement (Efron 1979).

    Args:
        values: `[N]`.
        groups: `[N]`, a number for each group of values that belong together.
        resamples: how often all groups are drawn.
        seed: of the draws.

    Returns:
        The 2.5th and the 97.5th percentile of the means.

    Raises:
        ValueError: no values, or not as many groups.

    Example:
        >>> bootstrap_interval(torch.ones(5), torch.arange(5))
        (1.0, 1.0)
    """
    if values.ndim != 1 or values.shape != groups.shape or len(values) == 0:
        raise ValueError(
            "values and groups must be [N] with N > 0, got "
            f"{tuple(values.shape)} and {tuple(groups.shape)}"
        )
    _, index = groups.unique(return_inverse=True)
    count = torch.bincount(index).double()
    total = torch.zeros_like(count).index_add_(0, index, values.double())
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(count), (resamples, len(count)), generator=generator)
    means = total[drawn].sum(1) / count[drawn].sum(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def format_table(
    rows: Sequence[Mapping[str, str | float | int]], measures: Sequence[str] | None = None
) -> str:
    """The rows as a Markdown table: a line per method, a column per measure, intervals in brackets.

    Example:
        >>> row = dict(method="a", measure="energy", mean=0.5, low=0.4, high=0.61, count=9)
        >>> print(format_table([row]))
        | method | energy |
        |---|---|
        | a | 0.50 [0.40, 0.61] |
    """
    names = (
        list(dict.fromkeys(str(row["measure"]) for row in rows)) if measures is None else measures
    )
    cells = {
        (row["method"], row["measure"]): f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        for row in rows
    }
    lines = [f"| method | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        shown = [cells.get((method, name), "–") for name in names]
        lines.append(f"| {method} | {' | '.join(shown)} |")
    return "\n".join(lines)


class Captures:
    """The captures of some questions, made when a method first wants one, and shared.

    Args:
        model: the model that is explained.
        questions: what it is asked.
    """

    def __init__(self, model: nn.Module, questions: Questions) -> None:
        self._model, self._questions = model, questions
        self._made: dict[tuple[bool, int], Capture] = {}

    def maps(self, method: Maps) -> Tensor:
        """The maps `[N, rows, cols]` of a method, from the kind of capture that it wants."""
        own = method.capture_settings if isinstance(method, Method) else {}
        kind = (own.get("hold_attention", False), own.get("steps", 1))
        if kind not in self._made:
            x, target = self._questions.x, self._questions.targets
            self._made[kind] = capture_attention(
                self._model, x, target=target, batch_size=len(x), **own
            )
        return method(self._made[kind])


def _mark(
    model: nn.Module, part: Questions, heatmap: Tensor, steps: int | None
) -> dict[str, Tensor]:
    marks = {
        "peak inside": pointing_game(heatmap, part.masks),
        "energy inside": energy_inside(heatmap, part.masks),
        "share on asked-for": share_on_target(heatmap, part.masks, part.others),
        "mean IoU": mean_iou(heatmap, part.masks),
        "pixel accuracy": pixel_accuracy(heatmap, part.masks),
        "average precision": average_precision(heatmap, part.masks),
    }
    if steps is not None:
        curves = deletion_insertion(model, part.x, heatmap, part.targets, steps=steps)
        marks |= {"deletion": curves.deletion_auc, "insertion": curves.insertion_auc}
    return marks


def _pairs(scenes: Tensor) -> tuple[Tensor, Tensor]:
    """The indices of all pairs of questions about one scene, `[2, M]`, and their scene, `[M]`."""
    same = (scenes[:, None] == scenes).triu(1).nonzero().T
    return same, scenes[same[0]]


def _row(
    method: str, measure: str, values: Tensor, scenes: Tensor, resamples: int, seed: int
) -> dict[str, str | float | int]:
    low, high = bootstrap_interval(values, scenes, resamples=resamples, seed=seed)
    mean, count = values.mean().item(), len(values)
    return dict(method=method, measure=measure, mean=mean, low=low, high=high, count=count)
