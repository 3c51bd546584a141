from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reposedm_core.errors import InputError
from reposedm_core.pose import Pose, draw_joints, draw_pose
from reposedm_core.pose.skeleton import OPENPOSE_COLOURS, OPENPOSE_LIMBS


def _reference(joints: np.ndarray, height: int, width: int) -> np.ndarray:
    """One picture, every capsule against every pixel: what `draw_joints` must equal."""
    yy, xx = np.mgrid[:height, :width] + 0.5
    canvas = np.zeros((height, width, 3))

    def paint(a: np.ndarray, b: np.ndarray, radius: float, colour: np.ndarray) -> None:
        (ax, ay), (bx, by) = a, b
        squared = max((bx - ax) ** 2 + (by - ay) ** 2, 1e-12)
        along = np.clip(((xx - ax) * (bx - ax) + (yy - ay) * (by - ay)) / squared, 0, 1)
        distance = np.hypot(xx - ax - along * (bx - ax), yy - ay - along * (by - ay))
        alpha = np.clip(radius + 0.5 - distance, 0, 1)[..., None]
        canvas[:] = canvas * (1 - alpha) + alpha * colour

    colours = np.array(OPENPOSE_COLOURS, float)
    for i, (a, b) in enumerate(OPENPOSE_LIMBS):
        if joints[a, 2] > 0 and joints[b, 2] > 0:
            paint(joints[a, :2], joints[b, :2], 0.0102 * height, 0.6 * colours[i])
    for k in range(18):
        if joints[k, 2] > 0:
            paint(joints[k, :2], joints[k, :2], 0.0148 * height, colours[k])
    return canvas.transpose(2, 0, 1)


def _crowd(person: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    crowd = np.repeat(person[None].astype(np.float64), count, 0)
    crowd[..., :2] += np.random.default_rng(seed).normal(0, 10, crowd[..., :2].shape)
    return crowd


@pytest.mark.parametrize(("height", "width"), [(128, 96), (64, 40), (256, 176)])
def test_matches_a_plain_reference(person: np.ndarray, height: int, width: int) -> None:
    crowd = _crowd(person, 5) * [width / 96, height / 128, 1]
    crowd[1, 1, 2] = 0  # no neck: its four limbs go with it
    crowd[2, 5:, 2] = 0
    pictures = draw_joints(crowd, height, width)
    assert pictures.shape == (5, 3, height, width) and pictures.dtype == torch.uint8
    for picture, joints in zip(pictures.numpy(), crowd, strict=True):
        assert np.abs(picture - _reference(joints, height, width)).max() <= 0.502


def test_feature_colours_and_visibility(person: np.ndarray) -> None:
    picture = draw_joints(person[None], 128, 96)[0]
    assert picture[:, 17, 47].tolist() == list(OPENPOSE_COLOURS[0])  # the nose lies on (48, 18)
    alone = person * 0
    alone[4] = (30.5, 60.5, 1)
    picture = draw_joints(alone[None], 128, 96)[0]
    assert picture[:, 60, 30].tolist() == list(OPENPOSE_COLOURS[4])
    assert picture.any(0).sum() < 30  # a disc, no limb
    assert not draw_joints(person[None] * [1, 1, 0], 128, 96).any()


def test_half_pixel_convention() -> None:
    joints = np.zeros((1, 18, 3))
    joints[0, 0] = (48, 64, 1)  # the middle of a 96x128 picture: symmetric under both flips
    picture = draw_joints(joints, 128, 96)
    assert picture.any() and torch.equal(picture, picture.flip(-1)) and torch.equal(picture, picture.flip(-2))


def test_batch_consistency(person: np.ndarray) -> None:
    crowd = _crowd(person, 70)  # more than two chunks
    together = draw_joints(crowd, 128, 96)
    for i in (0, 31, 32, 69):
        assert torch.equal(together[i : i + 1], draw_joints(crowd[i : i + 1], 128, 96))
    assert torch.equal(together, draw_joints(crowd, 128, 96))
    assert draw_joints(crowd[:0], 128, 96).shape == (0, 3, 128, 96)


def test_arrays_tensors_and_inference_mode(person: np.ndarray) -> None:
    expected = draw_joints(person[None], 128, 96)
    tensor = torch.tensor(person)[None].requires_grad_()
    assert torch.equal(draw_joints(tensor, 128, 96), expected)
    with torch.inference_mode():
        assert torch.equal(draw_joints(torch.tensor(person)[None].bfloat16(), 128, 96), expected)


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        np.float64,
        (2, 18, 3),
        elements=st.floats(-1e38, 1e38) | st.floats(-50, 50) | st.sampled_from([np.nan, np.inf]),
    )
)
def test_any_numbers_draw_something_finite(joints: np.ndarray) -> None:
    pictures = draw_joints(joints, 24, 16)
    assert pictures.shape == (2, 3, 24, 16)
    joints[:, :, 2] = 0
    assert not draw_joints(joints, 24, 16).any()


def test_pose_of_one_body_equals_joints(person: np.ndarray) -> None:
    picture = draw_pose(Pose(person[None], 128, 96))
    assert picture.dtype == torch.float32 and picture.shape == (3, 128, 96)
    assert torch.equal(picture, draw_joints(person[None], 128, 96)[0].float() / 255)


def test_pose_of_several_people_with_hands_and_face(person: np.ndarray) -> None:
    second = person.copy()
    second[:, 0] += 30
    both = draw_pose(Pose(np.stack([person, second]), 128, 96))
    body = draw_pose(Pose(person[None], 128, 96))
    assert (both.any(0) & ~body.any(0)).any()

    angles = np.linspace(0, 6, 21)
    hand = np.stack([70 + 6 * np.cos(angles), 64 + 6 * np.sin(angles), np.ones(21)], -1)[None]
    face = np.zeros((1, 70, 3))
    face[0, 5] = (80.5, 10.5, 0.7)
    picture = draw_pose(Pose(person[None], 128, 96, face=face, left_hand=hand))
    added = (picture != body).any(0)
    assert picture[:, 10, 80].tolist() == [1, 1, 1]
    ys, xs = torch.nonzero(added, as_tuple=True)
    assert ((xs >= 62) & (ys >= 8) & (ys <= 72)).all() and added.sum() > 40
    right = draw_pose(Pose(person[None], 128, 96, face=face, right_hand=hand))
    assert torch.equal(picture, right)


def test_pose_is_letterboxed_into_another_size(person: np.ndarray) -> None:
    pose = Pose(person[None], 128, 96)
    picture = draw_pose(pose, 128, 160)
    assert torch.equal(picture[:, :, 32:128], draw_pose(pose))
    assert not picture[:, :, :32].any() and not picture[:, :, 128:].any()
    assert not draw_pose(Pose(np.zeros((0, 18, 3)), 8, 6)).any()


def test_exceptions(person: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"shape \(18, 3\)"):
        draw_joints(person, 128, 96)
    with pytest.raises(InputError, match="too small"):
        draw_joints(person[None], 0, 96)
    with pytest.raises(InputError, match="too small"):
        draw_pose(Pose(person[None], 128, 96), 128, 0)


def test_beats_the_plain_reference(person: np.ndarray) -> None:
    # A ratio within one run, so that a busy machine does not decide it; it is above ten on a quiet one.
    crowd = _crowd(person, 64)

    def seconds(draw: object, count: int) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            draw()
            times.append(time.perf_counter() - start)
        return min(times) / count

    fast = seconds(lambda: draw_joints(crowd, 128, 96), 64)
    slow = seconds(lambda: [_reference(joints, 128, 96) for joints in crowd[:2]], 2)
    assert fast < slow / 4
