"""A person for the tests of pose nodes, and how a node is run in this process."""

from __future__ import annotations

import numpy as np
import torch

POINTS = np.array([
    (48, 18), (48, 30), (38, 30), (32, 45), (30, 60), (58, 30), (64, 45), (66, 60), (42, 62), (40, 88), (38, 112),
    (54, 62), (56, 88), (58, 112), (45, 15), (51, 15), (41, 17), (55, 17),
], float)  # fmt: skip
CANVAS = {"canvas_height": 128, "canvas_width": 96}


def flat(points, score=1.0, scale=(1, 1)):
    return [float(v) for x, y in points for v in (x / scale[0], y / scale[1], score)]


PERSON = {"pose_keypoints_2d": flat(POINTS)}
EMPTY = {"people": [], **CANVAS}


def run(pack, node, *inputs, **others):
    """Results of a node whose other widgets have their defaults, under inference mode as ComfyUI runs it."""
    kind = next(kind for kind in pack.nodes.NODES if kind.define_schema().node_id == node)
    schema = kind.define_schema()
    values = {each.id: each.default for each in schema.inputs if getattr(each, "default", None) is not None}
    values |= dict(zip((each.id for each in schema.inputs), inputs, strict=False)) | others
    with torch.inference_mode():
        return kind.execute(**values).args
