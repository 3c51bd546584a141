"""Generates the pictures that fill a share of the training set up; what is there already is kept."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from reposedm_core.errors import InputError
from reposedm_core.files import write_picture
from reposedm_core.images import from_uint8
from reposedm_core.pose import draw_joints
from training.data.people_set import Pairs, People
from training.engine.signals import Interrupts, Stopped
from training.evaluation.generate import Batch, Contender, align, find_source, to_pictures, transfer
from training.reid.augment import pair_name


class PosedPictures:
    """The pictures of a people set that was prepared from the training folder, by their names there.

    Raises:
        InputError: no people set, or one without the names of its pictures.
    """

    def __init__(self, root: Path):
        self.people = People(root, "train")
        try:
            names = (root / "names.txt").read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            raise InputError(
                f"{root} does not say which pictures it was made of (names.txt): make it with "
                "python training/prepare.py market1501 --root ROOT."
            ) from None
        done = self.people.arrays["done"][:] != 0
        self.row = {Path(name).stem: n for n, name in enumerate(names) if n < len(done) and done[n]}

    def batch(self, first: int, sources: list[str], targets: list[str]) -> Batch:
        """Sources and the poses of targets; what would be true of the result is unknown."""
        arrays = self.people.arrays
        s, t = (np.array([self.row[name] for name in names]) for names in (sources, targets))
        source, target_pose = np.stack([arrays["pictures"][n] for n in s]), np.array(arrays["openpose"][t])
        skeleton = from_uint8(draw_joints(target_pose, self.people.height, self.people.width))
        pairs = Pairs(np.array(arrays["identity"][s]), s, t)
        return Batch(
            first,
            pairs,
            source,
            source,
            skeleton,
            np.array(arrays["joints"][t]),
            None,
            None,
            None,
            np.array(arrays["openpose"][s]),
            target_pose,
        )


def generate_pairs(
    contender: Contender, posed: PosedPictures, pairs: list[tuple[str, str]], folder: Path, batch: int = 16
) -> None:
    """Write the picture of every pair (source, target) of names into a folder, named by `pair_name`.

    A picture's noise depends on its name alone, so neither an interruption nor the other pairs change it. With field
    guidance where the checkpoint samples with it.

    Raises:
        Stopped: by Ctrl-C or SIGTERM, after a batch; what was written stays.
    """
    missing = [pair for pair in pairs if not (folder / pair_name(*pair)).is_file()]
    guide = list(contender.kinds.values())[-1]
    with Interrupts() as interrupts:
        for start in range(0, len(missing), batch):
            if interrupts.number:
                left = len(missing) - start
                raise Stopped(f"Stopped with {left} pictures left; the same command goes on.", interrupts.number)
            part = missing[start : start + batch]
            given = posed.batch(start, *(list(names) for names in zip(*part, strict=True)))
            aligned = align(contender.pipe, given, find_source(contender.pipe, given, contender.source_pose))
            seeds = [zlib.crc32(pair_name(*pair).encode()) for pair in part]
            made = transfer(
                contender.pipe,
                aligned,
                seeds,
                contender.steps,
                contender.scale,
                guide,
                given.target_pose,
                contender.start,
            )
            for pair, picture in zip(part, to_pictures(made), strict=True):
                write_picture(folder / pair_name(*pair), Image.fromarray(picture))
