"""What the report's tests share: a run of a second, and a browser where there is one."""

import os
import shutil
from pathlib import Path

import pytest

from tests.tiny import train_tiny

CHROMIUM = os.environ.get("CIFARLAB_TEST_CHROMIUM") or shutil.which("chromium")


@pytest.fixture(scope="session")
def one(tmp_path_factory) -> Path:
    """A real run."""
    run, _ = train_tiny(tmp_path_factory.mktemp("one") / "tiny" / "0")
    return run.folder


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium here: install it, or name it in CIFARLAB_TEST_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
