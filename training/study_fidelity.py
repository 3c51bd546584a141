"""The paper's equations on a checkpoint: python training/study_fidelity.py --weights FILE --data FOLDER --out FOLDER

On validation people: bits per dimension with the learned variance and with fixed ones (eq. 4), the gradients of the
field's two targets (eq. 11), and the steps of eqs. 14 and 15 in sampling. Writes fidelity.json and fidelity.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from training.evaluation.fidelity import study
from training.evaluation.study_command import run_study, study_parser


def main(arguments: list[str] | None = None) -> int:
    parser = study_parser(__doc__, "fidelity.json and fidelity.md", pairs=16)
    return run_study(study, parser.parse_args(arguments), "fidelity.md")


if __name__ == "__main__":
    raise SystemExit(main())
