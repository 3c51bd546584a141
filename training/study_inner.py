"""What the tiny autoencoder costs: python training/study_inner.py CONFIG --out FOLDER [key=value ...]

CONFIG and settings are those of train.py; the run in its `out` must be finished. On validation people: the aligner's
end-point error, the field's gradient and the joints after whole guided runs, with the tiny autoencoder and with the
large one in its place. The estimator that guides finds the joints, and that of --judge as well. Writes inner.json and
inner.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from reposedm_core.errors import InputError
from training.engine.settings import load_settings
from training.evaluation.inner import study


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file of the training run")
    parser.add_argument("settings", nargs="*", help="key=value, as of train.py")
    parser.add_argument("--out", required=True, help="folder for inner.json and inner.md")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--judge", help="estimator.safetensors of another training run, that looks at whole runs, too")
    options = parser.parse_intermixed_args(arguments)
    try:
        study(load_settings(options.config, options.settings), options.out, options.pairs, options.judge)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((Path(options.out) / "inner.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
