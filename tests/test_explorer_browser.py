"""The explorer in a real browser: Voila serves its notebook, headless Chromium moves the controls.

Without Chromium these tests are skipped, or, with VITEXPLAIN_BROWSER=1, they fail.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitexplain_utils import garden_scene, hero_scene
from vitexplain_utils.explorer.choice import Choice
from vitexplain_utils.explorer.state import ExplorerState

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "08-interactive-explorer.ipynb"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    # Voila's page asks a CDN for fonts; a network that stalls would stall the page.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]
pytestmark = pytest.mark.xdist_group("browser")  # one server, one browser
SECONDS = 60  # to wait for a picture; the machine may be busy


def browser() -> str:
    """Chromium's path; a skip, or a failure where it is insisted on, if something is missing."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    missing = [name for name in ("playwright", "voila") if not importlib.util.find_spec(name)]
    missing += [] if found else ["Chromium (make chromium)"]
    if missing:
        outcome = pytest.fail if os.environ.get("VITEXPLAIN_BROWSER") == "1" else pytest.skip
        outcome(f"the browser test needs {', '.join(missing)}")
    return str(found)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def address(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Voila, serving a copy of the notebook, with no weights and no network."""
    folder = tmp_path_factory.mktemp("voila")
    shutil.copy(NOTEBOOK, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    unset = ("MPLBACKEND", "VITEXPLAIN_WEIGHTS")
    env = {key: value for key, value in os.environ.items() if key not in unset}
    env |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder)}
    options = ["--no-browser", f"--port={port}", "--Voila.port_retries=0", "--Voila.ip=127.0.0.1"]
    command = [sys.executable, "-m", "voila", str(folder / NOTEBOOK.name), *options]
    with (folder / "voila.log").open("w") as log:
        server = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log)
    try:
        wait_for_server(f"http://127.0.0.1:{port}/voila/static/", server, folder / "voila.log")
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(30)


def wait_for_server(url: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(2 * SECONDS):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError as error:
            error.close()  # an answer as well
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"Voila does not answer: {log.read_text()}")


@pytest.fixture(scope="module")
def page(chromium: Any, address: str) -> Iterator[Any]:
    opened = chromium.new_page(viewport={"width": 1280, "height": 1000})
    opened.set_default_timeout(1000 * SECONDS)
    opened.goto(address, timeout=1000 * 240)
    opened.wait_for_selector(".explorer-over")
    yield opened
    opened.close()


@pytest.fixture
def state() -> ExplorerState:
    """What the kernel should compute, computed here."""
    return ExplorerState("garden", hero_scene(8))


def shown(page: Any, name: str = "over") -> np.ndarray:
    """The pixels that the browser has got."""
    script = """async selector => {
        const answer = await fetch(document.querySelector(selector).src);
        const bytes = new Uint8Array(await answer.arrayBuffer());
        return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(''));
    }"""
    content = base64.b64decode(page.evaluate(script, f".explorer-{name}"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def wait_for(page: Any, wanted: Image.Image, name: str = "over") -> None:
    """Until the browser shows these very pixels, in their own size."""
    end = time.monotonic() + SECONDS
    while not np.array_equal(found := shown(page, name), np.asarray(wanted)):
        assert time.monotonic() < end, f"another picture of shape {found.shape} is shown"
        page.wait_for_timeout(100)
    box = page.locator(f".explorer-{name}").bounding_box()
    assert (round(box["width"]), round(box["height"])) == wanted.size
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0


def upload(page: Any, name: str, kind: str, content: bytes) -> None:
    with page.expect_file_chooser() as chooser:
        page.click(".explorer-upload")
    chooser.value.set_files({"name": name, "mimeType": kind, "buffer": content})


def test_a_session(page, state):
    # It loads.
    wait_for(page, state.draw(Choice()).overlay)
    wait_for(page, state.draw(Choice()).picture, "shown")
    assert "right. The peak of the map lies on the leaf" in page.inner_text(".explorer-verdict")

    # Another method.
    page.select_option(".explorer-method select", label="rollout")
    wait_for(page, state.draw(Choice("rollout")).overlay)

    # The ratio, dragged with the mouse in forty steps.
    handle = page.locator(".explorer-ratio .noUi-handle")
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(40):
        page.mouse.move(x + 5 * (step + 1), y)
    page.mouse.up()
    ratio = float(page.inner_text(".explorer-ratio .widget-readout"))
    assert 0.3 < ratio < 0.999
    wait_for(page, state.draw(Choice("rollout", discard_ratio=ratio)).overlay)
    for _ in range(25):  # and with the keyboard, faster than pictures can be drawn
        handle.press("ArrowRight")
    ratio = round(ratio + 0.025, 3)
    assert float(page.inner_text(".explorer-ratio .widget-readout")) == ratio
    wait_for(page, state.draw(Choice("rollout", discard_ratio=ratio)).overlay)

    # Another class, chosen and typed.
    page.select_option(".explorer-target select", label="bee, 99.9%")
    asked = Choice("rollout", discard_ratio=ratio, target=1)
    wait_for(page, state.draw(asked).overlay)
    page.select_option(".explorer-method select", label="gradient rollout")
    page.fill(".explorer-typed input", "fish")
    page.press(".explorer-typed input", "Enter")
    asked = Choice(discard_ratio=ratio, target=2)
    wait_for(page, state.draw(asked).overlay)

    # Attribution, which has no ratio, and back.
    page.select_option(".explorer-method select", label="attribution")
    wait_for(page, state.draw(Choice("attribution", target=2)).overlay)
    assert "right. The peak of the map lies on the fish" in page.inner_text(".explorer-verdict")
    assert page.locator(".explorer-ratio [disabled]").count() > 0
    page.select_option(".explorer-method select", label="gradient rollout")
    wait_for(page, state.draw(asked).overlay)

    # As in vit-explain; the heads of a block.
    page.click(".explorer-mistakes button >> nth=1")
    wrong = Choice(discard_ratio=ratio, target=2, mistakes=True)
    wait_for(page, state.draw(wrong).overlay)
    assert "wrong. The peak of the map lies on the bee" in page.inner_text(".explorer-verdict")
    page.click(".explorer-mistakes button >> nth=0")
    page.click(".explorer-sheet-on")
    page.wait_for_function("document.querySelector('.explorer-sheet').naturalHeight > 200")
    box, natural = page.locator(".explorer-sheet").bounding_box(), shown(page, "sheet").shape
    assert (round(box["height"]), round(box["width"])) == natural[:2]
    page.click(".explorer-sheet-on")
    page.locator(".explorer-sheet").wait_for(state="hidden")


def test_upload_of_a_picture_and_of_a_broken_file(page):
    image = Image.new("RGB", (300, 200), "khaki")
    image.paste(garden_scene(5).image, (150, 60))
    content = io.BytesIO()
    image.save(content, "PNG")
    mine = ExplorerState("garden", image)
    ratio = float(page.inner_text(".explorer-ratio .widget-readout"))
    for _ in range(2):  # the same file twice: the button takes it again
        upload(page, "mine.png", "image/png", content.getvalue())
        wait_for(page, mine.draw(Choice(discard_ratio=ratio)).overlay)
        assert "yours: mine.png" in page.inner_text(".explorer-shown-text")
    upload(page, "notes.txt", "text/plain", b"no picture")
    page.get_by_role("alert").wait_for()
    assert "notes.txt is not a picture" in page.inner_text(".explorer-message")
    wait_for(page, mine.draw(Choice(discard_ratio=ratio)).overlay)

    # It goes on: what is wrong is forgotten with the next change.
    page.fill(".explorer-typed-model input", "no_such_model")
    page.press(".explorer-typed-model input", "Enter")
    page.get_by_text("is not a model of timm").wait_for()
    page.select_option(".explorer-colormap select", "viridis")
    wait_for(page, mine.draw(Choice(discard_ratio=ratio, colormap="viridis")).overlay)
    assert page.inner_text(".explorer-message") == ""


@pytest.mark.parametrize("width", [1280, 800])
def test_nothing_overlaps_or_sticks_out(page, width):
    page.set_viewport_size({"width": width, "height": 1000})
    page.wait_for_timeout(500)
    names = (
        "shown over shown-text over-text verdict model typed-model picture scene upload "
        "target typed method mistakes fusion ratio blocks colormap opacity png gif page "
        "sheet-on sheet-block"
    )
    boxes = {name: page.locator(f".explorer-{name}").bounding_box() for name in names.split()}
    for name, box in boxes.items():
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, name
        for other, its in boxes.items():
            apart = (
                box["x"] + box["width"] <= its["x"] + 1
                or its["x"] + its["width"] <= box["x"] + 1
                or box["y"] + box["height"] <= its["y"] + 1
                or its["y"] + its["height"] <= box["y"] + 1
            )
            assert name == other or apart, (name, box, other, its)
    cut = "node => node.scrollWidth > node.clientWidth"
    for label in page.locator(".widget-label:visible").all():
        assert not label.evaluate(cut), f"{label.inner_text()!r} is cut off"
