from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import page_data, picture_in, place, roots_in, values_of, wide_picture
from PIL import Image
from torch import nn

from vitexplain_utils import (
    METHODS,
    command_line,
    explain,
    explore,
    garden_scene,
    hero_scene,
    overlay,
    preprocess,
    save_page,
)
from vitexplain_utils import __main__ as cli
from vitexplain_utils.explorer.choice import explored
from vitexplain_utils.explorer.draw import fit, outline, verdict
from vitexplain_utils.explorer.page import _class_data
from vitexplain_utils.explorer.pictures import picture_of
from vitexplain_utils.explorer.state import RATIOS
from vitexplain_utils.garden import THINGS
from vitexplain_utils.methods import HEAD_FUSIONS, LastAttention, register_method
from vitexplain_utils.models import TopClass

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "vitexplain_utils" / "explorer" / "page.js"
NASTY = '</script><script>alert("1")</script><img src=x onerror=alert(2)> & $data'


@pytest.fixture(scope="module")
def page(garden, tmp_path_factory) -> Path:
    """Two pictures of different shapes: a scene, and one that knows no answers."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    return save_page(path, garden, [hero_scene(8), wide_picture()], classes=3)


def choices(name: str) -> tuple[int, int]:
    """How many head fusions and ratios a method's maps are there for."""
    own = METHODS[name].settings
    return len(HEAD_FUSIONS) if "head_fusion" in own else 1, (
        len(RATIOS) if "discard_ratio" in own else 1
    )


def test_every_map_is_the_packages(page, garden):
    """Each one is decoded and compared with `explain`; no two choices share a place."""
    data, scene = page_data(page), hero_scene(8)
    picture = data["pictures"][0]
    names = [*sorted(explored(), key=lambda name: name != "attribution"), "vit_explain"]
    assert [one["label"] for one in data["methods"]] == [METHODS[name].label for name in names]
    seen: list[int] = []
    x = preprocess(garden, scene.image)
    for where, name in zip(picture["places"], names, strict=True):
        fusions, ratios = choices(name)
        asked = picture["classes"] if METHODS[name].needs_gradient else picture["classes"][:1]
        for target, fusion in product(range(len(asked)), range(fusions)):
            own = {"head_fusion": HEAD_FUSIONS[fusion]} if fusions > 1 else {}
            index = THINGS.index(asked[target]["names"])
            for ratio in range(ratios) if ratios == 1 else (0, 7, len(RATIOS) - 1):
                more = {**own, "discard_ratio": RATIOS[ratio]} if ratios > 1 else own
                if name == "vit_explain":
                    method = METHODS[name].having(**more)
                    wanted = method.heatmap(method.capture(garden, x, target=index))[0]
                else:
                    wanted = explain(garden, x, method=name, target=index, **more).heatmap[0]
                found = values_of(picture, place(where["map"], target, fusion, ratio))
                off = np.abs(np.sqrt(found) - np.sqrt(wanted.numpy())).max()
                assert off <= math.sqrt(float(wanted.max())) * (0.5 / 255 + 2e-4), (name, more)
            seen += [place(where["map"], target, fusion, ratio) for ratio in range(ratios)]
    assert sorted(seen) == list(range(len(picture["scales"])))
    assert len(roots_in(picture["maps"], 12, 12)) == len(seen)


def test_drawn_maps_are_within_two_levels(page, garden):
    """8 bits of the root are enough for what is seen, at every opacity."""
    picture = page_data(page)["pictures"][0]
    image = picture_in(picture["src"]).convert("RGB")
    x = preprocess(garden, hero_scene(8).image)
    where = page_data(page)["pictures"][0]["places"][1]["map"]  # gradient rollout
    for ratio, opacity in product((0, 9, 19), (0.3, 0.8, 1.0)):
        target = THINGS.index(picture["classes"][1]["names"])
        own = {"target": target, "discard_ratio": RATIOS[ratio]}
        exact = explain(garden, x, method="gradient_rollout", **own).heatmap[0]
        found = values_of(picture, place(where, 1, 0, ratio))
        pictures = [overlay(image, one, opacity=opacity) for one in (exact, found)]
        first, second = (np.asarray(one).astype(int) for one in pictures)
        assert abs(first - second).max() <= 2


def test_pictures_and_classes(page, garden):
    scene, wide = page_data(page)["pictures"]
    assert (scene["width"], scene["height"], wide["width"], wide["height"]) == (480, 480, 480, 288)
    assert picture_in(wide["src"]).size == (480, 288)
    off = np.asarray(picture_in(scene["src"]).convert("RGB")).astype(int) - np.asarray(
        fit(hero_scene(8).image, 480)
    )
    assert abs(off).mean() < 6
    logits = garden(preprocess(garden, hero_scene(8).image))[0].sigmoid()
    best = logits.argsort(descending=True)[:3].tolist()
    assert [one["names"] for one in scene["classes"]] == [THINGS[index] for index in best]
    shares = [one["probability"] for one in scene["classes"]]
    assert np.allclose(shares, logits[best].tolist(), rtol=1e-3)
    assert all(one["outline"] is None for one in wide["classes"])
    assert {sentence for sentence, _ in wide["verdicts"]} == {""}


def test_verdicts_and_outlines_are_the_explorers(page):
    picture, masks = page_data(page)["pictures"][0], hero_scene(8).masks
    for target, one in enumerate(picture["classes"]):
        line = np.asarray(picture_in(one["outline"]).convert("RGBA"))
        wanted = outline(masks[one["names"]], (480, 480))
        assert np.array_equal(line[..., 3] > 0, wanted)
        assert (line[wanted] == 255).all()
        for where in picture["places"]:
            for fusion, ratio in product((0, 2), (0, 12)):
                at = place(where["map"], target, fusion, ratio)
                heatmap = torch.tensor(values_of(picture, at))[None]
                said = picture["said"][place(where["said"], target, fusion, ratio)]
                sentence, mark = picture["verdicts"][said]
                assert sentence == verdict(heatmap, masks, one["names"])
                assert (mark == "right") == (": right" in sentence)
                assert (mark == "wrong") == (": wrong" in sentence)
    assert {mark for _, mark in picture["verdicts"]} >= {"right", "wrong"}


def test_what_attends_to_a_patch(page, garden):
    from vitexplain_utils import capture_attention

    picture = page_data(page)["pictures"][0]
    capture = capture_attention(garden, preprocess(garden, hero_scene(8).image))
    every = torch.stack([call.attention()[0] for call in capture.blocks]).detach()  # [L, H, T, T]
    for patch in (0, 37, 143):
        wanted = every[:, :, 1:, 1 + patch].mean((0, 1))
        assert picture["leading"][patch] == int(wanted.argmax())
        assert picture["most"][patch] == pytest.approx(float(wanted.max()), rel=1e-3)
        roots = roots_in(picture["attention"], 12, 12)[patch].ravel() / 255
        assert np.abs(roots - (wanted / wanted.max()).sqrt().numpy()).max() <= 0.51 / 255


def test_bytes_are_the_same_again(page, garden, tmp_path):
    wide = Image.new("RGB", (150, 90), "khaki")
    wide.paste(garden_scene(5).image.resize((60, 60)), (80, 20))
    again = save_page(tmp_path / "again.html", garden, [hero_scene(8), wide_picture()], classes=3)
    assert again.read_bytes() == page.read_bytes()


class Tags(HTMLParser):
    """What a browser takes for tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_names_are_text(tiny, tmp_path):
    page = save_page(tmp_path / "a.html", tiny, {NASTY: Image.new("RGB", (60, 40))}, title=NASTY)
    text, tags = page.read_text(), Tags(page.read_text()).tags
    assert page_data(page)["pictures"][0]["name"] == NASTY
    assert [tag for tag, _ in tags].count("script") == 2
    assert not [tag for tag, own in tags if tag == "img" or "onerror" in own]
    assert "alert(2)&gt; &amp; $data</h1>" in text


def test_asks_no_network(page):
    text = page.read_text()
    assert "default-src 'none'" in text
    for tag, own in Tags(text).tags:
        assert not {"src", "href", "action", "srcset"} & own.keys(), tag
    assert not re.findall(r"https?:|\burl\(|@import|\bfetch\(|XMLHttpRequest|import\(", text)


def test_nothing_of_a_file_but_its_pixels(tiny, tmp_path):
    image = Image.new("RGB", (60, 40), "teal")
    exif = Image.Exif()
    exif[0x010E] = "where it was taken"
    image.save(tmp_path / "b.jpg", exif=exif, icc_profile=b"a profile")
    page = save_page(tmp_path / "b.html", tiny, tmp_path / "b.jpg", classes=1)
    inside = picture_in(page_data(page)["pictures"][0]["src"])
    assert not inside.getexif() and "icc_profile" not in inside.info


def test_the_script_is_short():
    lines = SCRIPT.read_text().splitlines()
    assert len(lines) <= 250
    assert max(map(len, lines)) <= 100


def test_of_a_photograph_with_five_classes(real_deit, tmp_path):
    page = save_page(tmp_path / "astronaut.html", real_deit, "astronaut", classes=5)
    assert len(page_data(page)["pictures"][0]["classes"]) == 5
    assert page.stat().st_size < 350_000


def test_classes_of_ones_own(garden, tmp_path):
    one = save_page(
        tmp_path / "a.html", garden, hero_scene(4).image, classes=1, targets=["snail", 2]
    )
    found = page_data(one)["pictures"][0]["classes"]
    assert [top["names"] for top in found[:2]] == ["snail", "fish"] and len(found) == 3
    scene = save_page(tmp_path / "b.html", garden, hero_scene(4), classes=1)
    found = page_data(scene)["pictures"][0]["classes"]
    assert {top["names"] for top in found} == {"ladybird", "bee"}


def test_methods_of_ones_own(tiny, tmp_path):
    @register_method
    class Raw(LastAttention):
        name = "raw"
        label = "raw <b>attention</b>"

    try:
        page = save_page(tmp_path / "a.html", tiny, Image.new("RGB", (48, 32)), methods=["raw"])
    finally:
        METHODS.pop("raw")
    data = page_data(page)
    assert data["methods"] == [
        {"label": "raw <b>attention</b>", "asks": False, "fuses": True, "discards": False}
    ]
    assert len(data["pictures"][0]["scales"]) == len(HEAD_FUSIONS)


def test_of_a_model_without_classes(tiny, tmp_path):
    tiny.reset_classifier(0)
    data = page_data(save_page(tmp_path / "a.html", tiny, Image.new("RGB", (48, 32))))
    assert data["pictures"][0]["classes"] == []
    assert not any(method["asks"] for method in data["methods"])


def test_the_attention_of_many_patches_is_left_out(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("vitexplain_utils.explorer.page._MOST_PATCHES", 5)
    page = save_page(tmp_path / "a.html", tiny, Image.new("RGB", (48, 32)), methods=["rollout"])
    assert "attention" not in page_data(page)["pictures"][0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"path": "page.txt"}, "path must end in .html, got"),
        ({"images": []}, "images must hold at least one picture"),
        ({"classes": 0}, "classes must be a whole number"),
        ({"classes": 2.5}, "classes must be a whole number"),
        ({"targets": ["zebra"]}, "target 'zebra' matches 0 classes"),
        ({"targets": [7]}, "class 7 is not among 0 to 6"),
        ({"methods": []}, "methods must be a list of names among"),
        ({"methods": "rollout"}, "methods must be a list of names among"),
        ({"methods": ["rolout"]}, "got \\['rolout'\\]"),
        ({"model": nn.Identity()}, "Identity"),
    ],
)
def test_bad_input_leaves_nothing(arguments, said, tiny, tmp_path):
    given = {"path": "page.html", "model": tiny, "images": Image.new("RGB", (48, 32))} | arguments
    given["path"] = tmp_path / given["path"]
    given["path"].write_text("before")
    with pytest.raises(ValueError, match=said):
        save_page(**given)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize("names", [("none.png", "page.html"), ("ok.png", "no/page.html")])
def test_missing_files(names, tiny, tmp_path):
    Image.new("RGB", (48, 32)).save(tmp_path / "ok.png")
    with pytest.raises(FileNotFoundError):
        save_page(tmp_path / names[1], tiny, tmp_path / names[0])
    assert [path.name for path in tmp_path.iterdir()] == ["ok.png"]


def test_the_model_and_torch_are_as_before(tiny, tmp_path):
    threads, flags = torch.get_num_threads(), [p.requires_grad for p in tiny.parameters()]
    save_page(tmp_path / "a.html", tiny, Image.new("RGB", (48, 32)), classes=1)
    assert torch.get_num_threads() == threads
    assert [p.requires_grad for p in tiny.parameters()] == flags
    assert all(p.grad is None for p in tiny.parameters()) and not tiny.training


def test_on_the_command_line(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "load_model", lambda name, weights=None, device=None: tiny)
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        Image.new("RGB", (48, 32), "teal").save(f"{name}.png")
    assert (
        cli.main(["one.png", "two.png", "--output=a.html", "--method=rollout", "--target=4"]) == 0
    )
    assert capsys.readouterr().out.startswith("a.html: a page")
    data = page_data(tmp_path / "a.html")
    assert [picture["name"] for picture in data["pictures"]] == ["one", "two"]
    assert data["pictures"][0]["classes"][0]["names"] == "class 4"
    assert data["methods"][0]["label"] == "rollout"
    for wrong in ("--discard-ratio=0", "--crop", "--blocks 0 1", "--no-hold-attention"):
        assert cli.main(["one.png", "--output=b.html", *wrong.split()]) == 2
        assert "leave out " in capsys.readouterr().err
    assert not Path("b.html").exists()


def test_from_the_explorer(tmp_path):
    panel = explore("garden", hero_scene(4), folder=tmp_path)
    panel.target.value = THINGS.index("snail")
    panel.page.click()
    assert "Saved " in panel.message.value and 'role="status"' in panel.message.value
    (path,) = tmp_path.iterdir()
    picture = page_data(path)["pictures"][0]
    assert picture["classes"][0]["names"] == "snail"
    assert picture["name"] == panel.state.picture.name
    panel.folder = tmp_path / "missing"
    panel.page.click()
    assert "its folder does not exist" in panel.message.value


def test_a_synonym_has_the_things_outline_as_it_has_its_verdict():
    scene = hero_scene(4)
    picture = picture_of(scene)
    ladybug = TopClass(0, "ladybug, ladybird", 0.5)
    found = picture_in(_class_data(ladybug, picture, (96, 96))["outline"]).convert("RGBA")
    line = np.asarray(found)[..., 3] > 0
    assert (line == outline(scene.masks["ladybird"], (96, 96))).all() and line.any()
    assert _class_data(TopClass(0, "bird", 0.5), picture, (96, 96))["outline"] is None


def test_no_picture_goes_through_the_model_more_often_than_it_must(tiny, tmp_path):
    passes = []
    tiny.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    image = Image.new("RGB", (48, 32), "khaki")
    save_page(tmp_path / "one.html", tiny, image, classes=1, methods=["attribution"])
    assert passes == [1]
