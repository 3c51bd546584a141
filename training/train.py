"""Make a checkpoint: python training/train.py [configs/mini-256.yaml] [key=value …]

Runs the stages of the preset in turn, from vae to decoder (or reposesd), and exports one
self-describing safetensors file. Every stage keeps its state in `out` and goes on from there when the command is run
again. Several processes, GPUs or machines: accelerate launch training/train.py …
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from training.engine.signals import Interrupted, Interrupts, Stopped

if __name__ == "__main__":  # before all that takes seconds to import
    Interrupts().__enter__()

from reposedm_core.errors import InputError
from reposedm_core.files import disk_full
from training.engine.run import run
from training.engine.settings import load_settings

CONFIGS = Path(__file__).parent / "configs"
DEFAULT = CONFIGS / "mini-256.yaml"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default=str(DEFAULT), help=f"YAML file (default: configs/{DEFAULT.name})")
    parser.add_argument("overrides", nargs="*", help="key=value, e.g. data=FOLDER out=FOLDER reposedm.steps=20000")
    options = parser.parse_args(arguments)
    if "=" in options.config:  # only overrides were given
        options.overrides.insert(0, options.config)
        options.config = str(DEFAULT)
    try:
        with Interrupts(at_once=True):  # in a stage's steps the loop has its own
            run(load_settings(options.config, options.overrides))
    except (InputError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # of a sheet, a log or a tracker's file
        message = disk_full(error, "out")
        if message is error:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    except (Stopped, Interrupted) as stopped:
        print(stopped, flush=True)
        return 128 + stopped.number if stopped.number else 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
