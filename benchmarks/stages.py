"""How fast the stages of the training are, and how long they wait for data, through the training's entry point."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from models import ROOT, Bench
from table import TRAINING, Row

STEPS = {"vae": 150, "estimator": 15, "aligner": 3, "reposedm": 15}
"""That are measured, after as many that are not: the workers start in those."""
QUICK = 3
SET = {"identities": 5, "poses": 6}


def rows(bench: Bench) -> Iterator[Row]:
    """Each stage of `mini` on freshly made people, loaded by as many workers as training does by default."""
    with tempfile.TemporaryDirectory() as folder:
        people, out = Path(folder, "people"), Path(folder, "run")
        bench.say("people to train on")
        size = ["--height", "64", "--width", "48"] if bench.quick else ["--height", "128", "--width", "96"]
        run(
            "training/generate.py",
            "--out",
            str(people),
            "--workers",
            "1",
            "--correspondence",
            "--cell",
            "2",
            *size,
            *(f"--{name}={value}" for name, value in SET.items()),
        )
        bench.say("training")
        config = ROOT / "training" / "configs" / ("tiny.yaml" if bench.quick else "mini.yaml")
        settings = [
            f"{stage}.{name}={value}"
            for stage, steps in STEPS.items()
            for name, value in {
                "steps": 2 * (QUICK if bench.quick else steps),
                "log_every": QUICK if bench.quick else steps,
                "warmup": 0,
                "validate_every": 0,
                "save_every": 1_000_000,
            }.items()
        ]
        run(
            "training/train.py",
            str(config),
            f"data={people}",
            f"out={out}",
            "tracker=none",
            "aligner.first_steps=0",
            "reposedm.pairs=32",
            f"threads={torch.get_num_threads()}",
            f"device={'cpu' if bench.device.type == 'cpu' else 'auto'}",
            *settings,
        )
        for stage in STEPS:
            entry = json.loads((out / f"{stage}.json").read_text())["history"][-1]
            yield Row(
                TRAINING,
                f"{stage}: share of its time spent waiting for data",
                entry["waiting"],
                unit="",
                budget=("≤", 0.1),
                note="wall-clock time",
            )
            yield Row(
                TRAINING, f"{stage}: pictures a second", entry["pictures_per_second"], unit="/s", note="wall-clock time"
            )


def run(script: str, *arguments: str) -> None:
    """Run a script of the training; its error is the exception's text."""
    done = subprocess.run([sys.executable, ROOT / script, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{script}: {done.stderr.strip().splitlines()[-1:]}")
