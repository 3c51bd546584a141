"""Measure checkpoints: python training/evaluate.py --weights FILE --data FOLDER --out FOLDER

Pairs of people never trained on: the person of one picture is put into the pose of another picture of the same person,
and the result is compared with that picture. Writes results.json, results.md, results.html and sheet.jpg, and
recurrence.png where the set has the correspondence that sampling maps are measured by.
Under `accelerate launch` the pairs are shared among the processes; the numbers stay the same.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from reposedm_core.errors import InputError
from reposedm_core.files import make_folder, write_picture
from reposedm_core.networks import SHIPPED
from reposedm_core.pipeline import RePoseDMPipeline
from training.data.people_set import SPLITS, Pairs, People
from training.engine.sheets import comparison_sheet
from training.evaluation.compare import Comparison, compare, join_processes, processes
from training.evaluation.generate import (
    COPY,
    OURS,
    PLATE,
    SHOWN,
    SKELETON,
    SOURCE_POSES,
    TRUTH,
    UPPER,
    WARP,
    Contender,
    open_contender,
)
from training.evaluation.html import write_page
from training.evaluation.measure import Detector, Judge, load_detector
from training.evaluation.notes import notes
from training.evaluation.picture_files import named
from training.evaluation.recurrence import draw_recurrence
from training.evaluation.sets import RealSet, collect, every_picture, more_pairs, summarise_rows, targets
from training.evaluation.tables import captions, difference, summarise, write_report
from training.metrics import backbones
from training.metrics.distribution import EXTRACTORS, open_extractor
from training.metrics.perceptual import LPIPS, NETWORK
from training.metrics.vgg import VGGDistance
from training.metrics.vgg import installed as vgg_installed

REAL = ("none", "targets", "train")
"""The real set of FID and KID: without them, the true targets of the pairs, or every training picture (published)."""


@dataclass
class Options:
    """What is measured and how.

    Attributes:
        data, split: a people set, and which of its people.
        weights: checkpoint of training/train.py by the name of its rows; the first one's aligner, autoencoder and pose
            estimator play their part for all rows.
        pictures: folder of pictures that any model made by the name of its row, see `transfer.read_pictures`.
        pairs: how many of `People.fixed_pairs`; 0 is every pair of the set.
        source_pose: of the aligners that read it and of the row `SKELETON`, one of `SOURCE_POSES`.
        steps, guidance_scale: each checkpoint's defaults when None.
        field_strength: of the rows with gradient guidance; None is each checkpoint's own, 0 leaves these rows out.
        warm_start: below 1, sampling starts from the noised aligned latent, see `evaluation.generate.transfer`.
        seeds: of the noise; with several, numbers are means over them.
        judge, judge_udp: finds the joints in place of the first checkpoint's estimator, see `load_detector`.
        real: one of `REAL`. extractor: see `open_extractor`. backbones: folder of torchvision's weights.
        kid_pairs: KID is measured on more pairs than the rest, so many in all, or all of the set; 0 is the same ones.
        lpips: go nowhere without; else LPIPS is measured where AlexNet's weights are.
        device, batch: where, and how many pairs at once; the numbers of a GPU differ from a CPU's in the last digits.
        shown: pairs on the sheet, the first ones; page: pairs on the page.
        save_pictures: folder for every result as PNG.
    """

    data: Path
    weights: dict[str, Path] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)
    split: str = "test"
    pairs: int = 128
    steps: int | None = None
    guidance_scale: float | None = None
    field_strength: float | None = None
    warm_start: float = 1.0
    source_pose: str = "estimated"
    seeds: list[int] = field(default_factory=lambda: [0])
    judge: Path | None = None
    judge_udp: bool = False
    real: str = "targets"
    kid_pairs: int = 1000
    extractor: str = "auto"
    backbones: Path | None = None
    lpips: bool = False
    device: str = "cpu"
    batch: int = 16
    shown: int = 24
    page: int = 64
    save_pictures: Path | None = None

    def check(self) -> None:
        """InputError for a number out of range."""
        if min(self.pairs, self.kid_pairs) < 0 or min(self.batch, self.shown, self.page) < 1:
            raise InputError(
                f"pairs = {self.pairs}, kid_pairs = {self.kid_pairs}, batch = {self.batch}, shown = "
                f"{self.shown}, page = {self.page}: all must be at least 1; pairs may be 0, for all, and "
                "kid_pairs, for the same."
            )
        if self.source_pose not in SOURCE_POSES:
            raise InputError(f"source_pose = {self.source_pose!r}: known are {', '.join(SOURCE_POSES)}.")
        if self.real not in REAL:
            raise InputError(f"real = {self.real!r}: known are {', '.join(REAL)}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"seeds = {self.seeds}: give one or more different whole numbers from 0.")


def evaluate(options: Options, out: str | Path) -> dict:
    """Measure, and write results.json, results.md, results.html, sheet.jpg and perhaps recurrence.png into `out`.

    Returns:
        What results.json holds; of several processes, in the first one alone.

    Raises:
        InputError: no such checkpoint, set or folder, pictures of another size than the checkpoint's, weights that are
            missing, or a number out of range.
    """
    options.check()
    people = People(options.data, options.split)
    pairs = people.fixed_pairs(options.pairs) if options.pairs else people.pairs(np.arange(len(people)))
    contenders = {
        name: open_contender(
            path,
            people,
            name,
            options.field_strength,
            options.steps,
            options.guidance_scale,
            options.device,
            options.warm_start,
            options.source_pose,
        )
        for name, path in options.weights.items()
    }
    generated = [row for contender in contenders.values() for row in contender.kinds]
    rows = [COPY, SKELETON, WARP, PLATE, UPPER, TRUTH, *SHOWN, *generated, *options.pictures]
    if len(set(rows)) < len(rows):
        raise InputError(f"Two rows of the table have one name ({', '.join(rows)}): name them apart.")
    judge = open_judge(options, contenders)
    finder = (
        None
        if contenders or options.source_pose != "estimated"
        else RePoseDMPipeline.from_pretrained(device=options.device)
    )
    make_folder(Path(out), "out")
    given = list(contenders.values())
    posed = options.source_pose, finder
    measured = compare(
        people, pairs, given, judge, options.seeds, options.batch, options.pictures, options.save_pictures, *posed
    )
    collected = real = kid_real = None
    if options.real != "none":
        more = more_pairs(people, pairs, options.kid_pairs)
        collected = collect(measured, people, more, given, judge, options.seeds, options.batch, *posed)
        kid_real = targets(collected, people)
        real = RealSet(measured.rows[TRUTH][0].features, pairs.identity)
    if options.real == "train":
        real = kid_real = every_picture(People(options.data, "train"), judge, options.batch)
    if processes()[0] > 0:
        return {}
    found = summarise_rows(measured, collected, real, kid_real, options.real == "targets")
    results = {
        "protocol": describe(options, people, pairs, contenders, judge),
        "rows": found,
        "differences": summarise(
            {
                f"{row} − {base}": difference(measured.values(row), measured.values(base))
                for row in [*generated, *options.pictures]
                for base in (COPY, WARP, PLATE)
                if base in measured.rows
            },
            pairs.identity,
        ),
        "maps": summarise(measured.maps, pairs.identity),
    }
    if real is not None and kid_real is not None and collected is not None:
        results["protocol"] |= {
            "real_pictures": len(real.features),
            "kid_pairs": len(collected.pairs),
            "kid_real_pictures": len(kid_real.features),
        }
    results["protocol"]["notes"] = notes(results["protocol"], results)
    best = list(given[0].kinds)[-1:] if given else list(options.pictures)
    show(results, measured, [*best, *(row for row in (SKELETON, COPY) if row in found)][0], Path(out), options)
    return results


def describe(options: Options, people: People, pairs: Pairs, contenders: dict[str, Contender], judge: Judge) -> dict:
    """What results.json says of how the rows were made and measured."""
    return {
        "title": ", ".join([*(path.name for path in options.weights.values()), *options.pictures]) or people.name,
        "data": people.name,
        "split": options.split,
        "pairs": len(pairs),
        "identities": len(np.unique(pairs.identity)),
        "width": people.width,
        "height": people.height,
        "seeds": options.seeds,
        "folders": list(options.pictures),
        "checkpoints": {
            name: {
                "weights": path.name,
                "preset": contender.pipe.config.name,
                "steps": contender.steps,
                "guidance_scale": contender.scale,
                "start": contender.start,
                "reads_pose": contender.pipe.aligner.reads_pose,
                "field_strengths": [kind.strength for kind in contender.kinds.values()],
            }
            for (name, path), contender in zip(options.weights.items(), contenders.values(), strict=True)
        },
        "source_pose": options.source_pose,
        "judge": judge.detector.name,
        "own_judge": options.judge is None,
        "several_people": judge.detector.several,
        "perceptual_network": NETWORK,
        "real": options.real,
        "real_pictures": 0,
        "extractor": None if judge.extractor is None else judge.extractor.name,
    }


def show(results: dict, measured: Comparison, best: str, out: Path, options: Options) -> None:
    """Write the report, the figure, the sheet and the page; `best` is the row that the last two are about."""
    write_report(results, out)
    figure = None
    if results["maps"]:
        figure = out / "recurrence.png"
        draw_recurrence(results["maps"], list(options.weights), figure)
    aligned = PLATE if PLATE in measured.rows else WARP
    columns = {
        "source": "source",
        "pose": "pose",
        "plate": "plate",
        "skeleton map": SKELETON,
        "aligned": aligned,
        "visibility": "visibility",
        "person": "person",
        "result": best,
        "target": TRUTH,
    }
    shown = range(min(options.shown, len(measured.pairs)))
    sheet = comparison_sheet(
        {label: measured.shown(row, shown) for label, row in columns.items() if row in measured.pictures},
        captions(measured.values(best), measured.pairs[: len(shown)]),
    )
    write_picture(out / "sheet.jpg", sheet, quality=90)
    write_page(results, measured, best, out / "results.html", options.page, figure)


def open_judge(options: Options, contenders: dict[str, Contender]) -> Judge:
    """Who measures: the detector, the extractor and LPIPS that the options ask for and that are there."""
    if options.judge:
        detector = load_detector(options.judge, options.device, options.judge_udp)
    elif contenders:
        name, first = next(iter(contenders.items()))
        detector = Detector.of(first.pipe, f"the estimator of {name}")
    else:
        detector = load_detector(SHIPPED, options.device)
    extractor = None if options.real == "none" else open_extractor(options.extractor, options.backbones)
    lpips = LPIPS(options.backbones) if options.lpips or backbones.find("alexnet", options.backbones) else None
    return Judge(detector, extractor, lpips, options.device, VGGDistance() if vgg_installed() else None)


def parse(arguments: list[str] | None = None) -> tuple[Options, Path]:
    """The options of the command line, and the folder for the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--weights",
        type=Path,
        help="checkpoint exported by training/train.py (without it and --pictures: the rows that need none)",
    )
    parser.add_argument("--name", default=OURS, help="of its rows (default: %(default)s)")
    parser.add_argument(
        "--also",
        type=named,
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="one more checkpoint in the table, e.g. B1=runs/b1/reposedm-mini-b1.safetensors",
    )
    parser.add_argument(
        "--pictures",
        type=named,
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="pictures that any model made, named as --save-pictures names them",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of a people set")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--pairs", type=int, default=128, help="0 is all (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="DDIM steps (default: the checkpoint's)")
    parser.add_argument("--guidance-scale", type=float, help="w_c of eq. 16 (default: the checkpoint's)")
    parser.add_argument(
        "--field-strength",
        type=float,
        help="of the rows with gradient guidance (default: the checkpoint's; 0: no such rows)",
    )
    parser.add_argument(
        "--warm-start",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="start from the aligned latent, noised to this share of the schedule (default: noise)",
    )
    parser.add_argument(
        "--source-pose",
        default="estimated",
        choices=SOURCE_POSES,
        help="what an aligner that reads "
        "the source's pose is given: the pose that its checkpoint's estimator finds, as in use, the "
        "set's true one, or none (default: %(default)s)",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--judge",
        type=Path,
        help="another pose estimator that finds the joints in the results: "
        "estimator.safetensors of a training run, public HigherHRNet weights, which find several people, or "
        "the folder of a ViTPose. By default the first checkpoint's own estimator judges. Field guidance "
        "follows that very network's gradient, which flatters the joint columns of the guided rows: "
        "give another judge where those count",
    )
    parser.add_argument(
        "--judge-udp", action="store_true", help="the public weights were trained with UDP (a name may say it)"
    )
    parser.add_argument(
        "--real",
        default="targets",
        choices=REAL,
        help="real set of FID and KID (default: %(default)s; train is the published protocol)",
    )
    parser.add_argument(
        "--kid-pairs",
        type=int,
        default=1000,
        help="pairs that KID, and nothing else, is measured on, "
        "with those of --pairs (default: %(default)s; 0: the same pairs)",
    )
    parser.add_argument(
        "--extractor", default="auto", choices=("auto", *EXTRACTORS), help="of FID's and KID's features"
    )
    parser.add_argument(
        "--backbones",
        type=Path,
        help="folder of torchvision's AlexNet and Inception-v3 weights (default: torch.hub's cache)",
    )
    parser.add_argument("--lpips", action="store_true", help="stop where AlexNet's weights for LPIPS are missing")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--page", type=int, default=64, help="pairs on results.html (default: %(default)s)")
    parser.add_argument("--save-pictures", type=Path, metavar="FOLDER", help="keep every result as PNG")
    given = vars(parser.parse_args(arguments))
    out, weights, name = given.pop("out"), given.pop("weights"), given.pop("name")
    checkpoints = ([(name, weights)] if weights else []) + given.pop("also")
    pictures = given.pop("pictures")
    for given_names in (checkpoints, pictures):
        if len(dict(given_names)) < len(given_names):
            parser.error(f"two of {', '.join(name for name, _ in given_names)} have the same name")
    return Options(weights=dict(checkpoints), pictures=dict(pictures), **given), out


def main(arguments: list[str] | None = None) -> int:
    options, out = parse(arguments)
    options.device = join_processes(options.device)
    began = time.monotonic()
    try:
        evaluate(options, out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if processes()[0] == 0:
        print((out / "results.md").read_text(encoding="utf-8"))
        print(
            f"Wrote results.json, results.md, results.html and sheet.jpg to {out} in {time.monotonic() - began:.0f} s"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
