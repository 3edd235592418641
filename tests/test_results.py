"""Every number in the README, the notebooks' text and the docstrings is one of a result file."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import nbformat
import pytest

from vitexplain_utils.course import read_marks
from vitexplain_utils.methods import attribution, gradient_rollout

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SETS = ("garden", "mosaics", "boxes", "things")
TRUTH = (
    "attribution", "attribution, plain gradient", "attribution, last block alone",
    "gradient rollout", "gradient rollout, plain gradient", "relevance",
    "relevance, plain gradient", "LeGrad", "LeGrad, last two blocks", "AG-CAM",
    "Grad-CAM, last block", "HiRes-CAM, last block", "Layer-CAM, last block",
    "rollout", "rollout, max, discard 0.9", "last attention", "mistake: pre_softmax",
    "mistake: reversed_blocks", "mistake: columns", "all three mistakes, discard 0.9",
    "baseline: edge", "baseline: centre", "baseline: noise", "baseline: constant",
)  # fmt: skip
HEADLINE = (
    "attribution", "attribution, last block alone", "gradient rollout", "relevance",
    "gradient rollout, plain gradient", "all three mistakes, discard 0.9", "Grad-CAM, last block",
    "rollout, max, discard 0.9", "rollout", "baseline: constant",
)  # fmt: skip
HEARD = (
    "attribution", "gradient rollout", "relevance", "rollout", "rollout, max, discard 0.9",
    "last attention", "all three mistakes", "baseline: edge",
)  # fmt: skip


def file(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


@cache
def sets() -> dict[str, dict]:
    """Each set of questions with its marks by row and measure."""
    garden = read_marks(RESULTS / "garden.json")["garden"]
    return {"garden": garden, **read_marks(RESULTS / "photographs.json")}


def mark(asked: str, row: str, measure: str, column: str = "mean") -> float | None:
    line = sets()[asked]["marks"].get((row, measure))
    return None if line is None else line[column]


def shown(value: float | None) -> str:
    """Two decimals; no negative zero."""
    return "–" if value is None else f"{value + 0.0:.2f}".replace("-0.00", "0.00").replace("-", "−")


def truth_line(row: str) -> str:
    cells = [
        f"{shown(mark(asked, row, 'peak inside'))} / {shown(mark(asked, row, 'energy inside'))}"
        for asked in SETS
    ]
    cells.append(shown(mark("deletion and insertion", row, "insertion − deletion")))
    return f"| {row} | {' | '.join(cells)} |\n"


def heard_line(row: str) -> str:
    weights = file("garden")["random weights"]
    mean, low, high = next(line[1:] for line in weights["rows"] if line[0] == row)
    share, alike = (mark("garden", row, m) for m in ("share on asked-for", "class likeness"))
    likeness = f"{shown(mean)} [{shown(low)}, {shown(high)}]"
    return f"| {row} | {shown(share)} | {shown(alike)} | {likeness} |\n"


def readme() -> str:
    return (ROOT / "README.md").read_text()


def text_of(number: int) -> str:
    (path,) = (ROOT / "notebooks").glob(f"{number:02}-*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("row", TRUTH)
def test_readme_has_the_marks_of_all_kinds_of_pictures(row):
    assert truth_line(row) in readme()


@pytest.mark.parametrize("row", HEADLINE)
def test_readme_has_the_headline(row):
    cells = [shown(mark(asked, row, "energy inside")) for asked in SETS]
    assert f"| {row} | {' | '.join(cells)} |\n" in readme()
    counts = [f"{sets()[asked]['questions']:,}" for asked in SETS]
    assert (
        f"{counts[0]} questions about generated scenes, and of {counts[1]}, {counts[2]} and "
        in (readme())
    )


@pytest.mark.parametrize("row", HEARD)
def test_readme_has_what_hears_the_question(row):
    assert heard_line(row) in readme()


@pytest.mark.parametrize("asked", [*SETS, "deletion and insertion"])
def test_readme_says_how_many_were_asked(asked):
    count = sets()[asked]["questions"]
    said = {
        "garden": f"({count:,} questions about {sets()[asked]['pictures']} scenes",
        "mosaics": f"({count} questions)",
        "deletion and insertion": f"on {count} photographs",
    }
    assert said.get(asked, f"({count})") in readme()


def test_readme_says_how_far_attribution_is_ahead():
    names = {"garden": "in the garden", "mosaics": "in mosaics"}
    for asked in SETS:
        lines = sets()[asked]["pairs"]
        plain = "gradient rollout, plain gradient"
        ahead, low, high = lines["attribution", plain, "energy inside"]
        said = f"{ahead:+.2f} [{low:+.2f}, {high:+.2f}] {names.get(asked, f'with {asked}')}"
        assert said in readme()
        assert low > 0 <= lines["attribution", plain, "peak inside"][0]
        for rule in ("gradient rollout", "relevance", "attribution"):  # by holding the attention
            assert lines[rule, f"{rule}, plain gradient", "energy inside"][1] > 0
    asked = sets()["deletion and insertion"]["pairs"]
    _, low, high = asked["attribution", plain, "insertion − deletion"]
    assert low < 0 < high


def test_units():
    rows = {row[0]: row[1:] for row in file("garden")["units"]["rows"]}
    shares = [shown(mean) for mean in rows["gradient rollout"]]
    assert f"{', '.join(shares[:4])} and {shares[4]} (" in " ".join(
        gradient_rollout.__doc__.split()
    )
    assert f"of gradient rollout's, {shares[2]} lies on" in readme()
    assert f"and then {shares[4]}." in readme()
    assert len(set(rows["attribution"])) == 1


def pool(kind: str, row: str) -> str:
    lines = file("pools")["pools"][kind]["rows"]
    return shown(next(line[2] for line in lines if line[:2] == [row, "energy inside"]))


def test_pools():
    avg, attentive = ({row: pool(kind, row) for row in ("attribution", "gradient rollout",
        "relevance", "all rows of the last block", "all rows of all blocks, and the pool",
        "patch tokens' gradient × input at the end")} for kind in ("avg", "map"))  # fmt: skip
    assert avg["gradient rollout"] == avg["relevance"]
    for said in (
        f"{avg['relevance']} of their map lies on the thing asked for, and {avg['attribution']} of",
        f"it is {attentive['gradient rollout']}, {attentive['relevance']} and "
        f"{attentive['attribution']} (",
    ):
        assert said in readme()
    last, end, whole = list(avg)[3], list(avg)[5], list(avg)[4]
    for row in ("attribution", last, end, "gradient rollout"):
        assert f" {avg[row]} and {attentive[row]}" in " ".join(attribution.__doc__.split())
    assert f"the pool's own row {attentive[whole]}" in " ".join(attribution.__doc__.split())


def test_readme_has_the_measured_times():
    speed = file("speed")["models"]
    rows = {row[0]: row[1:] for row in speed["deit_tiny_patch16_224"]["rows"]}
    lines = [
        f"| {task} | {one:.2f}× | {'–' if eight is None else f'{eight:.2f}×'} |\n"
        for task, (one, _, eight, _) in rows.items()
    ]
    assert sum(line in readme() for line in lines) == 9
    sweeps = [speed[name]["sweep of 50, in explanations"] for name in speed]
    (one, two), (three, four) = (
        [f"{sweep[rule]:.1f}" for rule in ("rollout, max fusion", "gradient rollout")]
        for sweep in sweeps
    )
    assert f"costs {one} explanations by rollout and {two} by gradient rollout" in readme()
    assert f"({three} and {four} for the garden's model)" in readme()
    times = [time for row in file("explorer")["rows"] for time in row[1:]]
    assert f"takes {min(times)}–{max(times)} ms" in readme()
    garden, deit = (model["rows"][0][2] for model in file("flow")["models"].values())
    assert f"takes {garden:.0f} forward passes for a garden scene and {deit:.0f} for" in readme()


def test_readme_has_the_measured_accuracy():
    found = file("garden_accuracy")
    labels, scenes = found["labels right, %"], found["whole scenes right, %"]
    said = f"{labels} % of the labels and {scenes} % of whole scenes right on {found['scenes']:,}"
    assert said in readme()


def test_notebook_06_has_the_measured_flow():
    text, found = text_of(6), file("flow_truth")
    names = {"flow": "plain flow"}
    for row in found["rows"]:
        name, peak, energy, share = row[:4]
        line = f"| {names.get(name, name)} | {peak:.1%} | {energy:.2f} | {share:.2f} |".replace(
            "%", " %"
        )
        if name in ("gradient rollout", "a flat map", "flow") or "weighted" in name:
            assert line in text
    for name, model in file("flow")["models"].items():
        passes = " | ".join(f"{row[2]:.0f}" for row in model["rows"])
        assert f"| {name} | {model['arcs']:,} | {passes} |" in text
    garden = [f"{mark('garden', name, m):.2f}" for name in ("flow", "rollout") for m in
              ("peak inside", "energy inside")]  # fmt: skip
    assert f"({garden[0]} of them, rounded) and an energy of {garden[1]}" in text
    assert f"plain rollout {garden[2]} and {garden[3]}" in text


def test_notebook_09_says_what_is_in_the_file():
    """Its cells print the files; these are the numbers and claims of its text."""
    text = text_of(9)
    wrong = 1 - mark("garden", "all three mistakes, discard 0.9", "peak inside")
    assert 0.35 < wrong < 0.4 and "nearly four peaks in ten" in text
    lost = [mark(a, "gradient rollout, plain gradient", "peak inside")
            - mark(a, "mistake: pre_softmax", "peak inside") for a in SETS]  # fmt: skip
    assert all(0.05 < drop < 0.13 for drop in lost) and "costs one peak in ten" in text
    gains = [pair[0] for a in SETS for (row, _, measure), pair in sets()[a]["pairs"].items()
             if row.endswith("discard 0.9") and measure == "energy inside"]  # fmt: skip
    assert f"between {min(gains):.4f} and {max(gains):.3f}" in text
    assert mark("mosaics", "baseline: constant", "energy inside") == pytest.approx(0.25, abs=0.001)
    for asked in SETS[1:]:
        shares = sets()[asked]["block shares"]
        assert 0.595 < sum(shares[-3:]) < 0.705 and sum(shares[:5]) < 0.1
    assert "60 to 70 % of its evidence in the last three blocks and less than a tenth" in text


def test_notebook_09_compares_like_with_like():
    text = text_of(9)

    def pair(asked: str, row: str, other: str) -> float:
        return sets()[asked]["pairs"][row, other, "energy inside"][0]

    lead = {a: pair(a, "attribution", "gradient rollout, plain gradient") for a in SETS}
    held = {a: pair(a, "attribution", "attribution, plain gradient") / lead[a] for a in SETS}
    assert held.pop("boxes") > 0.9 and max(held.values()) < 0.215
    assert "most of attribution's lead on boxes, and about a fifth or less elsewhere" in text
    for asked in SETS[1:]:  # like against like, and a heavier residual
        for end in ("", ", plain gradient"):
            relevance, rollout, heavy = (mark(asked, f"{row}{end}", "energy inside") for row in (
                "relevance", "gradient rollout", "gradient rollout, residual 0.9"))  # fmt: skip
            assert relevance < rollout and (end or heavy < rollout)
    share = sets()["mosaics"]["block shares"][10]
    assert f"block 10 has {100 * share:.0f} % of the evidence" in text
    assert mark("mosaics", "Grad-CAM, block 10", "energy inside") < 0.25


def test_attribution_gains_most_of_the_one_pass_rules_that_are_ahead_everywhere():
    rows = {row for row, _ in sets()["mosaics"]["marks"] if "integrated" not in row}
    ahead = {
        row: [mark(asked, row, "energy inside", "difference") for asked in SETS]
        for row in rows
        if all((mark(a, row, "energy inside", "simultaneous_low") or -1) > 0 for a in SETS)
    }
    best = [max(ahead, key=lambda row: ahead[row][place]) for place in range(4)]
    assert best == ["attribution", "attribution", "attribution, norm and gate held", "attribution"]
    assert "it gains most in three of the four" in readme()


def test_dreams():
    found = file("dreams")
    made, noise = found["summary"]["regularised"], found["summary"]["naive"]
    assert made["lowest target"] >= 0.99 and made["largest other"] <= 0.05
    ratio = found["summary"]["total variation, naive / regularised"]
    time = found["seconds of CPU time for one dream"]
    key = "other model at least 0.9 sure, of 8, by seed"
    for text in (readme(), text_of(11)):
        assert f"all {made['dreams']} dreams of two seeds" in text
        assert f"at least {made['lowest target']:.3f}" in text
        assert f"at most {made['largest other']:.2f}" in text
        assert f"{ratio:.0f} times the total variation" in text
        said = " and ".join(map(str, made[key]))
        assert f"{said} of 8 dreams, and of {' and '.join(map(str, noise[key]))} of 8 naive" in text
        assert f"{time:.0f} seconds of CPU" in text
    right = found["other model's labels right on 48 scenes, %"]
    assert f"{right} % of the labels" in text_of(11)
