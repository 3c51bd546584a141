"""Poses into and out of the Pose Editor: files, text, presets; what is no pose is told, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from reposedm_core.pose import load_pose_file, load_pose_text
from tests.fixtures.waiting import eventually
from tests.workflows.pose_page import EXAMPLE, NOSE, graph, joints_of
from workflows.comfy_server import ROOT

pytestmark = pytest.mark.browser

PRESETS = json.loads((ROOT / "nodes" / "web" / "pose_presets.json").read_text("utf-8"))


def load(editor, path: Path) -> None:
    editor.press("file")
    with editor.page.expect_file_chooser() as chosen:
        editor.page.get_by_test_id("pose-editor-load").click()
    chosen.value.set_files(path)


def test_files_are_loaded_saved_and_copied(editor, tmp_path):
    editor.load(graph(size=(192, 256)))
    load(editor, EXAMPLE)
    editor.note(f"{EXAMPLE.name}: 1 person.")
    (pose,) = load_pose_file(EXAMPLE)
    np.testing.assert_allclose(editor.joints(), pose.resized(256, 192).joints, atol=0.01)
    editor.key("n", "j", "h")  # a hidden joint is absent in what goes out
    assert editor.joints()[0, NOSE, 2] == 0 and editor.joints()[0, NOSE, 0] > 0

    editor.press("file")
    with editor.page.expect_download() as download:
        editor.page.get_by_test_id("pose-editor-save").click()
    download.value.save_as(tmp_path / "pose.json")
    (saved,) = load_pose_file(tmp_path / "pose.json")
    assert (saved.width, saved.height) == (192, 256) and (saved.joints[0, NOSE] == 0).all()
    np.testing.assert_allclose(saved.joints[0, 1:], editor.joints()[0, 1:], atol=0.01)

    editor.choose("file", "copy-json")
    editor.note("copied as JSON")
    text = editor.page.evaluate("() => navigator.clipboard.readText()")
    (copied,) = load_pose_text(text)
    np.testing.assert_array_equal(copied.joints, saved.joints)
    (person,) = json.loads(text)[0]["people"]
    assert len(person["face_keypoints_2d"]) == 210 and len(person["hand_left_keypoints_2d"]) == 63
    assert editor.errors == []


def test_other_programs_files_are_read_as_load_pose_reads_them(editor, tmp_path):
    """A format that the page itself does not know; several frames become a sequence."""
    pose = load_pose_file(EXAMPLE)[0].resized(128, 96)
    joints = pose.joints[0] * (1, 1, 1)
    lines = [json.dumps({"people": [{"pose_keypoints_2d": (joints + (step, 0, 0)).ravel().tolist()}],
                         "width": 96, "height": 128}) for step in range(2)]  # fmt: skip
    (tmp_path / "lines.jsonl").write_text("\n".join(lines), "utf-8")
    editor.load(graph(size=(96, 128)))
    load(editor, tmp_path / "lines.jsonl")
    editor.note("lines.jsonl: 2 frames, 1 person.")
    editor.status("frame 1 of 2")
    frames = json.loads(editor.value)
    np.testing.assert_allclose(joints_of(frames[1])[0], joints + (1, 0, 0), atol=0.02)
    assert editor.errors == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{broken", "is no JSON"),
        ("", "is no JSON"),
        ('{"a": 1}', "is no pose"),
        ('{"people": [], "canvas_width": 96, "canvas_height": 128}', "nobody"),
    ],
)
def test_what_is_no_pose_is_told_and_loses_nothing(editor, tmp_path, text, message):
    editor.load(graph(size=(96, 128)))
    editor.press("mirror")
    before = editor.value
    (tmp_path / "odd.json").write_text(text, "utf-8")
    load(editor, tmp_path / "odd.json")
    editor.note(message)
    assert editor.value == before and editor.enabled("undo") and not editor.enabled("redo")
    assert editor.errors == []


def test_presets_are_put_on_the_person_or_added(editor):
    editor.load(graph(size=(96, 128)))
    editor.press("mirror")
    editor.press("mirror")
    before, hand = editor.joints()[0], editor.part("hand_left")
    editor.press("poses")
    buttons = editor.page.get_by_test_id("pose-editor-preset")
    buttons.nth(len(PRESETS["poses"]) - 1).wait_for()
    assert buttons.count() == len(PRESETS["poses"]) >= 30
    wanted = next(i for i, pose in enumerate(PRESETS["poses"]) if pose["name"] == "walk")
    buttons.nth(wanted).click()
    (after,) = editor.joints()
    joints = np.reshape(PRESETS["poses"][wanted]["joints"], (18, 3))
    hips = [joints_[[8, 11], :2].mean(0) for joints_ in (before, after, joints)]
    np.testing.assert_allclose(hips[1], hips[0], atol=0.05)
    scale = np.ptp(after[:, 1]) / np.ptp(joints[:, 1])
    np.testing.assert_allclose(after[:, :2] - hips[1], scale * (joints[:, :2] - hips[2]), atol=0.05)
    assert 0.7 < np.ptp(after[:, 1]) / np.ptp(before[:, 1]) < 1.2, "as large as before"
    moved = editor.part("hand_left")
    np.testing.assert_allclose(moved[0, :2] - after[7, :2], hand[0, :2] - before[7, :2], atol=0.05)
    assert np.hypot(*np.ptp(moved[:, :2], axis=0)) == pytest.approx(np.hypot(*np.ptp(hand[:, :2], axis=0)), rel=0.5)

    editor.press("poses")
    editor.page.get_by_test_id("pose-editor-preset-adds").check()
    buttons.nth(0).click()
    assert len(editor.joints()) == 2
    np.testing.assert_allclose(editor.joints()[0], after)
    editor.press("undo")
    editor.press("undo")
    assert len(editor.joints()) == 1
    assert editor.errors == []


def test_points_outside_are_told_and_brought_in(editor):
    (pose,) = load_pose_file(EXAMPLE)
    frame = json.loads(EXAMPLE.read_text("utf-8"))
    frame = frame[0] if isinstance(frame, list) else frame
    body = frame["people"][0]["pose_keypoints_2d"]
    body[0::3] = [x + 120 if score else x for x, score in zip(body[0::3], body[2::3], strict=True)]
    editor.load(graph(size=(192, 256), edit=json.dumps(frame)))
    editor.status("outside the canvas")
    outside = (pose.joints[0, :, 0] + 120 > 192).sum()
    assert outside and f"{outside} points outside" in editor.page.get_by_test_id("pose-editor-status").text_content()
    editor.key("b")
    eventually(lambda: np.testing.assert_equal("outside" in editor.page.get_by_test_id("pose-editor-status")
                                               .text_content(), False))  # fmt: skip
    shift = editor.joints()[0] - pose.joints[0]
    assert np.ptp(shift[:, 0]) < 0.1 and (editor.joints()[0, :, 0] <= 192).all()
    assert editor.errors == []
