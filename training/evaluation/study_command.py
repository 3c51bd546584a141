"""The command line of a study of one checkpoint: what study_guidance.py and study_fidelity.py have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from reposedm_core.errors import InputError


def study_parser(description: str, files: str, pairs: int) -> argparse.ArgumentParser:
    """Options that every study has, under the names of the arguments of its function; `files` are what it writes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="checkpoint exported by training/train.py")
    parser.add_argument("--data", required=True, help="people set with pictures of the checkpoint's size")
    parser.add_argument("--out", required=True, help=f"folder for {files}")
    parser.add_argument("--pairs", type=int, default=pairs, help=f"of pictures (default {pairs})")
    parser.add_argument("--judge", help="estimator.safetensors of another training run, to find the joints with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    return parser


def run_study(study: Callable[..., object], options: argparse.Namespace, report: str) -> int:
    """Run a study and print the file `report` of its folder; 0, or 2 with one line for what cannot be."""
    try:
        study(**vars(options))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((Path(options.out) / report).read_text(encoding="utf-8"))
    return 0
