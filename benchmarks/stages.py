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

from training.engine.run import stages_of
from training.engine.settings import load_settings, model_of
from training.metrics import vgg

STEPS = {"vae": 150, "estimator": 15, "parser": 15, "aligner": 3, "layout": 15, "reposedm": 15, "decoder": 5}
"""That are measured, after as many that are not: the workers start in those."""
QUICK = 2
SET, QUICK_SET = {"identities": 5, "poses": 6}, {"identities": 5, "poses": 3}


def rows(bench: Bench) -> Iterator[Row]:
    """Each stage of the default configuration on freshly made people, loaded by as many workers as it has."""
    with tempfile.TemporaryDirectory() as folder:
        people, out = Path(folder, "people"), Path(folder, "run")
        bench.say("people to train on")
        size = ["--height", "64", "--width", "48", "--cell", "2"] if bench.quick else []  # else training's own
        run(
            "training/generate.py",
            "--out",
            str(people),
            "--workers",
            "1",
            "--correspondence",
            *size,
            *(f"--{name}={value}" for name, value in (QUICK_SET if bench.quick else SET).items()),
        )
        bench.say("training")
        config = ROOT / "training" / "configs" / ("tiny-256.yaml" if bench.quick else "mini-256.yaml")
        stages = stages_of(model_of(load_settings(config, [])))
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
            *(f"{stage}.pairs={8 if bench.quick else 32}" for stage in ("layout", "reposedm", "decoder")),
            *([] if vgg.installed() else ["decoder.perceptual=0"]),
            f"threads={torch.get_num_threads()}",
            f"device={'cpu' if bench.device.type == 'cpu' else 'auto'}",
            *settings,
        )
        for stage in stages:
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
                TRAINING,
                f"{stage}: pictures per second",
                entry["pictures_per_second"],
                unit="/s",
                note="wall-clock time",
            )


def run(script: str, *arguments: str) -> None:
    """Run a script of the training; its error is the exception's text."""
    done = subprocess.run([sys.executable, ROOT / script, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{script}: {done.stderr.strip().splitlines()[-1:]}")
