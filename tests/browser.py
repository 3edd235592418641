"""Chromium for the tests that need a real browser, with nothing of the network."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


@contextmanager
def launched(*modules: str, but: str = "", **options: Any) -> Iterator[Any]:
    """Chromium, launched; a skip, or a failure where it is insisted on, if something is missing.

    Args:
        modules: what else is needed.
        but: the one host that can be reached.
        options: playwright's.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    missing = [name for name in ("playwright", *modules) if not importlib.util.find_spec(name)]
    missing += [] if found else ["Chromium (make chromium)"]
    if missing:
        outcome = pytest.fail if os.environ.get("VITEXPLAIN_BROWSER") == "1" else pytest.skip
        outcome(f"the browser test needs {', '.join(missing)}")
    from playwright.sync_api import sync_playwright

    hosts = "MAP * ~NOTFOUND" + (f" , EXCLUDE {but}" if but else "")
    args = [*FLAGS, f"--host-resolver-rules={hosts}"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=args, **options)
        yield chromium
        chromium.close()
