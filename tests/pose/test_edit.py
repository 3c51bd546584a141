from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reposedm_core.errors import InputError
from reposedm_core.pose import FLIPS, Pose, edit_joint, edit_people, has_person
from reposedm_core.pose.people import people_boxes
from reposedm_core.pose.skeleton import FACE_FLIP, OPENPOSE18
from reposedm_core.pose.tree import descendants

from .conftest import assert_same, examples, people

AT = {name: number for number, name in enumerate(OPENPOSE18)}


def middle(pose: Pose, person: int = 0) -> np.ndarray:
    box = people_boxes(pose)[person]
    return (box[:2] + box[2:]) / 2


def test_nothing_edited_is_the_same(whole: Pose) -> None:
    assert_same(edit_people(whole), whole, 1e-5)


@examples
@given(people(), st.sampled_from(FLIPS[1:]))
def test_flipped_twice_is_the_same(pose: Pose, flip: str) -> None:
    once = edit_people(pose, flip=flip)
    assert_same(edit_people(once, flip=flip), pose, 1e-3)


@examples
@given(people(), st.floats(0.2, 5), st.tuples(st.floats(-300, 300), st.floats(-300, 300)))
def test_scaling_and_moving_can_be_undone(pose: Pose, scale: float, shift: tuple[float, float]) -> None:
    edited = edit_people(pose, shift=shift, scale=scale)
    back = edit_people(edit_people(edited, shift=(-shift[0], -shift[1])), scale=1 / scale)
    assert_same(back, pose, 0.02)


def test_flip_swaps_names_and_mirrors_places(whole: Pose) -> None:
    flipped = edit_people(whole, flip="canvas")
    for name in OPENPOSE18:
        other = name.replace("left", "x").replace("right", "left").replace("x", "right")
        x, y, score = whole.joints[0, AT[name]]
        np.testing.assert_allclose(flipped.joints[0, AT[other]], [96 - x, y, score], atol=1e-4)
    np.testing.assert_allclose(flipped.left_hand[0, 3], whole.right_hand[0, 3] * [-1, 1, 1] + [96, 0, 0], atol=1e-4)
    np.testing.assert_allclose(flipped.face[0, 0], whole.face[0, 16] * [-1, 1, 1] + [96, 0, 0], atol=1e-4)
    own = edit_people(whole, flip="person")
    np.testing.assert_allclose(middle(own), middle(whole), atol=1e-4)


def test_mirrored_face_keeps_left_eye_left() -> None:
    parts = {
        "jaw": range(17),
        "brows": range(17, 27),
        "bridge": range(27, 31),
        "nostrils": range(31, 36),
        "right eye": range(36, 42),
        "left eye": range(42, 48),
        "outer lips": range(48, 60),
        "inner lips": range(60, 68),
        "pupils": range(68, 70),
    }
    image = {name: {FACE_FLIP[k] for k in points} for name, points in parts.items()}
    swapped = {"right eye": "left eye", "left eye": "right eye"}
    assert all(image[name] == set(parts[swapped.get(name, name)]) for name in parts)
    assert all(FACE_FLIP[FACE_FLIP[k]] == k for k in range(70)) and FACE_FLIP[8] == 8 and FACE_FLIP[36] == 45


def test_rotation_is_clockwise_around_the_middle(whole: Pose) -> None:
    turned = edit_people(whole, angle=90)
    centre, nose = middle(whole), whole.joints[0, 0, :2]
    right_of = turned.joints[0, 0, :2] - centre  # the head was above, and is at the right now
    np.testing.assert_allclose(right_of, [-(nose - centre)[1], (nose - centre)[0]], atol=1e-4)
    assert right_of[0] > 30
    assert_same(edit_people(turned, angle=-90), whole, 1e-3)
    assert_same(edit_people(whole, angle=720), whole, 1e-4)


def test_only_the_person_that_was_asked_for(whole: Pose) -> None:
    two = whole.with_parts(*(np.repeat(part, 2, 0) for part in whole.parts))
    edited = edit_people(two, 1, (7, -3), 2.0, 10, "person")
    assert_same(edited.take([0]), whole)
    np.testing.assert_allclose(middle(edit_people(two, 1, (7, -3)), 1) - middle(two), [7, -3], atol=1e-4)
    assert_same(edit_people(whole, 1, (7, 0)), whole)  # nobody of that number here
    has_person([whole, two], 1)
    has_person([whole], None)
    with pytest.raises(InputError, match="person: there is no person 1; the fullest frame has 1"):
        has_person([whole], 1)


def test_joint_moves_alone_or_with_its_limb(whole: Pose) -> None:
    alone = edit_joint(whole, "left_elbow", (5, -4), limb=False)
    changed = np.flatnonzero((alone.joints != whole.joints).any(-1)[0])
    assert changed.tolist() == [AT["left_elbow"]]
    np.testing.assert_allclose(alone.joints[0, 6] - whole.joints[0, 6], [5, -4, 0], atol=1e-5)
    limb = edit_joint(whole, "left_elbow", (5, -4))
    changed = np.flatnonzero((limb.joints != whole.joints).any(-1)[0])
    assert changed.tolist() == [AT["left_elbow"], AT["left_wrist"]]
    np.testing.assert_allclose(limb.left_hand - whole.left_hand, [[[5, -4, 0]] * 21], atol=1e-5)
    np.testing.assert_array_equal(limb.right_hand, whole.right_hand)
    np.testing.assert_array_equal(limb.face, whole.face)
    assert_same(edit_joint(whole, "neck", (5, -4)), edit_people(whole, shift=(5, -4)), 1e-4)
    assert descendants(AT["nose"]) == [AT[n] for n in ("nose", "right_eye", "left_eye", "right_ear", "left_ear")]


def test_joint_is_removed_alone_or_with_its_limb(whole: Pose) -> None:
    alone = edit_joint(whole, "right_wrist", remove=True, limb=False)
    assert not alone.joints[0, 4].any() and alone.right_hand.any() and (alone.joints[..., 2] > 0).sum() == 17
    limb = edit_joint(whole, "right_shoulder", remove=True)
    assert not limb.joints[0, 2:5].any() and not limb.right_hand.any() and limb.left_hand.any()
    head = edit_joint(whole, "nose", remove=True)
    assert not head.face.any() and (head.joints[..., 2] > 0).sum() == 13
    assert len(edit_joint(whole, "neck", remove=True).joints) == 0
    two = whole.with_parts(*(np.repeat(part, 2, 0) for part in whole.parts))
    assert_same(edit_joint(two, "neck", remove=True, person=0), whole)


def test_absent_joint_stays_absent_with_its_limb(whole: Pose) -> None:
    joints = whole.joints.copy()
    joints[0, 6] = 0
    lacking = whole.with_parts(joints, *whole.parts[1:])
    for remove in (False, True):
        assert_same(edit_joint(lacking, "left_elbow", (5, 5), remove), lacking)


@pytest.mark.parametrize("flip", FLIPS)
def test_nobody_twenty_people_one_pixel_and_far_away(whole: Pose, flip: str) -> None:
    assert_same(edit_people(whole.take([]), flip=flip, scale=2), whole.take([]))
    many = whole.with_parts(*(np.repeat(part, 20, 0) for part in whole.parts))
    edited = edit_people(many, shift=(1, 2), scale=0.5, angle=33, flip=flip)
    assert len(edited.joints) == 20
    assert_same(edited.take([19]), edit_people(whole, shift=(1, 2), scale=0.5, angle=33, flip=flip))
    tiny = whole.resized(1, 1)
    assert (edit_people(tiny, scale=3, flip=flip).joints[..., 2] > 0).all()
    far = edit_people(whole, shift=(30000, 0), scale=100, flip=flip)
    assert np.isfinite(far.joints).all() and (far.joints[..., 2] > 0).all()


def test_exceptions(whole: Pose) -> None:
    for scale in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="scale"):
            edit_people(whole, scale=scale)
    with pytest.raises(InputError, match="finite"):
        edit_people(whole, shift=(float("nan"), 0))
    with pytest.raises(InputError, match=r"flip: .*person, canvas"):
        edit_people(whole, flip="upside down")
    with pytest.raises(InputError, match=r"joint: .*left_wrist"):
        edit_joint(whole, "tail")
    with pytest.raises(InputError, match="finite"):
        edit_joint(whole, "nose", (float("inf"), 0))
