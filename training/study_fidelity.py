"""The paper's equations on a checkpoint: python training/study_fidelity.py --weights FILE --data FOLDER --out FOLDER

On validation people: bits per dimension with the learned variance and with fixed ones (eq. 4), the gradients of the
field's two targets (eq. 11), and the steps of eqs. 14 and 15 in sampling. Writes fidelity.json and fidelity.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from reposedm_core.errors import InputError
from training.evaluation.fidelity import study


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="checkpoint exported by training/train.py")
    parser.add_argument("--data", required=True, help="people set with pictures of the checkpoint's size")
    parser.add_argument("--out", required=True, help="folder for fidelity.json and fidelity.md")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--judge", help="estimator.safetensors of another training run, to find the joints with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    try:
        study(**vars(options))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((Path(options.out) / "fidelity.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
