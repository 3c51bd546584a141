"""What more pictures of a person bring: python training/study_sources.py --weights FILE --data FOLDER --out FOLDER

Test people, each put into the pose of one picture from 1, 2, 3 and 5 others, with the same noise and without guidance.
Writes sources.json, sources.md and sources.jpg.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from training.evaluation.several_sources import study
from training.evaluation.study_command import run_study, study_parser


def main(arguments: list[str] | None = None) -> int:
    parser = study_parser(__doc__, "sources.json, sources.md and sources.jpg", pairs=64)
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[1, 2, 3, 5], help="of pictures; the first is compared with"
    )
    return run_study(study, parser.parse_args(arguments), "sources.md")


if __name__ == "__main__":
    raise SystemExit(main())
