"""What pose field guidance does: python training/study_guidance.py --weights FILE --data FOLDER --out FOLDER

The same pairs and seeds with guidance off and on. The settings are compared on validation people; the ones that the
checkpoint has as defaults, with strength 1 where it samples without guidance, are then measured on test people. With
--cost they are compared in all steps and in one step of 2 and 3, at full and at half size. Writes guidance.json,
guidance.md and guidance.jpg. With --curve the strength alone varies, on test people, and the joints are found by the
guiding estimator and, beside it, by that of --judge; writes guidance-curve.json, .md and .png.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from training.evaluation.guidance import study
from training.evaluation.guidance_curve import study_curve
from training.evaluation.study_command import run_study, study_parser


def main(arguments: list[str] | None = None) -> int:
    parser = study_parser(__doc__, "guidance.json, guidance.md and guidance.jpg", pairs=64)
    parser.add_argument("--test-only", dest="compare", action="store_false", help="no comparison of settings")
    parser.add_argument("--cost", action="store_true", help="compare fewer and smaller gradients alone")
    parser.add_argument("--steps", type=int, help="of every run (default: the checkpoint's own)")
    parser.add_argument("--curve", action="store_true", help="compare strengths alone, on test people")
    options = parser.parse_args(arguments)
    if not vars(options).pop("curve"):
        return run_study(study, options, "guidance.md")
    for other in ("compare", "cost"):
        del vars(options)[other]
    return run_study(study_curve, options, "guidance-curve.md")


if __name__ == "__main__":
    raise SystemExit(main())
