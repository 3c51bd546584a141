"""The canvas of poses whose file tells it, in part, under another name, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reposedm_core.errors import InputError
from reposedm_core.pose import Pose, agreed, interpolate_poses, load_pose_file, one_pose, parse_keypoints, to_keypoints

WALK = Path(__file__).parent.parent / "fixtures" / "poses" / "walk_without_canvas.json"


def frame(person: np.ndarray, **size: Any) -> dict[str, Any]:
    return {"people": [{"pose_keypoints_2d": person.reshape(-1).tolist()}], **size}


def sizes(poses: list[Pose]) -> list[tuple[int, int, str]]:
    return [(pose.height, pose.width, pose.guessed) for pose in poses]


def test_one_guess_for_a_whole_sequence_in_which_somebody_walks() -> None:
    notes: list[str] = []
    poses = load_pose_file(WALK, note=notes.append)
    assert sizes(poses) == [(404, 416, "size")] * 4 and len(notes) == 1
    noses = [float(pose.joints[0, 0, 0]) for pose in poses]
    assert noses == [148, 188, 228, 268]
    # so that what lies between walks evenly, too
    between = interpolate_poses(poses, 7)
    np.testing.assert_allclose([pose.joints[0, 0, 0] for pose in between], np.linspace(148, 268, 7), atol=1e-3)
    np.testing.assert_allclose([np.ptp(pose.joints[0, :, 1]) for pose in between], 276, atol=1e-3)


@pytest.mark.parametrize(
    "size",
    [
        {"canvas_height": 128, "canvas_width": 96},
        {"height": 128, "width": 96},
        {"image_height": 128, "image_width": 96},
        {"image_size": [96, 128]},
        {"image_size": (96.0, 128.0)},
        {"image_size": np.array([96, 128])},
        {"image_size": {"width": 96, "height": 128}},
        {"canvas_height": 0, "canvas_width": None, "image_size": [96, 128]},
    ],
)
def test_names_of_the_size(person: np.ndarray, size: dict[str, Any]) -> None:
    for scale in ([1, 1, 1], [96, 128, 1]):
        (pose,) = parse_keypoints(frame(person / scale, **size))
        assert sizes([pose]) == [(128, 96, "")]
        np.testing.assert_allclose(pose.joints[0], person, atol=1e-4)


def test_an_image_size_that_only_fits_as_height_and_width(person: np.ndarray) -> None:
    assert sizes(parse_keypoints(frame(person, image_size=[128, 96]))) == [(128, 96, "")]
    assert sizes(parse_keypoints(frame(person, image_size=[128, 130]))) == [(130, 128, "")]


@pytest.mark.parametrize("size", [[1], [1, 2, 3], "12", 7, {"width": "x", "height": 3}])
def test_an_image_size_that_is_none(person: np.ndarray, size: Any) -> None:
    if isinstance(size, dict):
        with pytest.raises(InputError, match="frame 0: canvas_width and canvas_height must be numbers"):
            parse_keypoints(frame(person, image_size=size))
    else:
        assert parse_keypoints(frame(person, image_size=size))[0].guessed == "size"


def test_frames_that_tell_nothing_have_the_canvas_of_those_that_do(person: np.ndarray) -> None:
    poses = parse_keypoints([frame(person), frame(person / [96, 128, 1]), frame(person, width=96, height=128)])
    assert sizes(poses) == [(128, 96, "")] * 3
    np.testing.assert_allclose(poses[1].joints[0], person, atol=1e-4)
    lines = {"frames": [frame(person), frame(person, width=50, height=200)], "width": 96, "height": 128}
    assert sizes(parse_keypoints(lines)) == [(128, 96, ""), (200, 50, "")]


def test_one_side_alone_is_used(person: np.ndarray) -> None:
    notes: list[str] = []
    read = parse_keypoints([frame(person, canvas_width=200), frame(person + [0, 10, 0])], note=notes.append)
    assert sizes(read) == [(137, 200, "height"), (137, 96, "size")]
    read = parse_keypoints([frame(person, canvas_width=200), frame(person, width=400, height=300)])
    assert sizes(read) == [(300, 400, ""), (300, 400, "")]
    np.testing.assert_allclose(read[0].joints[0], person * [2, 2, 1])
    assert len(notes) == 1 and "the height of the picture is not given; 200 × 137 is guessed" in notes[0]
    assert sizes(parse_keypoints(frame(person, height=300))) == [(300, 96, "width")]
    with pytest.raises(InputError, match="canvas size is missing"):
        parse_keypoints(frame(person / [96, 128, 1], width=96))


def test_width_and_height_overrule_the_data(person: np.ndarray) -> None:
    (pose,) = parse_keypoints(frame(person, width=96, height=128), height=300, width=200)
    assert sizes([pose]) == [(300, 200, "")]
    np.testing.assert_allclose(pose.joints[0], person)
    (pose,) = parse_keypoints(frame(person / [96, 128, 1]), height=256, width=192)
    np.testing.assert_allclose(pose.joints[0], person * [2, 2, 1], atol=1e-4)
    assert sizes(parse_keypoints(frame(person), height=200)) == [(200, 96, "width")]
    guessed = to_keypoints(parse_keypoints(frame(person)))
    assert sizes(parse_keypoints(guessed, height=200, width=100)) == [(200, 100, "")]


def test_a_picture_s_size_wins_over_a_guess_and_over_nothing_else(person: np.ndarray) -> None:
    notes: list[str] = []
    data = frame(person)
    once = parse_keypoints(data)
    for given in (data, to_keypoints(once), once, once[0]):
        (pose,) = parse_keypoints(given, picture=(200, 100), note=notes.append)
        assert sizes([pose]) == [(200, 100, "")] and notes == []
        np.testing.assert_allclose(pose.joints[0], person)
    assert sizes(parse_keypoints(frame(person, width=96, height=128), picture=(200, 100))) == [(128, 96, "")]
    (pose,) = parse_keypoints(frame(person / [96, 128, 1]), picture=(256, 192))
    np.testing.assert_allclose(pose.joints[0], person * [2, 2, 1], atol=1e-4)
    # where a side is told, the picture may be of another size
    (pose,) = parse_keypoints(frame(person, width=96), picture=(256, 192))
    np.testing.assert_allclose(pose.joints[0], person * [2, 2, 1], atol=1e-4)
    (pose,) = parse_keypoints(frame(person, height=64), picture=(256, 192))
    np.testing.assert_allclose(pose.joints[0], person * [4, 4, 1], atol=1e-4)
    assert sizes([one_pose(data, picture=(200, 100))]) == [(200, 100, "")]


def test_a_guess_is_marked_in_what_is_written_and_stays_one(person: np.ndarray) -> None:
    notes: list[str] = []
    poses = parse_keypoints(frame(person))
    data = to_keypoints(poses)
    assert data[0]["canvas_guessed"] == "size"
    again = parse_keypoints(data, note=notes.append)
    assert sizes(again) == sizes(poses) == [(127, 96, "size")] and notes == []
    assert "canvas_guessed" not in to_keypoints([again[0].resized(254, 192)])[0]
    assert sizes([again[0].take([0]).with_parts(*again[0].parts)]) == sizes(poses)


def test_a_marked_guess_gives_way_to_frames_that_know(person: np.ndarray) -> None:
    (guess,) = to_keypoints(parse_keypoints(frame(person)))
    (known, other) = parse_keypoints([guess, frame(person, width=200, height=300)])
    assert sizes([known, other]) == [(300, 200, "")] * 2
    np.testing.assert_allclose(known.joints, other.joints)


def test_points_far_out_do_not_make_the_guess(person: np.ndarray) -> None:
    person[10] = (1e7, 60, 1)
    assert sizes(parse_keypoints(frame(person))) == [(127, 96, "size")]


def test_canvases_that_are_compared(person: np.ndarray) -> None:
    known, guess = Pose(person[None], 300, 200), Pose(person[None], 130, 96, guessed="size")
    larger = Pose(person[None], 100, 150, guessed="size")
    assert [sizes(poses) for poses in agreed([guess, larger], [known])] == [[(300, 200, "")] * 2, [(300, 200, "")]]
    assert [sizes(poses) for poses in agreed([guess], [larger])] == [[(130, 150, "size")]] * 2
    other = Pose(person[None], 64, 64)
    assert [sizes(poses) for poses in agreed([known], [other])] == [[(300, 200, "")], [(64, 64, "")]]
    for poses in agreed([guess], [larger]):
        np.testing.assert_array_equal(poses[0].joints[0], person)
