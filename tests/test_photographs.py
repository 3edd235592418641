"""Questions about folders of photographs: tiny ones, made here."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d
from tqdm import tqdm

from vitexplain_utils import METHODS, evaluate_methods, garden_scene, load_model, preprocess
from vitexplain_utils.garden import THINGS
from vitexplain_utils.truth import (
    Questions,
    ask_photographs,
    compare_marks,
    constant_map,
    edge_map,
    mosaic,
    mosaic_questions,
    question_marks,
    random_map,
    read_labels,
)
from vitexplain_utils.truth.photographs import _deal

SCENES = [scene for scene in map(garden_scene, range(40)) if len(scene.labels) == 2][:6]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return load_model("garden")


def write(folder: Path, table: str, images: dict, masks: dict | None = None) -> Path:
    """A folder of photographs; pictures are given, or a size for noise, masks as arrays."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, picture in images.items():
        if isinstance(picture, tuple):
            noise = np.random.default_rng(0).integers(0, 256, (*picture[::-1], 3), dtype=np.uint8)
            picture = Image.fromarray(noise)
        picture.save(folder / "images" / name)
    for name, mask in (masks or {}).items():
        Image.fromarray(np.uint8(mask) * 255).save(folder / "masks" / name)
    (folder / "labels.csv").write_text(table)
    return folder


@pytest.fixture
def garden_folder(tmp_path) -> Path:
    """Six scenes with two things each."""
    lines, images, masks = ["file,mask,targets,label"], {}, {}
    for number, scene in enumerate(SCENES):
        images[f"{number}.png"] = scene.image
        for name, mask in scene.masks.items():
            masks[f"{number}-{name}.png"] = mask
            lines.append(f"{number}.png,{number}-{name}.png,{THINGS.index(name)},{name}")
    return write(tmp_path, "\n".join(lines), images, masks)


def two_things(folder: Path, targets=("0 1 2 3 4 5 6 7", ""), size=(40, 20)) -> Path:
    """One photograph: a left half and, over its right fifth, a right part."""
    left, right = np.zeros((2, *size[::-1]), dtype=bool)
    left[:, :20], right[:, 16:] = True, True
    table = "file,mask,targets\n" + "".join(
        f"a.png,{name}.png,{target}\n" for name, target in zip("lr", targets, strict=True)
    )
    return write(folder, table, {"a.png": size}, {"l.png": left, "r.png": right})


def score(rows, method, measure):
    (row,) = [row for row in rows if (row["method"], row["measure"]) == (method, measure)]
    return row["mean"]


def test_questions_are_those_of_the_scenes(model, garden_folder):
    asked = ask_photographs(model, garden_folder, among=8)
    expected = [(n, THINGS.index(name)) for n, scene in enumerate(SCENES) for name in scene.labels]
    assert list(zip(asked.scenes.tolist(), asked.targets.tolist(), strict=True)) == expected
    for question, (number, target) in enumerate(expected):
        masks = SCENES[number].masks
        other = next(mask for name, mask in masks.items() if name != THINGS[target])
        assert torch.equal(asked.x[question], preprocess(model, SCENES[number].image)[0])
        assert np.array_equal(asked.masks[question], masks[THINGS[target]])
        assert np.array_equal(asked.others[question], other)
    assert str(asked) == "12 questions about 6 pictures; left out: nothing"


def test_a_perfect_map_scores_one_and_an_inverted_one_zero(model, tmp_path):
    quarters = {name: np.zeros((24, 24), dtype=bool) for name in ("a.png", "b.png")}
    quarters["a.png"][:12, :12], quarters["b.png"][12:, 12:] = True, True
    table = "file,mask,targets\np.png,a.png,0 1 2 3 4 5 6 7\np.png,b.png,\n"
    asked = ask_photographs(model, write(tmp_path, table, {"p.png": (24, 24)}, quarters))
    perfect = adaptive_avg_pool2d(asked.masks.double(), (12, 12))
    rows = evaluate_methods(model, asked, {"yes": lambda _: perfect, "no": lambda _: 1 - perfect})
    for measure in ("peak inside", "energy inside", "share on asked-for"):
        assert score(rows, "yes", measure) == 1
        assert score(rows, "no", measure) == 0
    assert {row["count"] for row in rows} == {1}


def test_no_targets_is_only_another_thing(model, tmp_path):
    asked = ask_photographs(model, two_things(tmp_path))
    assert len(asked) == 1 and asked.left_out == {"of no class of the model": 1}
    columns = (np.arange(96) + 0.5) * 40 // 96  # of 40 pixels, at 96
    assert np.array_equal(asked.masks[0], np.tile(columns < 16, (96, 1)))  # what both cover is out
    assert np.array_equal(asked.others[0], np.tile(columns >= 16, (96, 1)))


def test_pairs_are_things_that_lie_apart(model, tmp_path):
    """Of three things the first two overlap; the third lies apart from both."""
    masks = {name: np.zeros((96, 96), dtype=bool) for name in ("a.png", "b.png", "c.png")}
    masks["a.png"][:40], masks["b.png"][30:60], masks["c.png"][58:] = True, True, True
    targets = "0 1 2 3 4 5 6 7"
    table = "file,mask,targets\n" + "".join(f"p.png,{name},{targets}\n" for name in masks)
    folder = write(tmp_path, table, {"p.png": (96, 96)}, masks)
    asked = ask_photographs(model, folder, pairs=True)
    a, b, c = masks.values()
    assert b[58:].sum() > 0.05 * b.sum()  # by a hair, b and c are no pair
    pairs = torch.stack([asked.masks, asked.others], 1).numpy()
    assert np.array_equal(pairs, [(a, c), (c, a)])
    alone = ask_photographs(model, folder)
    assert np.array_equal(alone.masks, [a & ~b, b & ~a & ~c, c & ~b])


def test_what_others_cover_is_not_asked(model, tmp_path):
    masks = {"a.png": np.zeros((50, 50), dtype=bool), "b.png": np.zeros((50, 50), dtype=bool)}
    masks["a.png"][:10, :10], masks["b.png"][1:40, :] = True, True  # 10 of 2500 pixels are left
    table = "file,mask,targets\np.png,a.png,0 1 2 3 4 5 6 7\np.png,b.png,0 1 2 3 4 5 6 7\n"
    asked = ask_photographs(model, write(tmp_path, table, {"p.png": (50, 50)}, masks))
    assert asked.left_out == {"of less than 2% of the picture beside others": 1}
    assert asked.masks[0].sum() > 1000


def test_only_what_the_model_sees_is_asked(model, garden_folder):
    with torch.no_grad():
        logits = [model(preprocess(model, scene.image))[0] for scene in SCENES]
    for among, above in ((1, 0.0), (2, 0.9999)):
        expected = []
        for number, scene in enumerate(SCENES):
            ranked = logits[number].argsort(descending=True).tolist()
            for name in scene.labels:
                target = THINGS.index(name)
                probable = torch.sigmoid(logits[number][target]) > above
                if ranked.index(target) < among and probable:
                    expected.append((number, target))
        asked = ask_photographs(model, garden_folder, among=among, above=above)
        assert list(zip(asked.scenes.tolist(), asked.targets.tolist(), strict=True)) == expected
        assert len(asked) + sum(asked.left_out.values()) == 12 > len(asked)
    with pytest.raises(ValueError, match=r"nothing is left to ask: .*probability of at most 1"):
        ask_photographs(model, garden_folder, above=1.0)


def test_without_masks_only_deletion_is_marked(model, tmp_path):
    images = {f"{n}.png": scene.image for n, scene in enumerate(SCENES)}
    table = "file,targets\n" + "".join(f"{name},0 1 2 3 4 5 6 7\n" for name in images)
    asked = ask_photographs(model, write(tmp_path, table, images))
    assert len(asked) == 6 and not asked.masks.any()
    marks = question_marks(model, asked, {"even": constant_map}, steps=2, fills=("blur", "mean"))
    areas = ("deletion", "insertion", "insertion − deletion")
    assert set(marks["even"]) == {*areas, *(f"{area}, mean" for area in areas)}


def mosaics_folder(folder: Path, model: nn.Module, classes=(0, 1, 2, 3, 4, 5, 6, 7, 0)) -> Path:
    """Photographs with one thing, each of another size."""
    images, lines = {}, ["file,targets"]
    wanted = list(classes)
    for seed in range(2000):
        scene = garden_scene(seed)
        target = THINGS.index(scene.labels[0])
        if len(scene.labels) == 1 and target in wanted:
            wanted.remove(target)
            name = f"{seed}.png"
            images[name] = scene.image.resize((96 + 10 * len(images), 96))
            lines.append(f"{name},{target}")
        if not wanted:
            break
    return write(folder, "\n".join(lines), images)


def test_mosaics(model, tmp_path):
    folder = mosaics_folder(tmp_path, model)
    asked = mosaic_questions(model, folder, seed=3)
    count = len(asked) // 4
    assert count == 2 and asked.scenes.tolist() == [0] * 4 + [1] * 4
    assert sum(asked.left_out.values()) == 1
    for four in asked.targets.view(count, 4).tolist():
        assert len(set(four)) == 4
    for first, second in combinations(range(4), 2):
        assert not (asked.masks[first] & asked.masks[second]).any()
    assert torch.equal(asked.others, ~asked.masks)
    for quarter in range(4):  # row by row: a quarter shows the photograph of its class
        row, col = divmod(quarter, 2)
        mask = torch.zeros(96, 96, dtype=torch.bool)
        mask[48 * row : 48 * row + 48, 48 * col : 48 * col + 48] = True
        assert torch.equal(asked.masks[quarter], mask)
    rows = evaluate_methods(model, asked, {"even": constant_map})
    assert score(rows, "even", "energy inside") == pytest.approx(0.25)
    assert score(rows, "even", "share on asked-for") == pytest.approx(0.25)
    again, other = (mosaic_questions(model, folder, seed=seed) for seed in (3, 4))
    assert torch.equal(again.x, asked.x) and not torch.equal(other.x, asked.x)
    assert len(mosaic_questions(model, folder, count=1)) == 4


@pytest.mark.parametrize("seed", range(5))
def test_no_photograph_is_in_two_mosaics(seed):
    targets = np.random.default_rng(seed).integers(0, 6, 40).tolist()
    fours = _deal(targets, seed)
    used = [index for four in fours for index in four]
    assert len(set(used)) == len(used) == 4 * len(fours) >= 24
    assert all(len({targets[index] for index in four}) == 4 for four in fours)
    left = {targets[index] for index in range(40) if index not in used}
    assert len(left) < 4


def test_quarters_show_what_is_asked(tmp_path):
    """A model that names a colour: in each quarter is the photograph of the class asked for."""

    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 255, 255), (255, 0, 255), (255, 255, 0)]
    directions = torch.tensor(colours) / 127.5 - 1

    class Colour(nn.Module):
        num_classes = 6

        def forward(self, x):
            return 10 * x.mean((2, 3)) @ directions.T

    images = {f"{n}.png": Image.new("RGB", (9 + n, 12), colour) for n, colour in enumerate(colours)}
    table = "file,targets\n" + "".join(f"{n}.png,{n}\n" for n in range(6))
    folder = write(tmp_path, table, images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitexplain_utils.truth.photographs.preprocess", as_tensor)
        asked = mosaic_questions(Colour(), folder)
    for x, target, mask in zip(asked.x, asked.targets, asked.masks, strict=True):
        inside = x[:, mask].mean(1)
        torch.testing.assert_close(inside, directions[target])


def as_tensor(model, image):
    small = np.asarray(image.resize((8, 8), Image.Resampling.NEAREST))
    return torch.from_numpy(small.copy()).float().permute(2, 0, 1)[None] / 127.5 - 1


def test_mosaics_need_four_classes_and_one_row_each(model, tmp_path, garden_folder):
    with pytest.raises(ValueError, match="no four photographs of different classes"):
        mosaic_questions(model, mosaics_folder(tmp_path / "few", model, (0, 1, 2, 2, 2)))
    with pytest.raises(ValueError, match=r"labels.csv, row 3 \(0.png\): .* one row"):
        mosaic_questions(model, garden_folder)


def test_mosaic_crops_to_the_first():
    red, wide = Image.new("RGB", (4, 6), "red"), Image.new("RGB", (30, 6), "blue")
    wide.paste("white", (0, 0, 10, 6))
    whole = mosaic([red, wide, red, wide])
    assert whole.size == (8, 12)
    assert {whole.getpixel(at) for at in ((0, 0), (3, 11))} == {(255, 0, 0)}
    assert {whole.getpixel(at) for at in ((4, 0), (7, 11))} == {(0, 0, 255)}
    with pytest.raises(ValueError, match="four, got 1"):
        mosaic([red])


HEAD = "file,mask,targets,label\n"
ERRORS = [
    ("", "row 1: columns .* got none"),
    ("file,targets,colour\na.png,0,red\n", "row 1: columns .* got file, targets, colour"),
    ("file,mask\na.png,l.png\n", "row 1: columns"),
    ("file,targets,file\na.png,0,a.png\n", "row 1: columns"),
    (HEAD, "names no photograph"),
    (HEAD + "a.png,l.png,0\n", "row 2: not as many cells"),
    (HEAD + "a.png,l.png,0,x,y\n", "row 2: not as many cells"),
    (HEAD + "a.png,l.png,0,x\na.png,l.png,8,x\n", r"row 3 \(a.png\): targets .* below 8.* got '8'"),
    (HEAD + "a.png,l.png,-1,x\n", r"row 2 \(a.png\): targets"),
    (HEAD + "a.png,l.png,one,x\n", r"row 2 \(a.png\): targets"),
    (HEAD + "a.png,small.png,0 1 2 3 4 5 6 7,x\n", r"row 2 \(a.png\): mask .* 30×20 .* 40×20"),
    (HEAD + "a.png,black.png,0 1 2 3 4 5 6 7,x\n", r"row 2 \(a.png\): mask .* is black all over"),
    (HEAD + "a.png,white.png,0 1 2 3 4 5 6 7,x\n", r"row 2 \(a.png\): mask .* is white all over"),
    (HEAD + "a.png,text.png,0 1 2 3 4 5 6 7,x\n", r"row 2 \(a.png\): .*text.png is not a picture"),
    (HEAD + "text.png,l.png,0,x\n", r"row 2 \(text.png\): .*text.png is not a picture"),
]
MISSING = [
    (HEAD + "a.png,l.png,0,x\nb.png,l.png,0,x\n", r"row 3 \(b.png\): .*b.png does not exist"),
    (HEAD + "a.png,none.png,0,x\n", r"row 2 \(a.png\): .*none.png does not exist"),
]


@pytest.mark.parametrize(("table", "message"), [*ERRORS, *MISSING], ids=range(17))
def test_errors_name_file_and_row(model, tmp_path, table, message):
    folder = two_things(tmp_path)
    for name, mask in (("small", np.eye(20, 30)), ("black", np.zeros((20, 40)))):
        Image.fromarray(np.uint8(mask) * 255).save(folder / "masks" / f"{name}.png")
    Image.new("L", (40, 20), 255).save(folder / "masks" / "white.png")
    for place in ("images", "masks"):
        (folder / place / "text.png").write_text("no picture")
    (folder / "labels.csv").write_text(table)
    before = sorted(folder.rglob("*"))
    error = FileNotFoundError if "does not exist" in message else ValueError
    with pytest.raises(error, match=rf"labels.csv.*{message}"):
        ask_photographs(model, folder)
    assert sorted(folder.rglob("*")) == before


def test_an_empty_folder_and_a_table_that_is_none(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"labels.csv does not exist"):
        ask_photographs(model, tmp_path)
    (tmp_path / "labels.csv").write_bytes(b"file,targets\n\xff\xfe.png,0\n")
    with pytest.raises(ValueError, match="not a table in UTF-8"):
        ask_photographs(model, tmp_path)


def test_labels_as_a_spreadsheet_writes_them(tmp_path):
    folder = two_things(tmp_path)
    (folder / "labels.csv").write_bytes("\ufefffile,targets\r\na.png,3  4\r\n".encode())
    (thing,) = read_labels(folder)
    assert (thing.targets, thing.mask, thing.label) == ((3, 4), None, "")


def test_marks_are_compared_on_the_questions_that_both_were_asked():
    """Two pictures with two questions each; one method was asked about the first alone."""
    empty = torch.zeros(4, 1, 1, dtype=torch.bool)
    asked = Questions(
        torch.zeros(4, 3, 1, 1), torch.arange(4), empty, empty, torch.tensor([0, 0, 1, 1])
    )
    marks = {
        "first": {"peak inside": torch.tensor([0.0, 1, 1, 1])},
        "second": {"peak inside": torch.tensor([1.0, 1, torch.nan, torch.nan])},
    }
    first, second = compare_marks(marks, asked, reference="first")
    assert (first["mean"], first["count"], first["difference"]) == (0.75, 4, 0)
    assert (second["mean"], second["count"], second["difference"]) == (1, 2, 0.5)
    assert second["difference_low"] == second["difference_high"] == 0.5  # of one picture


sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))


@pytest.mark.slow
def test_the_benchmark_goes_on_where_it_was(model, garden_folder, tmp_path, monkeypatch):
    import marking as benchmark

    monkeypatch.setattr(benchmark, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(benchmark, "SLOW", ("random",))
    asked, computed = ask_photographs(model, garden_folder, among=8), []

    def counted(model, part, rows, **settings):
        computed.extend(name for name in rows for _ in range(len(part)))
        return question_marks(model, part, rows, **settings)

    monkeypatch.setattr(benchmark, "question_marks", counted)
    rows = {"gradient rollout": METHODS["gradient_rollout"], "random": random_map}
    given, sizes = benchmark.Set(model, asked), benchmark.Sizes(slow=4)
    first = benchmark.marks_of(given, rows, sizes, tqdm(disable=True))
    assert computed.count("gradient rollout") == 12 and 4 <= computed.count("random") < 12
    assert first["random"]["energy inside"].isnan().sum() == 12 - computed.count("random")
    whole = question_marks(model, asked, {"gradient rollout": METHODS["gradient_rollout"]})
    for measure, values in whole["gradient rollout"].items():
        torch.testing.assert_close(first["gradient rollout"][measure], values, rtol=0, atol=1e-5)
    computed.clear()
    again = benchmark.marks_of(given, rows | {"edges": edge_map}, sizes, tqdm(disable=True))
    assert set(computed) == {"edges"}
    assert torch.equal(
        again["gradient rollout"]["energy inside"], first["gradient rollout"]["energy inside"]
    )
    changed = rows | {"gradient rollout": METHODS["gradient_rollout"].having(discard_ratio=0.9)}
    computed.clear()
    benchmark.marks_of(given, changed, sizes, tqdm(disable=True))
    assert set(computed) == {"gradient rollout"}
