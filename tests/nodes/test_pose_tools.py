"""Pose nodes inside this process: every variant of POSE_KEYPOINT goes in, pixels with 18/70/21/21 points come out."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from reposedm_core.pose import draw_pose, parse_keypoints, to_keypoints
from tests.fixtures.graphs import Run, edit_pose, node, show
from tests.nodes.people import CANVAS, EMPTY, PERSON, POINTS, flat, run

TO_COCO = [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]


def body25():
    points = np.insert(POINTS, 8, [(48, 62)], 0)
    return flat(np.concatenate([points, np.full((6, 2), 120.0)]))


HAND = np.array([(66 + k % 5, 60 + k // 5) for k in range(21)], float)
FACE = np.array([(42 + k % 12, 12 + k // 12) for k in range(70)], float)
# What other nodes and tools write, after the project's notes on the format.
VARIANTS = {
    "core": {
        "people": [
            {
                **PERSON,
                "face_keypoints_2d": flat(FACE),
                "hand_left_keypoints_2d": flat(HAND),
                "hand_right_keypoints_2d": flat(HAND - [36, 0]),
            }
        ],
        **CANVAS,
    },
    "switched off": {
        "people": [
            {**PERSON, "face_keypoints_2d": None, "hand_left_keypoints_2d": None, "hand_right_keypoints_2d": [0.0] * 63}
        ],
        **CANVAS,
    },
    "0..1 of controlnet_aux": {
        "people": [
            {
                "pose_keypoints_2d": flat(POINTS, 1.0, (96, 128)),
                "face_keypoints_2d": None,
                "hand_left_keypoints_2d": flat(HAND, 1.0, (96, 128)),
            }
        ],
        **CANVAS,
    },
    "scores and 68 face points": {
        "people": [{"pose_keypoints_2d": flat(POINTS, 0.7), "face_keypoints_2d": flat(FACE[:68], 0.6)}],
        **CANVAS,
    },
    "body 25 with feet": {"people": [{"pose_keypoints_2d": body25(), "foot_keypoints_2d": [1.0] * 18}], **CANVAS},
    "COCO 17": {"people": [{"keypoints": flat(POINTS[TO_COCO])}], **CANVAS},
    "nested": {"people": [{"pose_keypoints_2d": [[x, y, 1.0] for x, y in POINTS]}], **CANVAS},
    "arrays": {"people": [{"pose_keypoints_2d": np.array(flat(POINTS))}], **CANVAS},
    "no canvas": {"people": [PERSON]},
}
ANIMAL = [{"version": "ap10k", "animals": [[[1, 1, 1]] * 17], **CANVAS}]
FRAME = VARIANTS["core"]


def crowd(count):
    return {
        "people": [{"pose_keypoints_2d": flat(POINTS + [90 * i, 0])} for i in range(count)],
        "canvas_height": 128,
        "canvas_width": 90 * count + 40,
    }


TOOLS = {
    "RePoseDMSelectPerson": lambda frame: ((frame,), {}),
    "RePoseDMSmoothPoses": lambda frame: ((frame,), {}),
    "RePoseDMRetargetPose": lambda frame: ((frame, FRAME), {}),
    "RePoseDMEditPose": lambda frame: ((frame,), {}),
    "RePoseDMInterpolatePoses": lambda frame: ((frame,), {"end_pose": frame, "frames": 3}),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("node", TOOLS)
def test_every_variant_goes_in_and_one_comes_out(pack, node, variant):
    for data in (VARIANTS[variant], [VARIANTS[variant]]):
        inputs, others = TOOLS[node](data)
        (frames,) = run(pack, node, *inputs, **others)
        for frame in frames:
            (person,) = frame["people"]
            assert {name: len(values) for name, values in person.items()} == {
                "pose_keypoints_2d": 54,
                "face_keypoints_2d": 210,
                "hand_left_keypoints_2d": 63,
                "hand_right_keypoints_2d": 63,
                **({"foot_keypoints_2d": 18} if "feet" in variant else {}),
            }
            found = np.array(person["pose_keypoints_2d"]).reshape(18, 3)
            np.testing.assert_allclose(found[:, :2], POINTS, atol=0.1)
            assert (found[:, 2] > 0).all() and frame["canvas_height"] > 0
            assert all(type(value) is float for value in person["hand_left_keypoints_2d"])
        json.dumps(frames, allow_nan=False)


@pytest.mark.parametrize("variant", VARIANTS)
def test_accuracy_and_drawing_take_every_variant(pack, variant):
    pck, _, oks, distance, _, _ = run(pack, "RePoseDMPoseAccuracy", VARIANTS[variant], FRAME)
    assert pck == 1 and oks > 0.99 and distance <= (0.5 if variant == "no canvas" else 0.01)
    for style in ("openpose", "humansd", "coco"):
        (image,) = run(pack, "RePoseDMDrawPose", VARIANTS[variant], style=style)
        (pose,) = parse_keypoints(VARIANTS[variant])
        assert torch.equal(image[0], draw_pose(pose, style=style).movedim(0, -1))


SHOW_NOBODY = ("RePoseDMPoseAccuracy", "RePoseDMDrawPose", "RePoseDMSavePose", "RePoseDMEditPose")


@pytest.mark.parametrize("node", [*TOOLS, "RePoseDMPoseAccuracy", "RePoseDMDrawPose", "RePoseDMSavePose"])
def test_animals_and_nobody_are_refused_and_the_input_is_named(pack, node):
    errors = pack.reposedm_core.InputError
    inputs, others = TOOLS.get(node, lambda frame: ((frame,), {}))(ANIMAL)
    if node == "RePoseDMPoseAccuracy":
        inputs = (ANIMAL, FRAME)
    with pytest.raises(errors, match=r"^pose: this is an animal pose: only people"):
        run(pack, node, *inputs, **others)
    if node not in SHOW_NOBODY:
        inputs, others = TOOLS[node](EMPTY)
        with pytest.raises(errors, match=r"^pose: there is nobody in this pose"):
            run(pack, node, *inputs, **others)
    for second, name in (("RePoseDMRetargetPose", "source_pose"), ("RePoseDMPoseAccuracy", "wanted_pose")):
        with pytest.raises(errors, match=f"^{name}: there is nobody"):
            run(pack, second, FRAME, EMPTY)


@pytest.mark.parametrize("node", TOOLS)
def test_empty_frames_stay_empty_and_twenty_people_stay_twenty(pack, node):
    frames = [EMPTY, FRAME, EMPTY]
    inputs, others = TOOLS[node](frames)
    (result,) = run(pack, node, *inputs, **others)
    if node != "RePoseDMInterpolatePoses":
        assert [len(frame["people"]) for frame in result] == [0, 1, 0]
    inputs, others = TOOLS[node](crowd(20))
    others |= {"count": 0} if node == "RePoseDMSelectPerson" else {}
    (result,) = run(pack, node, *inputs, **others)
    assert {len(frame["people"]) for frame in result} == {20}
    inputs, others = TOOLS[node]({**FRAME, "canvas_height": 1, "canvas_width": 1})  # everybody outside of one pixel
    (result,) = run(pack, node, *inputs, **others)
    assert {(frame["canvas_height"], frame["canvas_width"]) for frame in result} == {(1, 1)}


def test_select_person_with_its_widgets(pack):
    (frames,) = run(pack, "RePoseDMSelectPerson", crowd(3), "left to right", 1, 2)
    assert [person["pose_keypoints_2d"][0] for person in frames[0]["people"]] == [138, 228]
    with pytest.raises(pack.reposedm_core.InputError, match=r"index: there is no person 3"):
        run(pack, "RePoseDMSelectPerson", crowd(3), index=3)


@pytest.mark.parametrize(("choice", "people"), [("keep", [1, 0, 1]), ("fill", [1, 1, 1]), ("leave out", [1, 1])])
def test_select_person_of_a_sequence_with_a_gap(pack, choice, people):
    (frames,) = run(pack, "RePoseDMSelectPerson", [FRAME, EMPTY, crowd(2)], empty_frames=choice)
    assert [len(frame["people"]) for frame in frames] == people
    (before,) = run(pack, "RePoseDMSelectPerson", [FRAME, EMPTY, crowd(2)])
    assert [len(frame["people"]) for frame in before] == [1, 0, 1]  # of workflows without the widget


def test_smoothing_with_its_widgets(pack):
    """A person who trembles and is missing once, and a smaller one beside him."""
    rng = np.random.default_rng(0)
    shaken = [flat(POINTS + rng.normal(0, 0.5, POINTS.shape)) for _ in range(8)]
    beside = {"pose_keypoints_2d": flat(POINTS / 2 + [150, 0])}
    people = [
        [{"pose_keypoints_2d": points}, beside] if number != 4 else [beside] for number, points in enumerate(shaken)
    ]
    frames = [{"people": seen, "canvas_width": 200, "canvas_height": 128} for seen in people]

    def trembles(result):
        points = np.array([frame["people"][0]["pose_keypoints_2d"] for frame in result])
        return np.abs(np.diff(points, 2, 0)).mean()

    (smooth,) = run(pack, "RePoseDMSmoothPoses", frames)
    assert [len(frame["people"]) for frame in smooth] == [2] * 8
    assert [[person["person_id"] for person in frame["people"]] for frame in smooth] == [[[0], [1]]] * 8
    (calmer,) = run(pack, "RePoseDMSmoothPoses", frames, smoothing=20, fast_moves=0)
    (filled,) = run(pack, "RePoseDMSmoothPoses", frames, smoothing=0)
    assert trembles(calmer) < 0.5 * trembles(smooth) < 0.25 * trembles(filled)
    (alone,) = run(pack, "RePoseDMSmoothPoses", frames, one_person=True)
    assert [[person["pose_keypoints_2d"] for person in frame["people"]] for frame in alone] == [
        [frame["people"][0]["pose_keypoints_2d"]] for frame in smooth
    ]
    (gaps,) = run(pack, "RePoseDMSmoothPoses", frames, fill_gaps=0, one_person=True)
    assert 0 in [len(frame["people"]) for frame in gaps] and len(gaps) == 8


def test_retarget_takes_size_only_when_asked(pack):
    small = {"people": [{"pose_keypoints_2d": flat(POINTS / 2)}], **CANVAS}
    for take, height in (("proportions", 94), ("proportions and size", 47)):
        ((frame,),) = run(pack, "RePoseDMRetargetPose", FRAME, small, take, "feet")
        points = np.array(frame["people"][0]["pose_keypoints_2d"]).reshape(18, 3)
        assert points[10, 1] - points[0, 1] == pytest.approx(height, rel=1e-3) and points[10, 1] == pytest.approx(112)


def test_edit_with_its_widgets(pack):
    ((frame,),) = run(
        pack, "RePoseDMEditPose", FRAME, flip="canvas", move_x=10, joint="left_wrist", joint_action="remove with limb"
    )
    points = np.array(frame["people"][0]["pose_keypoints_2d"]).reshape(18, 3)
    np.testing.assert_allclose(points[4], [96 - 66 + 10, 60, 1], atol=1e-4)  # the right one was the left one
    assert points[7, 2] == 0 and not any(frame["people"][0]["hand_left_keypoints_2d"])
    ((frame,),) = run(
        pack, "RePoseDMEditPose", FRAME, joint="right_knee", joint_action="move alone", joint_x=-5, joint_y=3
    )
    moved = np.array(frame["people"][0]["pose_keypoints_2d"]).reshape(18, 3)[:, :2] - POINTS
    assert np.flatnonzero(moved.any(1)).tolist() == [9] and moved[9].tolist() == [-5, 3]
    with pytest.raises(pack.reposedm_core.InputError, match=r"person: there is no person 1"):
        run(pack, "RePoseDMEditPose", FRAME, 1)


def test_interpolation_needs_two_frames_and_makes_as_many_as_asked(pack):
    with pytest.raises(pack.reposedm_core.InputError, match="pose: there is one frame only"):
        run(pack, "RePoseDMInterpolatePoses", FRAME)
    right = {"people": [{"pose_keypoints_2d": flat(POINTS + [15, 0])}], **CANVAS}
    (frames,) = run(pack, "RePoseDMInterpolatePoses", [FRAME, right], 4)
    assert [frame["people"][0]["pose_keypoints_2d"][0] for frame in frames] == pytest.approx([48, 53, 58, 63])
    assert run(pack, "RePoseDMInterpolatePoses", FRAME, 4, end_pose=right)[0][3] == frames[3]
    (image,) = run(pack, "RePoseDMDrawPose", frames)
    assert image.shape == (4, 128, 96, 3)


def test_accuracy_numbers_text_and_picture(pack):
    shifted = {"people": [{"pose_keypoints_2d": flat(POINTS + [8, 0])}], **CANVAS}
    pck_05, pck_10, oks, distance, text, overlay = run(pack, "RePoseDMPoseAccuracy", [shifted, EMPTY, FRAME], FRAME)
    assert pck_05 == pytest.approx(1 / 3) and pck_10 == pytest.approx(2 / 3) and 1 / 3 < oks < 2 / 3
    assert distance == pytest.approx(4)
    lines = text.splitlines()
    assert len(lines) == 4 and lines[0].startswith("all: PCK@0.05 0.333") and "2 of 3 people found, 0 extra" in lines[0]
    assert lines[2].startswith("frame 1: PCK@0.05 0.000") and "distance – px" in lines[2]
    assert overlay.shape == (3, 128, 96, 3) and overlay.dtype == torch.float32
    picture = torch.rand(1, 64, 48, 3)
    *numbers, _, over = run(pack, "RePoseDMPoseAccuracy", shifted, [FRAME, FRAME], image=picture)
    assert over.shape == (2, 64, 48, 3) and torch.equal(over[0], over[1]) and numbers[1] == 1
    np.testing.assert_allclose(over[0, 0, 0], 0.6 * picture[0, 0, 0], atol=0.01)
    # a perfect result of another shape than the pose: right in the numbers, and over the picture
    result = torch.zeros(1, 120, 200, 3)
    perfect = to_keypoints(parse_keypoints(FRAME)[0].resized(120, 200))
    *numbers, _, over = run(pack, "RePoseDMPoseAccuracy", perfect, FRAME, image=result)
    assert numbers[:3] == [1, 1, pytest.approx(1)] and numbers[3] == pytest.approx(0, abs=1e-3)
    assert over.max() > 0.9 and not (over[..., 1] > over[..., 0] + 0.1).any()  # the found one covers all of the green
    nobody = run(pack, "RePoseDMPoseAccuracy", EMPTY, FRAME)
    assert nobody[:3] == (0, 0, 0) and math.isnan(nobody[3])
    with pytest.raises(pack.reposedm_core.InputError, match="wanted_pose: it has 2 frames and pose has 3"):
        run(pack, "RePoseDMPoseAccuracy", [FRAME] * 3, [FRAME] * 2)
    assert run(pack, "RePoseDMPoseAccuracy", crowd(20), crowd(20))[2] == 1


def test_save_counts_and_load_reads_it_again(pack, output):
    saved = [run(pack, "RePoseDMSavePose", [FRAME, EMPTY], "poses/%width%x%height%")[0] for _ in range(2)]
    files = sorted(path.relative_to(output).as_posix() for path in output.rglob("*.json"))
    assert files == ["poses/96x128_00001_.json", "poses/96x128_00002_.json"]
    text = (output / files[0]).read_text()
    assert run(pack, "RePoseDMLoadPose", text=text, file="none")[0] == saved[0] == saved[1] == json.loads(text)


@pytest.mark.parametrize("prefix", ["../out", "/etc/pose", "a/../../b", "", ".", "poses/..", "a\0b"])
def test_save_stays_inside_of_the_output_folder(pack, output, prefix):
    with pytest.raises(pack.reposedm_core.InputError, match=r"filename_prefix: .*use a name such as poses/pose"):
        run(pack, "RePoseDMSavePose", FRAME, prefix)
    assert not list(output.rglob("*")) and not list(output.parent.glob("out*"))


def test_save_that_fails_says_why(pack, output):
    (output / "poses").write_text("a file where the folder should be")
    with pytest.raises(pack.reposedm_core.InputError, match="filename_prefix"):
        run(pack, "RePoseDMSavePose", FRAME)


def test_new_widgets_of_draw_pose_are_the_last_and_change_nothing(pack):
    kind = pack.nodes.pose_io.DrawPose
    inputs = {each.id: bool(each.optional) for each in kind.define_schema().inputs}
    # a saved prompt without them is refused where they are required
    assert list(inputs.items()) == [
        ("pose", False),
        ("width", False),
        ("height", False),
        ("style", True),
        ("line_width", True),
    ]
    assert torch.equal(kind.execute(FRAME, 0, 0).args[0], run(pack, "RePoseDMDrawPose", FRAME)[0])


def test_file_is_named_on_the_node_and_in_the_history(comfy):
    graph = {
        "load": node("RePoseDMLoadPose", file="none", text=json.dumps([FRAME])),
        "edit": edit_pose(["load", 0], move_x=3.0),
        "save": node("RePoseDMSavePose", pose=["edit", 0], filename_prefix="test poses/p"),
        "judge": node("RePoseDMPoseAccuracy", pose=["edit", 0], wanted_pose=["load", 0]),
        "text": node("PreviewAny", source=["judge", 4]),
        "none": node("RePoseDMPoseAccuracy", pose=["load", 0], wanted_pose=["edit", 0]),
        "show": show("none", 5),
    }
    done = Run(comfy, graph)
    (file,), (name,) = (done.outputs["save"][key] for key in ("files", "text"))
    assert name == f"{file['subfolder']}/{file['filename']}" and file["type"] == "output"
    (pose,) = parse_keypoints((comfy.output / name).read_text())
    np.testing.assert_allclose(pose.joints[0, :, :2], POINTS + [3, 0])
    assert "distance 3.0 px, 1 of 1 people found" in done.text("text")
    assert len(done.pictures("show"))
