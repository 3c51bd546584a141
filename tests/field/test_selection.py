"""Who and what of a pose is matched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reposedm_core import InputError
from reposedm_core.field import (
    PoseInteractionField,
    chosen_joints,
    chosen_people,
    joints_target,
    masked_distance,
    pose_target,
)
from reposedm_core.pose import Pose, coco_to_openpose, openpose_to_coco
from reposedm_core.pose.skeleton import COCO17
from tests.field.conftest import MICRO, SIZE, every_space


def names(text):
    return [COCO17[joint] for joint in chosen_joints(text)]


def crowd(people: int, height: int = 64, width: int = 48) -> Pose:
    generator = np.random.default_rng(people)
    joints = np.ones((people, 18, 3))
    joints[..., :2] = generator.random((people, 18, 2)) * (width, height)
    return Pose(joints, height, width)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("left_wrist", ["left_wrist"]),
        ("Left Wrist , nose", ["nose", "left_wrist"]),
        ("wrists", ["left_wrist", "right_wrist"]),
        ("hands", ["left_wrist", "right_wrist"]),
        ("left arm", ["left_shoulder", "left_elbow", "left_wrist"]),
        ("head, -ears", ["nose", "left_eye", "right_eye"]),
        ("legs, -left", ["right_hip", "right_knee", "right_ankle"]),
        ("-body", ["nose", "left_eye", "right_eye", "left_ear", "right_ear"]),
    ],
)
def test_joints_by_name(text, expected):
    assert names(text) == expected


@pytest.mark.parametrize("text", ["all", "", " ALL ", "head, body", "left, right, nose"])
def test_all_joints_are_none_in_particular(text):
    assert chosen_joints(text) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tail", "'tail' is no joint; name some of nose, left_eye"),
        ("arms, -arms", "leaves no joint to match"),
        ("-all", "leaves no joint"),
        ("left tail", "'left_tail' is no joint"),
        ("-", "'' is no joint"),
    ],
)
def test_joints_that_are_none(text, problem):
    with pytest.raises(InputError, match="joints: .*" + problem):
        chosen_joints(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", (0,)),
        ("2, 0", (0, 2)),
        ("1-3", (1, 2, 3)),
        ("0, 2-4; 7", (0, 2, 3, 4, 7)),
        ("all", None),
        ("0, all", None),
    ],
)
def test_people_by_number(text, expected):
    assert chosen_people(text) == expected


@pytest.mark.parametrize("text", ["", "first", "-1", "1.5", "3-1", "0-999999999999", "²", "1-"])
def test_people_that_are_none(text):
    with pytest.raises(InputError, match=r"people: .* give numbers from 0 such as 0"):
        chosen_people(text) if text != "1-" else chosen_people("1-x")


@every_space
@pytest.mark.parametrize("size", [(64, 48), (40, 64)])
def test_the_first_person_alone_is_the_target_unless_others_are_chosen(estimator, space, size):
    """Of training's joints, too, once they are fitted."""
    field, poses = PoseInteractionField(estimator(), space), [crowd(1), crowd(3)]
    found = pose_target(field, poses, size, SIZE)
    joints = np.concatenate([pose.resized(*size).resized(*SIZE).joints[:1] for pose in poses])
    coco = torch.from_numpy(openpose_to_coco(joints))
    if space == "features":  # there the necks are those of COCO's joints
        alone = pose_target(field, [Pose(pose.joints[:1], 64, 48) for pose in poses], size, SIZE)
        from_coco = [Pose(coco_to_openpose(each[None]), *SIZE) for each in coco.numpy()]
        trained = joints_target(field, coco, *SIZE)
        assert torch.equal(trained.features, pose_target(field, from_coco, SIZE, SIZE).features)
        assert torch.equal(found.features, alone.features)
    else:
        trained = joints_target(field, coco, *SIZE)
        assert torch.equal(found.heatmaps, trained.heatmaps) and torch.equal(found.known, trained.known)


@every_space
def test_people_are_those_chosen(estimator, space):
    field, pose = PoseInteractionField(estimator(), space), crowd(3)
    first, last = (pose_target(field, [Pose(pose.joints[[n]], 64, 48)], (64, 48), SIZE) for n in (0, 2))
    assert torch.equal(pose_target(field, [pose], (64, 48), SIZE, (2,)).heatmaps, last.heatmaps)
    both = pose_target(field, [pose], (64, 48), SIZE, (0, 2, 8))
    if space == "heatmaps":
        torch.testing.assert_close(
            both.heatmaps[0, :, ::3], torch.maximum(first.heatmaps, last.heatmaps)[0, :, ::3], atol=0.3, rtol=0
        )
    assert not torch.equal(both.heatmaps, first.heatmaps) and not torch.equal(both.heatmaps, last.heatmaps)


@every_space
def test_frames_of_different_crowds_make_one_batch(estimator, space):
    field, poses = PoseInteractionField(estimator(), space), [crowd(1), crowd(20), crowd(2)]
    target = pose_target(field, poses, (64, 48), SIZE, None)
    assert len(target.heatmaps) == 3 and target.heatmaps.isfinite().all()
    for frame, pose in enumerate(poses):
        alone = pose_target(field, [pose], (64, 48), SIZE, None)
        torch.testing.assert_close(target.heatmaps[[frame]], alone.heatmaps)


def test_who_is_in_no_frame_is_named(estimator):
    field = PoseInteractionField(estimator())
    with pytest.raises(InputError, match=r"people: frame 1 of the pose .* has 1 people and none of those"):
        pose_target(field, [crowd(3), crowd(1)], (64, 48), SIZE, (1, 2))


def test_pose_without_the_chosen_joints_is_named(estimator):
    field, pose = PoseInteractionField(estimator(), joints=chosen_joints("head")), crowd(1)
    joints = pose.joints.copy()
    joints[:, [0, 14, 15, 16, 17]] = 0
    with pytest.raises(InputError, match=r"joints: the pose in frame 0 .* has none of those chosen"):
        pose_target(field, [Pose(joints, 64, 48)], (64, 48), SIZE)


@every_space
def test_a_pose_larger_than_the_canvas(estimator, space):
    """Joints outside are kept: that they are not in the picture is what the target says."""
    pose = crowd(2)
    wide = Pose(pose.joints * (3, 3, 1), 64, 48)
    target = pose_target(PoseInteractionField(estimator(), space), [wide], (64, 48), SIZE, None)
    assert target.heatmaps.isfinite().all() and target.known.all() == (space == "heatmaps")


def test_only_chosen_joints_are_compared(estimator, decoder, latent):
    joints, poses, kind = chosen_joints("arms"), [crowd(1)], {"mask": "predicted", "threshold": 0.05}
    every, some = PoseInteractionField(estimator(), **kind), PoseInteractionField(estimator(), **kind, joints=joints)
    target = pose_target(every, poses, (64, 48), SIZE)
    moved = target.map(lambda t: t.clone())
    moved.heatmaps[:, :5] += 1  # the head
    picture = decoder()(latent())[:1].detach()
    assert torch.equal(some.distance(picture, target), some.distance(picture, moved))
    assert not torch.equal(every.distance(picture, target), every.distance(picture, moved))
    seen, _ = some._see(picture)
    chosen = list(joints)
    mask = (seen[:, chosen].sum(1, keepdim=True) > 0.05).float()
    assert 0 < mask.mean() < 1
    expected = masked_distance(seen[:, chosen], target.heatmaps[:, chosen], mask * target.known[:, chosen])
    torch.testing.assert_close(some.distance(picture, target), expected)


@every_space
def test_all_joints_named_is_all_joints(estimator, space):
    picture = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    every, named = (PoseInteractionField(estimator(), space, joints=joints) for joints in (None, range(17)))
    target = pose_target(every, [crowd(1)], (64, 48), SIZE)
    assert torch.equal(every.distance(picture, target), named.distance(picture, target))


@pytest.mark.parametrize("joints", [[], [17], [-1]])
def test_joints_that_the_estimator_has_not(estimator, joints):
    assert MICRO.joints == 17
    with pytest.raises(InputError, match="use one or more of 0 to 16"):
        PoseInteractionField(estimator(), joints=joints)
