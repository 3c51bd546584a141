"""Make a RePoseDM checkpoint: python training/train.py [configs/mini.yaml] [key=value …]

Runs the stages autoencoder, estimator, aligner and denoiser in turn and exports one self-describing safetensors
file. Every stage keeps its state in `out` and goes on from there when the command is run again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

if __package__ in (None, ""):   # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from reposedm_core.checkpoint import load_into, load_parts, save_model
from reposedm_core.config import ModelConfig, to_dict
from reposedm_core.errors import InputError
from reposedm_core.pipeline import NETWORKS
from reposedm_core.presets import PRESETS
from training.loop import OutOfTime
from training.settings import STAGES, Settings, load_settings
from training.stages import aligner, autoencoder, denoiser, estimator

CONFIGS = Path(__file__).parent / "configs"


def run(settings: Settings) -> Path:
    """Run the stages of `settings`; returns the exported file."""
    if settings.preset not in PRESETS:
        raise InputError(f"preset = {settings.preset!r}: known are {', '.join(PRESETS)}.")
    config: ModelConfig = PRESETS[settings.preset]
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    accelerator = Accelerator(cpu=settings.device == "cpu")
    if accelerator.num_processes > 1:
        raise InputError("Training runs in one process; start it with python training/train.py, not accelerate launch.")
    networks: dict[str, torch.nn.Module] = {}
    common = {"root": settings.data, "out": out, "resume": settings.resume, "accelerator": accelerator}
    absent = [stage for stage in STAGES
              if stage not in settings.stages and not (out / f"{stage}.safetensors").is_file()]
    if absent and "denoiser" in settings.stages:
        raise InputError(f"stages leaves out {', '.join(absent)}, and {out} has no result of an earlier run: run those "
                         f"stages first, or copy {absent[0]}.safetensors there.")
    for number, stage in enumerate(STAGES):
        finished = out / f"{stage}.safetensors"
        if stage not in settings.stages:
            if finished.is_file():
                networks[stage] = NETWORKS[stage](getattr(config, stage))
                load_into(networks[stage], load_parts(finished)[0][stage], f"{finished.name}: {stage}")
            continue
        set_seed(settings.seed + number)
        own = getattr(settings, stage)
        if stage == "denoiser":
            network, log = denoiser.train(config, own, seed=settings.seed, autoencoder=networks["autoencoder"],
                                          aligner=networks["aligner"], estimator=networks["estimator"], **common)
        else:
            module = {"autoencoder": autoencoder, "estimator": estimator, "aligner": aligner}[stage]
            network, log = module.train(getattr(config, stage), own, seed=settings.seed, **common)
        networks[stage] = network.cpu()
        if accelerator.is_main_process:
            save_model(finished, {stage: network}, to_dict(getattr(config, stage)), {"log": log}, torch.float32)
            (out / f"{stage}.json").write_text(json.dumps(log, indent=1))
    path = out / f"{settings.name}.safetensors"
    if accelerator.is_main_process and len(networks) == 4:
        save_model(path, networks, to_dict(config), make_card(settings, out, accelerator))
        print(f"Exported {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return path


def make_card(settings: Settings, out: Path, accelerator: Accelerator) -> dict:
    """What the weights were made of: data, settings, hardware, examples, hours and validation of each stage."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    hardware = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else f"{cores} CPU cores"
    kept = {key: value for key, value in asdict(settings).items() if key not in ("data", "out", "notes")}
    card = {"data": json.loads((Path(settings.data) / "dataset.json").read_text()), "preset": settings.preset,
            "seed": settings.seed, "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__,
            "hardware": hardware, "settings": kept, "notes": settings.notes}
    for stage in STAGES:
        file = out / f"{stage}.json"
        if file.is_file():
            log = json.loads(file.read_text())
            card[stage] = {"steps": log["step"], "examples": log["examples"], "hours": round(log["seconds"] / 3600, 3),
                           "validation": log.get("validation", {})}
    return card


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default=str(CONFIGS / "mini.yaml"),
                        help="YAML file (default: configs/mini.yaml)")
    parser.add_argument("overrides", nargs="*", help="key=value, e.g. data=FOLDER out=FOLDER denoiser.steps=20000")
    options = parser.parse_args(arguments)
    if "=" in options.config:      # only overrides were given
        options.overrides.insert(0, options.config)
        options.config = str(CONFIGS / "mini.yaml")
    try:
        run(load_settings(options.config, options.overrides))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OutOfTime as stopped:
        print(stopped)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
