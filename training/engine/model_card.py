"""The model card in a checkpoint: what the weights were made of, how, and what was measured on the way."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from reposedm_core.files import write_text
from training.engine.settings import STAGES, Settings

FOLDERS = re.compile(r"[^\s:→]*[/\\]")
"""In what is told of a setting that was changed: all of a path but its last name."""
ENTRIES = 50
"""Of a stage's log that a card keeps."""


def write_log(stage: str, log: dict, out: Path) -> None:
    """Keep the log of a finished stage as `out/STAGE.json`."""
    write_text(out / f"{stage}.json", json.dumps(log, indent=1))  # a card may need an earlier one


def make_card(settings: Settings, out: Path, device: torch.device, stages: list[str] | None = None) -> dict:
    """Data, settings, hardware, examples, hours, validation and a thinned log of the stages that are finished.

    Those of stages that another run made come from its folder `settings.parts`; its settings are not known here.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else f"{cores} CPU cores"
    described = Path(settings.data) / "dataset.json"
    kept = without_folders(asdict(settings), ("data", "out", "notes", *STAGES))
    card: dict[str, Any] = {
        "data": json.loads(described.read_text()) if described.is_file() else Path(settings.data).name,
        "preset": settings.preset,
        "seed": settings.seed,
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "hardware": hardware,
        "settings": kept,
        "notes": settings.notes,
    }
    for stage in stages or STAGES:
        own = out / f"{stage}.json"
        file = own if own.is_file() or not settings.parts else Path(settings.parts) / own.name
        if file.is_file():
            log = json.loads(file.read_text())
            if file == own:
                card["settings"][stage] = without_folders(asdict(getattr(settings, stage)))
            card[stage] = {
                "steps": log["step"],
                "examples": log["examples"],
                "hours": round(log["seconds"] / 3600, 3),
                "validation": log.get("validation", {}),
                "history": thinned(log["history"]),
                "validations": thinned(log["validations"]),
                "changes": [
                    {**change, "changed": [FOLDERS.sub("", text) for text in change["changed"]]}
                    for change in log.get("changes", [])
                ],
                **({"precision": log["precision"]} if "precision" in log else {}),
            }
    return card


def without_folders(settings: dict[str, Any], left_out: Collection[str] = ()) -> dict[str, Any]:
    """Settings as a card that is passed on may tell them: of the paths in them the names of the files alone."""
    return {
        key: Path(value).name if isinstance(value, str) else value
        for key, value in settings.items()
        if key not in left_out
    }


def thinned(entries: list[dict]) -> list[dict]:
    """At most `ENTRIES` of them, evenly, the last among them, numbers to four digits."""
    step = -(-len(entries) // ENTRIES)
    chosen = entries[::-1][::step][::-1] if entries else []
    return [
        {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in entry.items()}
        for entry in chosen
    ]
