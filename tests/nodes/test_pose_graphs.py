"""Poses of other tools, poses that show nobody, and pose runs that are stopped, in a real ComfyUI."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import psutil
import pytest

from reposedm_core.pose import load_pose_file, parse_keypoints
from tests.fixtures import graphs
from tests.fixtures.graphs import Run, edit_pose, node
from tests.fixtures.waiting import until
from tests.nodes.people import CANVAS, PERSON, POINTS, flat
from workflows.comfy_server import ROOT, ComfyInterrupted

FIXTURES = ROOT / "tests" / "fixtures" / "poses"
STANDING = load_pose_file(FIXTURES / "standing.json")[0]


def load(text="", file="none", **size):
    return node("RePoseDMLoadPose", file=file, text=text, **size)


def draw(name):
    return node("RePoseDMDrawPose", pose=[name, 0], width=0, height=0)


def text(name):
    return node("PreviewAny", source=[name, 0])


PARTS = (
    "face_of_56",
    "face_of_69",
    "face_empty_string",
    "hand_of_20",
    "hand_of_21_nulls",
    "null_frame",
    "empty_object_frame",
    "empty_list_frame",
)


def test_parts_that_cannot_be_read_cost_themselves_alone(comfy):
    """One prompt with all of them: every frame is drawn, and the server's log names what was left out."""
    graph = {}
    for name in PARTS:
        graph |= {
            name: load((FIXTURES / f"{name}.json").read_text()),
            f"draw {name}": draw(name),
            f"show {name}": graphs.show(f"draw {name}"),
            f"text {name}": text(name),
        }
    run = Run(comfy, graph)
    for name in PARTS:
        poses = parse_keypoints(json.loads(run.text(f"text {name}")))
        assert [len(pose.joints) for pose in poses] == ([1, 0, 1] if "frame" in name else [1])
        np.testing.assert_allclose(poses[0].joints, STANDING.joints, atol=1e-3)
        pictures = run.pictures(f"show {name}")
        assert [picture.any() for picture in pictures] == [len(pose.joints) > 0 for pose in poses]
    log = comfy.log()
    for name, words in (
        ("face", "of 168 values"),
        ("face", "of 207 values"),
        ("face", "that is no list of numbers"),
        ("left hand", "of 60 values"),
    ):
        assert f"text: frame 0, person 0 has a {name} {words}" in log


def test_files_of_other_tools(comfy):
    """Chosen from the list, a linked folder and a folder of frames among them; the file that is gone loses to text."""
    walk = comfy.input / "walk"
    walk.mkdir()
    frames = json.loads((FIXTURES / "walk_without_canvas.json").read_text())
    for number, frame in enumerate(frames):
        (walk / f"frame_{number + 9}.json").write_text(json.dumps(frame))
    elsewhere = comfy.directory / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(FIXTURES / "utf16.json", elsewhere / "pose.JSON")
    os.symlink(elsewhere, comfy.input / "linked")
    graph = {
        "walk": load(file="walk/"),
        "linked": load(file="linked/pose.JSON"),
        "sized": load(file="walk/", width=640, height=480),
        "text": load((FIXTURES / "json_lines.json").read_text(), "gone.json"),
    }
    names = list(graph)
    graph |= {f"text {name}": text(name) for name in names}
    options = comfy.object_info("RePoseDMLoadPose")["RePoseDMLoadPose"]["input"]["required"]["file"]
    assert {"walk/", "walk/frame_9.json", "linked/pose.JSON"} <= set(options[1].get("options") or options[0])
    run = Run(comfy, graph)
    read = {name: json.loads(run.text(f"text {name}")) for name in names}
    assert [frame["people"][0]["pose_keypoints_2d"][0] for frame in read["walk"]] == [148, 188, 228, 268]
    assert {(frame["canvas_width"], frame["canvas_guessed"]) for frame in read["walk"]} == {(416, "size")}
    assert {(frame["canvas_width"], frame.get("canvas_guessed")) for frame in read["sized"]} == {(640, None)}
    assert len(read["text"]) == 3 and len(read["linked"]) == 1


def test_nobody_found_goes_through_the_tools_that_can_show_it(comfy):
    """Edit Pose removes everybody; Draw Pose, Save Pose and Pose Editor go on with what is left."""
    graph = {
        "load": load(json.dumps([{"people": [PERSON], **CANVAS}] * 2)),
        "nobody": edit_pose(["load", 0], joint="neck", joint_action="remove with limb"),
        "draw": draw("nobody"),
        "show": graphs.show("draw"),
        "again": edit_pose(["nobody", 0], person=2, scale=2.0),
        "text": text("again"),
        "save": node("RePoseDMSavePose", pose=["again", 0], filename_prefix="empty/p"),
        "editor": node("RePoseDMPoseEditor", width=64, height=64, pose=["nobody", 0]),
        "edited": text("editor"),
    }
    run = Run(comfy, graph)
    pictures = run.pictures("show")
    assert pictures.shape == (2, 128, 96, 3) and not np.any(pictures)
    empty = [{"people": [], **CANVAS}] * 2
    assert json.loads(run.text("text")) == empty
    (file,) = run.outputs["save"]["files"]
    assert json.loads((comfy.output / file["subfolder"] / file["filename"]).read_text()) == empty
    (frame,) = json.loads(run.text("edited"))
    assert (frame["canvas_width"], frame["canvas_height"]) == (96, 128) and len(frame["people"]) == 1
    assert run.outputs["editor"]["pose_editor_nobody"] == [True]


def test_a_long_interpolation_is_stopped_at_once(comfy):
    people = [{"pose_keypoints_2d": flat(POINTS + [20 * i, 0])} for i in range(10)]
    frames = [{"people": people[::step], "canvas_width": 400, "canvas_height": 128} for step in (1, -1)]
    graph = {
        "load": load(json.dumps(frames)),
        "between": node(
            "RePoseDMInterpolatePoses",
            pose=["load", 0],
            frames=4096,
            method="limb angles",
            easing="even",
            match="as given",
            loop=False,
        ),
        "text": text("between"),
    }
    prompt_id = comfy.queue(graph)

    def under_way() -> bool:
        message = comfy._receive(timeout=1)
        return bool(message) and message["type"] == "executing" and message["data"]["node"] == "between"

    until(under_way)
    server = psutil.Process(comfy._process.pid)
    before = server.cpu_times().user
    comfy.interrupt()
    with pytest.raises(ComfyInterrupted, match="RePoseDMInterpolatePoses"):
        comfy.wait(prompt_id)
    assert server.cpu_times().user - before < 30, "all 40,960 people take the processor minutes"
    assert Run(comfy, {"load": load(json.dumps(frames[0])), "text": text("load")}).text("text")
