"""Measure pictures made of captions and poses.

    python training/evaluate_captioned.py --data FOLDER --pictures NAME=FOLDER --out FOLDER

For RePoseSD and models like it: do the pictures show the people that were asked for, and do they look like the set's?
AP, AP(m), CAP and PCE are HumanSD's. Its FID and KID are not: they take 64 features of another Inception, style by
style, and its CLIP score is not measured.

A folder holds one PNG a picture of a captioned set, 00000.png and so on in the set's order. Writes results.json and
results.md. Under `accelerate launch` the pictures are shared among the processes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from reposedm_core.errors import InputError
from reposedm_core.files import make_folder, write_json, write_text
from reposedm_core.images import to_rgb
from reposedm_core.networks import SHIPPED
from training.data.captioned_set import Captioned
from training.data.people_set import SPLITS, to_unit
from training.evaluation.compare import gathered, join_processes, processes
from training.evaluation.generate import TRUTH
from training.evaluation.measure import load_detector
from training.evaluation.notes import PEOPLE, distribution_note, finder
from training.evaluation.picture_files import named
from training.evaluation.tables import as_cell, markdown_table, summarise
from training.metrics.distribution import EXTRACTORS, fid, kid, open_extractor
from training.metrics.people import people_count_errors, people_measures

COLUMNS = ("ap", "ap_m", "cap_published", "cap", "pce", "fid", "kid")


def read_batch(folder: Path, numbers: range, size: tuple[int, int]) -> Tensor:
    """Pictures of a folder by their numbers, (b, 3, H, W) in [-1, 1].

    Raises:
        InputError: one is missing, unreadable, or of another size (height, width).
    """
    pictures = []
    for number in numbers:
        path = folder / f"{number:05d}.png"
        try:
            with Image.open(path) as picture:
                pictures.append(np.array(to_rgb(picture)))
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error}): the folder must hold one PNG for each picture of the "
                "set, 00000.png and so on in its order."
            ) from None
        if pictures[-1].shape[:2] != size:
            raise InputError(
                f"{path} is {pictures[-1].shape[1]}×{pictures[-1].shape[0]}, the set has {size[1]}×"
                f"{size[0]}: resize the pictures to the set's size."
            )
    return to_unit(np.stack(pictures))


def evaluate(
    data: Path,
    pictures: dict[str, Path],
    out: Path,
    split: str = "test",
    count: int = 0,
    judge: Path | None = None,
    judge_udp: bool = False,
    extractor: str = "auto",
    backbones: Path | None = None,
    device: str = "cpu",
    batch: int = 8,
) -> dict:
    """Measure folders of pictures and the set's own pictures.

    Args:
        data, split: a captioned set of training/prepare.py.
        pictures: row → folder.
        count: the first pictures of the split; 0 is all.
        judge, judge_udp: see `load_detector`; None is the shipped estimator, which finds one person.
        extractor, backbones: see `open_extractor`.

    Returns:
        What results.json holds; of several processes, in the first one alone.

    Raises:
        InputError: no such set or folder, pictures of another size than the set's, or missing weights.
    """
    if not pictures or count < 0 or batch < 1:
        raise InputError(
            f"count = {count}, batch = {batch}, {len(pictures)} folders: give a folder or more with "
            "--pictures, a count from 0 (all) and a batch from 1."
        )
    captioned = Captioned(data, split)
    make_folder(out, "out")  # before the work, not after it
    detector = load_detector(judge or SHIPPED, device, judge_udp)
    features = open_extractor(extractor, backbones).to(device)
    total = min(count or len(captioned), len(captioned))
    rank, world = processes()
    parts = []
    for first in tqdm(list(range(0, total, batch))[rank::world], desc="measuring", unit="batch", disable=rank > 0):
        numbers = range(first, min(first + batch, total))
        examples = [captioned[number] for number in numbers]
        rows = {
            name: read_batch(folder, numbers, (captioned.height, captioned.width)) for name, folder in pictures.items()
        }
        rows[TRUTH] = torch.stack([example.picture for example in examples])
        found = {row: (detector(images.to(device)), features(images.to(device)).cpu()) for row, images in rows.items()}
        parts.append((first, [example.joints for example in examples], found))
    parts = sorted(gathered(parts), key=lambda part: part[0])
    if rank:
        return {}
    truth = [joints for _, batch_joints, _ in parts for joints in batch_joints]
    found = {
        row: (
            detector.sure([people for part in parts for people in part[2][row][0]]),
            torch.cat([part[2][row][1] for part in parts]),
        )
        for row in [*pictures, TRUTH]
    }
    cells = summarise(
        {row: {"pce": people_count_errors(one, truth)} for row, (one, _) in found.items()}, np.arange(total)
    )
    for row, (one, fake) in found.items():
        values = people_measures(one, truth)
        if row != TRUTH:
            values["fid"] = fid(found[TRUTH][1], fake)
        cells[row].update({name: as_cell(value) for name, value in values.items()})
        if row != TRUTH:
            cells[row]["kid"] = as_cell(*kid(found[TRUTH][1].numpy(), fake.numpy(), *2 * [np.arange(total)]) or (None,))
    results = {
        "protocol": {
            "data": captioned.name,
            "split": split,
            "pictures": total,
            "width": captioned.width,
            "height": captioned.height,
            "judge": detector.name,
            "extractor": features.name,
            "notes": [
                finder(detector.name, detector.several),
                PEOPLE,
                distribution_note(features.name, "the set's own pictures", total, "one place in the set"),
            ],
        },
        "rows": cells,
    }
    write(results, out)
    return results


def write(results: dict, out: Path) -> None:
    """Write results.json and results.md into the folder `out`."""
    p = results["protocol"]
    table = markdown_table(results["rows"], list(COLUMNS), "pictures", extractor=p["extractor"])
    text = [
        f"# {p['pictures']} pictures of {p['data']}, split {p['split']!r}, {p['width']}×{p['height']}",
        table,
        "\n".join(f"- {note}" for note in p["notes"]),
    ]
    write_json(out / "results.json", results)
    write_text(out / "results.md", "\n\n".join(text) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="captioned set written by training/prepare.py")
    parser.add_argument("--pictures", type=named, action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--count", type=int, default=0, help="the first pictures of the split (default: all)")
    parser.add_argument(
        "--judge",
        type=Path,
        help="public HigherHRNet weights, which find several people, "
        "estimator.safetensors of a training run, or the folder of a ViTPose (default: the shipped estimator)",
    )
    parser.add_argument(
        "--judge-udp", action="store_true", help="the public weights were trained with UDP (a name may say it)"
    )
    parser.add_argument("--extractor", default="auto", choices=("auto", *EXTRACTORS))
    parser.add_argument("--backbones", type=Path, help="folder of torchvision's Inception-v3 weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    options = vars(parser.parse_args(arguments))
    options["pictures"] = dict(options["pictures"])
    options["device"] = join_processes(options["device"])
    try:
        evaluate(**options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if processes()[0] == 0:
        print((options["out"] / "results.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
