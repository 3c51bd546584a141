"""A clip of one person who moves before a camera that stands still, with the exact correspondence of its frames.

The movement is a captured clip of `motions.npz`, whose frames differ by 15° or more, with frames turned in between.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from reposedm_core.errors import InputError
from training.data.clip import Clip
from training.synthetic import motion, rasteriser
from training.synthetic.backgrounds import render_background
from training.synthetic.body import Body
from training.synthetic.lights import sample_light
from training.synthetic.poses import Z, rotation
from training.synthetic.render import (
    DEPTH_SLACK,
    REST_SLACK,
    SUPERSAMPLING,
    Dressed,
    Figure,
    Garb,
    draw,
    sample_identity,
    target_cells,
)

BETWEEN = 4
"""Frames from one kept frame of a captured clip to the next."""


def movement(name: str, first: int, frames: int) -> np.ndarray:
    """(frames, 13, 3) rotation vectors of a captured clip from its kept frame `first` on.

    Raises:
        InputError: there is no such clip, or it is shorter.
    """
    with np.load(motion.FILE, allow_pickle=False) as file:
        names = file["names"].tolist()
        if name not in names:
            raise InputError(f"motion: there is no clip {name}; choose {', '.join(names)}.")
        kept = file["rotations"][file["clip"] == names.index(name)].astype(np.float64)[first:]
    times = np.arange(frames) / BETWEEN
    if not len(kept) or times[-1] > len(kept) - 1:
        raise InputError(
            f"motion: {name} has {max(0, (len(kept) - 1) * BETWEEN + 1)} frames from there; ask for fewer."
        )
    turns = [Slerp(np.arange(len(kept)), Rotation.from_rotvec(kept[:, joint]))(times) for joint in range(kept.shape[1])]
    return np.stack([turn.as_rotvec() for turn in turns], 1)


def render_clip(
    body: Body,
    seed: int,
    identity: int,
    vectors: np.ndarray,
    yaw: float = 0.0,
    height: int = 256,
    width: int = 192,
) -> Clip:
    """The person number `identity` of the data set `seed` in a movement (T, 13, 3), see `motion.retarget`.

    The light is one for all frames and for the source. `yaw`: turn of the whole body in degrees.
    """
    person, s = sample_identity(seed, identity), SUPERSAMPLING
    rng = np.random.default_rng([seed, identity, 1])
    standing = np.zeros_like(vectors[:1])
    rotations = np.stack([motion.retarget(each, body.bones, body.limbs) for each in (*standing, *vectors)])
    rotations[:, body.bones["root"]] = rotation(Z, yaw) @ rotations[:, body.bones["root"]]
    vertices, joints, stature = body.pose(person.phenotype, rotations.astype(np.float32))
    box, extent = rasteriser.bounds(vertices.reshape(-1, 3))
    centre, extent = 0.5 * (box[0] + box[1]), 2 * extent
    near = person.stature * rasteriser.CAMERA_DISTANCE / stature
    focal = np.float32(min(near, 0.95 / extent[1], 1.05 * width / height / extent[0]))
    garb, light = Garb(body, person), sample_light(rng, person.sun)
    background = render_background(person.background, height * s, width * s)
    figures = [
        Dressed(Figure(person, (v - centre).astype(np.float32), (j - centre).astype(np.float32)), garb)
        for v, j in zip(vertices, joints, strict=True)
    ]
    rows = [draw(body, figure, None, focal, light, background.copy(), height, width) for figure in figures]
    flow, seen = [], []
    for before, figure in zip(rows[1:], figures[2:], strict=False):
        target = target_cells(figure, None, focal, (height, width))
        asked = (*target, body.mesh.faces, body.mesh.rest, *before["source"], REST_SLACK, DEPTH_SLACK)
        found, visible = rasteriser.correspondence(*asked)
        flow.append(found)
        seen.append(visible == 2)
    pictures, poses = (np.stack([row[name] for row in rows]) for name in ("pictures", "openpose"))
    return Clip(pictures[1:], poses[1:], pictures[0], poses[0], np.stack(flow), np.stack(seen))
