"""The Pose Editor's Python half: which pose goes out, on which canvas, and what the widget is told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from reposedm_core import Pose
from reposedm_core.pose import load_pose_file, parse_keypoints, to_keypoints
from reposedm_core.pose.keypoints import PARTS
from workflows.comfy_server import ROOT

FIXTURES = ROOT / "tests" / "fixtures" / "poses"

COUNTS = {"pose_keypoints_2d": 18, "face_keypoints_2d": 70, "hand_left_keypoints_2d": 21, "hand_right_keypoints_2d": 21}


@pytest.fixture
def node(pack, monkeypatch, tmp_path):
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    return pack.nodes.editor.PoseEditor


@pytest.fixture
def incoming():
    """Two people on 120 x 90, the second with a face and hands, and one hidden joint."""
    random = np.random.default_rng(0)

    def points(number):
        return np.concatenate([random.uniform(5, 85, (2, number, 2)), np.ones((2, number, 1))], -1)

    body, face, left, right = points(18), points(70), points(21), points(21)
    body[0, 4] = face[0] = left[0] = right[0] = 0
    return Pose(body, 120, 90, face, left, right)


@pytest.fixture
def error(pack):
    """The pack's own class: its core is another copy than the one that the tests import."""
    return pack.nodes.editor.InputError


def run(node, width=768, height=1024, **inputs):
    """The frames that go out, and what the page is told."""
    output = node.execute(width=width, height=height, **inputs)
    assert len(output.args) == 1
    return output.args[0], output.ui


def saved(pose, **changes):
    return json.dumps({**to_keypoints(pose)[0], **changes})


def same(frame, pose):
    assert (frame["canvas_height"], frame["canvas_width"]) == (pose.height, pose.width)
    (found,) = parse_keypoints([frame])
    for part in PARTS:
        np.testing.assert_allclose(getattr(found, part), getattr(pose, part), atol=1e-3)


def test_nothing_connected_gives_a_standing_person(node):
    (frame,), ui = run(node, width=300, height=200)
    assert (frame["canvas_width"], frame["canvas_height"]) == (300, 200)
    (person,) = frame["people"]
    assert {part: len(values) // 3 for part, values in person.items()} == COUNTS
    x, y, score = np.reshape(person["pose_keypoints_2d"], (18, 3)).T
    assert (score == 1).all() and (x > 75).all() and (x < 225).all() and (y > 0).all() and (y < 200).all()
    assert np.reshape(person["hand_left_keypoints_2d"], (21, 3))[:, 2].all() and not any(person["face_keypoints_2d"])
    assert x[2] < x[1] < x[5], "the person faces the camera: the right shoulder is on the left of the picture"
    assert y[0] < y[1] < y[8] < y[9] < y[10]
    assert ui == {"pose_editor_start": [frame], "pose_editor_picture": []}


def test_the_pose_that_comes_in_goes_out_with_all_its_frames(node, incoming):
    nobody = {"people": [], "canvas_width": 90, "canvas_height": 120}
    frames, ui = run(node, pose=[nobody, *to_keypoints(incoming)])
    assert len(frames) == 2 and frames[0]["people"] == []
    same(frames[1], incoming)
    assert ui["pose_editor_start"] == frames, "the widget shows all of them"


def test_the_edit_wins_and_the_widget_still_learns_what_came_in(node, incoming):
    edited = Pose(incoming.joints + np.float32([3, -2, 0]) * (incoming.joints[..., 2:] > 0), 120, 90)
    frames, ui = run(node, pose=to_keypoints(incoming), edit=saved(edited))
    assert len(frames) == 1
    same(frames[0], edited)
    assert not frames[0]["people"][0]["pose_keypoints_2d"][14], "a hidden joint stays hidden"
    same(ui["pose_editor_start"][0], incoming)


def test_an_edited_sequence_goes_out_frame_by_frame(node, incoming):
    nobody = {"people": [], "canvas_width": 90, "canvas_height": 120}
    moved = Pose(incoming.joints + np.float32([3, -2, 0]) * (incoming.joints[..., 2:] > 0), 120, 90)
    edit = json.dumps([*to_keypoints(incoming), nobody, *to_keypoints(moved)])
    frames, ui = run(node, pose=to_keypoints(incoming), image=torch.rand(1, 240, 180, 3), edit=edit)
    assert len(frames) == 3 and frames[1]["people"] == [] and len(ui["pose_editor_start"]) == 1
    same(frames[0], incoming.resized(240, 180))
    same(frames[2], moved.resized(240, 180))


def test_a_hidden_joint_that_keeps_its_place_is_absent(node, incoming):
    frame = to_keypoints(incoming)[0]
    frame["people"][0]["pose_keypoints_2d"][6:9] = [40.0, 30.0, 0]
    (out,), _ = run(node, edit=json.dumps(frame), width=90, height=120)
    assert out["people"][0]["pose_keypoints_2d"][6:9] == [0, 0, 0]


@pytest.mark.parametrize("edit", [False, True])
def test_the_picture_is_the_canvas(node, incoming, edit, tmp_path):
    image = torch.rand(2, 60, 80, 3)
    (frame,), ui = run(node, image=image, pose=to_keypoints(incoming), edit=saved(incoming) if edit else "")
    same(frame, incoming.resized(60, 80))
    (picture,) = ui["pose_editor_picture"]
    assert picture["type"] == "temp"
    shown = np.asarray(Image.open(tmp_path / picture["subfolder"] / picture["filename"]))
    assert np.abs(shown / 255 - image[0].numpy()).max() < 0.01, "the first picture of the batch"


def test_without_inputs_the_edit_is_fitted_to_the_canvas(node, incoming):
    (frame,), _ = run(node, width=45, height=60, edit=saved(incoming))
    same(frame, incoming.resized(60, 45))


@pytest.mark.parametrize(
    "image",
    [torch.rand(1, 1, 1, 3), torch.rand(1, 40, 30, 1), torch.rand(1, 40, 30, 4)],
    ids=["1x1", "grey", "with alpha"],
)
def test_odd_pictures(node, image):
    (frame,), ui = run(node, image=image)
    assert (frame["canvas_height"], frame["canvas_width"]) == image.shape[1:3]
    assert len(ui["pose_editor_picture"]) == 1


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("not a pose", "edit: this is no pose: it is no JSON"),
        ("[]", "edit: there is nobody"),
        ('{"people": []}', "edit: there is nobody"),
        ('{"a": 1}', "edit: this is no pose, its JSON"),
        (
            '{"people": [{"pose_keypoints_2d": [1, 2, 3]}], "canvas_width": 9, "canvas_height": 9}',
            "person 0 has a body",
        ),
        ('{"people": [{"pose_keypoints_2d": "x"}], "canvas_width": 9, "canvas_height": 9}', "no list of numbers"),
    ],
)
def test_nonsense_is_refused(node, error, edit, message):
    with pytest.raises(error, match=message) as refusal:
        run(node, edit=edit)
    assert "press Reset in the Pose Editor" in str(refusal.value)


def test_everything_hidden_is_nobody(node, error, incoming):
    hidden = to_keypoints(incoming)[0]
    for person in hidden["people"]:
        person["pose_keypoints_2d"][2::3] = [0] * 18
    with pytest.raises(error, match="nobody"):
        run(node, edit=json.dumps(hidden))


@pytest.mark.parametrize(
    ("pose", "size"),
    [
        ([{"people": [], "canvas_width": 90, "canvas_height": 120}] * 2, (120, 90)),
        ({"people": []}, (200, 300)),
    ],
)
def test_a_pose_with_nobody_opens_with_the_standing_person(pack, node, pose, size):
    standing = pack.nodes.editor.STANDING
    frames, ui = run(node, pose=pose, width=300, height=200)
    assert len(frames) == 1 and ui["pose_editor_start"] == frames and ui["pose_editor_nobody"] == [True]
    same(frames[0], standing.resized(*size))
    (frame,), _ = run(node, pose=pose, image=torch.rand(1, 60, 80, 3))
    same(frame, standing.resized(60, 80))
    edited = Pose(np.array(standing.joints) + np.float32([1, 2, 0]), 128, 96)
    (frame,), _ = run(node, pose=pose, width=300, height=200, edit=saved(edited))
    same(frame, edited.resized(*size))


def test_a_guessed_canvas_gives_way_to_the_picture(node, incoming):
    raw = {"people": to_keypoints(incoming)[0]["people"]}
    (frame,), ui = run(node, pose=raw)
    assert frame["canvas_guessed"] == "size" and ui["pose_editor_start"] == [frame]
    for pose in (raw, frame):
        (placed,), ui = run(node, pose=pose, image=torch.rand(1, 200, 150, 3))
        same(placed, Pose(incoming.joints, 200, 150, *incoming.parts[1:]))
        assert "canvas_guessed" not in placed and ui["pose_editor_start"] == [placed]
    for edit in (frame, {**frame, "canvas_guessed": ""}):
        (edited,), _ = run(node, pose=raw, edit=json.dumps(edit))
        assert edited["canvas_guessed"] == "size", "the edit is on the guessed canvas"
    (placed,), _ = run(node, pose=raw, edit=json.dumps(frame), image=torch.rand(1, 200, 150, 3))
    same(placed, Pose(incoming.joints, 200, 150, *incoming.parts[1:]))


def test_an_edit_in_0_to_1_is_scaled(node):
    text = (FIXTURES / "edit_normalised.json").read_text()
    (frame,), _ = run(node, width=256, height=384, edit=text)
    (standing,) = load_pose_file(FIXTURES / "standing.json")
    same(frame, standing.resized(384, 256))
    without = json.dumps({"people": json.loads(text)["people"]})
    (frame,), _ = run(node, width=256, height=384, edit=without)
    same(frame, standing.resized(384, 256))


def test_feet_and_ids_go_through(node, incoming):
    feet = np.random.default_rng(1).uniform((5, 5, 0.5), (85, 85, 1), (2, 6, 3))
    pose = Pose(incoming.joints, 120, 90, *incoming.parts[1:4], feet, (3, None))
    for inputs in ({"pose": to_keypoints(pose)}, {"edit": saved(pose), "width": 90, "height": 120}):
        (frame,), _ = run(node, **inputs)
        same(frame, pose)
        assert parse_keypoints(frame)[0].ids == (3, None)


def test_twenty_people(node):
    many = Pose(np.random.default_rng(0).uniform(1, 400, (20, 18, 3)), 512, 512)
    (frame,), _ = run(node, pose=to_keypoints(many), edit=saved(many))
    assert len(frame["people"]) == 20


def test_tables_that_the_widget_gets(pack, node):
    from comfy_api.latest import io

    (edit,) = (field for field in node.define_schema().inputs if field.id == "edit")
    assert isinstance(edit, io.String.Input) and edit.get_io_type() == "STRING", "a text for every other client"
    options = json.loads(json.dumps(edit.as_dict()))
    skeleton = options["skeleton"]
    assert options["widgetType"] == pack.nodes.editor.WIDGET and options["socketless"]
    assert len(skeleton["names"]) == len(skeleton["colours"]) == len(skeleton["flip"]) == 18
    assert len(skeleton["limbs"]) == 17 and len(skeleton["handLimbs"]) == 20
    for flip in (skeleton["flip"], skeleton["faceFlip"], skeleton["footFlip"]):
        assert [flip[flip[i]] for i in range(len(flip))] == list(range(len(flip)))
    assert len(skeleton["faceFlip"]) == 70
    (figure,) = parse_keypoints([skeleton["figure"]])
    for part, points in zip(PARTS, figure.parts, strict=True):
        assert (points[..., 2] == 1).all() and (points[..., 0] > 0).all() and (points[..., 0] < 96).all(), part
    mirrored = figure.face[0] * (-1, 1, 1) + (96, 0, 0)
    np.testing.assert_allclose(mirrored[skeleton["faceFlip"]], figure.face[0], atol=1e-4)
    hands = [np.hypot(*(hand[0, 4] - hand[0, 20])[:2]) for hand in (figure.left_hand, figure.right_hand)]
    assert hands[0] == pytest.approx(hands[1]) and figure.left_hand[0, 4, 0] < figure.left_hand[0, 20, 0]
