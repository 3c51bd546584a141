"""The human perception study of the paper (section 4.2, Fig. 7): make its page, and read the raters' answers.

    python training/study_perception.py make --real FOLDER --generated FOLDER --out study \\
        --sources FOLDER --poses FOLDER --method RePoseDM=FOLDER --method PIDM=FOLDER
    python training/study_perception.py read --key study/study.key.json --answers FOLDER --out results

`make` writes study.html, which goes to every rater: one file that needs neither server nor network; and
study.key.json, which does not. Raters send back the file that the page saves. `read` counts a folder of such files:
R2G, G2R and JAB with intervals, agreement between raters, time per answer, as results.json, results.md and a figure.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from reposedm_core.errors import InputError
from training.evaluation.picture_files import named, picture_size
from training.perception.make import KEY, PAGE, Study, make_study
from training.perception.report import report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="write the page and its key")
    make.add_argument("--real", type=Path, help="folder of real pictures, for the first scheme")
    make.add_argument("--generated", type=Path, help="folder of generated pictures, for the first scheme")
    make.add_argument("--sources", type=Path, help="folder of source pictures, for the second scheme")
    make.add_argument("--poses", type=Path, help="folder of drawn poses, under the sources' names")
    make.add_argument(
        "--method",
        type=named,
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a method's pictures, under the sources' names; at least twice",
    )
    make.add_argument("--reals", type=int, default=30, help="real pictures (default 30, as in the paper)")
    make.add_argument("--fakes", type=int, default=20, help="generated pictures (default 20, as in the paper)")
    make.add_argument("--sets", type=int, default=30, help="sets of the second scheme (default 30, as in the paper)")
    make.add_argument("--checks", type=int, default=2, help="attention checks in each scheme (default 2)")
    make.add_argument("--size", type=picture_size, help="HEIGHTxWIDTH that all pictures are brought to")
    make.add_argument("--seed", type=int, default=0, help="of what is drawn, and of every rater's order and sides")
    make.add_argument("--title", default=Study.title, help="what the page is called")
    make.add_argument("--out", type=Path, required=True, help=f"folder for {PAGE} and {KEY}")
    read = commands.add_parser("read", help="count the answers")
    read.add_argument("--key", type=Path, required=True, help=f"{KEY} of the study")
    read.add_argument("--answers", type=Path, required=True, help="folder of the files that raters sent")
    read.add_argument("--out", type=Path, required=True, help="folder for the results")
    read.add_argument("--name", default="", help="of the method whose pictures --generated were")
    read.add_argument(
        "--leave-out-failed", dest="leave_out", action="store_true", help="raters who failed a check do not count"
    )
    given = vars(parser.parse_args(arguments))
    out = given.pop("out")
    try:
        if given.pop("command") == "make":
            methods = given.pop("method")
            if len(dict(methods)) < len(methods):
                raise InputError("--method: two methods have one name; give each its own.")
            made = make_study(Study(methods=dict(methods), **given), out)
            print(", ".join(f"{number} {kind}" for kind, number in made.items()) + f": {out / PAGE} and {out / KEY}")
        else:
            results = report(given["key"], given["answers"], out, given["leave_out"], given["name"])
            for line in results["files_left_out"]:
                print(f"warning: {line}", file=sys.stderr)
            print((out / "results.md").read_text(encoding="utf-8"))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
