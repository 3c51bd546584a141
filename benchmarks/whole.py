"""What a user waits for: a picture of the shipped model, all in, and what the pack adds to ComfyUI's start."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from models import POSE, ROOT, SOURCE, Bench, shipped, size_of
from table import PICTURE, START, Row
from timing import spread

from workflows.comfy_server import read_host

PICTURE_BUDGET, START_BUDGET = 2.0, 0.2
ROUNDS = 5


def rows(bench: Bench) -> Iterator[Row]:
    """Both; the start only with --full."""
    yield picture_row(bench)
    what = "ComfyUI's start: with the pack - without"
    if not bench.full:
        note = "not measured (--full)"
        yield Row(START, what, None, unit="s", budget=("≤", START_BUDGET), note=note)
        return
    yield start_row(bench, what)


def picture_row(bench: Bench) -> Row:
    """From two files to the picture: reading, finding the source's pose, aligning, every step, decoding."""
    pipeline = shipped(bench.device)
    height, width = size_of(pipeline)
    what = f"{pipeline.config.name}, {height}×{width}: one picture, all in, {pipeline.config.steps} steps"
    timings = bench.compare(what, {"picture": lambda: pipeline(SOURCE, POSE)})
    seconds = timings.samples["picture"]
    return Row(
        PICTURE,
        what,
        statistics.median(seconds),
        unit="s",
        budget=("≤", PICTURE_BUDGET),
        spread=spread(seconds),
        note="weights loaded before",
    )


def start_row(bench: Bench, what: str) -> Row:
    """Difference of the quickest starts of both kinds, which come by turns after one of each; the spread is that of
    neighbours.

    In seconds of the processor: a start is busy all the time, and these do not count other processes. What a virtual
    machine's neighbours take counts all the same, a second of a start at times, so that medians say little.
    """
    bench.say("ComfyUI's start")
    for pack in (True, False):
        started(pack)
    sides: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(ROUNDS):
        for side, seconds in sides.items():
            seconds.append(started(side == "with"))
    added = [one - other for one, other in zip(*sides.values(), strict=True)]
    return Row(
        START,
        what,
        min(sides["with"]) - min(sides["without"]),
        unit="s",
        budget=("≤", START_BUDGET),
        spread=spread(added),
        milliseconds={side: 1e3 * min(seconds) for side, seconds in sides.items()},
        note="processor time",
    )


def started(pack: bool) -> float:
    """Seconds of the processor in which the ComfyUI of `make host` starts and ends, on the CPU, in empty folders."""
    comfyui, name = read_host()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "custom_nodes").mkdir()
        (base / "custom_nodes" / name).symlink_to(ROOT, target_is_directory=True)
        command = [sys.executable, "main.py", "--cpu", "--quick-test-for-ci", "--disable-api-nodes"]
        command += ["--disable-all-custom-nodes", *(["--whitelist-custom-nodes", name] if pack else [])]
        command += ["--base-directory", folder, "--database-url", f"sqlite:///{base / 'comfyui.db'}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, cwd=comfyui, env=environment, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        loaded = f"custom_nodes/{name}" in done.stdout + done.stderr
        if done.returncode or loaded != pack:
            raise RuntimeError(f"ComfyUI's start: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
