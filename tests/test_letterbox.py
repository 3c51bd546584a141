"""Pictures and their points in another size: where a dot lies in a letterboxed picture, there lies its point."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reposedm_core.images import fit_image
from reposedm_core.letterbox import Letterbox
from reposedm_core.pose import Pose

SIDES = st.integers(24, 200)
SIZES = st.tuples(SIDES, SIDES)
PLACES = st.tuples(*[st.floats(0.3, 0.7)] * 2)
"""Parts of the width and the height."""


def dot(size: tuple[int, int], x: float, y: float, deviation: float) -> torch.Tensor:
    """A soft white dot on black, (1, 1, H, W) float64; pixel centres are at +0.5."""
    rows, columns = (torch.arange(side, dtype=torch.float64) + 0.5 for side in size)
    squares = (rows[:, None] - y).square() + (columns - x).square()
    return torch.exp(-squares / (2 * deviation**2))[None, None]


def middle(picture: torch.Tensor) -> np.ndarray:
    """x and y of the centre of what is bright."""
    light = picture[0, 0]
    return np.array(
        [float((light.sum(d) * (torch.arange(light.shape[1 - d]) + 0.5)).sum() / light.sum()) for d in (0, 1)]
    )


@given(SIZES, SIZES, PLACES)
def test_a_dot_lies_where_its_point_does(size, frame, place):
    x, y = place[0] * size[1], place[1] * size[0]
    letterbox = Letterbox(size, frame)
    fitted = letterbox.image(dot(size, x, y, min(size) / 16), border="constant")
    assert fitted.shape[-2:] == frame
    expected = letterbox.points(np.array([[x, y, 0.5]]))
    assert middle(fitted) == pytest.approx(expected[0, :2], abs=0.05)
    assert expected[0, 2] == 0.5, "only places move"


@given(SIZES, SIZES, PLACES)
def test_a_pose_goes_with_its_picture(size, frame, place):
    x, y = place[0] * size[1], place[1] * size[0]
    joints = np.zeros((1, 18, 3))
    joints[0, 0] = x, y, 1
    pose = Pose(joints, *size).resized(*frame)
    assert pose.joints[0, 0, :2] == pytest.approx(
        middle(fit_image(dot(size, x, y, min(size) / 16), *frame, "constant")), abs=0.05
    )
    assert pose.unfitted(*size).joints[0, 0, :2] == pytest.approx((x, y), abs=1e-2)


LARGE = st.tuples(*[st.integers(1, 8192)] * 2)


@given(LARGE, LARGE, st.lists(st.tuples(*[st.floats(-1e4, 1e4)] * 2), min_size=1))
def test_back_returns_the_points(size, frame, points):
    letterbox = Letterbox(size, frame)
    assert letterbox.back(letterbox.points(np.array(points))) == pytest.approx(np.array(points), abs=1e-6)


@given(LARGE, LARGE)
def test_the_whole_picture_is_in_the_frame_and_fills_it_one_way(size, frame):
    letterbox = Letterbox(size, frame)
    corners = letterbox.points(np.array([[0, 0], size[::-1]]))
    assert (corners[0] >= 0).all() and (corners[1] <= np.array(frame[::-1]) + 1e-6).all()
    assert (np.isclose(corners[1] - corners[0], frame[::-1])).any()
    left = np.array(frame[::-1]) - corners[1] - corners[0]
    assert ((left > -1e-6) & (left < 1 + 1e-6)).all(), "in the middle, or half a pixel before it"


def test_a_photograph_s_half_pixel():
    """A side of 85.33 pixels becomes 85: what was in its middle stays there, and a picture's pixels tell so."""
    letterbox = Letterbox((1500, 1000), (128, 96))
    assert (letterbox.inner, letterbox.corner) == ((128, 85), (0, 5))
    assert letterbox.points(np.array([[500.0, 750.0]]))[0] == pytest.approx([47.5, 64])


def test_what_is_around():
    image = torch.zeros(1, 3, 40, 40)
    image[..., 10:30, 10:30] = 1
    fitted = fit_image(image + 1, 80, 40)
    assert (fitted[0, 0, :, 20].round() - 1).nonzero().flatten().tolist() == list(range(30, 50))
    around = fit_image(image + 1, 80, 40, border="constant")
    assert torch.equal(around[..., 20:60, :], image + 1)
    assert not around[..., :20, :].any() and not around[..., 60:, :].any()
    assert (fitted[..., :20, :] == 1).all()


def test_the_size_that_it_has_is_left_alone():
    image = torch.rand(1, 3, 20, 30)
    assert fit_image(image, 20, 30) is image
