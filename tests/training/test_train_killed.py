"""A run that is killed ten times ends as one that is not, through the real entry point in real processes."""

from __future__ import annotations

import multiprocessing
import signal
import time
from multiprocessing import Process
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.fixtures.waiting import CEILING, until
from training import train
from training.train import CONFIGS

pytestmark = pytest.mark.processes

KILLS = 10
STAGE = "vae"


def arguments(data: Path, out: Path) -> list[str]:
    return [
        str(CONFIGS / "tiny.yaml"),
        f"data={data}",
        f"out={out}",
        f"stages=[{STAGE}]",
        "tracker=none",
        "threads=1",
        "vae.steps=200",
        "vae.save_every=5",
        "vae.validate_every=0",
    ]


def run(arguments: list[str]) -> None:
    """The entry point as a process of its own has it: a worker of the loader is forked, and sees its trainer die."""
    multiprocessing.set_start_method("fork", force=True)
    train.main(arguments)


def start(processes, data: Path, out: Path) -> Process:
    return processes.start(run, arguments(data, out))


def modified(file: Path) -> float:
    return file.stat().st_mtime if file.exists() else 0.0


def test_ten_kills_at_random_moments_change_no_bit(processes, figures, tmp_path):
    whole, killed, rng = tmp_path / "whole", tmp_path / "killed", np.random.default_rng(4)
    uninterrupted = start(processes, figures, whole)
    state, steps = killed / f"{STAGE}.state.pt", []
    for number in range(KILLS):
        process, before, begun = start(processes, figures, killed), modified(state), time.monotonic()
        # Every other one dies at any moment from its start to its first new state; the others soon after that, however
        # long a busy machine takes to get there.
        latest = begun + (CEILING if number % 2 else rng.uniform(0, 0.8))
        until(lambda: modified(state) != before or time.monotonic() > latest, process)  # noqa: B023
        time.sleep(rng.uniform(0, 0.02) * (number % 2))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"kill {number} came too late"
        steps.append(torch.load(state, weights_only=True)["step"] if state.exists() else 0)
    assert sorted(steps) == steps and 0 < steps[-1] < 200, steps
    assert len(set(steps)) > 3, "some of the kills lost work, some steps were kept"
    last = start(processes, figures, killed)
    last.join(CEILING)
    uninterrupted.join(CEILING)
    assert last.exitcode == uninterrupted.exitcode == 0
    mine, other = (torch.load(folder / f"{STAGE}.state.pt", weights_only=True) for folder in (killed, whole))
    for part in ("network", "average"):
        assert all(torch.equal(value, other[part][key]) for key, value in mine[part].items())
    for key, moments in mine["optimiser"]["state"].items():
        assert all(torch.equal(value, other["optimiser"]["state"][key][name]) for name, value in moments.items())
    assert mine["step"] == other["step"] == 200
    assert mine["log"]["validations"] == other["log"]["validations"]
    mine, other = (load_file(folder / f"{STAGE}.safetensors") for folder in (killed, whole))
    assert mine.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in mine.items())
