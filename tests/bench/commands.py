"""`make demo` to the picture and `make test`, in seconds; only with --full."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from models import ROOT, Bench
from table import DEMO, TEST, Row

DEMO_BUDGET, TEST_BUDGET = 60.0, 15 * 60.0
LIMIT = 3600.0
"""Seconds after which a command is ended."""


def rows(bench: Bench) -> Iterator[Row]:
    """Both commands, after an installation that is not timed."""
    if not bench.full:
        for design, budget in ((DEMO, DEMO_BUDGET), (TEST, TEST_BUDGET)):
            yield Row(design, f"{design.split(' after')[0]}", None, unit="s", budget=("≤", budget),
                      note="not measured (--full)")
        return
    bench.say("make host")
    installed, _, _ = timed(["make", "-s", "host"])
    bench.say("make demo")
    with tempfile.TemporaryDirectory() as out:
        code, seconds, first = timed(["make", "-s", "demo"], Path(out))
        yield command_row(DEMO, "make demo, to the first picture", DEMO_BUDGET, installed or code,
                          first if first is not None else float("nan"), f"{seconds:.0f} s in all")
    bench.say("make test")
    code, seconds, _ = timed(["make", "-s", "test"])
    yield command_row(TEST, "make test", TEST_BUDGET, installed or code, seconds, "")


def command_row(design: str, what: str, budget: float, code: int, seconds: float, note: str) -> Row:
    """A command that failed was not fast."""
    if code:
        seconds, note = float("nan"), f"ended with code {code}"
    return Row(design, what, seconds, unit="s", budget=("≤", budget), note=note)


def timed(command: list[str], out: Path | None = None) -> tuple[int, float, float | None]:
    """Run in the repository's root; its output goes to the standard error, after the progress.

    Returns:
        exit code, seconds in all, and seconds until the first picture lay in `out`.
    """
    environment = os.environ if out is None else {**os.environ, "OUT": str(out)}
    begun, first = time.perf_counter(), None
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=2, stdin=subprocess.DEVNULL,
                               start_new_session=True)
    try:
        while process.poll() is None:
            seconds = time.perf_counter() - begun
            if out is not None and first is None and finished_picture(out):
                first = seconds
            if seconds > LIMIT:
                break
            time.sleep(0.2)
        seconds = time.perf_counter() - begun
        if out is not None and first is None and finished_picture(out):
            first = seconds
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    return process.wait(), seconds, first


def finished_picture(folder: Path) -> bool:
    """Is a sheet with the result in it, written to its end?"""
    from PIL import Image

    for path in folder.iterdir():
        if path.suffix in (".png", ".jpg"):
            try:
                with Image.open(path) as picture:
                    picture.load()
                return True
            except OSError:      # still being written
                continue
    return False
