"""The explorer in a real browser: Voila, JupyterLab and Notebook serve it, Chromium drives it.

Without Chromium these tests are skipped, or, with VITEXPLAIN_BROWSER=1, they fail.
"""

from __future__ import annotations

import base64
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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import launched
from PIL import Image

from vitexplain_utils import garden_scene, hero_scene
from vitexplain_utils.explorer.choice import Choice
from vitexplain_utils.explorer.state import ExplorerState

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "explorer.ipynb"
pytestmark = pytest.mark.slow
SECONDS = 60  # to wait for a picture; the machine may be busy


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    # Voila's page asks a CDN for fonts; a network that stalls would stall the page.
    options = {"but": "127.0.0.1", "ignore_default_args": ["--hide-scrollbars"]}
    with launched("voila", **options) as browser:
        yield browser


VOILA = ("voila", "explorer.ipynb", "--Voila.ip=127.0.0.1", "--Voila.port_retries=0")
JUPYTER = ("--ServerApp.token=", "--ServerApp.port_retries=0", "--allow-root", "--no-browser")
JUPYTER = (*JUPYTER, "--expose-app-in-browser")


@contextmanager
def served(folder: Path, *module: str, ready: str) -> Iterator[str]:
    """The address of a server of a copy of the notebook, with no weights and no network."""
    shutil.copy(NOTEBOOK, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    unset = ("MPLBACKEND", "VITEXPLAIN_WEIGHTS")
    env = {key: value for key, value in os.environ.items() if key not in unset}
    env |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder)}
    for kind in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):  # nothing of the reader's own
        env[f"JUPYTER_{kind}"] = str(folder / kind)
    env["JUPYTERLAB_SETTINGS_DIR"] = env["JUPYTERLAB_WORKSPACES_DIR"] = str(folder / "lab")
    command = [sys.executable, "-m", *module, "--no-browser", f"--port={port}"]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log)
    try:
        wait_for_server(f"http://127.0.0.1:{port}{ready}", server, folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(2 * SECONDS)


def wait_for_server(url: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(4 * SECONDS):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError as error:
            error.close()  # an answer as well
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the server does not answer: {log.read_text()}")


@pytest.fixture(scope="module")
def address(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("voila"), *VOILA, ready="/voila/static/") as found:
        yield found


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
    """Until the browser shows these very pixels, in their own form, and no larger."""
    end = time.monotonic() + SECONDS
    while not np.array_equal(found := shown(page, name), np.asarray(wanted)):
        assert time.monotonic() < end, f"another picture of shape {found.shape} is shown"
        page.wait_for_timeout(100)
    box = page.locator(f".explorer-{name}").bounding_box()
    scale = box["width"] / wanted.width
    assert scale < 1.001 and abs(box["height"] - scale * wanted.height) < 1
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
    assert round(page.locator(".explorer-over").bounding_box()["width"]) == 336  # there is room
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
    ratio = round(float(handle.get_attribute("aria-valuetext")), 3)
    assert 0.3 < ratio < 0.999
    wait_for(page, state.draw(Choice("rollout", discard_ratio=ratio)).overlay)
    for _ in range(25):  # and with the keyboard, faster than pictures can be drawn
        handle.press("ArrowLeft")
    ratio = round(ratio - 0.25, 3)
    wait_for(page, state.draw(Choice("rollout", discard_ratio=ratio)).overlay)
    assert page.get_by_label("discard ratio").input_value() == f"{ratio:.3f}"

    # The ratio, typed with a comma.
    ratio = 0.95
    page.get_by_label("discard ratio").fill("0,95")
    page.get_by_label("discard ratio").press("Enter")
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

    # A click on a patch shows where it looks.
    over = page.locator(".explorer-over").bounding_box()
    where = {"x": over["x"] + over["width"] * 7.5 / 12, "y": over["y"] + over["height"] * 3.5 / 12}
    page.mouse.move(**where)
    page.mouse.click(**where)
    page.get_by_role("img", name="heads of block 5, from the patch in row 3, column 7").wait_for()
    sheet = Image.open(io.BytesIO(state.heads(5, 2, 3 * 12 + 7).png())).convert("RGB")
    wait_for(page, sheet, "sheet")
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


CUT = """root => [...root.querySelectorAll('*')].filter(node =>
    node.clientWidth > 0 && getComputedStyle(node).display !== 'inline'
    && !node.closest('.slider-container, .explorer-patch, option')
    && (node.scrollWidth > node.clientWidth || (getComputedStyle(node).overflowY === 'auto'
        && node.scrollHeight > node.clientHeight))
).map(node => `${node.className}: ${node.scrollWidth} in ${node.clientWidth}`)"""
SIZES = [(1400, 900), (1366, 650), (800, 1000), (390, 844)]


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_cut_overlaps_or_sticks_out(page, size):
    width, height = size
    page.set_viewport_size({"width": width, "height": height})
    page.wait_for_timeout(500)
    assert page.locator(".explorer").evaluate(CUT) == []
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    names = (
        "shown over shown-text over-text verdict model typed-model picture scene upload target "
        "typed method mistakes fusion ratio ratio-text blocks colormap opacity png gif page "
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
    first = ("over", "verdict", "target", "method", "ratio")  # fit on the screen together
    assert max(boxes[n]["y"] + boxes[n]["height"] for n in first) - boxes["shown"]["y"] < height


def test_what_is_not_seen_has_a_name(page):
    page.get_by_role("img", name="heat map, gradient rollout").wait_for()
    for name in ("class", "method", "discard ratio", "opacity", "picture", "model", "colour map"):
        assert page.get_by_label(name, exact=True).count() == 1, name


@pytest.mark.parametrize(
    ("front_end", "path"), [("jupyterlab", "/lab/tree/"), ("notebook", "/notebooks/")]
)
def test_other_front_ends(chromium, state, tmp_path, front_end, path):
    pytest.importorskip(front_end)
    said: list[str] = []
    with served(tmp_path, front_end, *JUPYTER, ready="/api") as address:
        page = chromium.new_page(viewport={"width": 1366, "height": 900})
        page.set_default_timeout(1000 * SECONDS)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
        page.goto(f"{address}{path}{NOTEBOOK.name}", timeout=1000 * 240)
        page.locator(".jp-CodeCell").first.wait_for()
        page.evaluate("jupyterapp.serviceManager.ready")
        page.wait_for_function("jupyterapp.shell.currentWidget?.sessionContext?.isReady")
        said.clear()  # what a front end says while it starts is its own
        page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
        wait_for(page, state.draw(Choice()).overlay)
        page.select_option(".explorer-method select", label="rollout")
        wait_for(page, state.draw(Choice("rollout")).overlay)
        assert page.locator(".explorer").evaluate(CUT) == []
        page.close()
    assert said == []
