"""Denoisers compared: python training/study_denoisers.py --weights A=FILE --weights B=FILE --data FOLDER --out FOLDER

On validation people, the same noised latents for every checkpoint: squared error of ŷ_0 in one pass, after the field's
step too where a checkpoint was trained with it, and eq. 4's bits per dimension; with bootstrap intervals, and pair by
pair against the first checkpoint. Writes denoisers.json and denoisers.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from reposedm_core.errors import InputError
from training.evaluation.denoisers import study
from training.evaluation.picture_files import named


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--weights",
        type=named,
        action="append",
        required=True,
        metavar="NAME=FILE",
        help="checkpoint; the first is the base",
    )
    parser.add_argument("--data", required=True, help="people set with pictures of the checkpoints' size")
    parser.add_argument("--out", required=True, help="folder for denoisers.json and denoisers.md")
    parser.add_argument("--pairs", type=int, default=128, help="of pictures (default 128)")
    parser.add_argument("--device", default="cpu")
    options = vars(parser.parse_args(arguments))
    try:
        study(dict(options.pop("weights")), **options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((Path(options["out"]) / "denoisers.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
