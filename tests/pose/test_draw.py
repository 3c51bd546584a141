from __future__ import annotations

import colorsys
import time

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reposedm_core.errors import InputError
from reposedm_core.pose import STYLES, Pose, draw_joints, draw_pose, openpose_to_coco
from reposedm_core.pose.skeleton import (
    COCO17,
    COCO_LIMBS,
    HAND_LIMBS,
    HUMANSD_COLOURS,
    HUMANSD_LIMBS,
    OPENPOSE_COLOURS,
    OPENPOSE_LIMBS,
)


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


def _humansd(joints: np.ndarray, height: int, width: int, thickness: int = 10) -> np.ndarray:
    """One person (17, 3) as HumanSD's public code draws it, with OpenCV: a line, then a disc at both ends."""
    picture = np.zeros((height, width, 3), np.uint8)
    for (a, b), colour in zip(HUMANSD_LIMBS, HUMANSD_COLOURS, strict=True):
        ends = [tuple(int(value) for value in joints[k, :2]) for k in (a, b)]
        cv2.line(picture, *ends, colour, thickness)
        for end in ends:
            cv2.circle(picture, end, thickness // 2, colour, -1)
    return picture


@pytest.mark.parametrize(("height", "width"), [(512, 512), (768, 512), (512, 640)])
def test_humansd_style_is_what_its_public_code_draws(person: np.ndarray, height: int, width: int) -> None:
    crowd = _crowd(person, 1)[0] * [width / 96, height / 128, 1]
    crowd[:, :2] = crowd[:, :2].clip(8, np.array([width, height]) - 8)
    drawn = draw_pose(Pose(crowd[None], height, width), style="humansd").movedim(0, -1).numpy() * 255
    expected = _humansd(openpose_to_coco(crowd), height, width)
    # OpenCV fills its polygons in fixed-point numbers: pixels on an edge may differ, others not.
    assert (drawn != expected).any(-1).sum() < 0.05 * expected.any(-1).sum()
    edge = (cv2.dilate(expected, np.ones((3, 3))) != cv2.erode(expected, np.ones((3, 3)))).any(-1)
    np.testing.assert_array_equal(drawn[~edge], expected[~edge])
    assert {tuple(pixel) for pixel in drawn.reshape(-1, 3).astype(int)} <= {(0, 0, 0), *HUMANSD_COLOURS}


def test_humansd_colours() -> None:
    # seaborn.color_palette("hls", 16): its first two and its ninth.
    assert HUMANSD_COLOURS[0] == (219, 94, 86) and HUMANSD_COLOURS[1] == (219, 144, 86)
    assert HUMANSD_COLOURS[8] == (86, 211, 219) and len(set(HUMANSD_COLOURS)) == 16


def test_humansd_leaves_out_what_lies_outside(person: np.ndarray) -> None:
    person[[10, 13], 1] = 200  # both ankles
    pose = Pose(person[None], 128, 96)
    assert not draw_pose(pose, style="humansd")[:, 93:].any()
    assert draw_pose(pose, style="coco")[:, 100:].any()
    person[[10, 13], 2] = 0
    assert torch.equal(draw_pose(pose, style="humansd"), draw_pose(Pose(person[None], 128, 96), style="humansd"))


def test_coco_style_has_left_and_right_colours_and_no_neck(person: np.ndarray) -> None:
    picture = (draw_pose(Pose(person[None], 128, 96), style="coco") * 255).round()
    joints = dict(zip(COCO17, openpose_to_coco(person), strict=True))

    def colour(name: str, other: str) -> list[float]:
        x, y = (joints[name][:2] + joints[other][:2]) / 2
        return picture[:, int(y), int(x)].tolist()

    assert colour("left_hip", "left_knee") == colour("left_elbow", "left_wrist") == [0, 255, 0]
    assert colour("right_hip", "right_knee") == colour("right_elbow", "right_wrist") == [255, 128, 0]
    assert colour("left_shoulder", "right_shoulder") == colour("left_hip", "right_hip") == [51, 153, 255]
    alone = np.zeros((1, 18, 3))
    alone[0, 1] = (48, 30, 1)  # a neck
    for style in ("humansd", "coco"):
        assert not draw_pose(Pose(alone, 128, 96), style=style).any()
    assert len(COCO_LIMBS) == 19


def test_controlnet_style_has_the_sizes_of_its_preprocessors(person: np.ndarray) -> None:
    """Against OpenCV's ellipses, lines and discs in their sizes; the ends of limbs are theirs but for their taper."""
    joints = person * [4, 4, 1]
    hand = np.stack([300 + 9 * np.arange(21), 100 + 7 * np.arange(21) % 40, np.ones(21)], -1)
    face = np.zeros((70, 3))
    face[:3] = (200, 470, 1), (220, 480, 1), (240, 470, 1)
    drawn = draw_pose(Pose(joints[None], 512, 512, face[None], hand[None]), style="controlnet").movedim(0, -1).numpy()
    wanted = np.zeros((512, 512, 3), np.uint8)
    for (a, b), colour in zip(OPENPOSE_LIMBS, OPENPOSE_COLOURS, strict=False):
        if joints[a, 2] > 0 and joints[b, 2] > 0:
            along = joints[b, :2] - joints[a, :2]
            middle, angle = (joints[a, :2] + joints[b, :2]) / 2, int(np.degrees(np.arctan2(along[1], along[0])))
            axes = int(np.linalg.norm(along) / 2), 4
            outline = cv2.ellipse2Poly(middle.astype(int).tolist(), axes, angle, 0, 360, 1)
            cv2.fillConvexPoly(wanted, outline, [int(0.6 * channel) for channel in colour])
    for (x, y, score), colour in zip(joints, OPENPOSE_COLOURS, strict=True):
        if score > 0:
            cv2.circle(wanted, (int(x), int(y)), 4, colour, -1)
    for i, (a, b) in enumerate(HAND_LIMBS):
        colour = 255 * np.array(colorsys.hsv_to_rgb(i / 20, 1, 1))
        cv2.line(wanted, *hand[[a, b], :2].astype(int).tolist(), colour.tolist(), 2)
    for points, radius, colour in ((hand, 4, (0, 0, 255)), (face[:3], 3, (255, 255, 255))):
        for x, y, _ in points.astype(int).tolist():
            cv2.circle(wanted, (x, y), radius, colour, -1)
    one, other = (picture.max(-1) > 0.3 for picture in (drawn, wanted / 255))
    assert (one & other).sum() > 0.8 * (one | other).sum()
    assert np.abs(drawn - wanted / 255)[one & other].mean() < 0.05
    square, tall = (draw_pose(Pose(joints[None], height, 512), style="controlnet") for height in (512, 1024))
    assert torch.equal(tall[:, :512], square)  # the shorter side counts


@pytest.mark.parametrize("style", STYLES)
def test_every_style_draws_crowds_nobody_one_pixel_and_other_sizes(person: np.ndarray, style: str) -> None:
    crowd = Pose(_crowd(person, 20), 128, 96)
    thin, usual, thick = (draw_pose(crowd, style=style, line_width=width) for width in (0.5, 1, 2))
    assert torch.equal(usual, draw_pose(crowd, 128, 96, style))
    areas = [(picture > 0).any(0).sum() for picture in (thin, usual, thick)]
    assert areas == sorted(areas) and areas[0] < areas[2]
    assert not draw_pose(Pose(np.zeros((0, 18, 3)), 8, 6), style=style).any()
    assert draw_pose(Pose(person[None], 1, 1), style=style).shape == (3, 1, 1)
    assert draw_pose(crowd, 40, 56, style).shape == (3, 40, 56)
    far = crowd.joints + np.array([1e8, -1e8, 0])
    assert not draw_pose(Pose(far, 128, 96), style=style).any()


def test_exceptions(person: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"shape \(18, 3\)"):
        draw_joints(person, 128, 96)
    with pytest.raises(InputError, match="too small"):
        draw_joints(person[None], 0, 96)
    with pytest.raises(InputError, match="too small"):
        draw_pose(Pose(person[None], 128, 96), 128, 0)
    with pytest.raises(InputError, match=r"style: .*openpose, humansd, coco"):
        draw_pose(Pose(person[None], 128, 96), style="stick man")
    for width in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="line_width"):
            draw_pose(Pose(person[None], 128, 96), line_width=width)


def test_beats_the_plain_reference(person: np.ndarray) -> None:
    # A ratio within one run, so that a busy machine does not decide it; it is above ten on a quiet one.
    crowd = _crowd(person, 64)

    def seconds(draw: object, count: int) -> float:
        times = []
        for _ in range(3):
            start = time.process_time()
            draw()
            times.append(time.process_time() - start)
        return min(times) / count

    fast = seconds(lambda: draw_joints(crowd, 128, 96), 64)
    slow = seconds(lambda: [_reference(joints, 128, 96) for joints in crowd[:2]], 2)
    assert fast < slow / 4
