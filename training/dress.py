"""Pictures for Figure 4: python training/dress.py --weights FILE --data FOLDER --out FOLDER

Clothes of one test person on another (appearance control, `RePoseDMPipeline.dress`): OUT/reference, OUT/garment,
OUT/mask and OUT/result, one name for each row, as `figures.py fig4` reads them. The mask is the upper body that the
pose shows, and what the set labels as top or dress (**ours**: the paper does not say where its masks are from).
Whoever shows the upper body in no picture is passed over, and named. Pictures that are there are kept, so a run that
was stopped goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from reposedm_core import RePoseDMPipeline
from reposedm_core.errors import InputError
from reposedm_core.files import checksum, make_folder, write_picture
from reposedm_core.images import to_pil
from reposedm_core.pose import Pose
from training.data.captions import GARMENTS
from training.data.people_set import SPLITS, People
from training.evaluation.generate import SEED_STRIDE
from training.evaluation.picture_files import keep_settings

TRUNK = (2, 5, 11, 8)
"""Shoulders and hips of OpenPose-18, around."""
ARMS = ((2, 3), (3, 4), (5, 6), (6, 7))
WIDTH = 0.3
"""Of an arm in the mask, and of what is added around the trunk, in lengths of the trunk."""
WORN = tuple(GARMENTS[name] for name in ("top", "dress"))
SETTINGS = "settings.json"
"""In OUT: how its pictures were made."""


@dataclass(frozen=True)
class Dressed:
    """A picture of a person, by identity and index (1,) each, and the mask of the upper body in it."""

    who: np.ndarray
    index: np.ndarray
    mask: Image.Image


def upper_body(joints: np.ndarray, height: int, width: int, garments: np.ndarray | None = None) -> Image.Image:
    """Mask of the upper body, mode "L", 0 or 255.

    Args:
        joints: OpenPose-18 (18, 3), x, y in pixels and score; without both shoulders and a hip it is what `garments`
            labels alone.
        garments: (height, width) labels, see `GARMENTS`.

    Raises:
        InputError: nothing is in it.
    """
    mask = Image.new("L", (width, height))
    known = joints[:, 2] > 0
    around = [joint for joint in TRUNK if known[joint]]
    if known[2] and known[5] and len(around) > 2:
        draw, at = ImageDraw.Draw(mask), [tuple(map(float, point)) for point in joints[:, :2]]
        hips = joints[[joint for joint in around if joint in (8, 11)], :2].mean(0)
        long = max(float(np.linalg.norm(joints[[2, 5], :2].mean(0) - hips)), 0.05 * height)
        thick = max(1, round(WIDTH * long))
        draw.polygon([at[joint] for joint in around], fill=255)
        edges = [*zip(around, around[1:] + around[:1], strict=True), *(arm for arm in ARMS if known[list(arm)].all())]
        for edge in edges:
            draw.line([at[joint] for joint in edge], fill=255, width=thick)
            for x, y in (at[joint] for joint in edge):
                draw.ellipse([x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2], fill=255)
    found = np.array(mask)
    if garments is not None:
        found = np.where(np.isin(garments, WORN), 255, found).astype(np.uint8)
    if not found.any():
        raise InputError("reference: neither its pose nor its labels say where the clothes are.")
    return Image.fromarray(found)


def dressed_people(people: People) -> Iterator[Dressed]:
    """Of everybody the first picture whose upper body is visible; whoever has none is passed over, in a line."""
    for number, identity in enumerate(people.identities):
        who = np.array([identity])
        for index in range(people.counts[number]):
            at = np.array([index])
            labels = people.garments(who, at)
            try:
                mask = upper_body(
                    people.openpose(who, at)[0], people.height, people.width, None if labels is None else labels[0]
                )
            except InputError:
                continue
            if index:
                print(f"person {identity}: picture {index}, as those before it do not show the upper body", flush=True)
            yield Dressed(who, at, mask)
            break
        else:
            print(f"person {identity} is passed over: no picture shows the upper body", flush=True)


def dress(
    weights: Path,
    data: Path,
    out: Path,
    split: str = "test",
    count: int = 8,
    seed: int = 0,
    steps: int | None = None,
    device: str = "cpu",
) -> int:
    """Write the pictures; how many rows there are. Reference n is the n-th of `dressed_people`, the garment is the next
    one's.

    Raises:
        InputError: no such checkpoint or set, fewer than two people, a count below 1, or pictures of other settings in
            `out`.
    """
    people = People(data, split)
    if count < 1 or len(people.identities) < 2:
        raise InputError(
            f"count = {count}, {len(people.identities)} people in the split {split!r} of {data}: give 1 or more, and a "
            "set with two people or more."
        )
    chosen = list(islice(dressed_people(people), count + 1))
    if len(chosen) < 2:
        raise InputError(
            f"{data}: fewer than two people of the split {split!r} show their upper body: give another set."
        )
    pipe = RePoseDMPipeline.from_pretrained(weights, device=device)
    for name in ("reference", "garment", "mask", "result"):
        make_folder(out / name, "out")
    made_with = {"weights": weights.name, "sha256": checksum(weights), "data": str(data), "split": split}
    keep_settings(out, SETTINGS, {**made_with, "seed": seed, "steps": pipe.config.steps if steps is None else steps})
    count = min(count, len(chosen))
    for n in tqdm(range(count), desc="dressing", unit="picture"):
        place = f"{n:05d}.png"
        if (out / "result" / place).is_file():
            continue
        mask, pair = chosen[n].mask, (chosen[n], chosen[(n + 1) % len(chosen)])
        pictures = [Image.fromarray(people.read("pictures", each.who, each.index)[0]) for each in pair]
        joints = [people.openpose(each.who, each.index).astype(np.float32) for each in pair]
        poses = [Pose(each.clip(max=[1e9, 1e9, 1]), people.height, people.width) for each in joints]
        made = pipe.dress(
            pictures[0], pictures[1], mask, poses[0], SEED_STRIDE * seed + n, steps, garment_pose=poses[1]
        )
        # the result last: it says that the row is whole
        for name, picture in zip(("reference", "garment", "mask"), (*pictures, mask), strict=True):
            write_picture(out / name / place, picture)
        write_picture(out / "result" / place, to_pil(made.image[0]))
    return count


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint exported by training/train.py")
    parser.add_argument("--data", type=Path, required=True, help="people set")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--count", type=int, default=8, help="rows (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="DDIM steps (default: the checkpoint's)")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    try:
        count = dress(**vars(options))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{count} rows in {options.out}: reference, garment, mask, result")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
