"""Tables of an evaluation: python training/report.py RESULTS.json --into README.md

Puts the Markdown tables of a results.json between the lines <!-- results --> and <!-- /results --> of a file.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from reposedm_core.errors import InputError
from training.evaluation.tables import COLUMNS, how, insert, results_tables


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="results.json of training/evaluate.py")
    parser.add_argument("--into", required=True, help="Markdown file with the markers")
    parser.add_argument("--name", default="", help="of the markers, where the file has several tables")
    parser.add_argument(
        "--columns",
        nargs="+",
        choices=COLUMNS,
        metavar="MEASURE",
        help=f"one table of these measures instead of all: {', '.join(COLUMNS)}",
    )
    options = parser.parse_args(arguments)
    try:
        try:
            results = json.loads(Path(options.results).read_text(encoding="utf-8"))
            text = f"{results_tables(results, options.columns)}\n\n{how(results['protocol'])}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{options.results} is no results.json of training/evaluate.py "
                f"({type(error).__name__}: {error}); make it anew."
            ) from None
        insert(text, options.into, options.name)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Wrote the tables of {options.results} into {options.into}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
