"""What pose nodes make of poses that show nobody, do not tell their canvas, or have feet."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.nodes.people import CANVAS, EMPTY, PERSON, POINTS, flat, run


def test_nobody_found_is_a_black_picture_and_an_empty_frame(pack, output):
    (image,) = run(pack, "RePoseDMDrawPose", [EMPTY, EMPTY])
    assert image.shape == (2, 128, 96, 3) and not image.any()
    for data, size in (({"people": []}, {}), ([{}, None], {}), ({"people": []}, {"width": 20, "height": 10})):
        (image,) = run(pack, "RePoseDMDrawPose", data, **size)
        assert image.shape[1:] == ((10, 20, 3) if size else (64, 64, 3)) and not image.any()
    for person in (-1, 3):
        (frames,) = run(pack, "RePoseDMEditPose", [EMPTY, EMPTY], person, flip="canvas", joint="nose")
        assert frames == [EMPTY, EMPTY]
    (frames,) = run(pack, "RePoseDMSavePose", EMPTY)
    (file,) = output.rglob("*.json")
    assert frames == [EMPTY] == json.loads(file.read_text())


def test_guessed_canvases_give_way_to_known_ones(pack):
    raw = {"people": [{"pose_keypoints_2d": flat(POINTS + [100, 50])}]}
    moved = {"people": [{"pose_keypoints_2d": flat(POINTS + [104, 50])}], "canvas_height": 400, "canvas_width": 300}
    for pose, wanted in ((raw, moved), (moved, raw), (raw, raw)):
        *_, distance, _, over = run(pack, "RePoseDMPoseAccuracy", pose, wanted)
        assert distance == pytest.approx(0 if pose is wanted else 4, abs=1e-3)
        assert over.shape[1:3] == ((227, 296) if pose is wanted else (400, 300))
    picture = torch.zeros(1, 500, 350, 3)
    *_, distance, _, over = run(pack, "RePoseDMPoseAccuracy", raw, raw, image=picture)
    assert distance == pytest.approx(0, abs=1e-3) and over.shape[1:3] == (500, 350)
    assert over[0, 18 + 50, 48 + 100].any() and not over[0, 300:].any()  # in its own pixels
    person = pack.nodes.garment_transfer.pose_of(torch.zeros(1, 3, 500, 350), raw, None)
    assert (person.height, person.width) == (500, 350)
    np.testing.assert_allclose(person.joints[0, :, :2], POINTS + [100, 50])
    (frames,) = run(pack, "RePoseDMInterpolatePoses", raw, 3, end_pose=moved)
    assert {(frame["canvas_height"], frame["canvas_width"]) for frame in frames} == {(400, 300)}
    assert [frame["people"][0]["pose_keypoints_2d"][0] for frame in frames] == pytest.approx([148, 150, 152])
    (frames,) = run(pack, "RePoseDMRetargetPose", raw, moved, "proportions and size")
    np.testing.assert_allclose(
        frames[0]["people"][0]["pose_keypoints_2d"], raw["people"][0]["pose_keypoints_2d"], atol=0.01
    )


def test_comfyui_s_own_drawing_gets_the_feet(pack):
    from comfy_extras.nodes_sdpose import SDPoseDrawKeypoints

    feet = np.array([(70, 122), (75, 121), (52, 119), (30, 122), (25, 121), (42, 119)], float)
    (frames,) = run(pack, "RePoseDMEditPose", {"people": [{**PERSON, "foot_keypoints_2d": flat(feet)}], **CANVAS})
    shown, without = (
        SDPoseDrawKeypoints.execute(frames, False, False, False, draw, 4, 3, 0.3, False).args[0]
        for draw in (True, False)
    )
    assert not without.any() and all(shown[0, int(y), int(x)].any() for x, y in feet)
