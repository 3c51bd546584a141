"""Too much to draw or to match is refused before memory is taken, and every loop over frames can be stopped."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from reposedm_core.errors import InputError
from reposedm_core.metrics import match_by_oks, pose_accuracy
from reposedm_core.pose import (
    Pose,
    draw_comparison,
    draw_joints,
    draw_pose,
    fill_empty,
    interpolate_poses,
    match_people,
    parse_keypoints,
    retarget_pose,
    select_people,
    to_keypoints,
)
from reposedm_core.pose.limits import MOST_PEOPLE, MOST_PEOPLE_OF_ALL, MOST_PIXELS, check_people, check_pixels


@contextmanager
def peak(most: float) -> Iterator[None]:
    """NumPy takes at most so many megabytes at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most * 2**20
    finally:
        tracemalloc.stop()


def crowd(person: np.ndarray, count: int, seed: int = 0) -> Pose:
    places = np.random.default_rng(seed).permutation(count)[:, None, None] * np.array([7.0, 0, 0])
    return Pose(person[None] + places, 128, 32768)


def test_pictures_that_are_too_large(person: np.ndarray) -> None:
    pose = Pose(person[None], 32768, 32768)
    words = r"1 pictures of 32768 × 32768 are 1,073,741,824 pixels; up to 536,870,912 are drawn at once\. Give fewer"
    with peak(64):
        for draw in (
            lambda: draw_pose(pose),
            lambda: draw_joints(person[None], 32768, 32768),
            lambda: draw_comparison(pose, pose, [], 32768, 32768),
        ):
            with pytest.raises(InputError, match=words):
                draw()
        with pytest.raises(InputError, match=r"100000 pictures of 96 × 128"):
            draw_joints(np.zeros((100_000, 18, 3)), 128, 96)
    check_pixels("pose", 1, 16384, 16384)
    check_pixels("pose", MOST_PIXELS // 2**20, 1024, 1024)
    with pytest.raises(InputError, match=r"^pose: 513 pictures of 1024 × 1024"):
        check_pixels("pose", MOST_PIXELS // 2**20 + 1, 1024, 1024)


def test_a_large_picture_takes_its_own_memory_and_no_more(person: np.ndarray) -> None:
    pose = Pose(person[None], 128, 96)
    with peak(2.6 * 3 * 4 * 6):  # 6 million pixels of 3 floats
        large = draw_pose(pose, 3072, 2048)
    assert large.shape == (3, 3072, 2048)


@pytest.mark.parametrize("hard", [False, True])
def test_boxes_in_bands_give_the_same_bytes(person: np.ndarray, monkeypatch: pytest.MonkeyPatch, hard: bool) -> None:
    pose = Pose(np.stack([person, person + [20, 9, 0]]), 128, 96)
    style = "humansd" if hard else "openpose"
    whole = [draw_pose(pose, 256, 192, style, 3.0), draw_joints(pose.joints, 256, 192)]
    monkeypatch.setattr("reposedm_core.pose.draw._AT_ONCE", 300)
    banded = [draw_pose(pose, 256, 192, style, 3.0), draw_joints(pose.joints, 256, 192)]
    assert all(one.equal(other) for one, other in zip(whole, banded, strict=True))


def test_many_people_are_matched_in_little_memory(person: np.ndarray) -> None:
    one, other = crowd(person, 600), crowd(person, 600, 1)
    with peak(120):
        pairs = match_people(one, other)
        by_oks = match_by_oks(other, one)
    noses = [pose.joints[:, 0, 0] for pose in (one, other)]
    for found in (pairs, by_oks):
        assert len(found) == 600 and all(noses[0][i] == noses[1][j] for i, j in found)


def test_too_many_people(person: np.ndarray) -> None:
    few, many = crowd(person, 3), crowd(person, 3000)
    words = "there are 3,000 people in frame {}; up to 2,000 in a frame can be handled"
    with peak(64):
        for one, other, frame in ((many, few, 0), (few, many, 1)):
            with pytest.raises(InputError, match=words.format(frame)):
                match_people(one, other)
            with pytest.raises(InputError, match=words.format(frame)):
                match_by_oks(one, other)
    with pytest.raises(InputError, match=r"^pose: there are 2,001 people in frame 1"):
        parse_keypoints([Pose(person[None], 128, 96), Pose(np.repeat(person[None], 2001, 0), 128, 96)])
    check_people("pose", [MOST_PEOPLE] * (MOST_PEOPLE_OF_ALL // MOST_PEOPLE))
    with pytest.raises(InputError, match=r"^pose: there are 252,000 people in 126 frames; up to 250,000 in all"):
        check_people("pose", [MOST_PEOPLE] * 126)
    with pytest.raises(InputError, match=r"^frames: there are 300,000 people in 100,000 frames"):
        interpolate_poses([few, few], 100_000)


class Stop(BaseException):
    """As the host's own."""


def asked(after: int) -> Callable[[], None]:
    """Raises when it is asked for the time after."""
    left = [after]

    def tick() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stop

    return tick


LOOPS = {
    "parse": lambda poses, tick: parse_keypoints(to_keypoints(poses), tick=tick),
    "parse poses": lambda poses, tick: parse_keypoints(poses, tick=tick),
    "write": lambda poses, tick: to_keypoints(poses, tick=tick),
    "select": lambda poses, tick: select_people(poses, tick=tick),
    "follow": lambda poses, tick: select_people(poses, follow=True, tick=tick),
    "retarget": lambda poses, tick: retarget_pose(poses, poses[:1], tick=tick),
    "retarget each": lambda poses, tick: retarget_pose(poses, poses[:1], together=False, tick=tick),
    "interpolate": lambda poses, tick: interpolate_poses(poses[:2], len(poses), tick=tick),
    "match": lambda poses, tick: interpolate_poses([*poses, *poses], 1, tick=tick),
    "fill": lambda poses, tick: fill_empty([poses[0], *(pose.take([]) for pose in poses), poses[0]], tick=tick),
    "judge": lambda poses, tick: pose_accuracy(poses, poses, tick=tick),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops_ask_in_every_frame(whole: Pose, name: str) -> None:
    poses = [whole] * 12
    for after in (0, 5, 11):
        with pytest.raises(Stop):
            LOOPS[name](poses, asked(after))
    LOOPS[name](poses, asked(1000))
