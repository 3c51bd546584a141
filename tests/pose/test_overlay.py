from __future__ import annotations

import numpy as np
import pytest
import torch

from reposedm_core.errors import InputError
from reposedm_core.pose import Pose, draw_comparison
from reposedm_core.pose.overlay import DIMMED, ERROR, FOUND, WANTED


def at(picture: torch.Tensor, x: float, y: float) -> list[int]:
    return (picture[:, int(y), int(x)] * 255).round().int().tolist()


def test_joints_and_the_lines_between_them(person: np.ndarray) -> None:
    wanted = Pose(person[None] * [4, 4, 1], 512, 384)
    found = Pose(wanted.joints + np.array([30, 0, 0]), 512, 384)
    picture = draw_comparison(wanted, found, [(0, 0)], 512, 384)
    assert picture.shape == (3, 512, 384)
    for x, y, _ in wanted.joints[0, [4, 7, 10, 13]]:  # wrists and ankles: nothing else near
        assert at(picture, x - 4, y) == list(WANTED) and at(picture, x + 34, y) == list(FOUND)
        assert at(picture, x + 15, y) == list(ERROR)
    unmatched = draw_comparison(wanted, found, [], 512, 384)
    assert not (unmatched == torch.tensor(ERROR)[:, None, None] / 255).all(0).any()


def test_absent_joints_have_no_line_and_the_neck_is_not_drawn(person: np.ndarray) -> None:
    wanted = np.zeros((1, 18, 3))
    wanted[0, [1, 4]] = [(100, 20, 1), (100, 100, 1)]
    found = np.zeros((1, 18, 3))
    found[0, 7] = (160, 100, 1)
    picture = draw_comparison(Pose(wanted, 256, 256), Pose(found, 256, 256), [(0, 0)], 256, 256)
    assert at(picture, 100, 100) == list(WANTED) and at(picture, 160, 100) == list(FOUND)
    assert not picture[:, :60].any() and not picture[:, 100, 110:150].any()


def test_over_a_picture_of_another_size(person: np.ndarray) -> None:
    behind = torch.full((3, 64, 48), 0.5)
    picture = draw_comparison(Pose(person[None], 128, 96), Pose(person[:0].reshape(0, 18, 3), 1, 1), [], 64, 48, behind)
    assert at(picture, 0, 0) == [round(DIMMED * 0.5 * 255)] * 3
    assert at(picture, *(person[13, :2] / 2)) == list(WANTED)
    with pytest.raises(InputError, match="shape"):
        draw_comparison(Pose(person[None], 128, 96), Pose(person[None], 128, 96), [], 64, 49, behind)
    assert draw_comparison(Pose(person[None], 1, 1), Pose(person[None], 128, 96), [(0, 0)], 1, 1).shape == (3, 1, 1)
