"""Poses for the Anny skeleton: joint-limited random ones, and frames of motion clips.

Angles are degrees; a pose is one rotation matrix a bone, relative to the parent, in axes parallel to the
model's rest axes (x left, y backwards, z up). The rest pose is an A-pose: arms hang about 45° from the body.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from training.synthetic import motion

X, Y, Z = range(3)
KINDS = {"standing": 0.26, "walking": 0.16, "free": 0.20, "gesture": 0.10, "motion": 0.28}
"""Kinds of pose and their shares; `motion` is a frame of a captured clip."""


def rotation(axis: int, degrees: float) -> np.ndarray:
    """(3, 3) rotation about a coordinate axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    i, j = ((1, 2), (2, 0), (0, 1))[axis]
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


def rotation_about(direction: tuple[float, float, float], degrees: float) -> np.ndarray:
    """(3, 3) rotation about any direction (Rodrigues' formula)."""
    u = np.asarray(direction, float)
    u = u / np.linalg.norm(u)
    k = np.array([[0, -u[2], u[1]], [u[2], 0, -u[0]], [-u[1], u[0], 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)


def sample_yaw(rng: np.random.Generator) -> float:
    """Turn of the whole body: mostly within ±100° (front and sides), in 16 % of the pictures a back, 180 ± 70°."""
    return float(rng.uniform(110, 250) if rng.random() < 0.16 else rng.uniform(-100, 100))


def sample_pose(
    rng: np.random.Generator, bones: Mapping[str, int], limbs: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, float, str]:
    """One pose: rotations (bones, 3, 3) float32, the turn of the body in degrees (-180 … 180) and its kind."""
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    yaw = (sample_yaw(rng) + 180) % 360 - 180
    pose = _clip_frame(rng, bones, limbs) if kind == "motion" else _random_pose(rng, bones, kind)
    pose[bones["root"]] = rotation(Z, yaw) @ pose[bones["root"]]
    return pose.astype(np.float32), yaw, kind


def _clip_frame(rng: np.random.Generator, bones: Mapping[str, int], limbs: Mapping[str, np.ndarray]) -> np.ndarray:
    vectors = motion.frames()[rng.integers(len(motion.frames()))]
    vectors = motion.mirrored(vectors) if rng.random() < 0.5 else vectors
    vectors = vectors + np.radians(4) * rng.standard_normal(vectors.shape)  # no two pictures of a frame are the same
    return motion.retarget(vectors, bones, limbs)


def _random_pose(rng: np.random.Generator, bones: Mapping[str, int], kind: str) -> np.ndarray:
    free = kind == "free"
    pose = np.tile(np.eye(3), (len(bones), 1, 1))
    pose[bones["spine03"]] = (
        rotation(Z, rng.uniform(-15, 15)) @ rotation(X, rng.uniform(-8, 12)) @ rotation(Y, rng.uniform(-8, 8))
    )
    pose[bones["neck01"]] = rotation(Z, rng.uniform(-25, 25)) @ rotation(X, rng.uniform(-8, 10))

    stride = rng.uniform(12, 32) * rng.choice([-1, 1])  # walking: opposite arm and leg swing together
    for side, sign in (("L", 1), ("R", -1)):
        if kind == "walking":
            lift, swing, elbow = rng.uniform(-42, -28), -sign * stride + rng.uniform(-8, 8), rng.uniform(5, 60)
            thigh, splay = sign * stride, rng.uniform(-2, 5)
            knee = rng.uniform(5, 25) if thigh < 0 else rng.uniform(10, 55)
        else:
            lift = rng.uniform(-40, 45) if free else rng.uniform(-42, -20)
            swing = rng.uniform(-70, 30) if free else rng.uniform(-30, 25)
            elbow = rng.uniform(5, 110) if free else rng.uniform(5, 75)
            thigh = rng.uniform(-60, 15) if free else rng.uniform(-20, 12)
            splay = rng.uniform(-2, 25 if free else 10)
            knee = rng.uniform(0, 70) if free else rng.uniform(0, 22)
        forearm: tuple[float, float, float] = (-0.7 * sign, 0, -0.7)
        if kind == "gesture":
            choice = rng.integers(4)
            if choice == 0:  # hand towards the hip, the elbow outwards
                lift, swing, elbow, forearm = rng.uniform(-12, 4), rng.uniform(5, 25), rng.uniform(70, 95), (0, sign, 0)
            elif choice == 1:  # arm raised
                lift, swing, elbow = rng.uniform(60, 110), rng.uniform(-25, 5), rng.uniform(5, 50)
            elif choice == 2:  # forearm across the body
                lift, swing, elbow = rng.uniform(-42, -32), rng.uniform(-30, -10), rng.uniform(70, 105)
                forearm = (-0.9 * sign, 0.3, -0.5)
        pose[bones[f"upperarm01.{side}"]] = rotation(X, swing) @ rotation(Y, -sign * lift)
        pose[bones[f"lowerarm01.{side}"]] = rotation_about(forearm, elbow)
        pose[bones[f"upperleg01.{side}"]] = rotation(X, thigh) @ rotation(Y, -sign * splay)
        pose[bones[f"lowerleg01.{side}"]] = rotation(X, knee)
    return pose
