"""Tiny copies of public sets with their true layout, names and columns: pictures are plain, a dot marks each joint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NOSE, LEFT_ANKLE = 0, 13  # of OpenPose-18
DOTS = {NOSE: (255, 0, 0), LEFT_ANKLE: (0, 0, 255)}


def save_figure(path: Path, size: tuple[int, int], points: dict[int, tuple[float, float]], grey: int = 90) -> None:
    """A grey picture of (height, width) with a round dot at each (x, y), pixel centres at +0.5."""
    height, width = size
    picture = np.full((height, width, 3), grey, np.uint8)
    y, x = np.mgrid[:height, :width] + 0.5
    radius = max(2.0, 0.02 * height)
    for joint, (cx, cy) in points.items():
        picture[(x - cx) ** 2 + (y - cy) ** 2 <= radius**2] = DOTS[joint]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=95)


def centre_of(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Centre (x, y) of the dot of a colour in a picture (H, W, 3)."""
    near = np.abs(picture.astype(int) - colour).sum(-1) < 200
    assert near.any(), f"no dot of colour {colour}"
    y, x = np.nonzero(near)
    return np.array([x.mean() + 0.5, y.mean() + 0.5])


def keypoint_line(name: str, points: dict[int, tuple[int, int]], colon: str = ": ") -> str:
    """A line of a PATN/GFLA keypoint list; `points` are whole pixels (x, y)."""
    x, y = ([points.get(joint, (-1, -1))[axis] for joint in range(18)] for axis in (0, 1))
    return colon.join((name, json.dumps(y), json.dumps(x))) + "\n"


DEEPFASHION = {  # path below img_highres: name in the lists, which list, nose and left ankle at 256×176
    "WOMEN/Dresses/id_00002629/02_1_front.jpg": ("fashionWOMENDressesid0000262902_1front.jpg", "train"),
    "WOMEN/Dresses/id_00002629/02_3_back.jpg": ("fashionWOMENDressesid0000262902_3back.jpg", "train"),
    "WOMEN/Dresses/id_00002629/01_1_front.jpg": ("fashionWOMENDressesid0000262901_1front.jpg", "train"),
    "WOMEN/Tees_Tanks/id_00007962/09_1_front.jpg": ("fashionWOMENTees_Tanksid0000796209_1front.jpg", "train"),
    "WOMEN/Tees_Tanks/id_00007962/09_7_additional.jpg": ("fashionWOMENTees_Tanksid0000796209_7additional.jpg", "train"),
    "WOMEN/Skirts/id_00001771/02_1_front.jpg": ("fashionWOMENSkirtsid0000177102_1front.jpg", "train"),
    "WOMEN/Skirts/id_00001771/02_2_side.jpg": ("fashionWOMENSkirtsid0000177102_2side.jpg", "train"),
    "MEN/Denim/id_00000080/01_1_front.jpg": ("fashionMENDenimid0000008001_1front.jpg", "test"),
    "MEN/Denim/id_00000080/01_4_full.jpg": ("fashionMENDenimid0000008001_4full.jpg", "test"),
}


def joints_of(name: str) -> dict[int, tuple[int, int]]:
    """Where a picture of the DeepFashion fixture has its joints, in whole pixels of 256×176."""
    n = sum(name.encode())
    return {NOSE: (60 + n % 50, 40 + n % 30), LEFT_ANKLE: (90 + n % 40, 200 + n % 40)}


@pytest.fixture
def deepfashion(tmp_path: Path) -> Path:
    """The In-shop tree with the lists of PATN and GFLA; pictures of 1101×750 as in img_highres."""
    root = tmp_path / "deepfashion"
    keypoints = dict.fromkeys(("train", "test"), "name:keypoints_y:keypoints_x\n")
    pairs = dict.fromkeys(("train", "test"), "from,to\n")
    for path, (name, split) in DEEPFASHION.items():
        joints = joints_of(name)
        dots = {joint: ((x + 0.5) * 750 / 176, (y + 0.5) * 1101 / 256) for joint, (x, y) in joints.items()}
        save_figure(root / "img_highres" / path, (1101, 750), dots)
        keypoints[split] += keypoint_line(name, joints)
        for other, (to, _) in DEEPFASHION.items():
            outfits = {(Path(p).parent, Path(p).name[:2]) for p in (path, other)}
            if other != path and len(outfits) == 1:
                pairs[split] += f"{name},{to}\n"
    for split in ("train", "test"):
        (root / f"fasion-resize-annotation-{split}.csv").write_text(keypoints[split])
        (root / f"fasion-resize-pairs-{split}.csv").write_text(pairs[split])
    return root


MARKET = {
    "bounding_box_train": (
        "0002_c1s1_000451_03.jpg",
        "0002_c2s1_000301_01.jpg",
        "0007_c3s3_077419_03.jpg",
        "0007_c1s6_028546_01.jpg",
        "0010_c6s4_002427_07.jpg",
        "0010_c3s3_077744_02.jpg",
    ),
    "bounding_box_test": (
        "-1_c1s1_000401_03.jpg",
        "0000_c1s1_000151_01.jpg",
        "0001_c1s1_001051_03.jpg",
        "0001_c2s1_000301_02.jpg",
    ),
    "query": ("0001_c3s1_000551_00.jpg",),
}


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """Market-1501's three folders with the keypoint lists; the query has none, as published."""
    root = tmp_path / "Market-1501-v15.09.15"
    for folder, names in MARKET.items():
        for n, name in enumerate(names):
            save_figure(root / folder / name, (128, 64), {NOSE: (30.5 + n, 20.5), LEFT_ANKLE: (25.5, 110.5 - n)})
            (root / folder / "Thumbs.db").write_bytes(b"\0")
    for split, folder in (("train", "bounding_box_train"), ("test", "bounding_box_test")):
        lines = [
            keypoint_line(name, {NOSE: (30 + n, 20), LEFT_ANKLE: (25, 110 - n)})
            for n, name in enumerate(MARKET[folder])
        ]
        (root / f"market-annotation-{split}.csv").write_text("name:keypoints_y:keypoints_x\n" + "".join(lines))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three people's own pictures, of several sizes and kinds."""
    root = tmp_path / "own"
    for person, grey in (("anna", 60), ("berta", 120), ("carla", 200)):
        for n, size in enumerate(((300, 200), (200, 300), (123, 77))):
            suffix = (".jpg", ".png", ".JPG")[n]
            save_figure(root / person / f"holiday {n}{suffix}", size, {NOSE: (size[1] / 2, size[0] / 4)}, grey + n)
    return root
