"""What the page makes of poses in 0..1, of nobody, with feet, on a guessed canvas: the same as the node."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reposedm_core import Pose
from reposedm_core.pose import edit_joint, edit_people, load_pose_file, load_pose_text, to_keypoints
from reposedm_core.pose.keypoints import PARTS
from reposedm_core.pose.skeleton import OPENPOSE18
from tests.workflows.pose_page import EXAMPLE, NOSE, R_WRIST, SIZE, SOURCE, graph, joints_of, node
from workflows.comfy_server import ROOT, read_host

pytestmark = pytest.mark.browser


def test_an_edit_in_0_to_1_is_shown_where_it_is(editor):
    """As another client sends it in a prompt: one drag later the workflow holds it in pixels."""
    fixtures = ROOT / "tests" / "fixtures" / "poses"
    (standing,) = load_pose_file(fixtures / "standing.json")
    editor.load(graph(edit=(fixtures / "edit_normalised.json").read_text(), size=(96, 144)))
    editor.status("96 × 144 · edited")
    joints = standing.resized(144, 96).joints[0]
    editor.drag(joints[R_WRIST, :2], (70, 30), size=(96, 144))
    edited = editor.joints()[0]
    np.testing.assert_allclose(edited[R_WRIST], (70, 30, 1), atol=1)
    others = np.arange(18) != R_WRIST
    np.testing.assert_allclose(edited[others], joints[others], atol=0.01)
    np.testing.assert_allclose(joints_of(editor.run()[0])[0], edited, atol=0.01)
    assert editor.errors == []


def test_nobody_found_opens_with_the_standing_person(editor):
    """Load Pose → Edit Pose, which removes everybody → Pose Editor."""
    pose = {"name": "pose", "type": "POSE_KEYPOINT"}
    removes = {
        "type": "RePoseDMEditPose",
        "inputs": [{**pose, "link": 20}],
        "outputs": [pose],
        "widgets_values": [-1, "no", 1, 0, 0, 0, "neck", "remove with limb", 0, 0],
    }
    workflow = graph(removes, {"pose": 0})
    values, outputs = ["none", EXAMPLE.read_text(), 0, 0], [{**pose, "links": [20]}]
    workflow["nodes"].append(node(4, "RePoseDMLoadPose", (40, 460, 320, 200), values, outputs=outputs))
    workflow["links"].append([20, 4, 0, SOURCE, 0, "POSE_KEYPOINT"])
    editor.load(workflow)
    editor.status("run once to see the connected pose")
    (frame,) = editor.run()
    editor.status("192 × 256 · standing pose · nobody is in the connected pose")
    standing = joints_of(frame)[0]
    editor.drag(standing[NOSE, :2], (60, 40), SIZE)
    editor.status("edited")
    np.testing.assert_allclose(joints_of(editor.run()[0])[0, NOSE], (60, 40, 1), atol=1)
    assert editor.errors == []


def test_geometry_is_that_of_the_node(editor):
    """Fitting, mirroring, writing and reading in the page, against the same in Python."""
    random = np.random.default_rng(1)
    parts = [np.concatenate([random.uniform(5, 90, (2, n, 2)), np.ones((2, n, 1))], -1) for n in PARTS.values()]
    parts[0][0, R_WRIST] = 0
    parts[4][1] = 0
    pose = Pose(parts[0], 100, 90, *parts[1:], ids=(7, None))
    unit = Pose(parts[0] / [90, 100, 1], 100, 90, *(part / [90, 100, 1] for part in parts[1:]))
    (mixed,) = to_keypoints(unit)  # the first person in 0..1, the second in pixels, but for his face
    mixed["people"][1] = {
        **to_keypoints(pose)[0]["people"][1],
        "face_keypoints_2d": mixed["people"][1]["face_keypoints_2d"],
    }
    found = editor.page.evaluate(
        """async ([pack, frame, mixed]) => {
        const geometry = await import(`/extensions/${pack}/js/pose_geometry.js`);
        const { skeleton } = (await (await fetch("/object_info/RePoseDMPoseEditor")).json())
            .RePoseDMPoseEditor.input.optional.edit[1];
        const pose = geometry.readFrame(frame);
        const mirror = geometry.mirrorPerson(pose, 0, skeleton);
        const twice = geometry.mirrorPerson(mirror, 0, skeleton);
        const moved = geometry.placeJoint(pose, 0, skeleton.names.indexOf("left_knee"), 20, 30, skeleton, true);
        const whole = geometry.withPlaces(pose, skeleton);
        return {
            fitted: geometry.writePose(geometry.fitted(pose, 60, 40)),
            halved: geometry.writePose(geometry.fitted(pose, 61, 45)), twice: geometry.writePose(twice),
            again: geometry.writePose(geometry.readPose(geometry.writePose(pose))), once: geometry.writePose(pose),
            mirror: geometry.writePose(mirror), moved: geometry.writePose(moved),
            guessed: ["size", "height", "width", ""].map((canvas_guessed) =>
                geometry.writePose(geometry.fitted(geometry.readFrame({ ...frame, canvas_guessed }), 60, 200))),
            mixed: geometry.writePose(geometry.readPose(JSON.stringify(mixed))),
            hidden: whole.people[0].pose_keypoints_2d[4],
            nobody: [geometry.readPose("{}"), geometry.readPose("[]"), geometry.readPose("x"),
                     geometry.readFrame({ ...frame, people: [{}] })],
        };
    }""",
        [read_host()[1], to_keypoints(pose)[0], mixed],
    )
    knee = pose.joints[0, OPENPOSE18.index("left_knee"), :2]
    limb = edit_joint(pose, "left_knee", tuple(float(side) for side in (20, 30) - knee), person=0)
    for name, wanted in (
        ("fitted", pose.resized(40, 60)),
        ("halved", pose.resized(45, 61)),
        ("twice", pose),
        ("once", pose),
        ("mixed", pose),
        ("mirror", edit_people(pose, 0, flip="person")),
        ("moved", limb),
    ):
        (read,) = load_pose_text(found[name])
        assert (read.height, read.width) == (wanted.height, wanted.width), name
        assert read.ids == ((None, None) if name == "mixed" else wanted.ids), name
        for part in PARTS:
            np.testing.assert_allclose(getattr(read, part), getattr(wanted, part), atol=0.006, err_msg=name)
    for text, guessed in zip(found["guessed"], ("size", "height", "width", ""), strict=True):
        (read,) = load_pose_text(text)
        wanted = replace(pose, guessed=guessed)
        wanted = wanted.on_canvas(200, 60) if guessed else wanted.resized(200, 60)
        assert (read.height, read.width, read.guessed) == (200, 60, guessed)
        np.testing.assert_allclose(read.joints, wanted.joints, atol=0.006, err_msg=guessed)
    assert found["again"] == found["once"]
    x, y, score = found["hidden"]
    assert 0 < x < 90 and 0 < y < 100 and score == 0
    assert found["nobody"] == [None] * 4
