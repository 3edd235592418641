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
Marks = dict[str, dict[str, Tensor]]  # by method and measure, as from question_marks
MEASURES: dict[str, Callable[..., Tensor]] = {
    "peak inside": pointing_game,
    "energy inside": energy_inside,
    "share on asked-for": share_on_target,
    "mean IoU": mean_iou,
    "pixel accuracy": pixel_accuracy,
    "average precision": average_precision,
}


def evaluate_methods(
    model: nn.Module,
    questions: Questions,
    methods: Mapping[str, Maps] | None = None,
    *,
    reference: str | None = None,
    steps: int | None = None,
    batch_size: int = 64,
    resamples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> list[dict[str, str | float | int]]:
    """Mark every method by every measure: `question_marks`, then `compare_marks`.

    Args:
        model: the model that is explained.
        questions: as from `ask_garden`, `ask_photographs` or `mosaic_questions`.
        methods: as in `question_marks`.
        reference: as in `compare_marks`.
        steps: as in `question_marks`.
        batch_size: questions at a time.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        progress: show a progress bar in a terminal.

    Returns:
        As `compare_marks`.

    Raises:
        ValueError: as `question_marks` and `compare_marks`.

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
    marks = question_marks(
        model, questions, methods, steps=steps, batch_size=batch_size, progress=progress
    )
    return compare_marks(marks, questions, reference=reference, resamples=resamples, seed=seed)


def question_marks(
    model: nn.Module,
    questions: Questions,
    methods: Mapping[str, Maps] | None = None,
    *,
    steps: int | None = None,
    fills: Sequence[str] = ("blur",),
    batch_size: int = 64,
    progress: bool = True,
) -> Marks:
    """The marks of every method by every measure, question by question.

    `class likeness` is the rank correlation of the maps for two things of one picture: a method
    that does not hear the question has 1.

    Args:
        model: the model that is explained.
        questions: as from `ask_garden`.
        methods: for each name a function from a capture to maps `[B, rows, cols]`, as `centre_map`,
            or a `Method`, as `METHODS["rollout"].having(head_fusion="max")`; None is all of
            `METHODS` that `explain` offers and that are not slow.
        steps: points on deletion and insertion curves (slow); None leaves them out.
        fills: what replaces patches there; marks of the second and further ones name theirs.
        batch_size: questions at a time.
        progress: show a progress bar in a terminal.

    Returns:
        For each method and measure the marks `[N]`, float64, on the CPU; NaN where a question does
        not have what is measured (`masks` or `others` are empty), and no entry where none has. Of
        `class likeness` one for each pair, in the order of `class_pairs`.

    Raises:
        ValueError: no methods, or as the measures.

    Example:
        >>> from vitexplain_utils import load_model
        >>> from vitexplain_utils.garden import garden_test_set
        >>> from vitexplain_utils.truth import ask_garden, constant_map
        >>> model = load_model("garden")
        >>> questions = ask_garden(model, garden_test_set()[16:18])
        >>> question_marks(model, questions, {"even": constant_map})["even"]["peak inside"]
        tensor([0., 0., 0., 0.], dtype=torch.float64)
    """
    if methods is None:
        methods = {name: m for name, m in METHODS.items() if m.offered and not m.slow}
    if not methods:
        raise ValueError("methods must hold at least one, got none")
    parts: dict[str, list[tuple[Tensor, dict[str, Tensor]]]] = {name: [] for name in methods}
    total = len(questions) * len(methods)
    with tqdm(total=total, unit="map", disable=None if progress else True) as bar:
        for part in questions.batches(batch_size):
            captures = Captures(model, part)
            for name, method in methods.items():
                heatmap = captures.maps(method)
                values = _known(part, heatmap) | _perturbed(model, part, heatmap, steps, fills)
                parts[name].append((heatmap.cpu(), values))
                bar.update(len(part))
    alike = class_pairs(questions)
    marks: Marks = {}
    for name, done in parts.items():
        marks[name] = {}
        for measure in done[0][1]:
            joined = torch.cat([values[measure] for _, values in done])
            if not bool(joined.isnan().all()):
                marks[name][measure] = joined
        if alike.shape[1]:
            first, second = torch.cat([heatmap for heatmap, _ in done])[alike]
            marks[name]["class likeness"] = rank_correlation(first, second)
    return marks


def class_pairs(questions: Questions) -> Tensor:
    """The indices of all pairs of questions about two things of one picture, `[2, M]`."""
    scenes, targets = questions.scenes, questions.targets
    pairs = (scenes[:, None] == scenes) & (targets[:, None] != targets)
    return pairs.triu(1).nonzero().T


def compare_marks(
    marks: Marks,
    questions: Questions,
    *,
    reference: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict[str, str | float | int]]:
    """Mean marks with 95 % bootstrap intervals (Efron 1979), and differences to a reference.

    Pictures, not questions, are drawn anew, because questions about one picture are not
    independent. Differences are paired: both methods answer the same questions.

    Args:
        marks: as from `question_marks`, for these questions; a method that was not asked some of
            them has NaN there.
        questions: what was asked.
        reference: the method that the others are compared with.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        One dict per method and measure, with keys `method`, `measure`, `mean`, `low`, `high` and
        `count`, as `pandas.DataFrame` takes them. With a reference also its mean `difference`, the
        95 % interval of that by itself, `difference_low` and `difference_high`, and the interval
        that covers all of a measure's differences together, `simultaneous_low` and
        `simultaneous_high` (the largest of all standardised deviations, max-t: Westfall & Young
        1993); a reference that has no mark of a measure gives no differences there.

    Raises:
        ValueError: the reference has no marks.

    Example:
        >>> from vitexplain_utils import load_model
        >>> from vitexplain_utils.garden import garden_test_set
        >>> from vitexplain_utils.truth import ask_garden
        >>> questions = ask_garden(load_model("garden"), garden_test_set()[16:18])
        >>> marks = {name: {"peak inside": torch.full((4,), mark)} for name, mark in
        ...          (("a", 0.5), ("b", 0.75))}
        >>> compare_marks(marks, questions, reference="a")[1]["difference"]
        0.25
    """
    if reference is not None and reference not in marks:
        raise ValueError(f"reference must be among {tuple(marks)}, got {reference!r}")
    rows = []
    for measure in dict.fromkeys(measure for values in marks.values() for measure in values):
        of_pairs = measure == "class likeness"
        groups = questions.scenes[class_pairs(questions)[0]] if of_pairs else questions.scenes
        names = [name for name in marks if measure in marks[name]]
        values = torch.stack([marks[name][measure].double() for name in names])  # [K, N]
        columns = {"mean": values.nanmean(1)}
        columns |= _ends("", _percentiles(_drawn_means(values, groups, resamples, seed)))
        if reference in names:
            differences = values - values[names.index(reference)]
            mean, drawn = differences.nanmean(1), _drawn_means(differences, groups, resamples, seed)
            columns |= {"difference": mean} | _ends("difference_", _percentiles(drawn))
            columns |= _ends("simultaneous_", _simultaneous(mean, drawn))
        columns["count"] = (~values.isnan()).sum(1)
        for place, name in enumerate(names):
            numbers = {key: column[place].item() for key, column in columns.items()}
            rows.append(dict(method=name, measure=measure, **numbers))
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
    low, high = _percentiles(_drawn_means(values[None], groups, resamples, seed))
    return low.item(), high.item()


def format_table(
    rows: Sequence[Mapping[str, str | float | int]],
    measures: Sequence[str] | None = None,
    *,
    differences: bool = False,
) -> str:
    """The rows as a Markdown table: a line per method, a column per measure, intervals in brackets.

    With `differences` the mean is followed by the difference to the reference and the simultaneous
    interval of that.

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
    form = "{mean:.2f} [{low:.2f}, {high:.2f}]"
    if differences:
        form = "{mean:.2f} ({difference:+.2f} [{simultaneous_low:+.2f}, {simultaneous_high:+.2f}])"
    cells = {(row["method"], row["measure"]): form.format(**row) for row in rows}
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
        kind = (own.get("hold_attention", True), own.get("steps", 1))
        if kind not in self._made:
            x, target = self._questions.x, self._questions.targets
            self._made[kind] = capture_attention(
                self._model, x, target=target, batch_size=len(x), **own
            )
        return method(self._made[kind])


def _known(part: Questions, heatmap: Tensor) -> dict[str, Tensor]:
    """The marks of maps against known answers, NaN where there is none."""
    asked = part.masks.flatten(1).any(1)
    beside = asked & part.others.flatten(1).any(1)
    marks = {name: heatmap.new_full((len(part),), torch.nan).double() for name in MEASURES}
    for name, measure in MEASURES.items():
        masks = (part.masks, part.others) if measure is share_on_target else (part.masks,)
        which = beside if measure is share_on_target else asked
        if bool(which.any()):
            given = [mask[which] for mask in masks]
            marks[name][which] = measure(heatmap[which], *given).double()
    return {name: values.cpu() for name, values in marks.items()}


def _perturbed(
    model: nn.Module, part: Questions, heatmap: Tensor, steps: int | None, fills: Sequence[str]
) -> dict[str, Tensor]:
    """The areas under deletion and insertion curves, and how far they are apart."""
    marks = {}
    for fill in fills if steps is not None else ():
        curves = deletion_insertion(
            model, part.x, heatmap, part.targets, fill=fill, steps=steps or 1
        )
        ending = "" if fill == fills[0] else f", {fill}"
        marks[f"deletion{ending}"] = curves.deletion_auc
        marks[f"insertion{ending}"] = curves.insertion_auc
        marks[f"insertion − deletion{ending}"] = curves.insertion_auc - curves.deletion_auc
    return marks


def _drawn_means(values: Tensor, groups: Tensor, resamples: int, seed: int) -> Tensor:
    """Means `[R, K]` of `[K, N]` over whole groups drawn with replacement, the same for all `K`.

    NaN is no mark; a draw without any mark has the mean NaN.
    """
    _, index = groups.unique(return_inverse=True)
    known = ~values.isnan()
    shape = (len(values), int(index.max()) + 1)
    total, count = (
        torch.zeros(shape, dtype=torch.float64).index_add_(1, index, numbers.double())
        for numbers in (values.nan_to_num(), known)
    )
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(shape[1], (resamples, shape[1]), generator=generator)
    times = torch.zeros(drawn.shape, dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(times))  # how often each group was drawn
    return (times @ total.T) / (times @ count.T)


def _percentiles(drawn: Tensor) -> Tensor:
    """The 2.5th and the 97.5th of `[R, K]`: `[2, K]`."""
    return drawn.nanquantile(torch.tensor([0.025, 0.975], dtype=drawn.dtype), dim=0)


def _simultaneous(mean: Tensor, drawn: Tensor) -> Tensor:
    """Intervals `[2, K]` that cover all `K` means together: max-t (Westfall & Young 1993).

    Each mean's deviations are measured in its own standard errors; the 95th percentile of the
    largest one of all `K` is how many standard errors every interval is wide to either side.
    """
    error = (drawn - drawn.nanmean(0)).square().nanmean(0).sqrt()
    moved = (drawn - mean).abs() / error.where(error > 1e-12, torch.inf)
    half = moved.nan_to_num().amax(1).quantile(0.95) * error
    return torch.stack([mean - half, mean + half])


def _ends(prefix: str, interval: Tensor) -> dict[str, Tensor]:
    return {f"{prefix}low": interval[0], f"{prefix}high": interval[1]}
