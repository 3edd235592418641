from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from vitexplain_utils import METHODS, evaluate_methods, explain, load_model
from vitexplain_utils.garden import garden_test_set
from vitexplain_utils.truth import (
    Questions,
    ask_garden,
    bootstrap_interval,
    class_pairs,
    compare_marks,
    constant_map,
    deletion_insertion,
    energy_inside,
    format_table,
    pointing_game,
    question_marks,
    rank_correlation,
    share_on_target,
)

pytestmark = pytest.mark.slow

TWO = {"right": METHODS["gradient_rollout"], "rollout": METHODS["rollout"]}


@pytest.fixture(scope="module")
def model():
    return load_model("garden")


@pytest.fixture(scope="module")
def asked(model):
    return ask_garden(model, garden_test_set()[12:34])  # four scenes with one thing are skipped


def look_up(rows, method, measure):
    (row,) = [row for row in rows if (row["method"], row["measure"]) == (method, measure)]
    return row


def test_questions_know_their_scene(asked):
    assert asked.scenes.tolist() == [n for n in range(16) for _ in range(2)] + [16] * 3 + [17] * 3
    parts = asked.batches(5)
    assert [len(part) for part in parts] == [5] * 7 + [3]
    assert torch.equal(torch.cat([part.scenes for part in parts]), asked.scenes)
    assert torch.equal(torch.cat([part.others for part in parts]), asked.others)


def test_marks_are_those_of_the_measures(model, asked):
    rows = evaluate_methods(model, asked, TWO, batch_size=7)
    for method, name in (("right", "gradient_rollout"), ("rollout", "rollout")):
        heatmap = explain(model, asked.x, method=name, target=asked.targets).heatmap
        expected = {
            "peak inside": pointing_game(heatmap, asked.masks).double(),
            "energy inside": energy_inside(heatmap, asked.masks),
            "share on asked-for": share_on_target(heatmap, asked.masks, asked.others),
        }
        for measure, values in expected.items():
            row = look_up(rows, method, measure)
            assert row["mean"] == pytest.approx(values.mean().item(), abs=1e-6)
            assert row["low"] <= row["mean"] <= row["high"] and row["count"] == len(asked)
    assert look_up(rows, "right", "energy inside")["low"] > 0.6


def test_class_likeness_is_over_pairs_of_one_scene(model, asked):
    rows = evaluate_methods(model, asked, TWO)
    heatmap = explain(model, asked.x, method="gradient_rollout", target=asked.targets).heatmap
    scenes = asked.scenes.tolist()
    pairs = [(i, j) for j in range(len(scenes)) for i in range(j) if scenes[i] == scenes[j]]
    expected = [rank_correlation(heatmap[i][None], heatmap[j][None]).item() for i, j in pairs]
    row = look_up(rows, "right", "class likeness")
    assert row["mean"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert row["count"] == 16 + 2 * 3
    assert look_up(rows, "rollout", "class likeness")["mean"] == pytest.approx(1)


def test_a_perfect_and_an_inverted_map(model, asked):
    covered = adaptive_avg_pool2d(asked.masks.double(), (12, 12))
    maps = {"perfect": lambda _: covered, "inverted": lambda _: 1 - covered}
    rows = evaluate_methods(model, asked, maps, batch_size=len(asked))
    for measure, least in (("peak inside", 0.99), ("share on asked-for", 0.98)):
        assert look_up(rows, "perfect", measure)["mean"] > least
        assert look_up(rows, "inverted", measure)["mean"] < 0.5
    for row in rows:
        if row["method"] == "perfect" and row["measure"] != "class likeness":
            assert row["mean"] > look_up(rows, "inverted", row["measure"])["mean"]


def test_deletion_and_insertion_are_optional(model, asked):
    few = asked.batches(4)[0]
    rows = evaluate_methods(model, few, {"right": METHODS["gradient_rollout"]}, steps=3)
    heatmap = explain(model, few.x, method="gradient_rollout", target=few.targets).heatmap
    curves = deletion_insertion(model, few.x, heatmap, few.targets, steps=3)
    for measure, auc in (("deletion", curves.deletion_auc), ("insertion", curves.insertion_auc)):
        mean = look_up(rows, "right", measure)["mean"]
        assert mean == pytest.approx(auc.mean().item(), abs=1e-6)
    assert not any(row["measure"] == "deletion" for row in evaluate_methods(model, few, TWO))


def test_methods_must_be_given(model, asked):
    with pytest.raises(ValueError, match="methods"):
        evaluate_methods(model, asked, {})


def test_the_same_seed_gives_the_same_table(model, asked):
    few = asked.batches(20)[0]
    first, again, other = (
        evaluate_methods(model, few, {"even": constant_map}, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again and first != other


def test_marks_question_by_question(model, asked):
    marks = question_marks(model, asked, TWO, batch_size=7, progress=False)
    for name in TWO:
        heatmap = TWO[name](TWO[name].capture(model, asked.x, target=asked.targets))
        expected = energy_inside(heatmap, asked.masks)
        torch.testing.assert_close(marks[name]["energy inside"], expected, rtol=0, atol=1e-5)
    assert len(marks["right"]["class likeness"]) == class_pairs(asked).shape[1] == 16 + 2 * 3


def test_an_answer_that_is_not_known_is_not_marked(model, asked):
    few = asked.select(slice(0, 4))
    few.masks[1] = False
    few.others[2] = False
    marks = question_marks(model, few, {"even": constant_map})["even"]
    assert marks["energy inside"].isnan().tolist() == [False, True, False, False]
    assert marks["share on asked-for"].isnan().tolist() == [False, True, True, False]
    (row, *_) = evaluate_methods(model, few, {"even": constant_map})
    assert row["count"] == 3


def test_two_questions_about_one_class_are_no_pair(asked):
    same = asked.select(torch.tensor([0, 0, 1]))
    assert class_pairs(same).tolist() == [[0, 1], [2, 2]]


def naive_differences(marks, groups, resamples, seed):
    """Means, percentiles and max-t intervals of paired differences to the first, by loops."""
    names, members = sorted(set(groups)), {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(names), (resamples, len(names)), generator=generator).tolist()
    means, draws = [], []
    for values in marks:
        paired = [value - first for value, first in zip(values, marks[0], strict=True)]
        means.append(np.mean(paired))
        draws.append(
            [np.mean([paired[p] for g in draw for p in members[names[g]]]) for draw in drawn]
        )
    errors = [np.std(draw) for draw in draws]
    largest = [
        max(
            abs(draw[r] - mean) / e
            for draw, mean, e in zip(draws, means, errors, strict=True)
            if e > 1e-12
        )
        for r in range(resamples)
    ]
    wide = np.percentile(largest, 95)
    return [
        (mean, *np.percentile(draw, [2.5, 97.5]), mean - wide * error, mean + wide * error)
        for mean, draw, error in zip(means, draws, errors, strict=True)
    ]


def test_paired_differences_equal_loops(asked):
    values = torch.rand(3, len(asked), generator=torch.Generator().manual_seed(5)).double()
    marks = {name: {"peak inside": row} for name, row in zip("abc", values, strict=True)}
    rows = compare_marks(marks, asked, reference="a", resamples=200, seed=4)
    expected = naive_differences(values.tolist(), asked.scenes.tolist(), 200, 4)
    keys = ("difference", "difference_low", "difference_high",
            "simultaneous_low", "simultaneous_high")  # fmt: skip
    for row, numbers in zip(rows, expected, strict=True):
        assert [row[key] for key in keys] == pytest.approx(numbers)
        scenes = asked.scenes
        alone = bootstrap_interval(
            marks[row["method"]]["peak inside"], scenes, resamples=200, seed=4
        )
        assert (row["low"], row["high"]) == pytest.approx(alone)


def test_simultaneous_intervals_cover_all_means_together():
    """Of 20 methods that equal the reference one interval in twenty is off by itself."""
    generator = torch.Generator().manual_seed(0)
    off_alone, off_together = [], []
    empty = torch.zeros(60, 1, 1, dtype=torch.bool)
    asked = Questions(torch.zeros(60, 3, 1, 1), torch.zeros(60), empty, empty, torch.arange(60))
    for _ in range(60):
        values = torch.randn(21, 60, generator=generator).double()
        marks = {str(n): {"peak inside": row} for n, row in enumerate(values)}
        rows = compare_marks(marks, asked, reference="0", resamples=400)[1:]
        off_alone.append(any(r["difference_low"] > 0 or r["difference_high"] < 0 for r in rows))
        off_together.append(
            any(r["simultaneous_low"] > 0 or r["simultaneous_high"] < 0 for r in rows)
        )
    assert np.mean(off_alone) > 0.25
    assert np.mean(off_together) < 0.15


def test_reference_must_have_marks(model, asked):
    with pytest.raises(ValueError, match=r"reference must be among .*'none'"):
        evaluate_methods(model, asked.batches(4)[0], TWO, reference="none")


def test_table_of_differences(model, asked):
    rows = evaluate_methods(model, asked, TWO, reference="right")
    line = format_table(rows, ["energy inside"], differences=True).splitlines()[3]
    row = look_up(rows, "rollout", "energy inside")
    assert row["difference"] == pytest.approx(
        row["mean"] - look_up(rows, "right", "energy inside")["mean"]
    )
    assert line.startswith(f"| rollout | {row['mean']:.2f} ({row['difference']:+.2f} [-0.")


def test_bootstrap_draws_whole_groups():
    values = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    as_two = bootstrap_interval(values, torch.tensor([7, 7, 7, 2, 2, 2]))
    alone = bootstrap_interval(values, torch.arange(6))
    assert as_two == (0, 1)  # all from the one group, or all from the other
    assert 0 < alone[0] < 0.5 < alone[1] < 1


def test_bootstrap_equals_the_normal_interval_for_many_values():
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    low, high = bootstrap_interval(values, torch.arange(4000), resamples=4000)
    half = 1.96 * values.std().item() / 4000**0.5
    assert low == pytest.approx(values.mean().item() - half, abs=0.003)
    assert high == pytest.approx(values.mean().item() + half, abs=0.003)


@pytest.mark.parametrize("values", [torch.rand(0), torch.rand(3), torch.rand(2, 2)])
def test_bootstrap_errors(values):
    with pytest.raises(ValueError, match="groups"):
        bootstrap_interval(values, torch.zeros(len(values) + 1 if values.ndim == 1 else 2))


def test_table_leaves_a_dash_where_nothing_was_measured():
    row = dict(mean=0.5, low=0.25, high=1.0, count=3)
    rows = [row | dict(method="a", measure="x"), row | dict(method="b", measure="y")]
    assert format_table(rows).splitlines() == [
        "| method | x | y |",
        "|---|---|---|",
        "| a | 0.50 [0.25, 1.00] | – |",
        "| b | – | 0.50 [0.25, 1.00] |",
    ]
    assert format_table(rows, ["y"]).splitlines()[2] == "| a | – |"
