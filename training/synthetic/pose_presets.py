"""Poses to start from in the Pose Editor: frames of the motion clips as a camera sees them.

    python training/synthetic/pose_presets.py

writes `nodes/web/pose_presets.json` from `motions.npz`: { "notice": ..., "poses": [{ "name", "joints" }] }, joints 18 ×
x, y, score in 0..1 of a square, y down. Of every clip a few frames, each as different from the others as can be.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: modules are found from the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    __package__ = "training.synthetic"

import numpy as np
from scipy.spatial.transform import Rotation

from reposedm_core.pose.skeleton import OPENPOSE18

from .motion import FILE, JOINTS

OUT = Path(__file__).resolve().parents[2] / "nodes" / "web" / "pose_presets.json"
POSES = 32
PER_CLIP = 3
VIEWS = (0, 40)  # degrees that the camera goes around the person
_NAMES = {"backflip": "flip", "dance_a": "dance", "dance_b": "dance", "getup_facedown": "get up",
          "getup_faceup": "get up", "spinkick": "high kick"}  # fmt: skip
_UP, _DOWN = np.array([0.0, 0, 1]), np.array([0.0, 0, -1])
# Centimetres of somebody of 170: where a limb begins in what it hangs on (x left, y backwards, z up), and its length.
_SPINE, _CHEST, _SHOULDER, _HIP = 16 * _UP, 26 * _UP, np.array([17.0, 0, -1]), np.array([9.5, 0, -2])
_LENGTHS = {"shoulder": 28.0, "elbow": 25.0, "hip": 42.0, "knee": 41.0}
_HEAD = {"nose": (0, -11, 17), "left_eye": (3.4, -9.5, 20.5), "right_eye": (-3.4, -9.5, 20.5),
         "left_ear": (7.5, 0, 18.5), "right_ear": (-7.5, 0, 18.5)}  # fmt: skip
_ENDS = {"shoulder": ("shoulder", "elbow"), "elbow": ("elbow", "wrist"), "hip": ("hip", "knee"),
         "knee": ("knee", "ankle")}  # fmt: skip


def skeleton(vectors: np.ndarray, view: float = 0) -> np.ndarray:
    """(13, 3) rotation vectors as in `motions.npz` → (18, 4): OpenPose-18 as x, y (down), depth in centimetres, score.

    view: degrees that the camera goes around the person; ears behind the head have the score 0.
    """
    turns = dict(zip(JOINTS, Rotation.from_rotvec(vectors), strict=True))
    root = Rotation.from_euler("z", view, degrees=True) * turns["root"]
    chest = root * turns["chest"]
    places = {"neck": root.apply(_SPINE) + chest.apply(_CHEST)}
    head = chest * turns["neck"]
    for name, where in _HEAD.items():
        places[name] = places["neck"] + head.apply(where)
    for side, sign in (("left", 1), ("right", -1)):
        for chain, base, offset, origin in (
            (("shoulder", "elbow"), chest, _SHOULDER, places["neck"]),
            (("hip", "knee"), root, _HIP, np.zeros(3)),
        ):
            place, turn = origin + base.apply(offset * (sign, 1, 1)), base
            for joint in chain:
                start, end = _ENDS[joint]
                turn = turn * turns[f"{joint}.{side[0].upper()}"]
                places[f"{side}_{start}"] = place
                place = place + _LENGTHS[joint] * turn.apply(_DOWN)
                places[f"{side}_{end}"] = place
    joints = np.array([places[name] for name in OPENPOSE18])
    score = np.ones(18)
    for side, sign in (("left", 1), ("right", -1)):
        if head.apply((sign, 0, 0))[1] > 0.5:  # it points away from the camera
            score[OPENPOSE18.index(f"{side}_ear")] = 0
    return np.column_stack([joints[:, 0], -joints[:, 2], joints[:, 1], score])


def presets() -> list[dict[str, Any]]:
    """The chosen frames: name, and joints in 0..1 of a square."""
    with np.load(FILE, allow_pickle=False) as file:
        vectors, clips, names = file["rotations"].astype(np.float64), file["clip"], file["names"]
    seen = [(clip, skeleton(frame, view)) for frame, clip in zip(vectors, clips, strict=True) for view in VIEWS]
    joints = np.array([points[:, :2] for _, points in seen])
    owner = np.array([clip for clip, _ in seen])
    room = np.full(len(names), PER_CLIP)
    # Beginning with the one that is nearest to all, always the one that is farthest from those taken.
    mean = joints.mean(0)
    far = -np.linalg.norm(joints - mean, axis=-1).mean(-1)
    chosen: list[int] = []
    while len(chosen) < POSES and (room[owner] > 0).any():
        untouched = room[owner] == PER_CLIP  # one of every clip, then more
        index = int(np.argmax(np.where(untouched if untouched.any() else room[owner] > 0, far, -np.inf)))
        distance = np.linalg.norm(joints - joints[index], axis=-1).mean(-1)
        far = distance if not chosen else np.minimum(far, distance)
        chosen.append(index)
        room[owner[index]] -= 1
    chosen.sort(key=lambda index: (owner[index], index))
    called = [_NAMES.get(clip, clip) for clip in names[owner[chosen]]]
    found = []
    for number, (index, name) in enumerate(zip(chosen, called, strict=True)):
        count = f" {called[: number + 1].count(name)}" if called.count(name) > 1 else ""
        found.append({"name": f"{name}{count}", "joints": _in_square(seen[index][1])})
    return found


def _in_square(points: np.ndarray) -> list[float]:
    """x, y, score of each joint, the body in the middle nine tenths of a square."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    places = 0.5 + 0.9 * (points[:, :2] - (low + high) / 2) / (high - low).max()
    return [float(value) for value in np.column_stack([places, points[:, 3]]).round(4).ravel()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    notice = (
        FILE.with_name("motions.LICENSE.txt")
        .read_text(encoding="utf-8")
        .replace("The file motions.npz is an altered extract", "These poses are made from an altered extract")
    )
    poses = presets()
    rows = ",\n".join(json.dumps(pose) for pose in poses)
    out.write_text(f'{{"notice": {json.dumps(notice)},\n"poses": [\n{rows}\n]}}\n', encoding="utf-8")
    print(f"{len(poses)} poses, {out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
