"""A page of `save_page` in a real browser: opened from disk, with no network.

Without Chromium these tests are skipped, or, with VITEXPLAIN_BROWSER=1, they fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import launched
from pages import page_data, picture_in, wide_picture
from PIL import Image
from torch import nn

from vitexplain_utils import (
    METHODS,
    hero_scene,
    overlay,
    preprocess,
    save_page,
)
from vitexplain_utils.explorer.draw import outline, verdict, with_line
from vitexplain_utils.explorer.state import RATIOS
from vitexplain_utils.garden import THINGS

pytestmark = pytest.mark.slow

FIRST, SECOND, PICTURE = 0, 1, 2  # the panes
NASTY = '<b>wide</b></script><script>document.title = "caught"</script>'


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def file(garden, tmp_path_factory) -> Path:
    images = {"scene": hero_scene(8), NASTY: wide_picture()}
    return save_page(tmp_path_factory.mktemp("page") / "page.html", garden, images, classes=3)


@pytest.fixture
def page(chromium: Any, file: Path) -> Iterator[Any]:
    """The page, opened; whatever it asks for or complains about fails the test."""
    opened = chromium.new_page(viewport={"width": 1400, "height": 900})
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "request",
        lambda request: None if request.url.startswith("data:") else complaints.append(request.url),
    )
    opened.goto(file.as_uri())
    opened.wait_for_selector("#classes .key")
    yield opened
    opened.close()
    assert complaints == [file.as_uri()]


def shown(page: Any, pane: int) -> np.ndarray:
    """The pixels on a pane's canvas."""
    address = page.locator("figure canvas").nth(pane).evaluate("canvas => canvas.toDataURL()")
    pixels = np.asarray(picture_in(address)).astype(int)
    assert (pixels[..., 3:] == 255).all()
    return pixels[..., :3]


class Wanted:
    """What the package itself draws."""

    def __init__(self, model: nn.Module, file: Path, index: int, image: Image.Image) -> None:
        self.data = page_data(file)["pictures"][index]
        self.image = picture_in(self.data["src"]).convert("RGB")
        self.model, self.x = model, preprocess(model, image)

    def heatmap(self, name: str, target: str, **settings: Any) -> Any:
        method = METHODS[name].having(**settings)
        return method.heatmap(method.capture(self.model, self.x, target=THINGS.index(target)))

    def overlay(self, name: str, target: str, *, opacity: float = 0.8, **own: Any) -> np.ndarray:
        drawn = overlay(self.image, self.heatmap(name, target, **own)[0], opacity=opacity)
        masks = hero_scene(8).masks if self.data["classes"][0]["outline"] else {}
        line = outline(masks[target], drawn.size) if target in masks else None
        return np.asarray(with_line(drawn, line)).astype(int)


@pytest.fixture(scope="module")
def scene(garden, file) -> Wanted:
    return Wanted(garden, file, 0, hero_scene(8).image)


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    return found.shape == wanted.shape and abs(found - wanted).max() <= 2


def slide(page: Any, step: int) -> float:
    page.locator("#ratio").fill(str(step))
    return RATIOS[step]


def test_a_session(page, scene):
    # It opens on attribution, with gradient rollout beside it.
    leaf, bee = "leaf", "bee"
    assert close(shown(page, FIRST), scene.overlay("attribution", leaf))
    assert close(shown(page, SECOND), scene.overlay("gradient_rollout", leaf))
    plain = with_line(scene.image, outline(hero_scene(8).masks[leaf], (480, 480)))
    assert close(shown(page, PICTURE), np.asarray(plain).astype(int))

    # The slider, by hand and with the keyboard.
    ratio = slide(page, 8)
    wanted = scene.overlay("gradient_rollout", leaf, discard_ratio=ratio)
    assert close(shown(page, SECOND), wanted)
    assert close(shown(page, FIRST), scene.overlay("attribution", leaf))
    page.locator("#ratio").press("ArrowRight")
    assert page.inner_text("#discarded") == f"{RATIOS[9]:.3f}"
    wanted = scene.overlay("gradient_rollout", leaf, discard_ratio=RATIOS[9])
    assert close(shown(page, SECOND), wanted)

    # Another class, by the arrow keys of its radio buttons.
    page.get_by_role("radio", name="fish").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="bee").is_checked()
    assert close(shown(page, FIRST), scene.overlay("attribution", bee))

    # Two methods side by side under one slider, and another head fusion.
    page.select_option("#first", label="rollout")
    page.select_option("#second", label="vit-explain's rule")
    page.get_by_role("radio", name="max").check(force=True)
    ratio = slide(page, 4)
    own = {"head_fusion": "max", "discard_ratio": ratio}
    assert close(shown(page, FIRST), scene.overlay("rollout", bee, **own))
    assert close(shown(page, SECOND), scene.overlay("vit_explain", bee, discard_ratio=ratio))
    assert "The same map for every class." in page.locator("figure").nth(FIRST).inner_text()

    # Opacity; the verdict under each map.
    page.locator("#opacity").fill("0.35")
    assert close(shown(page, FIRST), scene.overlay("rollout", bee, opacity=0.35, **own))
    masks = hero_scene(8).masks
    for pane, name in ((FIRST, "rollout"), (SECOND, "vit_explain")):
        settings = own if name == "rollout" else {"discard_ratio": ratio}
        said = verdict(scene.heatmap(name, bee, **settings), masks, bee)
        assert page.locator(".verdict").nth(pane).inner_text() == said

    # One method alone, without settings.
    page.get_by_label("Side by side").uncheck(force=True)
    page.select_option("#first", label="relevance")
    assert not page.locator("figure").nth(SECOND).is_visible()
    assert (
        page.locator("#ratio").is_disabled() and page.get_by_role("radio", name="min").is_disabled()
    )
    assert close(shown(page, FIRST), scene.overlay("relevance", bee, opacity=0.35))


def test_a_picture_of_another_shape(page, garden, file):
    """Its name is text, and it has its own classes."""
    wanted = Wanted(garden, file, 1, wide_picture())
    page.get_by_role("radio", name="wide").check(force=True)
    target = wanted.data["classes"][0]["names"]
    assert shown(page, FIRST).shape == (288, 480, 3)
    assert close(shown(page, FIRST), wanted.overlay("attribution", target))
    assert close(shown(page, SECOND), wanted.overlay("gradient_rollout", target))
    assert page.inner_text("#shows") == NASTY
    assert page.title() == "What did the model look at?"
    assert page.locator(".verdict").all_inner_texts() == ["", ""]


def test_a_real_photograph(chromium, real_deit, tmp_path):
    file = save_page(tmp_path / "cat.html", real_deit, "cat", classes=2)
    opened = chromium.new_page()
    opened.goto(file.as_uri())
    opened.wait_for_selector("#classes .key")
    slide(opened, 10)
    data = page_data(file)["pictures"][0]
    image = picture_in(data["src"]).convert("RGB")
    from vitexplain_utils.explorer.state import ExplorerState

    state = ExplorerState(real_deit, "cat")
    method = METHODS["gradient_rollout"].having(discard_ratio=RATIOS[10])
    exact = overlay(image, method.heatmap(state.capture())[0])
    assert close(shown(opened, SECOND), np.asarray(exact).astype(int))
    opened.close()


def test_a_patch(page):
    """Pointed at, it says its value, and the picture shows what attends to it."""
    before = shown(page, PICTURE)
    box = page.locator("canvas").nth(FIRST).bounding_box()
    x, y = box["x"] + 9.5 / 12 * box["width"], box["y"] + 2.5 / 12 * box["height"]
    page.mouse.move(x, y)
    said = page.inner_text("#patch")
    assert said.startswith("Patch in row 3, column 10. attribution: ")
    assert "gradient rollout: " in said and "of its attention." in said
    attended = shown(page, PICTURE)
    assert abs(attended - before).max() > 50
    frame = page.locator("canvas").nth(SECOND).bounding_box()
    marked = page.locator(".frame i").nth(SECOND).bounding_box()
    assert marked["x"] == pytest.approx(frame["x"] + 9 / 12 * frame["width"], abs=1)
    assert marked["height"] == pytest.approx(frame["height"] / 12, abs=1)
    page.mouse.move(5, 5)
    assert page.inner_text("#patch") == "" and (shown(page, PICTURE) == before).all()

    page.mouse.click(x, y)  # now it stays
    page.mouse.move(5, 5)
    assert page.inner_text("#patch") == said
    page.keyboard.press("ArrowRight")
    assert "row 3, column 11." in page.inner_text("#patch")
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)  # it stops at the edges
    assert "row 1, column 12." in page.inner_text("#patch")
    page.keyboard.press("Escape")
    assert page.inner_text("#patch") == ""


def test_it_plays_and_stops(page):
    page.get_by_role("button", name="Play").click()
    for _ in range(100):
        if int(page.locator("#ratio").input_value()) >= 3:
            break
        page.wait_for_timeout(100)
    page.get_by_role("button", name="Stop").click()
    at = page.locator("#ratio").input_value()
    assert int(at) >= 3
    page.wait_for_timeout(600)
    assert page.locator("#ratio").input_value() == at


def test_a_step_of_the_slider_is_quick(page):
    """Thirty steps, two maps drawn in each; by the page's own clock, as the machine may be busy."""
    page.select_option("#first", label="rollout")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(one["value"] for one in metrics if one["name"] == "TaskDuration")

    before = spent()
    seen = page.evaluate(
        """() => Array.from({ length: 30 }, (_, step) => {
            const slider = document.getElementById("ratio"), before = performance.now();
            slider.value = step % 20;
            slider.dispatchEvent(new Event("input", { bubbles: true }));
            return performance.now() - before;
        })"""
    )
    own = 1000 * (spent() - before) / 30
    print(f"a step takes {own:.1f} ms of the page's time; on the clock {np.median(seen):.1f} ms")
    assert own < 16


def test_it_can_be_used_without_eyes(page):
    """Every control has a role and a name; a picture says what it shows."""
    for role, name in (
        ("combobox", "First method"),
        ("combobox", "Second method, beside it"),
        ("slider", "Discard ratio"),
        ("slider", "Opacity"),
        ("radio", "leaf"),
        ("group", "Head fusion"),
        ("group", "Picture"),
        ("checkbox", "Side by side"),
        ("button", "Play"),
        ("application", "attribution, for “leaf”, over scene. Pointing game: right."),
    ):
        assert page.get_by_role(role, name=name).count() == 1, (role, name)
    assert all(page.locator("#pictures img").evaluate_all("all => all.map(one => one.alt)"))
    assert page.locator("#ratio").get_attribute("aria-valuetext") == "0.000"
    reached = set()
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert reached >= {"first", "second", "ratio", "play", "beside", "opacity", "CANVAS", "SUMMARY"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1400])
def test_nothing_sticks_out(page, width, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    page.locator("summary").click()
    for beside in (True, False):
        page.get_by_label("Side by side").set_checked(beside, force=True)
        root = "document.documentElement"
        assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
        controls = page.locator("select, button, .key, canvas, p, summary").all()
        for box in filter(None, (control.bounding_box() for control in controls)):
            assert box["x"] >= 0 and box["x"] + box["width"] <= width + 0.5
    style = "getComputedStyle(document.body)"
    colours = page.evaluate(f"[{style}.backgroundColor, {style}.color]")
    back, front = (sum(map(int, colour[4:-1].split(","))) for colour in colours)
    assert abs(back - front) > 500 and (back > front) == (scheme == "light")
