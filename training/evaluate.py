"""Measure checkpoints: python training/evaluate.py --weights FILE --data FOLDER --out FOLDER

Pairs of people never trained on: the person of one picture is put into the pose of another picture of the same person,
and the result is compared with that picture. Writes results.json, results.md, results.html and sheet.jpg.
Under `accelerate launch` the pairs are shared among the processes; the numbers stay the same.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

if __package__ in (None, ""):   # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from reposedm_core.errors import InputError
from reposedm_core.files import make_folder
from reposedm_core.networks import SHIPPED
from training.comparison import Comparison, compare, join_processes, processes, real_features, set_measures
from training.data.dataset import SPLITS, People
from training.judge import Detector, Judge, load_detector
from training.metrics import backbones
from training.metrics.distribution import EXTRACTORS, open_extractor
from training.metrics.perceptual import LPIPS, NETWORK
from training.page import write_page
from training.protocol import notes
from training.report import Summary, captions, rounded, summarise, write_report
from training.sheet import comparison_sheet
from training.transfer import COPY, OURS, TRUTH, UPPER, WARP, Contender, named, open_contender

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
        steps, guidance_scale: each checkpoint's defaults when None.
        field_strength: of the rows with gradient guidance; None is each checkpoint's own, 0 leaves these rows out.
        warm_start: below 1, sampling starts from the noised aligned latent, see `transfer.transfer`.
        seeds: of the noise; with several, numbers are means over them.
        judge, judge_udp: finds the joints in place of the first checkpoint's estimator, see `load_detector`.
        real: one of `REAL`. extractor: see `open_extractor`. backbones: folder of torchvision's weights.
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
    seeds: list[int] = field(default_factory=lambda: [0])
    judge: Path | None = None
    judge_udp: bool = False
    real: str = "targets"
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
        if self.pairs < 0 or min(self.batch, self.shown, self.page) < 1:
            raise InputError(f"pairs = {self.pairs}, batch = {self.batch}, shown = {self.shown}, page = {self.page}: "
                             "all must be at least 1; pairs may be 0, for all.")
        if self.real not in REAL:
            raise InputError(f"real = {self.real!r}: known are {', '.join(REAL)}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"seeds = {self.seeds}: give one or more different whole numbers from 0.")
        if not self.weights and not self.pictures:
            raise InputError("There is nothing to measure: give a checkpoint with --weights, or pictures with "
                             "--pictures.")


def evaluate(options: Options, out: str | Path) -> dict:
    """Measure, and write results.json, results.md, results.html and sheet.jpg into `out`.

    Returns:
        What results.json holds; of several processes, in the first one alone.

    Raises:
        InputError: no such checkpoint, set or folder, pictures of another size than the checkpoint's, weights that are
            missing, or a number out of range.
    """
    options.check()
    people = People(options.data, options.split)
    pairs = people.fixed_pairs(options.pairs) if options.pairs else people.pairs(np.arange(len(people)))
    contenders = {name: open_contender(path, people, name, options.field_strength, options.steps,
                                       options.guidance_scale, options.device, options.warm_start)
                  for name, path in options.weights.items()}
    generated = [row for contender in contenders.values() for row in contender.kinds]
    rows = [COPY, WARP, UPPER, TRUTH, *generated, *options.pictures]
    if len(set(rows)) < len(rows):
        raise InputError(f"Two rows of the table have one name ({', '.join(rows)}): name them apart.")
    judge = open_judge(options, contenders)
    make_folder(Path(out), "out")
    measured = compare(people, pairs, list(contenders.values()), judge, options.seeds, options.batch,
                       options.pictures, options.save_pictures)
    real = real_features(People(options.data, "train"), judge, options.batch) if options.real == "train" else None
    if processes()[0] > 0:
        return {}
    if options.real == "targets":
        real = measured.rows[TRUTH][0].features
    found = summarise_rows(measured, real, options.real == "targets")
    protocol = {
        "title": ", ".join([*(path.name for path in options.weights.values()), *options.pictures]),
        "data": people.name, "split": options.split, "pairs": len(pairs), "identities": len(np.unique(pairs.identity)),
        "width": people.width, "height": people.height, "seeds": options.seeds, "folders": list(options.pictures),
        "checkpoints": {name: {"weights": path.name, "preset": contender.pipe.config.name,
                               "steps": contender.steps, "guidance_scale": contender.scale, "start": contender.start,
                               "field_strengths": [kind.strength for kind in contender.kinds.values()]}
                        for (name, path), contender in zip(options.weights.items(), contenders.values(), strict=True)},
        "judge": judge.detector.name, "own_judge": options.judge is None, "several_people": judge.detector.several,
        "perceptual_network": NETWORK, "real": options.real, "real_pictures": 0 if real is None else len(real),
        "extractor": None if real is None else judge.extractor.name}
    protocol["notes"] = notes(protocol, found)
    results = {"protocol": protocol, "rows": found,
               "differences": summarise({f"{row} − {base}": _difference(measured, row, base)
                                         for row in [*generated, *options.pictures] for base in (COPY, WARP)
                                         if base in measured.rows}, pairs.identity)}
    write_report(results, out)
    best = ([*list(next(iter(contenders.values())).kinds)[-1:]] if contenders else list(options.pictures))[0]
    columns = {"source": "source", "pose": "pose", "aligned": WARP, "result": best, "target": TRUTH}
    shown = range(min(options.shown, len(pairs)))
    sheet = comparison_sheet({label: measured.shown(row, shown) for label, row in columns.items()
                              if row in measured.pictures}, captions(measured.values(best), pairs[:len(shown)]))
    sheet.save(Path(out) / "sheet.jpg", quality=90)
    write_page(results, measured, best, Path(out) / "results.html", options.page)
    return results


def open_judge(options: Options, contenders: dict[str, Contender]) -> Judge:
    """Who measures: the detector, the extractor and LPIPS that the options ask for and that are there."""
    if options.judge:
        detector = load_detector(options.judge, options.device, options.judge_udp)
    elif contenders:
        name, first = next(iter(contenders.items()))
        detector = Detector(first.pipe.estimator, f"the estimator of {name}")
    else:
        detector = load_detector(SHIPPED, options.device)
    extractor = None if options.real == "none" else open_extractor(options.extractor, options.backbones)
    lpips = LPIPS(options.backbones) if options.lpips or backbones.find("alexnet", options.backbones) else None
    return Judge(detector, extractor, lpips, options.device)


def summarise_rows(measured: Comparison, real: np.ndarray | None, targets: bool) -> Summary:
    """Cells of every row: of single pictures with their intervals, of all pictures together, and of each seed."""
    found = summarise({row: measured.values(row) for row in measured.rows}, measured.pairs.identity)
    for row, seeds in set_measures(measured, real).items():
        for name in seeds[0]:
            if name == "kid_std" or (row == TRUTH and targets and name in ("fid", "kid")):
                continue         # the targets compared with themselves
            numbers = [seed[name] for seed in seeds if seed[name] is not None]
            mean = rounded(float(np.mean(numbers))) if numbers else None
            found[row][name] = {"mean": mean, "low": None, "high": None}
            if name == "kid" and numbers:
                found[row][name]["std"] = rounded(float(np.mean([seed["kid_std"] for seed in seeds])))
            if len(seeds) > 1:
                found[row][name]["seeds"] = [None if seed[name] is None else rounded(seed[name]) for seed in seeds]
        if len(seeds) > 1:
            for name in measured.values(row):
                found[row][name]["seeds"] = [summarise({row: {name: one.values[name]}}, measured.pairs.identity)
                                             [row][name]["mean"] for one in measured.rows[row]]
    return found


def _difference(measured: Comparison, row: str, base: str) -> dict[str, np.ndarray]:
    one, other = measured.values(row), measured.values(base)
    return {name: one[name] - other[name] for name in one}


def parse(arguments: list[str] | None = None) -> tuple[Options, Path]:
    """The options of the command line, and the folder for the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="checkpoint exported by training/train.py")
    parser.add_argument("--name", default=OURS, help="of its rows (default: %(default)s)")
    parser.add_argument("--also", type=named, action="append", default=[], metavar="NAME=FILE",
                        help="one more checkpoint in the table, e.g. B1=runs/b1/reposedm-mini-b1.safetensors")
    parser.add_argument("--pictures", type=named, action="append", default=[], metavar="NAME=FOLDER",
                        help="pictures that any model made, named as --save-pictures names them")
    parser.add_argument("--data", type=Path, required=True, help="folder of a people set")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--pairs", type=int, default=128, help="0 is all (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="DDIM steps (default: the checkpoint's)")
    parser.add_argument("--guidance-scale", type=float, help="w_c of eq. 16 (default: the checkpoint's)")
    parser.add_argument("--field-strength", type=float,
                        help="of the rows with gradient guidance (default: the checkpoint's; 0: no such rows)")
    parser.add_argument("--warm-start", type=float, default=1.0, metavar="SHARE",
                        help="start from the aligned latent, noised to this share of the schedule (default: noise)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--judge", type=Path, help="another pose estimator that finds the joints: "
                        "estimator.safetensors of a training run, or public HigherHRNet weights (.pth), which find "
                        "several people")
    parser.add_argument("--judge-udp", action="store_true", help="the public weights were trained with UDP")
    parser.add_argument("--real", default="targets", choices=REAL,
                        help="real set of FID and KID (default: %(default)s; train is the published protocol)")
    parser.add_argument("--extractor", default="auto", choices=("auto", *EXTRACTORS),
                        help="of FID's and KID's features")
    parser.add_argument("--backbones", type=Path, help="folder of torchvision's AlexNet and Inception-v3 weights "
                        "(default: torch.hub's cache)")
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
        print(f"Wrote results.json, results.md, results.html and sheet.jpg to {out} in "
              f"{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
