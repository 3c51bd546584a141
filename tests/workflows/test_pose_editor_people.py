"""People in the Pose Editor: added, copied, taken away; points selected, turned and scaled; limbs of one length."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from reposedm_core.pose.skeleton import HAND_LIMBS, OPENPOSE18, OPENPOSE_LIMBS
from tests.fixtures.waiting import eventually
from tests.workflows.pose_page import EDITOR, L_WRIST, NOSE, R_WRIST, graph, joints_of, two_people

pytestmark = pytest.mark.browser

SIZE = (96, 128)
NODES = "() => window.app.graph.nodes.length"
L_SHOULDER, L_ELBOW, L_ANKLE = (OPENPOSE18.index(name) for name in ("left_shoulder", "left_elbow", "left_ankle"))


@pytest.fixture
def standing(editor):
    """The editor with nothing connected, and (18, 3) its standing person."""
    editor.load(graph(size=SIZE))
    editor.status("standing pose")
    editor.press("mirror")  # the person is in its value from here on
    editor.press("mirror")
    return editor, editor.joints()[0]


def lengths(joints):
    return np.array([np.hypot(*(joints[a] - joints[b])[:2]) for a, b in OPENPOSE_LIMBS])


def test_people_are_added_copied_and_taken_away(standing):
    editor, alone = standing
    editor.press("remove")
    editor.note("The last person stays")
    assert len(editor.joints()) == 1, "nothing is lost"
    editor.press("add")
    added = editor.joints()
    assert len(added) == 2 and np.abs(added[1, :, 0] - added[0, :, 0]).min() > 5, "beside the first one"
    np.testing.assert_allclose(lengths(added[1]), lengths(alone), atol=0.05)
    assert (added[..., 0] > 0).all() and (added[..., 0] < 96).all()
    assert editor.part("hand_left", 1)[:, 2].all(), "a new person has hands"

    editor.press("copy")
    copied = editor.joints()
    moved = copied[2] - copied[1]
    assert len(copied) == 3 and np.abs(moved[0, 0]) > 3 and np.allclose(moved, moved[0], atol=0.02)
    editor.status("person 3 of 3")
    editor.key("Shift+Delete")
    np.testing.assert_allclose(editor.joints(), added)
    editor.press("undo")
    assert len(editor.joints()) == 3
    editor.key("n")
    editor.status("person 3 of 3")
    editor.key("n", "Delete")  # a whole person is selected: it is this one that goes
    np.testing.assert_allclose(editor.joints(), copied[1:])
    (frame,) = editor.run()
    assert len(frame["people"]) == 2
    assert editor.errors == []


def test_copy_and_paste_are_of_people_and_never_of_the_node(standing):
    editor, alone = standing
    page = editor.page
    nodes = page.evaluate(NODES)
    page.mouse.click(*editor.at(*alone[NOSE, :2]))
    page.keyboard.press("Control+c")
    editor.note("1 person copied")
    page.keyboard.press("Control+v")
    eventually(lambda: np.testing.assert_equal(len(editor.joints()), 2))
    assert page.evaluate(NODES) == nodes
    shift = editor.joints()[1] - editor.joints()[0]
    assert np.abs(shift[0, 0]) > 3 and np.allclose(shift, shift[0], atol=0.02)
    page.keyboard.press("Control+x")
    eventually(lambda: np.testing.assert_equal(len(editor.joints()), 1))
    page.keyboard.press("Control+d")
    assert len(editor.joints()) == 2 and page.evaluate(NODES) == nodes

    # Into another editor, of another size.
    editor.load(graph(size=(192, 256)))
    editor.key("Control+v")
    eventually(lambda: np.testing.assert_equal(len(editor.joints()), 2))
    pasted = lengths(editor.joints()[1]) / lengths(alone)
    np.testing.assert_allclose(pasted, 2, atol=0.01)
    page.evaluate("text => navigator.clipboard.writeText(text)", "a shopping list")
    before = editor.value
    editor.key("Control+v")
    editor.note("The clipboard holds no people")
    assert editor.value == before

    # Where the editor has no focus, the keys are the page's.
    page.evaluate("id => window.app.canvas.selectNode(window.app.graph.getNodeById(id))", EDITOR)
    page.mouse.click(1100, 700)
    page.evaluate("id => window.app.canvas.selectNode(window.app.graph.getNodeById(id))", EDITOR)
    page.keyboard.press("Control+c")
    page.keyboard.press("Control+v")
    eventually(lambda: np.testing.assert_equal(page.evaluate(NODES), nodes + 1))
    assert editor.errors == []


def test_a_box_selects_points_that_move_turn_and_scale_together(standing):
    editor, before = standing
    arms = [OPENPOSE18.index(f"{side}_{joint}") for side in ("left", "right") for joint in ("elbow", "wrist")]
    low, high = before[arms, :2].min(0) - 3, before[arms, :2].max(0) + (3, 15)
    drag = ((low[0] - 8, low[1]), (high[0] + 8, high[1] - 0.1))
    editor.drag((drag[0][0], drag[1][1] + 20), drag[0])  # from below, beside the body
    assert json.loads(editor.value) and np.array_equal(editor.joints()[0], before), "selecting changes nothing"
    editor.key("Escape")
    editor.drag((3, low[1]), (93, high[1]))
    editor.status("points")
    inside = (before[:, 1] > low[1]) & (before[:, 1] < high[1])
    assert inside[arms].all() and not inside.all()

    start = before[R_WRIST, :2]
    editor.drag(start, start + (4, -7))
    moved = editor.joints()[0]
    np.testing.assert_allclose((moved - before)[inside, :2] - (4, -7), 0, atol=0.6)
    np.testing.assert_allclose(moved[~inside], before[~inside], atol=0.01)
    hand = editor.part("hand_left")
    np.testing.assert_allclose(hand[0, :2], moved[L_WRIST, :2], atol=0.1, err_msg="hands go along once")

    editor.key("r")
    turned = editor.joints()[0]
    np.testing.assert_allclose(turned[~inside], before[~inside], atol=0.01)
    pairs = list(itertools.combinations(np.flatnonzero(inside), 2))
    spans = [np.array([np.hypot(*(joints[a] - joints[b])[:2]) for a, b in pairs]) for joints in (moved, turned)]
    np.testing.assert_allclose(spans[1], spans[0], atol=0.05)
    angle = np.arctan2(*np.subtract(*turned[[L_WRIST, R_WRIST], 1::-1])[::1]) - np.arctan2(
        *np.subtract(*moved[[L_WRIST, R_WRIST], 1::-1])[::1]
    )
    assert np.degrees(angle) == pytest.approx(5, abs=0.3)
    editor.key("+")
    scaled = editor.joints()[0]
    spans.append(np.array([np.hypot(*(scaled[a] - scaled[b])[:2]) for a, b in pairs]))
    np.testing.assert_allclose(spans[2], 1.04 * spans[0], rtol=0.01, atol=0.05)
    editor.key("Delete")
    assert (editor.joints()[0, inside, 2] == 0).all() and (editor.joints()[0, ~inside, 2] == 1).all()
    editor.press("hide")
    assert (editor.joints()[0, :, 2] == 1).all()
    assert editor.errors == []


def handles(editor):
    """Where on the page the corners and the knob are, from the left top one clockwise."""
    box, spots = editor.canvas.bounding_box(), None
    spots = editor.page.evaluate(
        """id => {
        const { element } = window.app.graph.getNodeById(id).widgets.find(({ name }) => name === "edit");
        const { corners, knob } = element.poseEditor.handles;
        return [...corners, knob];
    }""",
        EDITOR,
    )
    return [(box["x"] + x, box["y"] + y) for x, y in spots]


def pull(editor, start, end, hold=None):
    mouse = editor.page.mouse
    mouse.move(*start)
    if hold:
        editor.page.keyboard.down(hold)
    mouse.down()
    mouse.move(*end, steps=5)
    mouse.up()
    if hold:
        editor.page.keyboard.up(hold)


def test_the_handles_of_a_person_scale_and_turn(standing):
    editor, before = standing
    hip, knee = (before[OPENPOSE18.index(f"left_{name}"), :2] for name in ("hip", "knee"))
    editor.page.mouse.click(*editor.at(*(hip + knee) / 2))
    *corners, knob = handles(editor)
    pixel = np.subtract(editor.at(1, 0), editor.at(0, 0))[0]
    # The opposite corner stays: the visible points of body and hands.
    points = np.concatenate([before, editor.part("hand_left"), editor.part("hand_right")])[:, :2]
    low, high = points.min(0), points.max(0)
    pull(editor, corners[2], np.add(corners[2], -0.25 * (high - low) * pixel))
    scaled = editor.joints()[0]
    np.testing.assert_allclose(scaled[:, :2], low + 0.75 * (before[:, :2] - low), atol=0.6)
    editor.press("undo")

    middle = (low + high) / 2
    centre = np.array(editor.at(*middle))
    reach = np.subtract(knob, centre)
    pull(editor, knob, centre + (-reach[1], reach[0]), hold="Shift")  # a quarter of a turn, to whole steps of 15°
    turned = editor.joints()[0]
    away = before[:, :2] - middle
    np.testing.assert_allclose(turned[:, :2], middle + np.column_stack([-away[:, 1], away[:, 0]]), atol=0.1)
    assert editor.errors == []


def test_lengths_are_kept_by_a_switch(standing):
    editor, before = standing
    editor.press("lengths")
    own = lengths(before)
    target = before[L_SHOULDER, :2] + (12, 4)
    editor.drag(before[L_WRIST, :2], target)
    bent = editor.joints()[0]
    np.testing.assert_allclose(bent[L_WRIST, :2], target, atol=0.6, err_msg="the arm bends to reach")
    np.testing.assert_allclose(lengths(bent), own, atol=0.1)
    moved = np.flatnonzero(np.abs(bent - before).max(1) > 0.02)
    assert set(moved) == {L_ELBOW, L_WRIST}
    hand = editor.part("hand_left")
    spans = [np.hypot(*(hand[a] - hand[b])[:2]) for a, b in HAND_LIMBS]
    assert np.ptp(hand[:, 0]) > np.ptp(hand[:, 1]) * 0.2 and min(spans) > 0.5
    np.testing.assert_allclose(hand[0, :2], bent[L_WRIST, :2], atol=0.1)

    editor.drag(bent[L_ANKLE, :2], (94, 126))  # farther than the leg is long
    stretched = editor.joints()[0]
    np.testing.assert_allclose(lengths(stretched), own, atol=0.1)
    hip, knee, ankle = (stretched[OPENPOSE18.index(f"left_{name}"), :2] for name in ("hip", "knee", "ankle"))
    assert np.hypot(*(ankle - hip)) == pytest.approx(np.hypot(*(ankle - knee)) + np.hypot(*(knee - hip)), abs=0.1)

    editor.drag(stretched[NOSE, :2], stretched[NOSE, :2] + (6, 2))
    np.testing.assert_allclose(lengths(editor.joints()[0]), own, atol=0.1)
    editor.drag(stretched[1, :2], stretched[1, :2] + (-3, 5))  # the neck carries everybody
    editor.press("lengths")
    editor.drag(editor.joints()[0, R_WRIST, :2], (10, 20))
    assert np.abs(lengths(editor.joints()[0]) - own).max() > 3, "off again"
    assert editor.errors == []


def test_fingers_faces_and_feet_are_dragged_point_by_point(standing):
    editor, _ = standing
    editor.choose("people", "face")
    editor.choose("people", "feet")
    hand, face, feet = (editor.part(name) for name in ("hand_left", "face", "foot"))
    assert len(face) == 70 and len(feet) == 6 and face[:, 2].all() and feet[:, 2].all()

    tip = hand[20, :2]
    editor.page.mouse.move(*editor.at(*tip))
    editor.status("left hand: little finger, tip")
    editor.drag(tip, tip + (4, 3))
    after = editor.part("hand_left")
    np.testing.assert_allclose(after[20], (*tip + (4, 3), 1), atol=0.5)
    np.testing.assert_allclose(after[:20], hand[:20], atol=0.01)
    base = after[17, :2]
    editor.drag(base, base + (5, -2), hold="Control")
    moved = editor.part("hand_left") - after
    np.testing.assert_allclose(moved[17:, :2] - (5, -2), 0, atol=0.5)
    assert not moved[:17].any()

    chin = face[8, :2]
    editor.drag(chin, chin + (0, 3))
    np.testing.assert_allclose(editor.part("face")[8, :2], chin + (0, 3), atol=0.5)
    toe = feet[1, :2]
    editor.drag(toe, toe + (3, 0))
    np.testing.assert_allclose(editor.part("foot")[1, :2], toe + (3, 0), atol=0.5)
    editor.page.mouse.click(*editor.at(*editor.part("foot")[1, :2]), button="right")
    assert editor.part("foot")[1, 2] == 0
    editor.choose("people", "hands")
    assert not len(editor.part("hand_left")) and not len(editor.part("hand_right"))
    (frame,) = editor.run()
    (person,) = frame["people"]
    assert np.count_nonzero(np.reshape(person["foot_keypoints_2d"], (6, 3))[:, 2]) == 5
    assert editor.errors == []


def test_keys_alone_do_everything(editor):
    editor.load(two_people())
    start = joints_of(editor.run()[0])
    editor.key("n", "j", "j", "ArrowRight")  # the second person, its second joint
    moved = editor.joints() - start
    assert moved[1, 1, 0] == pytest.approx(1, abs=0.01) and np.count_nonzero(np.abs(moved) > 0.02) == 1
    editor.key("Shift+j", "h")
    assert editor.joints()[1, 0, 2] == 0
    editor.key("h", "Escape", "a", "m", "Control+a", "Shift+ArrowDown")
    moved = editor.joints()[:2] - start
    np.testing.assert_allclose(np.delete(moved[..., 1], 1, 1), 10, atol=0.05)
    assert len(editor.joints()) == 3
    editor.key("?")
    editor.page.get_by_test_id("pose-editor-panel").get_by_text("nudge what is selected").wait_for()
    editor.key("Escape")
    assert not editor.page.get_by_test_id("pose-editor-panel").is_visible()
    assert editor.errors == []
