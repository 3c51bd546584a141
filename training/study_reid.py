"""Person re-identification with generated pictures (section 4.5 of the paper, Table 4).

    python training/prepare.py market1501 --root Market-1501-v15.09.15 --out data/market
    python training/study_reid.py run --root Market-1501-v15.09.15 --data data/market --out results/reid \\
        --weights B1=runs/b1/reposedm.safetensors --weights RePoseDM=runs/market/reposedm.safetensors \\
        --pictures PIDM=FOLDER --backbone-weights resnet50.safetensors --device cuda

keeps a share of the training pictures, fills it up to its whole size with copies, with each checkpoint's pictures of
random sources in random poses, and with other methods' pictures; trains a network on each; and retrieves by
Market-1501's protocol. Writes results.json and results.md. It can be stopped at any moment, and goes on.

    python training/study_reid.py cameras --data data/people --out data/cameras

writes synthetic people before cameras, in the same layout, to try it on: those of all splits, so make the people with
another --seed than the generator's training set.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from reposedm_core.errors import InputError
from training.engine.signals import Interrupted, Interrupts, Stopped
from training.evaluation.generate import SOURCE_POSES
from training.evaluation.picture_files import named, picture_size
from training.reid.experiment import Experiment, run
from training.reid.network import Recipe
from training.reid.report import write_report
from training.synthetic.cameras import write_cameras


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    cameras = commands.add_parser("cameras", help="synthetic people in Market-1501's layout")
    cameras.add_argument("--data", type=Path, required=True, help="people set written by training/generate.py")
    cameras.add_argument("--out", type=Path, required=True, help="folder in Market-1501's layout")
    cameras.add_argument("--cameras", type=int, default=3, help="how many, 2 to 6 (default 3)")
    cameras.add_argument("--seed", type=int, default=0)
    make = commands.add_parser("run", help="the experiment")
    make.add_argument("--root", type=Path, required=True, help="folder in Market-1501's layout")
    make.add_argument("--out", type=Path, required=True, help="folder for pictures, runs and results")
    make.add_argument("--data", type=Path, help="people set that training/prepare.py market1501 made of it")
    for option, what in (("weights", "a checkpoint"), ("pictures", "a folder of another method's pictures")):
        make.add_argument(f"--{option}", type=named, action="append", default=[], metavar="NAME=PATH", help=what)
    make.add_argument(
        "--shares", type=int, nargs="+", default=[20, 40, 60, 80], metavar="PERCENT", help="default: 20 40 60 80"
    )
    make.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    make.add_argument("--backbone", default=Recipe.backbone, help="name in timm (default resnet50, the paper's)")
    make.add_argument("--backbone-weights", dest="weights_file", help="file of its ImageNet weights; else random ones")
    make.add_argument("--size", type=picture_size, default=(Recipe.height, Recipe.width), help="default 256x128")
    make.add_argument("--steps", type=int, default=Recipe.steps, help=f"of training (default {Recipe.steps})")
    make.add_argument("--people", type=int, default=Recipe.people, help="people per batch (default 16)")
    make.add_argument("--each", type=int, default=Recipe.each, help="pictures of each (default 4)")
    make.add_argument("--lr", type=float, default=Recipe.lr)
    make.add_argument("--sampling-steps", type=int, help="of the checkpoints (default: each one's own)")
    make.add_argument("--source-pose", choices=SOURCE_POSES, default="true", help="see training/evaluate.py")
    make.add_argument("--device", default="cpu")
    make.add_argument("--batch", type=int, default=16, help="pictures that are generated at once")
    make.add_argument(
        "--leave-out-distractors", dest="distractors", action="store_false", help="unlike Market-1501's own protocol"
    )
    make.add_argument("--remark", default="", help="a line under the tables")
    return parser


def _run(given: argparse.Namespace) -> None:
    for option, rows in (("--weights", given.weights), ("--pictures", given.pictures)):
        if len(dict(rows)) < len(rows):
            raise InputError(f"{option}: two rows have one name; give each its own.")
    height, width = given.size
    recipe = Recipe(
        given.backbone,
        given.weights_file,
        height,
        width,
        steps=given.steps,
        people=given.people,
        each=given.each,
        lr=given.lr,
    )
    found = run(
        Experiment(
            given.root,
            given.out,
            given.data,
            dict(given.weights),
            dict(given.pictures),
            tuple(given.shares),
            tuple(given.seeds),
            recipe,
            given.source_pose,
            given.sampling_steps,
            given.device,
            given.batch,
            given.distractors,
            given.remark,
        )
    )
    write_report(found, given.out)
    print((given.out / "results.md").read_text(encoding="utf-8"))


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    try:
        with Interrupts(at_once=True):  # between two steps generation and training have their own
            if given.command == "cameras":
                counts = write_cameras(given.data, given.out, given.cameras, given.seed)
                print(", ".join(f"{count} pictures in {folder}" for folder, count in counts.items()))
            else:
                _run(given)
    except (InputError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Stopped, Interrupted) as stopped:
        print(stopped, flush=True)
        return 128 + stopped.number if stopped.number else 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
