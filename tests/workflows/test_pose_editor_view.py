"""How the Pose Editor shows things: zoom, pan, dimming, the large window; frames of a sequence; what is remembered."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from reposedm_core.pose import load_pose_file, to_keypoints
from tests.fixtures.waiting import eventually, frames
from tests.workflows.pose_page import EDITOR, EXAMPLE, NOSE, R_WRIST, graph, joints_of

pytestmark = pytest.mark.browser

VIEW = """id => {
    const { element } = window.app.graph.getNodeById(id).widgets.find(({ name }) => name === "edit");
    return element.poseEditor.view;
}"""


def view(editor):
    return editor.page.evaluate(VIEW, EDITOR)


def settled(editor):
    """The view as soon as thirty frames leave it as it is: after a run the page lays the node out anew."""
    frame = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    seen = [view(editor)]
    while len(seen) < 15 or any(other != seen[-1] for other in seen[-15:]):
        editor.page.evaluate(frame)
        seen.append(view(editor))
        assert len(seen) < 5000, "the view never comes to rest"
    return seen[-1]


def spot(editor, x, y):
    """Where a pixel of the pose is on the page, zoomed as the editor is; the graph is not."""
    box, now = editor.canvas.bounding_box(), view(editor)
    return box["x"] + now["left"] + x * now["scale"], box["y"] + now["top"] + y * now["scale"]


def drag(editor, start, end, hold=None):
    mouse, keyboard = editor.page.mouse, editor.page.keyboard
    mouse.move(*start)
    if hold:
        keyboard.down(hold)
    mouse.down()
    mouse.move(*end, steps=4)
    mouse.up()
    if hold:
        keyboard.up(hold)


def test_zoom_and_pan_inside_of_the_editor(editor):
    editor.load(graph(size=(96, 128)))
    wrist = joints_of(editor.run()[0])[0, R_WRIST, :2]
    first = settled(editor)
    place = np.round(spot(editor, *wrist)).tolist()  # the wheel tells whole pixels
    under = np.subtract(place, spot(editor, 0, 0)) / first["scale"]
    editor.page.mouse.move(*place)
    editor.page.keyboard.down("Control")
    for _ in range(6):
        editor.page.mouse.wheel(0, -100)
    editor.page.keyboard.up("Control")
    eventually(lambda: np.testing.assert_allclose(view(editor)["scale"] / first["scale"], np.exp(1.5), rtol=0.01))
    np.testing.assert_allclose(spot(editor, *under), place, atol=0.5, err_msg="what is under the mouse stays there")
    assert editor.page.evaluate("() => window.app.canvas.ds.scale") == 1 and editor.value == ""

    target = wrist + (3, -2)
    drag(editor, spot(editor, *wrist), spot(editor, *target))
    np.testing.assert_allclose(editor.joints()[0, R_WRIST, :2], target, atol=0.2)
    before = view(editor)
    drag(editor, place, np.add(place, (-40, 25)), hold="Alt")
    np.testing.assert_allclose([view(editor)[side] - before[side] for side in ("left", "top")], (-40, 25), atol=0.5)
    editor.key("0")
    assert settled(editor) == first
    editor.key("n", "j", "z")
    assert view(editor)["scale"] > 3 * first["scale"]
    box = editor.canvas.bounding_box()
    nose = editor.joints()[0, NOSE, :2]
    np.testing.assert_allclose(spot(editor, *nose), (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2), atol=1)
    editor.key("Control+-")
    assert editor.page.evaluate("() => window.visualViewport.scale * window.devicePixelRatio") == 1, "not the page"
    assert editor.errors == []


def test_two_fingers_zoom_and_pan_and_drag_nothing(editor):
    editor.load(graph(size=(96, 128)))
    nose = joints_of(editor.run()[0])[0, NOSE, :2]
    first = settled(editor)
    touch = editor.page.context.new_cdp_session(editor.page)
    start = np.array([spot(editor, *nose), spot(editor, 48, 100)])
    middle, away = start.mean(0), (start[1] - start[0]) / 2

    def send(kind, *points):
        points = [{"x": float(x), "y": float(y), "id": number} for number, (x, y) in enumerate(points)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    send("touchStart", start[0])
    send("touchMove", start[0] + 10)
    send("touchStart", start[0] + 10, start[1])
    for share in (0.8, 0.6, 0.5):
        send("touchMove", middle - share * away + (20, 0), middle + share * away + (20, 0))
    send("touchEnd")
    frames(editor.page)
    eventually(lambda: np.testing.assert_allclose(view(editor)["scale"] / first["scale"], 0.5, rtol=0.1))
    assert editor.value == "", "the joint under the first finger is back in its place"
    assert editor.errors == []


def test_the_large_window_and_back(editor, renderer, tmp_path):
    editor.load(graph(size=(96, 128)))
    standing = joints_of(editor.run()[0])[0]
    small = settled(editor)["scale"]
    editor.press("large")
    dialog = editor.page.get_by_test_id("pose-editor-dialog")
    dialog.wait_for()
    eventually(lambda: np.testing.assert_array_less(1.2 * small, view(editor)["scale"]))
    drag(editor, spot(editor, *standing[NOSE, :2]), spot(editor, 60, 40))
    np.testing.assert_allclose(editor.joints()[0, NOSE, :2], (60, 40), atol=0.5)
    scale = view(editor)["scale"]
    editor.page.mouse.move(*spot(editor, 48, 64))
    editor.page.mouse.wheel(0, -100)
    eventually(lambda: np.testing.assert_array_less(1.1 * scale, view(editor)["scale"]))
    assert editor.page.evaluate("() => window.app.canvas.ds.scale") == 1
    editor.page.keyboard.press("Control+z")
    assert editor.value == ""
    editor.page.keyboard.press("Control+y")
    editor.page.screenshot(path=tmp_path / f"large_{renderer}.png")
    editor.page.keyboard.press("Escape")  # first the selection
    editor.page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    editor.key("0")
    eventually(lambda: np.testing.assert_allclose(view(editor)["scale"], small, rtol=0.02))
    assert np.allclose(editor.joints()[0, NOSE, :2], (60, 40), atol=0.5)
    assert editor.errors == []


def test_the_side_panel_leaves_the_editor_its_width(editor):
    """It shows the widgets of the selected node, and the editor stays in the node."""
    panel = "open => window.app.extensionManager.setting.set('Comfy.RightSidePanel.IsOpen', open)"
    editor.load(graph(size=(96, 128)))
    wrist = joints_of(editor.run()[0])[0, R_WRIST, :2]
    before = editor.canvas.bounding_box()
    editor.page.evaluate(panel, True)
    try:
        editor.page.evaluate("id => window.app.canvas.selectNode(window.app.graph.getNodeById(id))", EDITOR)
        editor.page.get_by_text("Parameters", exact=True).first.wait_for()
        editor.settle()
        assert editor.canvas.bounding_box() == before
        editor.drag(wrist, (70, 30))
        np.testing.assert_allclose(editor.joints()[0, R_WRIST, :2], (70, 30), atol=0.5)
    finally:
        editor.page.evaluate(panel, False)
    editor.settle()
    assert editor.canvas.bounding_box() == before
    assert editor.errors == []


def test_dimming_and_lengths_are_saved_with_the_workflow(editor, comfy, tmp_path):
    Image.fromarray(np.full((64, 48, 3), 200, np.uint8)).save(tmp_path / "grey.png")
    name = comfy.upload_image(tmp_path / "grey.png")
    outputs = [{"name": "IMAGE", "type": "IMAGE"}, {"name": "MASK", "type": "MASK"}]
    editor.load(graph({"type": "LoadImage", "widgets_values": [name, "image"], "outputs": outputs}, {"image": 0}))
    editor.status("48 × 64")
    corner = """id => {
        const { element } = window.app.graph.getNodeById(id).widgets.find(({ name }) => name === "edit");
        const { canvas, view } = element.poseEditor;
        const density = canvas.width / canvas.clientWidth;
        const [x, y] = [view.left + 4, view.top + 4].map((side) => side * density);
        return canvas.getContext("2d").getImageData(x, y, 1, 1).data[0];
    }"""
    assert editor.page.evaluate(corner, EDITOR) == pytest.approx(160, abs=3)
    editor.key("d", "d")
    assert editor.page.evaluate(corner, EDITOR) == pytest.approx(80, abs=3)
    editor.press("lengths")
    assert editor.value == "", "settings are no edit"
    saved = json.loads(editor.page.evaluate("() => JSON.stringify(window.app.graph.serialize())"))
    editor.load(graph())
    pressed = editor.page.get_by_test_id("pose-editor-lengths")
    assert pressed.get_attribute("aria-pressed") == "false"
    editor.load(saved)
    assert pressed.get_attribute("aria-pressed") == "true"
    eventually(lambda: np.testing.assert_allclose(editor.page.evaluate(corner, EDITOR), 80, atol=3))
    assert editor.errors == []


def test_frames_of_a_sequence(editor):
    pose = load_pose_file(EXAMPLE)[0].resized(128, 96)
    sequence = [to_keypoints(pose)[0] for _ in range(4)]
    sequence[0] = {**sequence[0], "people": []}
    text = json.dumps(sequence)
    editor.load(graph({"type": "RePoseDMLoadPose", "widgets_values": ["none", text],
                       "outputs": [{"name": "pose", "type": "POSE_KEYPOINT"}]}, {"pose": 0}))  # fmt: skip
    assert len(editor.run()) == 4
    editor.status("frame 2 of 4")  # the first with somebody
    pictures = editor.page.get_by_test_id("pose-editor-frames").locator("canvas")
    assert pictures.count() == 4
    pictures.nth(3).click()
    editor.status("frame 4 of 4")
    editor.drag(pose.joints[0, R_WRIST, :2], (70, 30))
    edited = [joints_of(frame) for frame in json.loads(editor.value)]
    assert len(edited) == 4 and len(edited[0]) == 0
    np.testing.assert_allclose(edited[3][0, R_WRIST, :2], (70, 30), atol=0.5)
    for joints in edited[1:3]:
        np.testing.assert_allclose(joints[0], pose.joints[0], atol=0.01)
    editor.key(",")
    editor.status("frame 3 of 4")
    editor.press("add-frame")
    editor.status("frame 4 of 5")
    editor.press("remove-frame")
    editor.key("n", "Delete")  # nobody in this frame; the others keep theirs
    assert [len(frame["people"]) for frame in json.loads(editor.value)][-1:] == [0]
    editor.press("add")
    out = editor.run()
    assert [len(frame["people"]) for frame in out] == [0, 1, 1, 1]
    editor.press("reset")
    assert editor.value == "" and len(editor.run()) == 4
    assert editor.errors == []
