"""Synthetic people before cameras, in Market-1501's layout: the open set that re-identification can be tried on.

Each camera has a place of its own behind everybody, colours, contrast and blur; a person's pictures are shared out
among the cameras in turn, and each is cut to the person's box, twice as high as wide, as a detector does there. The
first half of the people train, the others test: of those the first picture by each camera asks, the rest is found
among.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from reposedm_core.errors import InputError
from reposedm_core.files import make_folder, write_picture, write_text
from training.data.clutter import dead_leaves, pink_noise
from training.data.people_set import SPLITS, People

CANVAS = (128, 64)
"""Height and width that Market-1501's keypoints are given on."""
MARGIN = 1.08
"""Size of a picture, of the person's box in it."""
DULL = 0.5
"""Contrast of a camera's place. Loud places and strong casts of colour hide who is who from a small network."""
BICUBIC = Image.Resampling.BICUBIC
TRAIN, GALLERY, QUERY = "bounding_box_train", "bounding_box_test", "query"


@dataclass(frozen=True)
class Camera:
    """scene (H, 2 W, 3) in [0, 1], of which a picture has a part; gains (3,) and contrast of the light; blur in
    pixels."""

    scene: np.ndarray
    gains: np.ndarray
    contrast: float
    blur: float


def place_camera(seed: int, number: int, height: int, width: int) -> Camera:
    """Camera `number` of a seed, for pictures of height × width."""
    rng = np.random.default_rng((seed, number))
    scene = (dead_leaves if number % 2 else pink_noise)(rng, height, 2 * width)
    scene = 0.45 + DULL * (scene - scene.mean())
    gains = rng.uniform(0.9, 1.08, 3) * rng.uniform(0.87, 1.06)
    return Camera(scene, gains, float(rng.uniform(0.9, 1.06)), float(rng.uniform(0, 0.006) * height))


def person_box(mask: np.ndarray) -> tuple[float, float, float]:
    """Left, top and height of the picture of a person, twice as high as wide, in pixels of a mask (H, W) bool; it may
    reach over the mask's edges."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return (mask.shape[1] - mask.shape[0] / 2) / 2, 0.0, float(mask.shape[0])
    height = MARGIN * max(np.ptp(rows) + 1, 2 * (np.ptp(columns) + 1))
    return (columns[0] + columns[-1] + 1 - height / 2) / 2, (rows[0] + rows[-1] + 1 - height) / 2, float(height)


def cut(values: np.ndarray, box: tuple[float, float, float], height: int) -> np.ndarray:
    """The box's part of a picture (H, W, 3) or mask (H, W), uint8, at height × height / 2; 0 beyond the edges."""
    left, top, size = box
    scale, flat = size / height, Image.fromarray(values)
    turned = flat.transform((height // 2, height), Image.Transform.AFFINE, (scale, 0, left, 0, scale, top), BICUBIC)
    return np.asarray(turned)


def seen_by(camera: Camera, picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """A person's picture (H, W, 3) uint8 with its mask (H, W) in [0, 1] as a camera takes it, before its own
    background."""
    left = int(rng.integers(0, camera.scene.shape[1] - picture.shape[1] + 1))
    behind = camera.scene[:, left : left + picture.shape[1]]
    values = behind + mask[..., None] * (picture / 255 - behind)
    values = (values - 0.5) * camera.contrast * rng.uniform(0.95, 1.05) + 0.5
    values = (values * camera.gains * rng.uniform(0.92, 1.08)).clip(0, 1)
    taken = Image.fromarray((255 * values).round().astype(np.uint8))
    return taken.filter(ImageFilter.GaussianBlur(camera.blur)) if camera.blur > 0.1 else taken


def write_cameras(root: Path, out: Path, cameras: int = 3, seed: int = 0) -> dict[str, int]:
    """Write the pictures and the keypoint lists of all people of a synthetic set; returns pictures per folder.

    Raises:
        InputError: no synthetic set, one person alone, cameras out of range, or more of them than pictures of anybody.
    """
    if not 2 <= cameras <= 6:
        raise InputError(f"cameras = {cameras}: give 2 to 6.")
    splits = [People(root, split) for split in SPLITS if _has(root, split)]
    if not splits or not splits[0].has_masks:
        raise InputError(f"{root} has no masks to put people before a camera with: make it with training/generate.py.")
    height = splits[0].height
    places = [place_camera(seed, number, height, height // 2) for number in range(cameras)]
    people = sorted(
        (int(i), part, int(n)) for part in splits for i, n in zip(part.identities, part.counts, strict=True)
    )
    if len(people) < 2:
        raise InputError(f"{root}: one person cannot be told from others; make a set of more.")
    if max(pictures for _, _, pictures in people[len(people) // 2 :]) <= cameras:
        raise InputError(
            f"{root}: nobody who tests has more than {cameras} pictures, one by each camera that asks, so none "
            "is there to be found: make a set of more --poses, or give fewer --cameras."
        )
    counts = dict.fromkeys((TRAIN, GALLERY, QUERY), 0)
    lists = {TRAIN: ["name:keypoints_y:keypoints_x"], GALLERY: ["name:keypoints_y:keypoints_x"]}
    for folder in counts:
        make_folder(out / folder, "out")
    for number, (identity, part, pictures) in enumerate(people, 1):
        who, every = np.full(pictures, identity), np.arange(pictures)
        shown, masks = part.read("pictures", who, every), part.read("masks", who, every)
        joints = part.openpose(who, every)
        trains = number <= len(people) // 2
        for n in range(pictures):
            camera = n % cameras
            folder = TRAIN if trains else QUERY if n < cameras else GALLERY
            name = f"{number:04d}_c{camera + 1}s1_{n:06d}_00.jpg"
            mask = masks[n] == 1
            left, top, size = box = person_box(mask)
            alone, alpha = cut(shown[n], box, height), cut(255 * mask.astype(np.uint8), box, height) / 255
            taken = seen_by(places[camera], alone, alpha, np.random.default_rng((seed, number, n)))
            write_picture(out / folder / name, taken, quality=95)
            counts[folder] += 1
            if folder in lists:
                moved = (joints[n] - (left, top, 0)) * (height / size, height / size, 1)
                lists[folder].append(keypoint_line(name, moved, height, height // 2))
    for split, folder in (("train", TRAIN), ("test", GALLERY)):
        write_text(out / f"market-annotation-{split}.csv", "\n".join(lists[folder]) + "\n")
    return counts


def keypoint_line(name: str, joints: np.ndarray, height: int, width: int) -> str:
    """A line of a keypoint list: OpenPose-18 joints (18, 3) of a picture of height × width on the list's canvas."""
    scaled = joints[:, :2] * (CANVAS[1] / width, CANVAS[0] / height) - 0.5
    known = (joints[:, 2] > 0) & (scaled >= 0).all(1)
    x, y = ([f"{v:.2f}" if there else "-1" for v, there in zip(axis, known, strict=True)] for axis in scaled.T)
    return f"{name}: [{', '.join(y)}]: [{', '.join(x)}]"


def _has(root: Path, split: str) -> bool:
    """Has a set anybody in a split? A folder that is no set at all is reported by the first one."""
    try:
        People(root, split)
    except InputError:
        return split == SPLITS[0]
    return True
