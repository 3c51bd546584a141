"""What pose field guidance does: python training/study_guidance.py --weights FILE --data FOLDER --out FOLDER

The same pairs and seeds with guidance off and on. The settings are compared on validation people; the ones that the
checkpoint has as defaults, with strength 1 where it samples without guidance, are then measured on test people. With
--cost they are compared in all steps and in one step of 2 and 3, at full and at half size. Writes guidance.json,
guidance.md and guidance.jpg.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from reposedm_core.errors import InputError
from training.evaluation.guidance import study


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="checkpoint exported by training/train.py")
    parser.add_argument("--data", required=True, help="folder written by training/generate.py")
    parser.add_argument("--out", required=True, help="folder for guidance.json, guidance.md and guidance.jpg")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--judge", help="estimator.safetensors of another training run, to find the joints with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--test-only", dest="compare", action="store_false", help="no comparison of settings")
    parser.add_argument("--cost", action="store_true", help="compare fewer and smaller gradients alone")
    parser.add_argument("--steps", type=int, help="of every run (default: the checkpoint's own)")
    options = parser.parse_args(arguments)
    try:
        study(**vars(options))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((Path(options.out) / "guidance.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
