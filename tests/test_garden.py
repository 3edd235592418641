"""The garden: its scenes, the scenes that ship, and the model trained on them."""

from __future__ import annotations

import hashlib
import re
import socket
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from vitexplain_utils import garden, garden_scene, hero_scene
from vitexplain_utils.garden import THINGS, Scene, garden_model, garden_test_set, scenes
from vitexplain_utils.garden.model import WEIGHTS
from vitexplain_utils.garden.scenes import _paint, _Placement
from vitexplain_utils.garden.strokes import painted_in_part

CARD = Path(garden.__file__).with_name("MODEL_CARD.md")
HEROES = {
    1: ("bee", "flower", "snail"),
    2: ("ladybird", "leaf"),
    3: ("fish", "mushroom", "star"),
    4: ("ladybird", "bee"),
    5: ("bee", "flower"),
    6: ("mushroom", "snail"),
    7: ("ladybird", "mushroom"),
    8: ("bee", "fish", "leaf"),
}


def pixels(scene: Scene) -> np.ndarray:
    return np.asarray(scene.image).astype(int)


def model_input(scenes: list[Scene]) -> torch.Tensor:
    images = np.stack([np.asarray(scene.image) for scene in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def truth(scenes: list[Scene]) -> np.ndarray:
    return np.array([[name in scene.labels for name in THINGS] for scene in scenes])


def dilate(mask: np.ndarray, by: int) -> np.ndarray:
    grown = Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * by + 1))
    return np.asarray(grown).astype(bool)


@pytest.fixture(scope="module")
def hundred() -> list[Scene]:
    return [garden_scene(seed) for seed in range(100)]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return garden_model()


def test_same_seed_same_scene() -> None:
    first, second = garden_scene(11), garden_scene(np.int64(11))
    assert first.image.tobytes() == second.image.tobytes()
    assert first.labels == second.labels
    assert all((first.masks[name] == second.masks[name]).all() for name in first.labels)


def test_different_seeds_differ(hundred: list[Scene]) -> None:
    assert len({scene.image.tobytes() for scene in hundred}) == 100


def test_sizes_and_types(hundred: list[Scene]) -> None:
    for scene in hundred:
        assert scene.image.size == (96, 96)
        assert scene.image.mode == "RGB"
        assert tuple(scene.masks) == scene.labels
        assert all(m.shape == (96, 96) and m.dtype == bool for m in scene.masks.values())


def test_labels_are_one_to_three_in_order(hundred: list[Scene]) -> None:
    for scene in hundred:
        assert 1 <= len(scene.labels) <= 3
        assert list(scene.labels) == sorted(set(scene.labels), key=THINGS.index)


def test_every_class_and_count_appears(hundred: list[Scene]) -> None:
    seen = Counter(name for scene in hundred for name in scene.labels)
    assert all(seen[name] >= 10 for name in THINGS)
    assert {len(scene.labels) for scene in hundred} == {1, 2, 3}


def test_masks_are_disjoint_and_sensible(hundred: list[Scene]) -> None:
    for scene in hundred:
        for mask in scene.masks.values():
            assert 80 <= mask.sum() <= 1200
        assert sum(mask.astype(int) for mask in scene.masks.values()).max() == 1


@pytest.mark.parametrize("seed", range(16))
def test_a_thing_changes_pixels_only_where_its_mask_says(seed: int) -> None:
    scene = garden_scene(seed)
    for name, mask in scene.masks.items():
        without, masks_without = _paint(seed, None, leave_out=name)
        changed = (pixels(scene) != np.asarray(without)).any(axis=-1)
        assert not (changed & ~dilate(mask, 3)).any()
        assert changed[mask].mean() > 0.98
        assert name not in masks_without


def test_a_mask_leaves_out_what_lies_above(monkeypatch: pytest.MonkeyPatch) -> None:
    below = _Placement("leaf", 40, 48, 18.0, 0.0, False, 1)
    above = _Placement("snail", 52, 48, 15.0, 0.0, False, 2)
    monkeypatch.setattr(scenes, "_plan", lambda *_: [below, above])
    _, both = _paint(0, ("leaf", "snail"))
    _, leaf_alone = _paint(0, ("leaf", "snail"), leave_out="snail")
    _, snail_alone = _paint(0, ("leaf", "snail"), leave_out="leaf")
    assert (both["snail"] == snail_alone["snail"]).all()
    assert (both["leaf"] == (leaf_alone["leaf"] & ~both["snail"])).all()
    assert both["leaf"].sum() < leaf_alone["leaf"].sum() - 20


@pytest.mark.parametrize("things", [("bee", "ladybird"), ("star",), ["snail", "fish", "leaf"]])
def test_asked_for_things_are_painted(things: tuple[str, ...]) -> None:
    scene = garden_scene(3, things=things)
    assert scene.labels == tuple(sorted(things, key=THINGS.index))
    assert scene.image.tobytes() == garden_scene(3, things=things[::-1]).image.tobytes()


@pytest.mark.parametrize(
    ("seed", "things", "error", "says"),
    [
        (-1, None, ValueError, "seed is -1"),
        (1.5, None, TypeError, "seed is 1.5"),
        (True, None, TypeError, "seed is True"),
        ("7", None, TypeError, "seed is '7'"),
        (0, "bee", TypeError, "things is 'bee'"),
        (0, 5, TypeError, "things is 5"),
        (0, (), ValueError, r"things is \(\).*1 to 3"),
        (0, ("bee", "bee"), ValueError, "different"),
        (0, ("cow",), ValueError, "'cow'; allowed are ladybird, bee"),
        (0, ("bee", "fish", "leaf", "star"), ValueError, "1 to 3"),
    ],
)
def test_bad_input_is_named(
    seed: object, things: object, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        garden_scene(seed, things)  # type: ignore[arg-type]


def test_a_thing_painted_in_part_changes_nothing_else() -> None:
    def bee_and_star() -> Scene:
        return garden_scene(5, ("bee", "star"))

    whole = bee_and_star()
    with painted_in_part("bee", range(13)):
        assert bee_and_star().image.tobytes() == whole.image.tobytes()
    with pytest.raises(KeyError), painted_in_part("bee", (8, 9, 10)):
        stripes = bee_and_star()
        raise KeyError
    mask, bee, star = stripes.masks["bee"], whole.masks["bee"], whole.masks["star"]
    assert 0.05 < mask.sum() / bee.sum() < 0.5 and not (mask & ~bee).any()
    assert (stripes.masks["star"] == star).all()
    lost = (pixels(stripes) != pixels(whole)).any(-1)
    assert (lost & bee).sum() > 0.5 * bee.sum() and not (lost & ~dilate(bee, 3)).any()
    assert bee_and_star().image.tobytes() == whole.image.tobytes()  # also after an exception


@pytest.mark.parametrize(
    ("name", "strokes", "message"),
    [
        ("wasp", (0,), "name must be one of ladybird, .*, got 'wasp'"),
        ("bee", (0.5,), r"strokes must be whole numbers of at least 0, got \(0.5,\)"),
        ("bee", (-1,), "of at least 0"),
        ("bee", "all", "of at least 0, got 'all'"),
    ],
)
def test_bad_strokes_are_named(name, strokes, message) -> None:
    with pytest.raises(ValueError, match=message), painted_in_part(name, strokes):
        pass


def test_test_set_counts() -> None:
    scenes = garden_test_set()
    assert [len(scene.labels) for scene in scenes] == [1] * 16 + [2] * 16 + [3] * 16
    assert Counter(n for s in scenes for n in s.labels) == dict.fromkeys(THINGS, 12)
    for scene in scenes:
        assert scene.image.size == (96, 96)
        assert tuple(scene.masks) == scene.labels
        assert all(m.dtype == bool and 80 <= m.sum() <= 1200 for m in scene.masks.values())


def test_test_set_is_what_the_generator_paints() -> None:
    for k, stored in enumerate(garden_test_set()):
        painted = garden_scene(5_000_000 + k, stored.labels)
        # Other Pillow versions may draw an edge pixel differently; a wrong scene is far off.
        assert np.abs(pixels(stored) - pixels(painted)).mean() < 0.5
        for name in stored.labels:
            assert (stored.masks[name] ^ painted.masks[name]).sum() <= 8


def test_test_set_cannot_be_spoiled() -> None:
    spoiled = garden_test_set()[0]
    spoiled.image.putpixel((0, 0), (1, 2, 3))
    spoiled.masks[spoiled.labels[0]][:] = False
    fresh = garden_test_set()[0]
    assert fresh.image.getpixel((0, 0)) != (1, 2, 3)
    assert fresh.masks[fresh.labels[0]].any()


@pytest.mark.parametrize(("notebook", "labels"), HEROES.items())
def test_hero_holds_what_its_notebook_tells(notebook: int, labels: tuple[str, ...]) -> None:
    assert hero_scene(notebook).labels == labels


@pytest.mark.parametrize(
    ("notebook", "error"), [(0, ValueError), (9, ValueError), ("1", TypeError)]
)
def test_no_such_hero(notebook: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="notebook is"):
        hero_scene(notebook)  # type: ignore[arg-type]


def test_model_loads_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the garden model must load offline")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model = garden_model()
    assert not model.training
    assert model.num_classes == 8
    assert model.patch_embed.grid_size == (12, 12)
    assert model.pretrained_cfg["label_names"] == THINGS
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())


def test_model_without_weights_is_untrained(model: torch.nn.Module) -> None:
    fresh = garden_model(weights=False).state_dict()
    assert not torch.equal(fresh["head.weight"], model.state_dict()["head.weight"])


@pytest.mark.slow
def test_model_names_fresh_scenes(model: torch.nn.Module) -> None:
    scenes = [garden_scene(seed) for seed in range(4_000_000, 4_000_200)]
    with torch.inference_mode():
        named = (model(model_input(scenes)) > 0).numpy()
    assert (named == truth(scenes)).mean() >= 0.98


def test_model_is_sure_of_every_hero(model: torch.nn.Module) -> None:
    scenes = [hero_scene(k) for k in range(1, 9)]
    with torch.inference_mode():
        sure = model(model_input(scenes)).sigmoid().numpy()
    assert np.abs(sure - truth(scenes)).max() < 0.1


def test_card_belongs_to_the_weights() -> None:
    card = CARD.read_text(encoding="utf-8")
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() in card


def test_card_states_what_was_measured() -> None:
    card = CARD.read_text(encoding="utf-8")
    labels = re.search(r"Labels right: ([\d.]+)%", card)
    whole = re.search(r"Whole scenes right .*: ([\d.]+)%", card)
    assert labels is not None and float(labels[1]) >= 99
    assert whole is not None and float(whole[1]) >= 95
    assert all(f"| {name} |" in card for name in THINGS)
    assert "python training/evaluate_garden.py" in card


def test_shipped_files_are_small() -> None:
    assert WEIGHTS.stat().st_size < 3_000_000
    assert WEIGHTS.with_name("test_set.npz").stat().st_size < 1_000_000
