"""What is no pose is refused in one clear sentence, and whatever is thrown at the parser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reposedm_core.errors import InputError
from reposedm_core.pose import load_pose_file, load_pose_text, parse_keypoints

CANVAS = {"canvas_height": 128, "canvas_width": 96}
BODY = [10.0, 20.0, 1.0] * 18


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"version": "ap10k", "animals": [], **CANVAS}, "animal pose"),
        ({"version": "ap10k", "animals": [[[1.0, 2.0, 1.0]] * 17], **CANVAS}, "animal pose"),
        ({"animals": [[10.0, 20.0, 1.0] * 17], "people": [], **CANVAS}, "animal pose"),
        ({"version": "ap10k", "people": [{"pose_keypoints_2d": BODY}], **CANVAS}, "animal pose"),
        ({"people": [], **CANVAS}, "nobody in this pose"),
        ([], "nobody in this pose"),
        ({"people": [{"pose_keypoints_2d": [0.0] * 54}], **CANVAS}, "nobody in this pose"),
        ({"people": [{"face_keypoints_2d": [5.0] * 210}], **CANVAS}, "nobody in this pose"),
        ({"nodes": [], "links": []}, "no 'people' list"),
        ([[1, 2, 3]], "this is no pose"),
        (7, "this is no pose"),
        (None, "this is no pose"),
        ({"people": 5}, "'people' is no list"),
        ({"people": [5]}, "person 0 has no 'pose_keypoints_2d' list"),
        ({"people": [{"pose_keypoints_2d": BODY[:-1]}]}, "frame 0, person 0 has a body of 53 values, which is not 17"),
        ({"people": [{"pose_keypoints_2d": [[1.0, 2.0, 1.0]] * 16}]}, "body of 16 points, which is not 17"),
        ({"people": [{"pose_keypoints_2d": [[1.0, 2.0, 1.0]] * 17 + [[1.0]]}]}, "points that are not all x, y, score"),
        ({"people": [{"pose_keypoints_2d": [[[1.0], 2.0, 1.0]] * 18}]}, "something in it that is no number"),
        ({"people": [{"pose_keypoints_2d": False}]}, "frame 0, person 0 has a body that is no list of numbers"),
        ([{"people": []}, {"people": 5}], "frame 1: 'people' is no list"),
        ([{"people": []}, 5], "frame 1: this is no pose"),
        ([{}, {"nodes": []}], "frame 1: this is no pose, its JSON has no 'people' list"),
        ([{}, {"people": [{"keypoints": BODY}], "canvas_height": -5, "canvas_width": 5}], "frame 1: the canvas"),
        ([{"people": []}, {"people": [{"keypoints": [0.3, 0.4, 1.0] * 18}]}], "frame 1: the coordinates are in 0..1"),
        ({"frames": 5}, "frame 0: this is no pose"),
        ({"people": [{"keypoints": BODY}] * 2001}, "there are 2,001 people in frame 0; up to 2,000"),
        ({"people": [{"pose_keypoints_2d": ["a"] * 54}]}, "something in it that is no number"),
        ({"people": [{"pose_keypoints_2d": [10**400] * 54}]}, "number that is too large"),
        ({"people": [{"pose_keypoints_2d": "12"}]}, "no list of numbers"),
        ({"people": [{"pose_keypoints_2d": [0.3, 0.4, 1.0] * 18}]}, "add canvas_width and canvas_height"),
        ({"people": [{"pose_keypoints_2d": [1e8, 4.0, 1.0] * 18}]}, "1 to 32768 pixels"),
        ({"people": [{"pose_keypoints_2d": BODY}], "canvas_height": -5, "canvas_width": 5}, "canvas is 5x-5"),
        ({"people": [{"pose_keypoints_2d": BODY}], "canvas_height": "x", "canvas_width": 5}, "must be"),
        (np.zeros((18, 3, 1, 1)), "are no pose"),
        ("not JSON at all", "this is no pose: it is no JSON"),
        ("", "this is no pose: it is no JSON"),
        ('"a text"', "JSON is a text"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_refused(data: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_keypoints(data, source="my input")
    message = str(caught.value)
    assert words in message and message.startswith("my input") and "\n" not in message


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "picture.json").write_bytes(b"\xff\xd8\xff\xe0 JPEG")
    (tmp_path / "cut.json").write_text('{"people": [')
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("gone.json", "cannot be read"),
        ("empty", "no file with a pose in this folder"),
        ("picture.json", "no text file"),
        ("cut.json", "cut.json: this is no pose: it is no JSON"),
    ):
        with pytest.raises(InputError, match=words):
            load_pose_file(tmp_path / name)


# ---- whatever is thrown at it

_NUMBERS = st.integers() | st.floats() | st.integers(-(10**400), 10**400)
_JSON = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.text(max_size=5),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=12,
)
_PART = (
    _JSON
    | st.sampled_from([34, 36, 51, 54, 63, 75, 210]).flatmap(
        lambda count: st.lists(st.none() | st.floats(-1e6, 1e6), min_size=count, max_size=count)
    )
    | st.lists(st.lists(_NUMBERS | st.none(), min_size=2, max_size=3) | st.none(), min_size=17, max_size=18)
)
_KEYS = st.sampled_from(
    [
        "pose_keypoints_2d",
        "face_keypoints_2d",
        "hand_left_keypoints_2d",
        "keypoints",
        "person_id",
        "foot_keypoints_2d",
        "keypoint_scores",
        "joints",
        "idx",
    ]
)
_FRAME = st.fixed_dictionaries(
    {},
    optional={
        "people": _JSON | st.lists(_JSON | st.dictionaries(_KEYS, _PART, max_size=3), max_size=3),
        "canvas_height": _JSON | st.integers(1, 2000),
        "canvas_width": _JSON | st.integers(1, 2000),
        "version": _JSON,
        "animals": _JSON,
        "image_size": _JSON | st.tuples(st.integers(-1, 2000), st.integers(-1, 2000)),
        "canvas_guessed": _JSON | st.sampled_from(["height", "width", "size"]),
    },
)
_DIALECTS = st.dictionaries(
    st.sampled_from(
        [
            "frames",
            "bodies",
            "instances",
            "instance_info",
            "predictions",
            "pose_landmarks",
            "keypoints",
            "left_hand_landmarks",
            "people",
            "0.jpg",
            "image_id",
            "width",
            "height",
        ]
    ),
    _JSON | _PART | st.lists(st.dictionaries(_KEYS, _PART, max_size=3), max_size=3) | st.lists(_FRAME, max_size=2),
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(_JSON | _FRAME | _DIALECTS | st.lists(_FRAME | _DIALECTS | st.none(), max_size=3))
@example({"people": [{"pose_keypoints_2d": [1e308, -1e308, 1.0] * 18}], "canvas_height": 9, "canvas_width": 9})
@example({"people": [{"pose_keypoints_2d": [1e-320, 0.5, 1e-320] * 18}], "canvas_height": 9, "canvas_width": 9})
@example({"people": [{"pose_keypoints_2d": BODY}], "canvas_height": float("inf"), "canvas_width": float("nan")})
def test_any_json_is_a_pose_or_an_input_error(data: Any) -> None:
    for given_data in (data, json.dumps(data) if not isinstance(data, str) else data):
        try:
            poses = parse_keypoints(given_data)
        except InputError:
            continue
        assert any(len(pose.joints) for pose in poses)
        for pose in poses:
            assert all(np.isfinite(part).all() for part in pose.parts)
            assert pose.joints.any(axis=(1, 2)).all()


@settings(max_examples=200, deadline=None)
@given(st.text() | st.binary())
def test_any_text_is_an_input_error(text: str | bytes) -> None:
    with pytest.raises(InputError):
        parse_keypoints(text)
    if isinstance(text, str):
        with pytest.raises(InputError):
            load_pose_text(text)
