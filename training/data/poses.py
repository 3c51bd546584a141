"""Joint-limited random poses for the Anny skeleton.

Angles are degrees; a pose is one rotation matrix a bone, relative to the parent, in axes parallel to the
model's rest axes (x left, y backwards, z up). The rest pose is an A-pose: arms hang about 45° from the body.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

X, Y, Z = range(3)


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
    """Turn of the whole body: within ±100° (front and sides), in 8 % of the pictures anything (backs)."""
    return float(rng.uniform(-180, 180) if rng.random() < 0.08 else rng.uniform(-100, 100))


def sample_pose(rng: np.random.Generator, bones: Mapping[str, int]) -> np.ndarray:
    """One pose, (bones, 3, 3) float32: standing (45 %), walking (25 %) or free (30 %)."""
    kind = rng.choice(["standing", "walking", "free"], p=[0.45, 0.25, 0.30])
    free = kind == "free"
    pose = np.tile(np.eye(3), (len(bones), 1, 1))

    pose[bones["root"]] = rotation(Z, sample_yaw(rng))
    pose[bones["spine03"]] = (
        rotation(Z, rng.uniform(-15, 15)) @ rotation(X, rng.uniform(-8, 12)) @ rotation(Y, rng.uniform(-8, 8))
    )
    pose[bones["neck01"]] = rotation(Z, rng.uniform(-25, 25)) @ rotation(X, rng.uniform(-8, 10))

    stride = rng.uniform(12, 32) * rng.choice([-1, 1])  # walking: opposite arm and leg swing together
    for side, sign in (("L", 1), ("R", -1)):
        if kind == "walking":
            lift, swing, elbow = (
                rng.uniform(-42, -28),
                -sign * stride + rng.uniform(-8, 8),
                rng.uniform(5, 60),
            )
            thigh, splay = sign * stride, rng.uniform(-2, 5)
            knee = rng.uniform(5, 25) if thigh < 0 else rng.uniform(10, 55)
        else:
            lift = rng.uniform(-40, 45) if free else rng.uniform(-42, -20)
            swing = rng.uniform(-70, 30) if free else rng.uniform(-30, 25)
            elbow = rng.uniform(5, 110) if free else rng.uniform(5, 75)
            thigh = rng.uniform(-60, 15) if free else rng.uniform(-20, 12)
            splay = rng.uniform(-2, 25 if free else 10)
            knee = rng.uniform(0, 70) if free else rng.uniform(0, 22)
        pose[bones[f"upperarm01.{side}"]] = rotation(X, swing) @ rotation(Y, -sign * lift)
        pose[bones[f"lowerarm01.{side}"]] = rotation_about((-0.7 * sign, 0, -0.7), elbow)
        pose[bones[f"upperleg01.{side}"]] = rotation(X, thigh) @ rotation(Y, -sign * splay)
        pose[bones[f"lowerleg01.{side}"]] = rotation(X, knee)
    return pose.astype(np.float32)
