from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from vitexplain_utils import METHODS, evaluate_methods, explain, load_model
from vitexplain_utils.garden import garden_test_set
from vitexplain_utils.truth import (
    ask_garden,
    bootstrap_interval,
    constant_map,
    deletion_insertion,
    energy_inside,
    format_table,
    pointing_game,
    rank_correlation,
    share_on_target,
)

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
    heatmap = explain(model, asked.x, target=asked.targets).heatmap
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
    heatmap = explain(model, few.x, target=few.targets).heatmap
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
