"""Poses of real people: frames of motion-captured clips, retargeted to the Anny skeleton.

`motions.npz` holds upright frames of the DeepMimic clips `humanoid3d_*.txt` as pybullet 3.2.7 distributes them
(pybullet_data/data/motions; zlib licence, see motions.LICENSE.txt). It is an altered extract: the turn and the place of
the whole body are taken out, frames that lie, crawl or fly upside down and frames much like an earlier one are left
out. It was made by

    python training/synthetic/motion.py FOLDER_OR_WHEEL

    rotations (N, 13, 3) float16   rotation vectors in radians: of the whole body without its turn, then of each joint
                                   of `JOINTS` relative to its parent, in the body's axes (x left, y backwards, z up);
                                   all zero is standing with arms and legs straight down
    clip      (N,) uint8           index into `names`, the clips' names
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: modules are found from the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    __package__ = "training.synthetic"

import numpy as np
from scipy.spatial.transform import Rotation

FILE = Path(__file__).with_name("motions.npz")
JOINTS = ("root", "chest", "neck", "hip.R", "knee.R", "ankle.R", "shoulder.R", "elbow.R", "hip.L", "knee.L", "ankle.L",
          "shoulder.L", "elbow.L")  # fmt: skip
_HINGES = ("knee.R", "elbow.R", "knee.L", "elbow.L")
_MIRRORED = [JOINTS.index(name[:-1] + {"L": "R", "R": "L"}[name[-1]] if "." in name else name) for name in JOINTS]
_BONES = {"hip": "upperleg01", "knee": "lowerleg01", "ankle": "foot", "shoulder": "upperarm01", "elbow": "lowerarm01"}
_TO_BODY = np.array([[0, 0, -1], [-1, 0, 0], [0, 1, 0]], float)  # clips: x forwards, y up, z right
_UPRIGHT = 0.8  # least cosine between the body's long axis and the vertical
_LEAST_CHANGE = np.radians(15)  # a kept frame has a joint that differs by more from all kept frames of its clip
_DOWN = np.array([0.0, 0.0, -1.0])


def convert(frame: list[float]) -> np.ndarray:
    """One frame of a clip → (13, 3) rotation vectors as in `motions.npz`, the whole body still turned.

    frame: duration, position of the root (3), then in the order of `JOINTS` a quaternion w, x, y, z a joint or one
    angle in radians for a knee or an elbow.
    """
    values, vectors = list(frame[4:]), []
    for name in JOINTS:
        if name in _HINGES:
            vectors.append([0, 0, values.pop(0)])
        else:
            w, x, y, z = (values.pop(0) for _ in range(4))
            vectors.append(Rotation.from_quat([x, y, z, w]).as_rotvec())
    return np.array(vectors) @ _TO_BODY.T  # a proper rotation of axes turns rotation vectors like any vector


def without_turn(root: np.ndarray) -> np.ndarray:
    """A root's rotation vector (3,) without its turn about the vertical."""
    matrix = Rotation.from_rotvec(root).as_matrix()
    left = matrix[:, 0]  # where the person's left is; made to lie in the picture plane
    turn = Rotation.from_euler("z", np.arctan2(left[1], left[0]))
    return (turn.inv() * Rotation.from_rotvec(root)).as_rotvec()


def extract(clips: Iterator[tuple[str, list[list[float]]]]) -> dict[str, np.ndarray]:
    """The arrays of `motions.npz` from (name, frames) of every clip."""
    kept, owner, names = [], [], []
    for name, frames in clips:
        names.append(name)
        chosen: list[np.ndarray] = []
        for frame in frames:
            vectors = convert(frame)
            vectors[0] = without_turn(vectors[0])
            if Rotation.from_rotvec(vectors[0]).apply(-_DOWN)[2] < _UPRIGHT:
                continue
            new = Rotation.from_rotvec(vectors)
            if all(((Rotation.from_rotvec(old).inv() * new).magnitude()).max() > _LEAST_CHANGE for old in chosen):
                chosen.append(vectors)
        kept += chosen
        owner += [len(names) - 1] * len(chosen)
    return {"rotations": np.array(kept, np.float16), "clip": np.array(owner, np.uint8), "names": np.array(names)}


@lru_cache(maxsize=1)
def frames() -> np.ndarray:
    """(N, 13, 3) float64 rotation vectors of the kept frames."""
    with np.load(FILE, allow_pickle=False) as file:
        return file["rotations"].astype(np.float64)


def mirrored(vectors: np.ndarray) -> np.ndarray:
    """The pose in a mirror: left and right change sides; (13, 3) → (13, 3)."""
    return vectors[_MIRRORED] * [1, -1, -1]


def retarget(vectors: np.ndarray, bones: Mapping[str, int], limbs: Mapping[str, np.ndarray]) -> np.ndarray:
    """(13, 3) rotation vectors → (bones, 3, 3) rotations for `Body.pose`, the body facing the camera.

    limbs: direction (3,) of the bones upperleg01, lowerleg01, upperarm01, lowerarm01 of both sides (".L", ".R") in the
    rest pose (`Body.limbs`). Each is first brought to hang straight down, where the clips' angles begin.
    """
    pose = np.tile(np.eye(3), (len(bones), 1, 1))
    turns = dict(zip(JOINTS, Rotation.from_rotvec(vectors), strict=True))
    pose[bones["root"]] = turns["root"].as_matrix()
    half = Rotation.from_rotvec(0.5 * vectors[JOINTS.index("chest")]).as_matrix()
    pose[bones["spine04"]] = pose[bones["spine02"]] = half  # spread over the back, which then bends without a kink
    pose[bones["neck01"]] = turns["neck"].as_matrix()
    for side in "LR":
        for chain in (("hip", "knee", "ankle"), ("shoulder", "elbow")):
            before = np.eye(3)  # from the rest direction of the parent to straight down
            for joint in chain:
                bone = f"{_BONES[joint]}.{side}"
                hang = align(limbs[bone], _DOWN) if bone in limbs else np.eye(3)
                pose[bones[bone]] = before.T @ turns[f"{joint}.{side}"].as_matrix() @ hang
                before = hang
    return pose


def align(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(3, 3) the smallest rotation that takes direction `start` to direction `end` (not its opposite)."""
    start, end = start / np.linalg.norm(start), end / np.linalg.norm(end)
    axis, cosine = np.cross(start, end), float(start @ end)
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + k + k @ k / (1 + cosine)


def _read(source: Path) -> Iterator[tuple[str, list[list[float]]]]:
    """(name, frames) of the clips in a folder of text files or in a pybullet wheel, sorted by name."""
    if source.is_dir():
        texts = {path.stem: path.read_text() for path in source.glob("humanoid3d_*.txt")}
    else:
        with zipfile.ZipFile(source) as wheel:
            texts = {Path(name).stem: wheel.read(name).decode() for name in wheel.namelist()
                     if Path(name).match("motions/humanoid3d_*.txt")}  # fmt: skip
    for name in sorted(texts):
        yield name.removeprefix("humanoid3d_"), json.loads(texts[name])["Frames"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="pybullet's wheel, or the folder pybullet_data/data/motions")
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args()
    arrays: dict[str, Any] = extract(_read(options.source))
    np.savez_compressed(options.out, **arrays)
    print(f"{len(arrays['clip'])} frames of {len(arrays['names'])} clips, {options.out.stat().st_size / 1024:.0f} KiB")
    print(dict(zip(arrays["names"].tolist(), np.bincount(arrays["clip"]).tolist(), strict=False)))
