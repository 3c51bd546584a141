"""One original picture becomes a row: decoded, brought to the size, its joints with it."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from reposedm_core.images import to_rgb
from reposedm_core.letterbox import Letterbox
from reposedm_core.pose import openpose_to_coco
from training.preparation.estimation import Estimator, load_estimator
from training.preparation.plan import Item, Plan, Skip


class Row(NamedTuple):
    """Picture (H, W, 3) uint8, OpenPose joints (18, 3) and COCO joints (17, 3) float32 in its pixels."""

    picture: np.ndarray
    openpose: np.ndarray
    joints: np.ndarray


@dataclass(frozen=True)
class Reading:
    """How rows are made.

    Attributes:
        size: height and width.
        resize: "stretch" or "letterbox".
        estimator: what `load_estimator` takes; "none" leaves out pictures without annotation.
        least_joints: a picture is left out if fewer of COCO's joints are found by the estimator.
    """

    size: tuple[int, int]
    resize: str
    estimator: str = "none"
    openpose_weights: str = ""
    least_joints: int = 6


class Reader:
    """Makes rows; one per process, since it holds the estimator."""

    def __init__(self, reading: Reading):
        self.reading = reading
        self._estimator: Estimator | None = None

    def __call__(self, item: Item) -> Row | Skip:
        picture = open_picture(item)
        return picture if isinstance(picture, Skip) else self.row(item, picture)

    def row(self, item: Item, picture: np.ndarray) -> Row | Skip:
        """A decoded picture (h, w, 3) as a row, with the item's joints or the estimator's."""
        height, width = picture.shape[:2]
        if item.openpose is not None:
            points = item.openpose.astype(np.float32)
            h, w = item.canvas or (height, width)
            points[:, :2] *= (width / w, height / h)
            joints = openpose_to_coco(points)
        elif self.reading.estimator == "none":
            return Skip(item.name, "no keypoints")
        else:
            if self._estimator is None:
                self._estimator = load_estimator(self.reading.estimator, self.reading.openpose_weights)
            joints, points = self._estimator(picture)
        fitted, scale, offset = fit(picture, *self.reading.size, self.reading.resize)
        points, joints = (moved(p, scale, offset, self.reading.size) for p in (points, joints))
        visible = int((joints[:, 2] > 0).sum())
        if not visible:
            return Skip(item.name, "no keypoints")
        if item.openpose is None and visible < self.reading.least_joints:
            return Skip(item.name, "too few visible joints", f"{visible} of 17")
        return Row(fitted, points, joints)


def open_picture(item: Item) -> np.ndarray | Skip:
    """The picture (h, w, 3) uint8 sRGB of a file, upright."""
    if not Path(item.path).is_file():
        return Skip(item.name, "missing file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, on odd metadata and big pictures
            with Image.open(item.path) as picture:
                return np.array(to_rgb(ImageOps.exif_transpose(picture)))
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises almost anything on broken files
        return Skip(item.name, "corrupt picture", f"{type(error).__name__}: {error}"[:200])


def fit(picture: np.ndarray, height: int, width: int, resize: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture (h, w, 3) at another size, and the scale and offset (x, y) that bring its points there.

    "stretch" is Pillow's bicubic filter (antialiased) over the whole picture; "letterbox" is what the pipeline does
    to a user's picture: bilinear, antialiased, centred, its edge repeated outwards.
    """
    h, w = picture.shape[:2]
    if resize == "stretch":
        small = np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
        return small, np.array([width / w, height / h]), np.zeros(2)
    letterbox = Letterbox((h, w), (height, width))
    image = torch.from_numpy(picture).movedim(-1, 0)[None].float()
    fitted = letterbox.image(image)[0].movedim(0, -1).round().clamp(0, 255).byte().numpy()
    return fitted, letterbox.scale, letterbox.offset


def moved(points: np.ndarray, scale: np.ndarray, offset: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Joints (K, 3) in the fitted picture; absent ones and those outside of it are zeros."""
    result = points.astype(np.float64)
    result[:, :2] = result[:, :2] * scale + offset
    x, y = result[:, 0], result[:, 1]
    there = (result[:, 2] > 0) & (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
    return np.where(there[:, None], result, 0).astype(np.float32)


_READER: Reader  # of a worker process


def read_rows(plan: Plan, missing: Sequence[int], reading: Reading, workers: int) -> Iterator[tuple[int, Row | Skip]]:
    """Number and row (or why there is none) of every missing row, in any order, by several processes.

    `workers` = 1 is this process; the number changes no byte.
    """
    tasks = [(int(number), plan.items[number]) for number in missing]
    if workers == 1 or len(tasks) < 2:
        reader = Reader(reading)
        for number, item in tasks:
            yield number, reader(item)
        return
    with multiprocessing.get_context("spawn").Pool(min(workers, len(tasks)), _start_worker, (reading,)) as pool:
        yield from pool.imap_unordered(_read, tasks, chunksize=4)


def _start_worker(reading: Reading) -> None:
    global _READER
    torch.set_num_threads(1)  # as many threads as workers are wanted, not their square
    _READER = Reader(reading)


def _read(task: tuple[int, Item]) -> tuple[int, Row | Skip]:
    number, item = task
    return number, _READER(item)
