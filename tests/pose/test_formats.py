"""Files of other tools, in all their formats and orders of points; every file of tests/fixtures/poses is read here."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reposedm_core.errors import InputError
from reposedm_core.pose import Pose, load_pose_file, load_pose_text, openpose_to_coco, parse_keypoints
from reposedm_core.pose.parsing import BODIES, FORMATS
from reposedm_core.pose.parsing.files import SUFFIXES

FIXTURES = Path(__file__).parent.parent / "fixtures" / "poses"
HELP = Path(__file__).parent.parent.parent / "nodes" / "web" / "docs" / "RePoseDMLoadPose.md"
STANDING = load_pose_file(FIXTURES / "standing.json")[0].joints[0]
WALKER = load_pose_file(FIXTURES / "width_height_keys.json")[0].joints[0]

# File -> who is in its frames, its canvas (height, width), what of that is a guess, and words of the notes.
FILES: dict[str, tuple[Any, ...]] = {
    "standing": ([STANDING], (768, 512), "", []),
    "walk_without_canvas": ([WALKER + [40 * step, 0, 0] for step in range(4)], (404, 416), "size", ["416 × 404"]),
    "only_canvas_width": ([WALKER], (404, 512), "height", ["the height of the picture is not given; 512 × 404"]),
    "width_height_keys": ([WALKER], (768, 512), "", []),
    "width_height_keys_normalised": ([STANDING], (768, 512), "", []),
    "face_of_56": ([STANDING], (768, 512), "", ["frame 0, person 0 has a face of 168 values"]),
    "face_of_69": ([STANDING], (768, 512), "", ["frame 0, person 0 has a face of 207 values"]),
    "face_empty_string": ([STANDING], (768, 512), "", ["frame 0, person 0 has a face that is no list of numbers"]),
    "hand_of_20": ([STANDING], (768, 512), "", ["person 0 has a left hand of 60 values, which is not 21 points"]),
    "hand_of_21_nulls": ([STANDING], (768, 512), "", []),
    "alphapose_bodies": ([STANDING], (768, 512), "size", ["512 × 768 is guessed"]),
    "alphapose_list": ([STANDING, STANDING], (768, 512), "size", ["512 × 768 is guessed"]),
    "frames_key": ([STANDING, STANDING], (768, 512), "", []),
    "json_lines": ([STANDING, STANDING, STANDING], (768, 512), "", []),
    "openpose_editor_nested": ([STANDING], (768, 512), "", []),
    "openpose_editor_v1": ([STANDING], (768, 512), "", []),
    **{f"body_of_{points}": ([STANDING], (768, 512), "", []) for points in (19, 20, 24, 133, 135)},
    "false_right_wrist": ([STANDING], (768, 512), "", []),
    "five_frames_one_false_wrist": ([STANDING] * 5, (768, 512), "", []),
    "latin1": ([STANDING], (768, 512), "", []),
    "utf16": ([STANDING], (768, 512), "", []),
    "empty_list_frame": ([STANDING, None, STANDING], (768, 512), "", []),
    "empty_object_frame": ([STANDING, None, STANDING], (768, 512), "", []),
    "null_frame": ([STANDING, None, STANDING], (768, 512), "", []),
    "one_person_normalised": ([np.stack([STANDING, STANDING])], (768, 512), "", []),
    "points_as_objects": ([STANDING], (768, 512), "", []),
    "edit_normalised": ([STANDING], (768, 512), "", []),
}


def read(data: Any) -> tuple[list[Pose], list[str]]:
    notes: list[str] = []
    if isinstance(data, Path):
        return load_pose_file(data, note=notes.append), notes
    return parse_keypoints(data, note=notes.append), notes


def test_every_file_is_named_here() -> None:
    assert {path.stem for path in FIXTURES.iterdir()} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_file(name: str) -> None:
    people, size, guessed, words = FILES[name]
    poses, notes = read(FIXTURES / f"{name}.json")
    assert [(pose.height, pose.width, pose.guessed) for pose in poses] == [(*size, guessed)] * len(people)
    for pose, wanted in zip(poses, people, strict=True):
        if wanted is None:
            assert len(pose.joints) == 0
            continue
        wanted = np.reshape(wanted, (-1, 18, 3))
        assert len(pose.joints) == len(wanted) and not pose.face[..., 68:, :].any()
        # the false wrist is where the file has it; COCO has no neck, it is made of the shoulders
        same = np.arange(18) != (4 if "false" in name else 1 if name in ("alphapose_list", "body_of_133") else -1)
        np.testing.assert_allclose(pose.joints[:, same, :2], wanted[:, same, :2], atol=1e-3)
        assert (pose.joints[..., 2] > 0.85).all()
    assert len(notes) == len(words)
    for note, some in zip(notes, words, strict=True):
        assert some in note and note.startswith(f"{name}.json: ")


# ---- formats

COCO17 = openpose_to_coco(STANDING)
PAIRS = {"keypoints": COCO17[:, :2].tolist(), "keypoint_scores": [0.7] * 17, "bbox": [1, 2, 3, 4]}
ALPHAPOSE = {"category_id": 1, "keypoints": COCO17.reshape(-1).tolist(), "score": 2.5}
# MediaPipe's 33 landmarks: where COCO's joints are among them, all others at the nose
AMONG = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
LANDMARKS = [
    {"x": x / 512, "y": y / 768, "z": -0.3, "visibility": 0.9}
    for x, y, _ in (COCO17[AMONG.index(i) if i in AMONG else 0].tolist() for i in range(33))
]
SIZE = {"width": 512, "height": 768}
OPEN = {"people": [{"pose_keypoints_2d": STANDING.reshape(-1).tolist()}]}
DATA = {
    "AlphaPose, by file, of bodies": (
        {
            f"{i}.jpg": {"version": "AlphaPose v0.3", "bodies": [{"joints": STANDING.reshape(-1).tolist()}]}
            for i in range(3)
        },
        [1, 1, 1],
    ),
    "AlphaPose, by file, of people": ({"a.png": OPEN, "b.png": {"people": []}}, [1, 0]),
    "AlphaPose, by file, of lists": ({"a.png": [ALPHAPOSE, ALPHAPOSE]}, [2]),
    "AlphaPose, a list": ([{**ALPHAPOSE, "image_id": image, "idx": i} for i, image in enumerate("aabc")], [2, 1, 1]),
    "AlphaPose, scores apart": ([{"image_id": 3, "keypoints": COCO17[:, :2].tolist(), "kp_scores": [0.7] * 17}], [1]),
    "mmpose, people of a picture": ([PAIRS, PAIRS], [2]),
    "mmpose, a frame": ({"frame_id": 0, "instances": [PAIRS]}, [1]),
    "mmpose, frames": ([{"frame_id": i, "instances": [PAIRS] * i} for i in range(3)], [0, 1, 2]),
    "mmpose, a file of frames": ({"meta_info": {}, "instance_info": [{"frame_id": 1, "instances": [PAIRS]}]}, [1]),
    "mmpose, a file of people": ({"meta_info": {}, "instance_info": [PAIRS, PAIRS]}, [2]),
    "mmpose, Python": ({"visualization": [], "predictions": [[PAIRS, PAIRS], [], [PAIRS]]}, [2, 0, 1]),
    "MediaPipe": ({"pose_landmarks": LANDMARKS, **SIZE}, [1]),
    "MediaPipe, several": ({"poseLandmarks": [LANDMARKS, LANDMARKS], "image_size": [512, 768]}, [2]),
    "MediaPipe, of protobuf": ({"pose_landmarks": {"landmark": LANDMARKS}, **SIZE}, [1]),
    "MediaPipe, numbers": ({"people": [{"keypoints": [v for p in LANDMARKS for v in p.values()]}], **SIZE}, [1]),
    "frames by number": ({"frames": {"0": OPEN, "1": OPEN}}, [1, 1]),
    "frames with a size": ({"frames": [OPEN, {"people": []}], "canvas_width": 512, "canvas_height": 768}, [1, 0]),
    "frames of frames": ({"frames": [[OPEN], [], [OPEN]]}, [1, 0, 1]),
    "openpose-editor, people": ({**SIZE, "keypoints": [STANDING[:, :2].tolist()] * 2}, [2]),
    "openpose-editor, a list": ([{**SIZE, "keypoints": STANDING[:, :2].tolist()}] * 2, [1, 1]),
}


@pytest.mark.parametrize("name", DATA)
def test_format(name: str) -> None:
    data, people = DATA[name]
    for given in (data, json.loads(json.dumps(data))):
        poses, notes = read(given)
        assert [len(pose.joints) for pose in poses] == people
        assert {(pose.height, pose.width) for pose in poses} == {(768, 512)}
        assert bool(notes) == ("guessed" in "".join(notes)) == any(pose.guessed for pose in poses)
        for pose in poses:
            wanted = np.broadcast_to(STANDING[2:, :2], (len(pose.joints), 16, 2))
            np.testing.assert_allclose(pose.joints[:, 2:, :2], wanted, atol=1e-2)
    score = {"mmpose": 0.7, "AlphaPose, scores": 0.7, "MediaPipe": 0.9}
    expected = next((value for start, value in score.items() if name.startswith(start)), 1)
    assert next(pose for pose in poses if len(pose.joints)).joints[0, 4, 2] == pytest.approx(expected)


def test_mediapipe_hands_and_a_face_that_is_left_out() -> None:
    hand = [{"x": 0.3 + i / 100, "y": 0.4, "z": 0} for i in range(21)]
    face = LANDMARKS * 14
    (pose,), notes = read({"poseLandmarks": LANDMARKS, "leftHandLandmarks": hand, "faceLandmarks": face, **SIZE})
    np.testing.assert_allclose(pose.left_hand[0, :, 0], [512 * (0.3 + i / 100) for i in range(21)], rtol=1e-5)
    assert len(notes) == 1 and "person 0 has a face of 462 points" in notes[0]


def test_ids_of_people() -> None:
    for key, value, expected in (
        ("person_id", [4], 4),
        ("person_id", [-1], -1),
        ("idx", [3.0], 3),
        ("idx", 2, 2),
        ("track_id", 9, 9),
        ("person_id", "x", None),
        ("idx", [], None),
        ("idx", float("nan"), None),
        ("track_id", True, None),
    ):
        (pose,), _ = read({"people": [{**OPEN["people"][0], key: value}], **SIZE})
        assert pose.ids == (expected,), key


# ---- files


def test_packed_files_other_codings_and_endings(tmp_path: Path) -> None:
    text = json.dumps([{**OPEN, **SIZE}])
    lines = f"{json.dumps({**OPEN, **SIZE})}\n\n{{}}\n"
    written = {
        "a.JSON": text.encode(),
        "b.json.gz": gzip.compress(text.encode()),
        "c.jsonl": lines.encode(),
        "d.jsonl.gz": gzip.compress(lines.encode()),
        "e.json": text.encode("utf-16"),
        "f.json": text.encode("utf-16-le"),
        "g.json": text.encode("utf-16-be"),
        "h.json": text.encode("utf-32"),
        "i.json": text.encode("utf-8-sig"),
    }
    for name, data in written.items():
        (tmp_path / name).write_bytes(data)
        poses, _ = read(tmp_path / name)
        assert [len(pose.joints) for pose in poses] == ([1, 0] if "jsonl" in name else [1])
        np.testing.assert_allclose(poses[0].joints[0], STANDING)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gzip.compress(b"[" * 10_000, mtime=0)[:-20], "ends too early"),
        (b"\x1f\x8b\x08\x00\0\0\0\0\0\0\xff\xff", "damaged"),
        (b'{"people": []}\n{"people": ]}', r"no JSON \(Expecting value: line 2 column 12\)"),
        (b'{"people": [\n{}]}}', "no JSON"),
    ],
)
def test_damaged_files(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "pose.json").write_bytes(data)
    with pytest.raises(InputError, match=f"^pose.json: .*{words}"):
        load_pose_file(tmp_path / "pose.json")


def test_a_packed_file_that_grows_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reposedm_core.pose.parsing.files._MOST", 2**20)
    (tmp_path / "pose.json").write_bytes(gzip.compress(b" " * (2**20 + 1)))
    with pytest.raises(InputError, match=r"pose.json: it unpacks to more than 1 MiB"):
        load_pose_file(tmp_path / "pose.json")
    (tmp_path / "pose.json").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(InputError, match=r"pose.json: it has more than 1 MiB"):
        load_pose_file(tmp_path / "pose.json")


def test_a_folder_is_a_sequence_in_the_order_of_numbers(tmp_path: Path) -> None:
    for step in (2, 10, 1):
        walker = WALKER + [40 * step, 0, 0]
        (tmp_path / f"walk_{step}_keypoints.json").write_text(
            json.dumps({"people": [{"person_id": [5], "pose_keypoints_2d": walker.reshape(-1).tolist()}]})
        )
    (tmp_path / "walk_3_keypoints.json").write_text('{"people": []}')
    (tmp_path / "notes.txt").write_text("no pose")
    poses, notes = read(tmp_path)
    assert [pose.joints[0, 0, 0] if len(pose.joints) else None for pose in poses] == [188, 228, None, 548]
    assert len({(pose.height, pose.width) for pose in poses}) == 1 and len(notes) == 1
    (tmp_path / "walk_4_keypoints.json").write_text("{")
    with pytest.raises(InputError, match=r"walk_4_keypoints.json: this is no pose: it is no JSON"):
        load_pose_file(tmp_path)


def test_json_lines_as_text() -> None:
    line = json.dumps({**OPEN, **SIZE})
    assert [len(pose.joints) for pose in load_pose_text(f"{line}\nnull\n{line}")] == [1, 0, 1]


# ---- the help page


def test_the_help_page_has_the_same_tables() -> None:
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in HELP.read_text("utf-8").splitlines()
        if line.startswith("|")
    ]
    for each in FORMATS:
        assert (each.name, each.sign) in rows
    for body in BODIES:
        assert (str(body.points), body.name) in rows
    start = rows.index(("format", "recognised as"))
    assert len(rows[start : rows.index(("points", "order"))]) == len(FORMATS) + 2
    assert len(rows[rows.index(("points", "order")) :]) >= len(BODIES) + 2
    assert all(f"`{suffix}`" in HELP.read_text("utf-8") for suffix in SUFFIXES)
