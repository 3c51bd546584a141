from __future__ import annotations

import numpy as np
import pytest
import torch

from reposedm_core.errors import InputError
from reposedm_core.pose import Pose, coco_to_openpose, fit_to_frame, openpose_to_coco
from reposedm_core.pose.skeleton import COCO17, NECK, OPENPOSE18


def test_conversion_by_name() -> None:
    coco = np.stack([np.arange(17) * 10.0, np.arange(17) * 3.0, np.linspace(0.2, 1, 17)], -1)
    converted = coco_to_openpose(coco)
    assert converted.shape == (18, 3)
    for i, name in enumerate(OPENPOSE18):
        if name != "neck":
            np.testing.assert_array_equal(converted[i], coco[COCO17.index(name)])
    left, right = coco[COCO17.index("left_shoulder")], coco[COCO17.index("right_shoulder")]
    np.testing.assert_allclose(converted[NECK], [*(left + right)[:2] / 2, min(left[2], right[2])])
    np.testing.assert_array_equal(openpose_to_coco(converted), coco)


def test_neck_needs_both_shoulders() -> None:
    coco = np.ones((2, 17, 3), np.float32)
    coco[0, 5, 2] = 0
    necks = coco_to_openpose(coco)[:, NECK]
    assert necks.tolist() == [[0, 0, 0], [1, 1, 1]]


def test_tensors_stay_tensors() -> None:
    coco = torch.rand(2, 4, 17, 3, generator=torch.Generator().manual_seed(0))
    converted = coco_to_openpose(coco)
    assert converted.shape == (2, 4, 18, 3) and converted.dtype == torch.float32
    np.testing.assert_allclose(converted.numpy(), coco_to_openpose(coco.numpy()))
    assert torch.equal(openpose_to_coco(converted), coco)


def test_conversion_exceptions() -> None:
    with pytest.raises(InputError, match="COCO needs"):
        coco_to_openpose(np.zeros((18, 3)))
    with pytest.raises(InputError, match="OpenPose needs"):
        openpose_to_coco(torch.zeros(17, 3))


def test_pose_cleans_absent_points(person: np.ndarray) -> None:
    person[3] = (5, 5, 0)
    person[4] = (np.nan, 5, 1)
    person[5] = (5, 5, -1)
    given = person.copy()
    pose = Pose(person[None], 128, 96)
    assert not pose.joints[0, 3:6].any() and pose.joints.dtype == np.float32
    np.testing.assert_array_equal(person, given)  # the caller's array is left alone
    assert pose.face.shape == (1, 70, 3) and pose.left_hand.shape == pose.right_hand.shape == (1, 21, 3)


def test_pose_exceptions(person: np.ndarray) -> None:
    with pytest.raises(InputError, match="canvas"):
        Pose(person[None], 0, 96)
    with pytest.raises(InputError, match=r"joints of a pose have shape \(1, 17, 3\)"):
        Pose(person[None, :17], 128, 96)
    with pytest.raises(InputError, match=r"face of a pose have shape \(1, 68, 3\)"):
        Pose(person[None], 128, 96, face=np.zeros((1, 68, 3)))


def test_select(person: np.ndarray) -> None:
    hands = np.zeros((2, 21, 3))
    hands[1, 0] = (1, 2, 0.5)
    pose = Pose(np.stack([person, person + [1, 0, 0]]), 128, 96, right_hand=hands)
    chosen = pose.select(1)
    np.testing.assert_array_equal(chosen.joints, pose.joints[1:])
    np.testing.assert_array_equal(chosen.right_hand, pose.right_hand[1:])
    assert (chosen.height, chosen.width) == (128, 96)
    for wrong in (2, -1):
        with pytest.raises(InputError, match="it has 2, counted from 0"):
            pose.select(wrong)


def test_resized_letterboxes(person: np.ndarray) -> None:
    person[9, 2] = 0
    face = np.zeros((1, 70, 3))
    face[0, 3] = (96, 128, 1)
    pose = Pose(person[None], 128, 96, face=face).resized(256, 400)
    assert (pose.height, pose.width) == (256, 400)
    np.testing.assert_allclose(pose.joints[0, 0], [48 * 2 + (400 - 192) / 2, 36, 1])
    np.testing.assert_allclose(pose.face[0, 3], [96 * 2 + 104, 256, 1])
    assert not pose.joints[0, 9].any() and not pose.face[0, 4].any()  # absent stays absent
    back = pose.resized(128, 96)  # of its 61.44 rows 61 whole ones, below 33
    np.testing.assert_allclose(np.ptp(back.joints[0, [1, 10], 1]), 2 * 61 / 256 * (112 - 30), rtol=1e-5)
    np.testing.assert_allclose(back.joints[0, 0], [48, 33 + 36 * 61 / 256, 1], rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(128, 96), (512, 100), (64, 500)])
def test_unfitted_undoes_resized(person: np.ndarray, height: int, width: int) -> None:
    pose = Pose(person[None], height, width)
    back = pose.resized(128, 96).unfitted(height, width)
    assert (back.height, back.width) == (height, width)
    np.testing.assert_allclose(back.joints, pose.joints, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(128, 96), (512, 100), (64, 500)])
def test_fit_to_frame(person: np.ndarray, height: int, width: int) -> None:
    person[:, :2] = person[:, :2] * 3.7 + (400, -900)
    fitted = fit_to_frame(Pose(person[None], 200, 2000), height, width, fill=0.8)
    assert (fitted.height, fitted.width) == (height, width)
    xy = fitted.joints[0, :, :2]
    low, high = xy.min(0), xy.max(0)
    np.testing.assert_allclose((low + high) / 2, [width / 2, height / 2], atol=1e-3)
    share = (high - low) / (width, height)
    assert share.max() == pytest.approx(0.8, abs=1e-4)
    before = np.ptp(person[:, :2], axis=0)
    assert (high - low)[0] / (high - low)[1] == pytest.approx(before[0] / before[1], rel=1e-4)


def test_fit_to_frame_edge_cases(person: np.ndarray) -> None:
    one = np.zeros((1, 18, 3))
    one[0, 0] = (7, 9, 1)
    np.testing.assert_allclose(fit_to_frame(Pose(one, 10, 10), 40, 20).joints[0, 0], [10, 20, 1])
    with pytest.raises(InputError, match="nobody"):
        fit_to_frame(Pose(one * 0, 10, 10), 40, 20)
    with pytest.raises(InputError, match="fill"):
        fit_to_frame(Pose(person[None], 128, 96), 128, 96, fill=0)
