"""Poses as an estimator finds them: shaken, with joints missing or far off, and with left taken for right."""

from __future__ import annotations

import numpy as np

from reposedm_core.pose.skeleton import OPENPOSE18, OPENPOSE_FLIP

SHAKEN, SPREAD = 0.8, 0.012
"""Share of the people whose joints are shaken, and by how much (deviation, of the height)."""
MISSING = 0.04
"""Share of the joints that are not found."""
FAR, FAR_SPREAD = 0.04, 0.07
"""Share of the joints that are somewhere else, and how far (deviation, of the height)."""
EXCHANGED = {"all": 0.06, "legs": 0.1, "arms": 0.1, "head": 0.06}
"""Share of the people of whom such pairs of joints are exchanged. The shares are a little above those of the
estimator for which the shipped aligner was trained: 5 % of validation pictures all, 9 % legs, 8 % arms, 4 % head."""
PAIRS = {
    "legs": ("hip", "knee", "ankle"),
    "arms": ("shoulder", "elbow", "wrist"),
    "head": ("eye", "ear"),
}


def mistaken(rng: np.random.Generator, joints: np.ndarray, height: float) -> np.ndarray:
    """One person's joints (18, 3) in pixels, as an estimator might find them in a picture `height` high.

    A joint that is not found is all 0; one that was not there stays so.
    """
    found = joints.copy()
    for name, share in EXCHANGED.items():
        if rng.random() < share:
            found = found[exchange(name)]
    there = found[:, 2] > 0
    if rng.random() < SHAKEN:
        found[there, :2] += rng.normal(0, SPREAD * height, (there.sum(), 2))
    far = there & (rng.random(len(found)) < FAR)
    found[far, :2] += rng.normal(0, FAR_SPREAD * height, (far.sum(), 2))
    found[rng.random(len(found)) < MISSING] = 0
    return found


def all_mistaken(joints: np.ndarray, seeds: np.ndarray, height: float) -> np.ndarray:
    """`mistaken` for each of (n, 18, 3), drawn from its own seed."""
    pairs = zip(seeds, joints, strict=True)
    return np.stack([mistaken(np.random.default_rng(int(seed)), points, height) for seed, points in pairs])


def exchange(name: str) -> list[int]:
    """The order of the 18 joints with the pairs of `EXCHANGED` in each other's place."""
    parts = [part for pairs in (PAIRS.values() if name == "all" else [PAIRS[name]]) for part in pairs]
    return [
        other if any(joint.endswith(f"_{part}") for part in parts) else n
        for n, (joint, other) in enumerate(zip(OPENPOSE18, OPENPOSE_FLIP, strict=True))
    ]
