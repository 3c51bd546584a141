"""Fixtures that several test folders share: one real ComfyUI and one headless Chromium for the whole run."""

from __future__ import annotations

import shutil

import pytest

from workflows.host import ComfyServer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def comfy():
    """A running ComfyUI with the pack; started once, so a test must leave it able to run the next graph."""
    with ComfyServer() as server:
        yield server


@pytest.fixture(scope="session")
def browser():
    """Playwright's handle on a headless Chromium; tests that use it carry the mark `browser`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def pytest_collection_modifyitems(items):
    if CHROMIUM is None:
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason="no Chromium here: nothing was seen in a browser"))


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.stats.get("skipped", [])
    skipped = sum("no Chromium here" in str(report.longrepr) for report in reports)
    if skipped:
        terminalreporter.section("NO BROWSER", sep="!", red=True, bold=True)
        terminalreporter.line(f"{skipped} browser tests were SKIPPED: install chromium (Debian) and run again.")
