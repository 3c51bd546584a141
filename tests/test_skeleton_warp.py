"""A picture warped by two skeletons: known motions, masks, and poses that cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from reposedm_core import InputError, Pose
from reposedm_core.alignment.skeleton_map import limb_mask
from reposedm_core.images import to_image
from reposedm_core.pose import edit_people, load_pose_file
from reposedm_core.skeleton_warp import warp_by_skeletons
from workflows.comfy_server import ROOT

EXAMPLES = ROOT / "workflows" / "examples"
SIZE = 384, 288


def picture(name):
    """An example as (H, W, 3) in 0..1, at one and a half times its size."""
    return to_image(Image.open(EXAMPLES / name).resize(SIZE[::-1]))[0].movedim(0, -1) / 2 + 0.5


def pose(name):
    return load_pose_file(EXAMPLES / name)[0].resized(*SIZE)


@pytest.fixture(scope="module")
def person():
    return picture("lime_top.png"), pose("lime_top_source.json")


def test_the_same_pose_changes_no_more_than_the_plate(person):
    found = warp_by_skeletons(*person, person[1])
    inside = (found.person > 0.99) & (found.visibility > 0.99)
    assert inside.sum() > 0.1 * inside.numel()
    assert (found.aligned[inside] - person[0][inside]).abs().max() < 0.01
    away = found.changed == 0
    assert away.sum() > 0.3 * away.numel() and torch.equal(found.aligned[away], person[0][away])


def test_who_is_moved_comes_along_pixel_for_pixel(person):
    """40 pixels to the right, at the picture's own resolution."""
    found = warp_by_skeletons(*person, edit_people(person[1], shift=(40, 0)))
    joints = torch.from_numpy(person[1].joints)
    core = limb_mask(joints, SIZE, SIZE, 0.5)[0, 0, :, :-40] > 0.9
    moved, source = found.aligned[:, 40:], person[0][:, :-40]
    assert core.sum() > 2000 and (moved[core] - source[core]).abs().mean() < 0.01
    assert (person[0][:, 40:][core] - source[core]).abs().mean() > 0.1


def test_every_example_comes_nearer_to_its_target():
    for name in ("lime_top", "striped_shirt", "teal_trousers"):
        source, target = picture(f"{name}.png"), picture(f"{name}_target.png")
        found = warp_by_skeletons(source, pose(f"{name}_source.json"), pose(f"{name}_pose.json"))
        away = found.changed == 0
        assert (found.aligned - target)[~away].abs().mean() < 0.8 * (source - target)[~away].abs().mean(), name
        assert torch.equal(found.aligned[away], source[away])


def test_a_mask_that_is_given_is_what_is_carried_along(person):
    joints = person[1].joints
    mask = limb_mask(torch.from_numpy(joints), SIZE, SIZE, 1.0)[0, 0]
    mask[250:] = 0  # no legs: a table is in front
    found = warp_by_skeletons(*person, edit_people(person[1], shift=(30, 0)), mask=mask)
    shin = joints[0, [9, 10], :2].mean(0).round().astype(int) + (30, 0)
    chest = joints[0, [1, 8, 11], :2].mean(0).round().astype(int) + (30, 0)
    for (x, y), seen in ((shin, 0), (chest, 1)):
        assert found.person[y, x] > 0.9 and abs(found.visibility[y, x] - seen) < 0.1
    smaller = torch.nn.functional.interpolate(mask[None, None], (96, 72))[0, 0]
    other = warp_by_skeletons(*person, edit_people(person[1], shift=(30, 0)), mask=smaller)
    assert (other.visibility - found.visibility).abs().mean() < 0.02, "of another size"


def test_limbs_that_the_source_lacks_are_there_and_not_seen(person):
    cut = person[1].joints.copy()
    cut[0, [9, 10, 12, 13]] = 0
    found = warp_by_skeletons(person[0], Pose(cut, *SIZE), person[1])
    x, y = person[1].joints[0, [9, 10], :2].mean(0).round().astype(int)
    assert found.person[y, x] > 0.9 and found.visibility[y, x] < 0.5


@pytest.mark.parametrize("output", ["source", 100, 700])
def test_sizes(person, output):
    found = warp_by_skeletons(*person, edit_people(person[1], angle=5), output)
    size = SIZE if output == "source" else (output, round(output * SIZE[1] / SIZE[0] / 8) * 8)
    assert found.aligned.shape == found.flow.shape == (*size, 3)
    assert found.visibility.shape == found.person.shape == found.changed.shape == size


@pytest.mark.parametrize("size", [(16, 16), (1, 40), (600, 20), (1200, 5)])
@pytest.mark.parametrize("channels", [3, 4])
def test_pictures_of_any_shape(person, size, channels):
    found = warp_by_skeletons(torch.rand(*size, channels), person[1], edit_people(person[1], shift=(20, 5)))
    assert found.aligned.shape == (*size, 3) and found.aligned.isfinite().all()


def test_a_head_alone_and_a_pose_outside_of_the_picture(person):
    head = person[1].joints.copy()
    head[0, 2:14] = 0
    found = warp_by_skeletons(person[0], Pose(head, *SIZE), edit_people(Pose(head, *SIZE), shift=(20, 0)))
    assert found.person[: SIZE[0] // 3].max() > 0.9 and found.person[SIZE[0] // 2 :].max() == 0
    gone = warp_by_skeletons(*person, edit_people(person[1], shift=(3000, 0)))
    assert gone.person.max() == 0 and gone.changed.max() > 0.9, "only the place is left"


def test_poses_that_cannot_be_used(person):
    nobody = Pose(np.zeros((0, 18, 3)), *SIZE)
    for given, name in (((nobody, person[1]), "source_pose"), ((person[1], nobody), "pose")):
        with pytest.raises(InputError, match=f"{name}: nobody is in it"):
            warp_by_skeletons(person[0], *given)
    legs, arms = (person[1].joints.copy() for _ in range(2))
    legs[0, :8], legs[0, 14:], arms[0, 8:], arms[0, 0] = 0, 0, 0, 0
    with pytest.raises(InputError, match="no limb in common with source_pose"):
        warp_by_skeletons(person[0], Pose(legs, *SIZE), Pose(arms, *SIZE))
    with pytest.raises(InputError, match="there is no model here"):
        warp_by_skeletons(*person, person[1], "model")
