"""The Pose Editor on the real page, classic and Nodes 2.0: dragged with the mouse, undone, saved, run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from reposedm_core.pose import load_pose_file
from reposedm_core.pose.skeleton import OPENPOSE_FLIP
from tests.fixtures.waiting import eventually, frames
from tests.workflows.pose_page import (
    EDITOR,
    EXAMPLE,
    L_WRIST,
    NOSE,
    R_ANKLE,
    R_WRIST,
    SIZE,
    example,
    graph,
    joints_of,
    two_people,
)

pytestmark = pytest.mark.browser


def test_drag_undo_redo_mirror_reset_save_and_run(editor, renderer, tmp_path):
    """The whole story on one picture and its pose."""
    editor.load(example())
    editor.status("run once to see the connected pose and picture")
    (start,) = load_pose_file(EXAMPLE)
    same = np.testing.assert_allclose
    same(joints_of(editor.run()[0]), start.joints, atol=1e-3)  # nothing was edited: what comes in goes out
    editor.status("192 × 256 · as connected")
    disabled = "id => window.app.graph.getNodeById(id).widgets.slice(0, 2).map(({ disabled }) => disabled)"
    assert editor.page.evaluate(disabled, EDITOR) == [True, True], "width and height do not count here"
    assert editor.value == "" and not any(map(editor.enabled, ("undo", "redo", "reset", "hide")))

    target = (70, 30)
    editor.drag(start.joints[0, R_WRIST, :2], target, SIZE)
    dragged = editor.joints()
    same(dragged[0, R_WRIST], (*target, 1), atol=0.5)
    others = np.delete(np.arange(18), R_WRIST)
    same(dragged[0, others], start.joints[0, others], atol=0.01)
    editor.status("edited")
    editor.page.screenshot(path=tmp_path / f"dragged_{renderer}.png")

    editor.press("undo")
    assert editor.value == "" and editor.enabled("redo") and not editor.enabled("undo")
    editor.press("redo")
    same(editor.joints(), dragged)
    editor.press("mirror")
    mirrored = editor.joints()[0]
    low, high = dragged[0, :, 0].min(), dragged[0, :, 0].max()
    same(mirrored[:, 0], (low + high - dragged[0, :, 0])[list(OPENPOSE_FLIP)], atol=0.02)
    same(mirrored[:, 1], dragged[0, list(OPENPOSE_FLIP), 1], atol=0.02)
    editor.press("mirror")
    same(editor.joints(), dragged, atol=0.03)
    editor.press("reset")
    assert editor.value == ""
    for _ in range(3):
        editor.press("undo")
    same(editor.joints(), dragged)

    saved = json.loads(editor.page.evaluate("() => JSON.stringify(window.app.graph.serialize())"))
    text = editor.value
    editor.load(graph())
    assert editor.value == ""
    editor.load(saved)
    assert editor.value == text and not editor.enabled("undo")
    frames = editor.run()
    assert len(frames) == 1 and (frames[0]["canvas_width"], frames[0]["canvas_height"]) == SIZE
    same(joints_of(frames[0])[0, R_WRIST], (*target, 1), atol=0.5)
    same(joints_of(frames[0]), dragged, atol=0.01)
    assert editor.errors == []


@pytest.mark.parametrize("zoom", [0.5, 1.6])
def test_zoomed_graph(editor, zoom):
    editor.load(graph(size=(96, 128)), zoom)
    standing = joints_of(editor.run()[0])[0]
    editor.drag(standing[NOSE, :2], (60, 40))
    np.testing.assert_allclose(editor.joints()[0, NOSE], (60, 40, 1), atol=1)


def test_picture_lies_under_the_skeleton(editor, comfy, tmp_path):
    """A picture from Load Image is there before any run, and its size is the canvas."""
    colours = np.zeros((50, 100, 3), np.uint8)
    colours[:, :50], colours[:, 50:] = (200, 0, 0), (0, 0, 200)
    Image.fromarray(colours).save(tmp_path / "halves.png")
    name = comfy.upload_image(tmp_path / "halves.png")
    outputs = [{"name": "IMAGE", "type": "IMAGE"}, {"name": "MASK", "type": "MASK"}]
    editor.load(graph({"type": "LoadImage", "widgets_values": [name, "image"], "outputs": outputs}, {"image": 0}))
    editor.canvas.hover(position={"x": 5, "y": 5})
    editor.status("100 × 50")
    pixel = """([canvas, x, y]) => {
        const box = canvas.getBoundingClientRect();
        const [column, row] = [(x - box.left) / box.width * canvas.width, (y - box.top) / box.height * canvas.height];
        return [...canvas.getContext("2d").getImageData(column, row, 1, 1).data];
    }"""
    for x, strong in ((5, 0), (95, 2)):
        colour = editor.page.evaluate(pixel, [editor.canvas.element_handle(), *editor.at(x, 5, 100, 50)])
        assert colour[strong] > 140 and colour[2 - strong] == 0
    (frame,) = editor.run()
    assert (frame["canvas_width"], frame["canvas_height"]) == (100, 50)


def test_several_people_keys_and_hidden_joints(editor):
    editor.load(two_people())
    start = joints_of(editor.run()[0])
    editor.status("192 × 128 · as connected")
    size = (192, 128)
    ankle = start[1, R_ANKLE, :2]
    editor.drag(ankle, ankle + (6, 4), size)
    np.testing.assert_allclose(editor.joints()[1, R_ANKLE, :2], ankle + (6, 4), atol=0.5)
    np.testing.assert_allclose(editor.joints()[0], start[0], atol=0.01)

    for key, count in (("ArrowLeft", 3), ("Shift+ArrowUp", 1)):
        for _ in range(count):
            editor.page.keyboard.press(key)
    np.testing.assert_allclose(editor.joints()[1, R_ANKLE, :2], ankle + (3, -6), atol=0.5)
    editor.press("undo")  # one joint's nudges are one step
    np.testing.assert_allclose(editor.joints()[1, R_ANKLE, :2], ankle + (6, 4), atol=0.5)

    editor.canvas.focus()
    editor.page.keyboard.press("Delete")
    assert editor.joints()[1, R_ANKLE, 2] == 0
    assert editor.page.evaluate("() => window.app.graph.nodes.length") == 3, "Delete is not for the node"
    hidden = editor.run()[0]
    assert (joints_of(hidden)[1, R_ANKLE] == 0).all() and len(hidden["people"]) == 2
    editor.page.mouse.click(*editor.at(*ankle + (6, 4), *size), button="right")
    np.testing.assert_allclose(editor.joints()[1, R_ANKLE], (*ankle + (6, 4), 1), atol=0.5)

    before = json.loads(editor.value)
    editor.drag(start[1, L_WRIST, :2], start[1, L_WRIST, :2] + (-8, 5), size, hold="Shift")
    after = json.loads(editor.value)
    moved = joints_of(after) - joints_of(before)
    np.testing.assert_allclose(moved[1, :, :2] - (-8, 5), 0, atol=0.6)
    assert not moved[0].any() and not moved[..., 2].any()
    hands = [np.reshape(frame["people"][1]["hand_left_keypoints_2d"], (21, 3)) for frame in (before, after)]
    np.testing.assert_allclose(hands[1] - hands[0], [moved[1, 0]] * 21, atol=0.03)
    assert "hand_left_keypoints_2d" not in after["people"][0]

    editor.drag(joints_of(after)[1, L_WRIST, :2], joints_of(after)[1, L_WRIST, :2] + (0, 10), size)
    hand = np.reshape(json.loads(editor.value)["people"][1]["hand_left_keypoints_2d"], (21, 3))
    np.testing.assert_allclose(hand - hands[1], [(0, 10, 0)] * 21, atol=0.6)

    before = editor.joints()
    elbow, shift = R_WRIST - 1, np.array([5, -9])
    editor.drag(before[1, elbow, :2], before[1, elbow, :2] + shift, size, hold="Control")
    moved = (editor.joints() - before)[..., :2]
    np.testing.assert_allclose(moved[1, [elbow, R_WRIST]], [shift] * 2, atol=0.6)
    moved[1, [elbow, R_WRIST]] = 0
    np.testing.assert_allclose(moved, 0, atol=0.01)

    spread = np.ptp(editor.joints()[1, :, :2], axis=0)
    editor.page.keyboard.down("Alt")
    editor.page.mouse.wheel(0, -100)
    editor.page.keyboard.up("Alt")
    eventually(lambda: np.testing.assert_allclose(np.ptp(editor.joints()[1, :, :2], axis=0) / spread, 1.04, atol=0.01))
    editor.page.keyboard.press("-")
    np.testing.assert_allclose(np.ptp(editor.joints()[1, :, :2], axis=0) / spread, 1, atol=0.01)
    assert editor.page.evaluate("() => window.app.canvas.ds.scale") == 1
    assert editor.errors == []


def test_the_page_keeps_its_own_gestures(editor):
    """The wheel zooms the graph, Ctrl+Z undoes here or there, copies have the pose; a click changes nothing."""
    editor.load(graph(size=(96, 128)))
    standing = joints_of(editor.run()[0])[0]
    editor.page.mouse.click(*editor.at(*standing[NOSE, :2]))
    editor.page.mouse.click(*editor.at(3, 3))
    assert editor.value == ""
    editor.drag((3, 3), (20, 20))
    assert editor.value == "", "nothing is there to be dragged"
    editor.page.mouse.wheel(0, -100)
    editor.page.wait_for_function("() => window.app.canvas.ds.scale > 1")
    editor.zoom(1)

    editor.drag(standing[NOSE, :2], (50, 50))
    first = editor.value
    editor.drag(standing[R_ANKLE, :2], (20, 100))
    editor.page.keyboard.press("Control+z")
    editor.holds(first)
    assert editor.enabled("undo"), "the editor's own history, one step"
    editor.page.keyboard.press("Control+y")
    second = editor.value
    assert json.loads(second) != json.loads(first)
    np.testing.assert_allclose(editor.joints()[0, R_ANKLE, :2], (20, 100), atol=0.5)

    # A click on the graph, and Ctrl+Z is the page's: the last change of the workflow is undone.
    editor.page.mouse.click(1100, 700)
    editor.page.keyboard.press("Control+z")
    editor.holds(first)
    editor.page.keyboard.press("Control+y")
    editor.holds(second)

    copies = editor.page.evaluate(
        """id => {
        const node = window.app.graph.getNodeById(id);
        window.app.canvas.selectNode(node);
        window.app.canvas.copyToClipboard();
        window.app.canvas.pasteFromClipboard({ position: [900, 500] });
        const copies = window.app.graph.nodes.filter(({ type, id: other }) => type === node.type && other !== node.id);
        const values = copies.map(({ widgets }) => widgets.find(({ name }) => name === "edit").value);
        copies.forEach((copy) => window.app.graph.remove(copy));
        return values;
    }""",
        EDITOR,
    )
    assert copies == [second]
    assert editor.errors == []


def test_the_graph_is_dragged_by_the_editor_too(editor):
    """With the middle button, and with the space bar held (which makes the canvas read-only)."""
    editor.load(graph(size=(96, 128)))
    mouse, middle = editor.page.mouse, editor.at(48, 64)
    offset = "() => [...window.app.canvas.ds.offset]"
    for button, held in (("middle", False), ("left", True)):
        before = editor.page.evaluate(offset)
        editor.page.evaluate("held => { window.app.canvas.read_only = held; }", held)
        mouse.move(*middle)
        mouse.down(button=button)
        for share in np.linspace(0.2, 1, 5):
            frames(editor.page, 2)
            mouse.move(float(middle[0] + 40 * share), float(middle[1] + 25 * share))
        frames(editor.page)
        mouse.up(button=button)
        editor.page.evaluate("() => { window.app.canvas.read_only = false; }")
        frames(editor.page)
        moved = np.subtract(editor.page.evaluate(offset), before)
        np.testing.assert_allclose(moved, (40, 25), atol=12)  # the first move may be over before the graph has hold
        middle = tuple(float(side) for side in np.add(middle, moved))
    assert editor.value == ""


def test_what_cannot_be_shown_says_so_and_reset_mends_it(editor):
    editor.load(graph(edit="no pose"))
    editor.status("the saved pose cannot be shown; Reset drops it")
    assert editor.value == "no pose", "nothing is lost by opening a workflow"
    editor.press("reset")
    editor.status("60 × 80 · standing pose")
    editor.press("help")
    editor.page.get_by_test_id("pose-editor-panel").get_by_text("undo the last edit").wait_for()
    editor.press("help")
    assert not editor.page.get_by_test_id("pose-editor-panel").is_visible()
    (frame,) = editor.run()
    assert (frame["canvas_width"], frame["canvas_height"]) == (60, 80)


def test_touch(editor):
    editor.load(graph(size=(96, 128)))
    nose = joints_of(editor.run()[0])[0, NOSE, :2]
    touch = editor.page.context.new_cdp_session(editor.page)
    path = [editor.at(*(nose + step * np.array((5, 6)))) for step in range(4)]
    for kind, points in [("touchStart", path[:1]), *(("touchMove", [point]) for point in path), ("touchEnd", [])]:
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})
    eventually(lambda: np.testing.assert_allclose(editor.joints()[0, NOSE, :2], nose + (15, 18), atol=1))
