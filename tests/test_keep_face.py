"""The face of the source in the result: where it comes to lie, when it is kept, and what stays bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reposedm_core import InputError
from reposedm_core.keep_face import HEAD, find_face, keep_face
from reposedm_core.pose import Pose, edit_people

HEIGHT, WIDTH = 256, 192
HEAD_PLACES = {0: (96, 74), 14: (86, 60), 15: (106, 60), 16: (74, 64), 17: (118, 64)}


@pytest.fixture
def pose() -> Pose:
    """Somebody who faces the camera, with eyes 20 pixels apart."""
    joints = np.zeros((18, 3), np.float32)
    for joint, place in HEAD_PLACES.items():
        joints[joint] = *place, 1
    for joint, place in {1: (96, 110), 2: (66, 112), 3: (56, 150), 4: (52, 190), 5: (126, 112), 6: (136, 150)}.items():
        joints[joint] = *place, 1
    joints[7] = 140, 190, 1
    return Pose(joints[None], HEIGHT, WIDTH)


def picture(pose: Pose) -> torch.Tensor:
    """Skin on grey, with a red, a green and a blue disc where eyes and nose are."""
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    made = torch.full((3, HEIGHT, WIDTH), 0.5)
    places = pose.joints[0, list(HEAD), :2]
    head = ((x - places[:, 0].mean()) ** 2 + (y - places[:, 1].mean()) ** 2).sqrt() < 40
    made[:, head] = torch.tensor([0.8, 0.6, 0.5])[:, None]
    for colour, joint in enumerate((14, 15, 0)):
        near = ((x - pose.joints[0, joint, 0]) ** 2 + (y - pose.joints[0, joint, 1]) ** 2).sqrt() < 4
        made[:, near] = torch.eye(3)[colour][:, None]
    return made


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(("scale", "angle"), [(1.0, 0), (0.5, 25), (1.3, -40)])
def test_the_face_comes_to_lie_on_that_of_the_result(pose: Pose, scale: float, angle: float, channels: int) -> None:
    wanted = edit_people(pose, shift=(10, 20), scale=scale, angle=angle)
    blank = torch.full((channels, HEIGHT, WIDTH), 0.5)
    blank[:3] = torch.tensor([0.8, 0.6, 0.5])[:, None, None]
    found, share = keep_face(blank, picture(pose), pose, wanted, match=0)
    for colour, joint in enumerate((14, 15, 0)):
        x, y = wanted.joints[0, joint, :2].round().astype(int).tolist()
        assert found[:3, y, x].argmax() == colour and found[colour, y, x] > 0.9 and found[:3, y, x].min() < 0.1
    outside = share == 0
    assert torch.equal(found[:, outside], blank[:, outside]) and torch.equal(found[3:], blank[3:])
    assert 0.4 < share.sum() / (np.pi * 1.4 * (20 * scale) ** 2) < 0.8 and share.max() == 1


def test_a_source_of_another_size_is_read_at_its_own(pose: Pose) -> None:
    large = torch.nn.functional.interpolate(picture(pose)[None], scale_factor=4, mode="nearest")[0]
    large[:, ::2] *= 0.8  # a grid that is finer than the result
    large[:, 1::2] *= 1.2
    found, share = keep_face(torch.zeros(3, HEIGHT, WIDTH), large, pose, pose, match=0)
    skin = found[:, 67, 96]
    assert share[67, 96] == 1 and (skin - torch.tensor([0.8, 0.6, 0.5])).abs().max() < 0.03


def test_colours_are_matched_around_the_face(pose: Pose) -> None:
    """A result that is darker all over gets a face as dark."""
    source = picture(pose)
    found, _ = keep_face(source * 0.85, source, pose, pose)
    assert (found[:, 67, 96] - source[:, 67, 96] * 0.85).abs().max() < 0.04
    alone, _ = keep_face(source * 0.85, source, pose, pose, match=0)
    assert (alone[:, 67, 96] - source[:, 67, 96]).abs().max() < 1e-3


def changed(pose: Pose, **places: tuple[float, float] | None) -> Pose:
    """Joints by number, `j7=(x, y)`, in other places; None takes one away."""
    joints = pose.joints.copy()
    for name, place in places.items():
        joints[0, int(name[1:])] = (*place, 1) if place else 0
    return Pose(joints, pose.height, pose.width)


def mirrored(pose: Pose) -> Pose:
    """Seen from behind: left and right names stay with the person and change sides."""
    joints = pose.joints.copy()
    joints[..., 0] = WIDTH - joints[..., 0]
    return Pose(joints, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "other",
    [
        mirrored,
        lambda pose: changed(pose, j0=(108, 72), j15=(102, 60), j16=(92, 64)),  # turned to the side
        lambda pose: changed(pose, j0=(96, 62)),  # looks up
        lambda pose: changed(pose, j14=None),
        lambda pose: changed(pose, j0=None),
        lambda pose: changed(pose, j6=(120, 120), j7=(108, 92)),  # a hand before the chin
        lambda pose: changed(pose, j6=(96, 130), j7=(96, 104)),  # a hand that reaches from below
        lambda pose: pose.take([]),
        lambda pose: edit_people(pose, shift=(4000, 0)),
        lambda pose: edit_people(pose, scale=0.001),
    ],
)
def test_elsewhere_the_result_is_what_it_was(pose: Pose, other) -> None:
    result, source = torch.rand(3, HEIGHT, WIDTH), picture(pose)
    for pair in ((pose, other(pose)), (other(pose), pose)):
        found, share = keep_face(result, source, *pair)
        assert torch.equal(found, result) and not share.any()


@pytest.mark.parametrize("cut", [90, 100])
def test_a_face_that_the_source_s_border_cuts_fades_towards_it(pose: Pose, cut: int) -> None:
    """No hard edge in the middle of a face: of the source only what is to the left of `cut` is there."""
    part = Pose(pose.joints, HEIGHT, cut)
    result = torch.zeros(3, HEIGHT, WIDTH)
    whole = keep_face(result, picture(pose), pose, pose)[1]
    share = keep_face(result, picture(pose)[..., :cut], part, pose)[1]
    assert not share[:, cut:].any() and share.max() > 0.5 and (share <= whole + 1e-6).all()
    assert share.diff(dim=1).abs().max() < 0.16
    hard = keep_face(result, picture(pose)[..., :cut], part, pose, feather=0)[1]
    assert hard[67, cut - 1] == 1 and hard[67, cut] == 0


def test_it_fades_where_heads_are_turned_a_little(pose: Pose) -> None:
    """No jump from kept to not kept, as the head turns from frame to frame."""
    most = [
        keep_face(torch.rand(3, HEIGHT, WIDTH), picture(pose), pose, changed(pose, j0=(96 + turn, 74)))[1].max().item()
        for turn in range(16)
    ]
    assert most[0] == 1 and most[-1] == 0 and np.all(np.diff(most) <= 0)
    assert np.abs(np.diff(most)).max() < 0.3


def test_points_of_the_face_say_where_it_looks(pose: Pose) -> None:
    points = np.stack([np.linspace(70, 122, 70), 70 + 20 * np.sin(np.arange(70.0)), np.ones(70)], -1)[None]
    with_face = Pose(pose.joints, HEIGHT, WIDTH, points)
    turned = Pose(pose.joints, HEIGHT, WIDTH, (points - (96, 0, 0)) * (-1, 1, 1) + (96, 0, 0))
    result, source = torch.rand(3, HEIGHT, WIDTH), picture(pose)
    assert keep_face(result, source, with_face, with_face)[1].max() == 1
    assert keep_face(result, source, with_face, pose)[1].max() == 1
    assert keep_face(result, source, with_face, turned)[1].max() == 0


def test_the_face_of_one_of_several(pose: Pose) -> None:
    beside = edit_people(pose, shift=(60, 60), scale=0.6)
    both = pose.with_parts(*map(np.concatenate, zip(pose.parts, beside.parts, strict=True)))
    share = keep_face(torch.rand(3, HEIGHT, WIDTH), picture(pose), pose, both.take([1]))[1]
    y, x = np.nonzero(share.numpy())
    face = find_face(both.take([1]))
    assert abs(x.mean() - face.eyes[0]) < 2 and 0 < y.mean() - face.eyes[1] < face.unit


def test_wrong_numbers_are_refused(pose: Pose) -> None:
    for wrong, message in (({"feather": 51}, "feather = 51"), ({"match": 2}, "match = 2")):
        with pytest.raises(InputError, match=message):
            keep_face(torch.rand(3, HEIGHT, WIDTH), picture(pose), pose, pose, **wrong)
