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
            yield Row(
                design,
                f"{design.split(' after')[0]}",
                None,
                unit="s",
                budget=("≤", budget),
                note="not measured (--full)",
            )
        return
    bench.say("make host")
    installed, _ = timed(["make", "-s", "host"])
    bench.say("make demo")
    with tempfile.TemporaryDirectory() as out:
        code, seconds = timed(["make", "-s", "demo"], Path(out))
        made = any(Path(out).glob("*.png"))
        yield command_row(DEMO, "make demo", DEMO_BUDGET, installed or code, seconds if made else float("nan"), "")
    bench.say("make test")
    code, seconds = timed(["make", "-s", "test"])
    yield command_row(TEST, "make test", TEST_BUDGET, installed or code, seconds, "")


def command_row(design: str, what: str, budget: float, code: int, seconds: float, note: str) -> Row:
    """A command that failed was not fast."""
    if code:
        seconds, note = float("nan"), f"ended with code {code}"
    return Row(design, what, seconds, unit="s", budget=("≤", budget), note=note)


def timed(command: list[str], out: Path | None = None) -> tuple[int, float]:
    """Exit code and seconds of a command in the repository's root; its output goes to the standard error."""
    # Not what `make bench` was given: its ARGS would reach the other targets.
    own = {"ARGS", "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS"}
    environment = {name: value for name, value in os.environ.items() if name not in own}
    if out is not None:
        environment["OUT"] = str(out)
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=2, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    return process.wait(), time.perf_counter() - begun
