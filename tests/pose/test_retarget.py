from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reposedm_core.errors import InputError
from reposedm_core.pose import ANCHORS, Pose, edit_people, load_pose_file, retarget_pose
from reposedm_core.pose.retarget import LEAST, LIMBS, MOST, limb_sizes
from reposedm_core.pose.tree import MID_HIP, PARENTS, with_mid_hip

from .conftest import assert_same, examples, people

FIXTURES = Path(__file__).parent.parent / "fixtures" / "poses"
BONES = [(point, parent) for point, parent in enumerate(PARENTS) if parent >= 0]


def lengths(pose: Pose) -> dict[tuple[int, int], float]:
    points = with_mid_hip(pose.joints)[0, :, :2]
    return {bone: float(np.linalg.norm(points[bone[0]] - points[bone[1]])) for bone in BONES}


def directions(pose: Pose) -> np.ndarray:
    points = with_mid_hip(pose.joints)[0, :, :2]
    bones = np.array([points[child] - points[parent] for child, parent in BONES])
    return bones / np.linalg.norm(bones, axis=1, keepdims=True)


def stretched(pose: Pose, factors: dict[int, float], whole: float = 1) -> Pose:
    """Bones that end in these points made longer, everything below them moved along."""
    points = with_mid_hip(pose.joints)[0]
    new = points.copy()
    for point in sorted(range(19), key=lambda k: depth(k)):
        if PARENTS[point] >= 0:
            bone = points[point, :2] - points[PARENTS[point], :2]
            new[point, :2] = new[PARENTS[point], :2] + factors.get(point, 1) * whole * bone
    return Pose(new[None, :18], pose.height, pose.width)


def depth(point: int) -> int:
    return 0 if PARENTS[point] < 0 else 1 + depth(PARENTS[point])


@examples
@given(people(), st.booleans(), st.sampled_from(ANCHORS), st.booleans())
def test_own_proportions_change_nothing(pose: Pose, size: bool, anchor: str, together: bool) -> None:
    joints = pose.joints.copy()
    # a thigh and a torso at least, so that there is something to compare
    joints[:, (1, 8, 11, 9)] = [(40, 30, 1), (35, 60, 1), (45, 60, 1), (30, 90, 1)]
    pose = pose.with_parts(joints, *pose.parts[1:])
    (result,) = retarget_pose([pose], [pose], size, anchor, together)
    assert_same(result, pose, 1e-3)


def test_limbs_take_the_source_s_lengths_and_keep_their_directions(whole: Pose) -> None:
    # longer legs, shorter arms, the source in another pose: turned as a whole and mirrored
    factors = {9: 1.3, 12: 1.3, 10: 1.3, 13: 1.3, 3: 0.8, 4: 0.8, 6: 0.8, 7: 0.8}
    source = edit_people(stretched(whole, factors), angle=50, flip="person")
    (result,) = retarget_pose([whole], [source], size=True)
    wanted, got = lengths(stretched(whole, factors)), lengths(result)
    for bone in BONES:
        assert got[bone] == pytest.approx(wanted[bone], rel=0.03), bone
    np.testing.assert_allclose(directions(result), directions(whole), atol=1e-4)
    hips, kept = (with_mid_hip(pose.joints)[0, MID_HIP] for pose in (result, whole))
    np.testing.assert_allclose(hips, kept, atol=1e-4)


def test_proportions_alone_keep_the_size(whole: Pose) -> None:
    half = stretched(whole, {}, 0.5)
    (result,) = retarget_pose([whole], [half])
    assert_same(result, whole, 1e-3)
    (result,) = retarget_pose([whole], [half], size=True)
    ratios = [lengths(result)[bone] / lengths(whole)[bone] for bone in BONES]
    np.testing.assert_allclose(ratios, 0.5, rtol=1e-4)
    # hands and face are half as large too, and still at their joints
    for name, joint in (("left_hand", 7), ("right_hand", 4), ("face", 0)):
        old, new = getattr(whole, name)[0, :, :2], getattr(result, name)[0, :, :2]
        old, new = old - whole.joints[0, joint, :2], new - result.joints[0, joint, :2]
        np.testing.assert_allclose(new, 0.5 * old, atol=1e-3)
    tall = {9: 1.5, 12: 1.5, 10: 1.5, 13: 1.5}
    (result,) = retarget_pose([whole], [stretched(whole, tall)])
    old, new = lengths(whole), lengths(result)
    assert new[9, 8] / new[18, 1] == pytest.approx(1.5 * old[9, 8] / old[18, 1], rel=1e-3)
    assert 0.7 < new[18, 1] / old[18, 1] < 0.95  # the torso gives what the legs take


def test_hands_take_the_source_s_size(whole: Pose) -> None:
    large = whole.left_hand.astype(float)
    large[..., :2] = whole.joints[0, 7, :2] + 3 * (large[..., :2] - whole.joints[0, 7, :2])
    source = whole.with_parts(whole.joints, whole.face, large, whole.right_hand * 0)
    (result,) = retarget_pose([whole], [source])
    for hand, joint in (("left_hand", 7), ("right_hand", 4)):
        old, new = getattr(whole, hand)[0, :, :2], getattr(result, hand)[0, :, :2]
        sizes = [np.linalg.norm(points[9] - points[0]) for points in (old, new)]
        assert sizes[1] > 1.3 * sizes[0] and np.isfinite(new).all(), joint


def test_foreshortened_limbs_of_the_pose_stay_foreshortened(whole: Pose) -> None:
    sitting = whole.joints.copy()
    sitting[0, [9, 12], :2] = sitting[0, [8, 11], :2] + [0, 4]  # knees towards the camera
    sitting[0, [10, 13], :2] = sitting[0, [9, 12], :2] + [0, 22]
    (result,) = retarget_pose([Pose(sitting, 128, 96)], [whole], size=True)
    thigh = lengths(result)[9, 8]
    assert 3.5 < thigh < 7, thigh  # not the 26 of the standing person
    # one leg seen at full length tells how long both are
    sitting[0, 12, :2] = sitting[0, 11, :2] + [26, 0]
    (result,) = retarget_pose([Pose(sitting, 128, 96)], [whole], size=True)
    assert lengths(result)[9, 8] == pytest.approx(4, rel=0.02)
    assert lengths(result)[12, 11] == pytest.approx(26, rel=0.02)


def test_a_source_seen_from_the_side_does_not_make_thin_people(whole: Pose) -> None:
    side = whole.joints.copy()
    side[0, :, 0] = 48 + 0.05 * (side[0, :, 0] - 48)
    (result,) = retarget_pose([whole], [Pose(side, 128, 96)], size=True)
    old, new = lengths(whole), lengths(result)
    assert 0.5 * old[2, 1] < new[2, 1] <= 1.3 * old[2, 1]
    assert LEAST == 0.7


def test_canvases_are_compared_as_fitted(whole: Pose) -> None:
    (one,) = retarget_pose([whole], [whole.resized(512, 384)], size=True)
    assert_same(one, whole, 1e-3)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("canvas", [(600, 1000), (1000, 411)])
def test_size_is_that_of_the_source_in_its_own_picture(whole: Pose, canvas: tuple[int, int], together: bool) -> None:
    """Where the pose's canvas has other proportions than the picture it is letterboxed into it, and so compared."""
    there = whole.resized(*canvas)
    own = Pose(there.joints * (1.5, 1.5, 1.0), *canvas)
    (result,) = retarget_pose([whole], [own], size=True, together=together)
    assert (result.height, result.width) == (whole.height, whole.width)
    expected = {bone: 1.5 * length for bone, length in lengths(there).items()}
    assert lengths(result.resized(*canvas)) == pytest.approx(expected)


def test_missing_joints(whole: Pose) -> None:
    tall = stretched(whole, {9: 1.5, 12: 1.5, 10: 1.5, 13: 1.5}, 1.2)
    for absent in ([1], [8], [8, 11], [9], [1, 8, 11], [0], [7], [2, 5], list(range(8, 14))):
        joints = whole.joints.copy()
        joints[0, absent] = 0
        lacking = whole.with_parts(joints, *whole.parts[1:])
        for target, source in ((lacking, tall), (whole, Pose(tall.joints * (joints[..., 2:] > 0), 128, 96))):
            for anchor in ANCHORS:
                for size in (False, True):
                    (result,) = retarget_pose([target], [source], size, anchor)
                    np.testing.assert_array_equal(result.joints[..., 2], target.joints[..., 2])
                    assert np.abs(result.joints[..., :2]).max() < 300
                    for name in ("face", "left_hand", "right_hand"):
                        np.testing.assert_array_equal(getattr(result, name)[..., 2], getattr(target, name)[..., 2])
                        spread = [np.ptp(getattr(p, name)[0, :, :2], 0).max() for p in (target, result)]
                        assert spread[1] < 2.5 * spread[0], (absent, name)
    # a hand whose wrist is absent still goes where the arm goes
    joints = whole.joints.copy()
    joints[0, 7] = 0
    (result,) = retarget_pose([whole.with_parts(joints, *whole.parts[1:])], [tall], size=True)
    (expected,) = retarget_pose([whole], [tall], size=True)
    np.testing.assert_allclose(result.left_hand[0, 0], expected.left_hand[0, 0], atol=1.5)


@pytest.mark.parametrize(("anchor", "joint"), [("neck", 1), ("feet", 10), ("hips", MID_HIP)])
def test_what_is_kept(whole: Pose, anchor: str, joint: int) -> None:
    joints = whole.joints.copy()
    joints[0, 10, 1] += 4  # the right foot is the lower one
    target = whole.with_parts(joints, *whole.parts[1:])
    (result,) = retarget_pose([target], [stretched(whole, {9: 1.4, 12: 1.4}, 0.8)], True, anchor)
    np.testing.assert_allclose(with_mid_hip(result.joints)[0, joint], with_mid_hip(joints)[0, joint], atol=1e-4)
    assert np.abs(result.joints - joints).max() > 3


def test_feet_take_over_from_one_another_without_a_jump(whole: Pose) -> None:
    tall = stretched(whole, {9: 2, 10: 2, 12: 2, 13: 2})
    frames = []
    for lift in np.linspace(-8, 8, 33):
        joints = whole.joints.copy()
        joints[0, [10, 13], 0] += (-20, 20)
        joints[0, 10, 1] += lift
        frames.append(whole.with_parts(joints, *whole.parts[1:]))
    retargeted = retarget_pose(frames, [tall], True, "feet")
    hips = np.array([with_mid_hip(frame.joints)[0, MID_HIP, :2] for frame in retargeted])
    assert np.ptp(hips[:, 0]) > 5  # it does change feet
    assert np.abs(np.diff(hips, axis=0)).max() < 2


def test_frames_of_one_person_are_measured_together(whole: Pose) -> None:
    folded = whole.joints.copy()
    folded[0, [4, 7], :2] = folded[0, [3, 6], :2] + [0, 3]  # forearms towards the camera
    frames = [whole, Pose(folded, 128, 96)] + [whole] * 3
    source = stretched(whole, {}, 0.9)
    together = retarget_pose(frames, [source], size=True)
    assert lengths(together[1])[4, 3] == pytest.approx(0.9 * 3, rel=0.01)
    alone = retarget_pose(frames, [source], size=True, together=False)
    assert lengths(alone[1])[4, 3] > 0.9 * 3 * 1.2
    # nearer to the camera stays larger, and the source may have frames of its own
    near = [whole, stretched(whole, {}, 1.5)]
    result = retarget_pose(near, [source] * 3, size=True)
    assert lengths(result[1])[18, 1] == pytest.approx(1.5 * lengths(result[0])[18, 1], rel=1e-4)
    with pytest.raises(InputError, match="source_pose: it has 3 frames and pose has 5"):
        retarget_pose(frames, [source] * 3, together=False)
    assert len(retarget_pose([whole], [source] * 3, together=False)) == 3


def test_several_people(whole: Pose) -> None:
    def crowd(*poses: Pose) -> Pose:
        return whole.with_parts(*(np.concatenate(parts) for parts in zip(*(pose.parts for pose in poses), strict=True)))

    tall, small = stretched(whole, {}, 1.1), stretched(whole, {}, 0.6)
    two = crowd(whole, edit_people(whole, shift=(30, 0)))
    (both,) = retarget_pose([two], [crowd(tall, small)], size=True)
    assert lengths(both.take([0]))[9, 8] == pytest.approx(1.1 * lengths(whole)[9, 8], rel=1e-3)
    assert lengths(both.take([1]))[9, 8] == pytest.approx(0.6 * lengths(whole)[9, 8], rel=1e-3)
    (one,) = retarget_pose([two], [small], size=True)
    assert lengths(one.take([0]))[9, 8] == pytest.approx(0.6 * lengths(whole)[9, 8], rel=1e-3)
    (twenty,) = retarget_pose([crowd(*[whole] * 20)], [crowd(tall, small)], size=True)
    assert len(twenty.joints) == 20
    assert_same(twenty.take([19]), whole)  # nobody for him in the source
    empty = whole.take([])
    result = retarget_pose([empty, whole], [small])
    assert len(result[0].joints) == 0 and len(result[1].joints) == 1


@pytest.mark.parametrize("size", [False, True])
def test_one_false_joint_of_the_source_changes_nothing(size: bool) -> None:
    (pose,), (false,) = (load_pose_file(FIXTURES / f"{name}.json") for name in ("standing", "false_right_wrist"))
    (result,) = retarget_pose([pose], [false], size)
    assert_same(result, pose, 0.01)
    for joint in range(18):
        joints = pose.joints.copy()
        joints[0, joint, :2] = (-150, 700)  # outside of the picture, but not far
        (result,) = retarget_pose([pose], [Pose(joints, 768, 512)], size)
        for bone in BONES:
            assert lengths(result)[bone] == pytest.approx(lengths(pose)[bone], rel=0.12), (joint, bone)


@pytest.mark.parametrize("size", [False, True])
def test_one_false_joint_in_one_frame_of_several_changes_nothing(size: bool) -> None:
    (pose,), five = (load_pose_file(FIXTURES / f"{name}.json") for name in ("standing", "five_frames_one_false_wrist"))
    for target, source in ((five, [pose]), ([pose], five), (five, five)):
        for result, wanted in zip(retarget_pose(target, source, size), target, strict=True):
            assert_same(result, wanted, 0.01)
    # and a real difference is still taken
    tall = stretched(pose, {9: 1.3, 12: 1.3, 10: 1.3, 13: 1.3})
    for result, wanted in zip(retarget_pose(five, [tall], True), five, strict=True):
        assert lengths(result)[9, 8] == pytest.approx(1.3 * lengths(pose)[9, 8], rel=0.01)
        np.testing.assert_allclose(result.joints[0, 2:4], wanted.joints[0, 2:4], atol=0.5)


def test_joints_far_outside_of_the_picture_are_outliers(whole: Pose) -> None:
    tall = stretched(whole, {9: 1.4, 12: 1.4, 10: 1.4, 13: 1.4})
    joints = tall.joints.copy()
    joints[0, [3, 4, 6, 7], :2] = [(500, 40), (900, -300), (-400, 60), (-700, 90)]  # both arms: no side is right
    (result,) = retarget_pose([whole], [Pose(joints, 128, 96)], size=True)
    assert lengths(result)[9, 8] == pytest.approx(1.4 * lengths(whole)[9, 8], rel=0.01)
    for bone in ((3, 2), (4, 3), (6, 5), (7, 6)):
        assert 0.9 < lengths(result)[bone] / lengths(whole)[bone] < 1.5
    # somebody who stands outside of the picture is not made of outliers
    (result,) = retarget_pose([whole], [edit_people(tall, shift=(400, 0))], size=True)
    assert lengths(result)[9, 8] == pytest.approx(1.4 * lengths(whole)[9, 8], rel=0.01)


def test_a_limb_that_is_too_long_on_both_sides_counts_as_not_seen(whole: Pose) -> None:
    usual = np.median(limb_sizes(whole)[0]) / limb_sizes(whole)[0][0, 5]
    for factor, expected in ((0.95 * MOST * usual, 0.95 * MOST * usual), (1.1 * MOST * usual, 1), (9, 1)):
        (result,) = retarget_pose([whole], [stretched(whole, {4: factor, 7: factor})], size=True)
        for bone in BONES:
            ratio = expected if bone in ((4, 3), (7, 6)) else 1
            assert lengths(result)[bone] / lengths(whole)[bone] == pytest.approx(ratio, rel=0.03), (factor, bone)


def test_nothing_in_common_is_an_error(whole: Pose) -> None:
    legs, arms = whole.joints.copy(), whole.joints.copy()
    legs[0, :8] = legs[0, 14:] = 0
    arms[0, 8:] = arms[0, 0] = 0
    with pytest.raises(InputError, match="source_pose: it shows no limb that the pose shows too"):
        retarget_pose([Pose(legs, 128, 96)], [Pose(arms, 128, 96)])
    with pytest.raises(InputError, match=r"keep: .*hips, neck, feet"):
        retarget_pose([whole], [whole], anchor="ears")


def test_ids_say_who_is_who_where_somebody_is_missing(whole: Pose) -> None:
    """Every person keeps one scale over the frames, though the numbers of people change."""
    small = edit_people(whole, scale=0.5, shift=(60, 0))
    both = whole.with_parts(*map(np.concatenate, zip(whole.parts, small.parts, strict=True)), ids=(4, 2))
    tall = stretched(whole, {9: 1.4, 12: 1.4, 10: 1.4, 13: 1.4})
    source = both.with_parts(*map(np.concatenate, zip(tall.parts, small.parts, strict=True)), ids=(0, 1))
    frames = [both, both.take([1]), both.take([1, 0])]
    first, alone, turned = retarget_pose(frames, [source], size=True)
    assert lengths(first)[9, 8] == pytest.approx(1.4 * lengths(whole)[9, 8], rel=0.01)
    assert_same(alone, first.take([1]), 1e-3)
    assert_same(turned, first.take([1, 0]), 1e-3)


def test_one_pixel(whole: Pose) -> None:
    tiny = whole.resized(1, 1)
    (result,) = retarget_pose([tiny], [tiny.resized(128, 128)], size=True)
    assert_same(result, tiny, 1e-3)


def test_sizes_are_the_greater_of_both_sides(whole: Pose) -> None:
    joints = whole.joints.copy()
    joints[0, 3, :2] = joints[0, 2, :2] + [0, 1]
    sizes, hands = limb_sizes(Pose(joints, 128, 96))
    assert sizes.shape == (1, 9) and np.isnan(hands).all()
    usual = LIMBS["upper arm"][0][2]
    assert sizes[0, 4] == pytest.approx(np.linalg.norm(joints[0, 6, :2] - joints[0, 5, :2]) / usual)
    assert not np.isnan(limb_sizes(whole)[1]).any()
