"""The poses that the Pose Editor offers: what the command writes is what is shipped."""

from __future__ import annotations

import json

import numpy as np

from reposedm_core.pose.skeleton import OPENPOSE18
from training.synthetic import pose_presets
from training.synthetic.motion import JOINTS

POINT = {name: number for number, name in enumerate(OPENPOSE18)}


def test_the_shipped_file_is_what_the_command_writes():
    shipped = json.loads(pose_presets.OUT.read_text("utf-8"))
    made = pose_presets.presets()
    assert [pose["name"] for pose in shipped["poses"]] == [pose["name"] for pose in made]
    for one, other in zip(shipped["poses"], made, strict=True):
        np.testing.assert_allclose(one["joints"], other["joints"], atol=2e-4)
    assert "zlib license" in shipped["notice"] and "altered" in shipped["notice"]
    assert len(made) >= 30 and len({pose["name"] for pose in made}) == len(made)


def test_they_are_people_in_a_square_that_differ():
    joints = np.array([np.reshape(pose["joints"], (18, 3)) for pose in pose_presets.presets()])
    assert (joints[..., :2] >= 0.049).all() and (joints[..., :2] <= 0.951).all()
    assert (joints[..., 2].sum(1) >= 16).all()
    assert (joints[:, POINT["neck"], 1] < joints[:, [POINT["left_hip"], POINT["right_hip"]], 1].max(1)).all()
    apart = np.linalg.norm(joints[:, None, :, :2] - joints[None, :, :, :2], axis=-1).mean(-1)
    assert apart[~np.eye(len(joints), dtype=bool)].min() > 0.02


def test_a_person_who_stands_straight_faces_the_camera():
    points = pose_presets.skeleton(np.zeros((len(JOINTS), 3)))
    x, y, depth, score = points.T
    assert x[POINT["right_shoulder"]] < x[POINT["nose"]] < x[POINT["left_shoulder"]]
    assert y[POINT["nose"]] < y[POINT["neck"]] < y[POINT["left_hip"]] < y[POINT["left_knee"]] < y[POINT["left_ankle"]]
    assert depth[POINT["nose"]] < depth[POINT["left_ear"]] and (score == 1).all()
    turned = pose_presets.skeleton(np.zeros((len(JOINTS), 3)), 60)
    assert sorted(turned[[POINT["left_ear"], POINT["right_ear"]], 3]) == [0, 1], "the far ear is hidden"
