"""Crops around people: all of them and a margin, in the model's proportions, copied to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reposedm_core import InputError, Pose
from reposedm_core.crop import Crop, crop_around, mask_box, part_of_resized, person_box, resize
from tests.fixtures.allocations import Allocations
from tests.nodes.people import POINTS

SIZE = 600, 900


def person(scale=2.0, right=300.0, down=100.0, size=SIZE):
    """Somebody in a picture of that size."""
    joints = np.concatenate([POINTS * scale + (right, down), np.ones((18, 1))], 1)
    return Pose(joints[None], *size)


def noise(height, width, channels=3):
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("aspect", [None, 0.75, 1.0, 2.0])
def test_all_of_the_person_and_a_margin_in_the_proportions_that_are_asked_for(aspect):
    box = person_box(person(), SIZE)
    assert box == pytest.approx([360, 130, 432, 324])
    crop = crop_around([box], SIZE, 0.1, aspect)
    margin = 0.1 * (324 - 130)
    assert crop.left <= 360 - margin + 8 and crop.left + crop.width >= 432 + margin - 8
    assert crop.top <= 130 - margin + 8 and crop.top + crop.height >= 324 + margin - 8
    assert crop.height % 16 == crop.width % 16 == 0
    if aspect:
        assert crop.width / crop.height == pytest.approx(aspect, abs=8 / min(crop.height, crop.width))
    assert abs(crop.left + crop.width / 2 - 396) <= 1 and abs(crop.top + crop.height / 2 - 227) <= 1


def test_the_pixels_are_the_picture_s_own_and_the_pose_goes_along():
    picture, pose = noise(*SIZE), person()
    crop = crop_around([person_box(pose, SIZE)], SIZE, 0.2, 0.75)
    found = crop.image(picture)
    assert torch.equal(found, picture[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width])
    moved = crop.pose(pose)
    assert (moved.height, moved.width) == (crop.height, crop.width) == tuple(found.shape[1:])
    assert np.allclose(moved.joints[..., :2], pose.joints[..., :2] - (crop.left, crop.top), atol=1e-4)
    half = crop.scaled((crop.height // 2, crop.width // 2))
    assert np.allclose(half.pose(pose).joints[..., :2], moved.joints[..., :2] / 2, atol=1e-4)
    expected = torch.nn.functional.avg_pool2d(found[None], 2)[0]
    assert half.image(picture).shape == expected.shape
    assert (half.image(picture) - expected).abs().mean() < 0.1
    other = pose.resized(300, 450)  # on a canvas of half the size
    assert np.allclose(crop.pose(other).joints, moved.joints, atol=1e-3)


def test_it_is_moved_into_the_picture_and_reaches_beyond_where_it_does_not_fit():
    corner = crop_around([np.array([0.0, 0, 50, 100])], SIZE, 0.3, 0.75)
    assert (corner.left, corner.top) == (0, 0)
    tall = crop_around([np.array([300.0, 0, 600, 600])], SIZE, 0.1, 0.75)
    assert tall.height > 600 and tall.top == (600 - tall.height) // 2 < 0
    picture = noise(*SIZE)
    found = tall.image(picture)
    assert torch.equal(found[:, 0], picture[:, 0, tall.left : tall.left + tall.width])
    inner = found[:, -tall.top : -tall.top + 600]
    assert torch.equal(inner, picture[:, :, tall.left : tall.left + tall.width])
    mask = tall.image(torch.ones(1, *SIZE), "constant")[0]
    assert mask[: -tall.top].max() == 0 and mask[-tall.top : -tall.top + 600].min() == 1


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (5, 4000)])
def test_small_pictures(size):
    crop = crop_around([np.array([0.0, 0, 1, 1])], size, 0.15, 0.75)
    assert min(crop.height, crop.width) >= 16
    assert crop.image(noise(*size)).shape == (3, crop.height, crop.width)


def test_a_head_alone_a_single_joint_and_somebody_half_outside():
    pose = person()
    head = pose.joints.copy()
    head[0, 1:14] = 0
    box = person_box(Pose(head, *SIZE), SIZE)
    assert box[3] - box[1] < 20 and crop_around([box], SIZE, 0.15, 0.75).height >= 16
    one = np.zeros((1, 18, 3))
    one[0, 0] = 100, 100, 1
    crop = crop_around([person_box(Pose(one, *SIZE), SIZE)], SIZE, 0.15, 0.75)
    assert crop.left < 100 < crop.left + crop.width and crop.top < 100 < crop.top + crop.height
    outside = person(right=-48 * 2)
    assert person_box(outside, SIZE)[0] == 0, "what is outside of the picture needs no room"


def test_masks():
    mask = torch.zeros(*SIZE)
    mask[100:300, 200:250] = 1
    assert mask_box(mask) == pytest.approx([200, 100, 250, 300])
    with pytest.raises(InputError, match="mask: it is black: there is nobody"):
        mask_box(mask * 0.4)


def test_nobody_and_nobody_in_the_picture():
    with pytest.raises(InputError, match="pose: nobody is in it"):
        person_box(Pose(np.zeros((0, 18, 3)), *SIZE), SIZE)
    with pytest.raises(InputError, match="target_pose: no joint of its person lies inside the picture of 900 × 600"):
        person_box(person(right=5000), SIZE, "target_pose")


def test_a_crop_says_its_own_size():
    assert Crop(0, 0, 20, 30, SIZE).size == (20, 30) and Crop(0, 0, 20, 30, SIZE, size=(40, 60)).size == (40, 60)


@pytest.mark.parametrize(
    ("size", "box"), [((20, 30), (-7, -4, 40, 50)), ((3, 2), (-20, -9, 50, 30)), ((1, 1), (-2, -3, 9, 8))]
)
def test_beyond_the_picture_it_is_mirrored_as_often_as_it_takes(size, box):
    """As numpy's symmetric padding has it: no edge is drawn out into streaks."""
    picture, (top, left, height, width) = noise(*size), box
    found = Crop(top, left, height, width, size).image(picture, "mirror")
    room = ((0, 0), (-top, top + height - size[0]), (-left, left + width - size[1]))
    np.testing.assert_array_equal(found.numpy(), np.pad(picture.numpy(), room, "symmetric"))


@pytest.mark.parametrize("border", ["replicate", "mirror", "constant"])
@pytest.mark.parametrize("size", [(20, 30), (130, 20), (37, 200), (50, 1)], ids=str)
@pytest.mark.parametrize("picture", [(40, 70), (40, 1), (1, 70)], ids=str)
def test_scaled_one_side_after_the_other_as_both_at_once(border, size, picture):
    crop, pixels = Crop(-10, 15, 60, 90, picture), noise(*picture)
    at_once = resize(crop.image(pixels, border), size)
    assert torch.allclose(crop.scaled(size).image(pixels, border), at_once, atol=1e-5)
    rows, columns = slice(3, 17), slice(0, 19)
    assert torch.allclose(part_of_resized(pixels, size, rows, columns), resize(pixels, size)[:, rows, columns])


def test_one_column_is_scaled_as_one_row_is():
    """torch alone makes every row of one the same."""
    row = noise(1, 6)
    assert torch.equal(resize(row.mT, (4, 1)), resize(row, (1, 4)).mT)


@pytest.mark.parametrize(
    "crop",
    [
        Crop(-300, -200, 1000, 600, (400, 200), size=(50, 30)),
        Crop(100, 80, 20, 10, (400, 200), size=(200, 100)),
        Crop(100, 0, 10, 200, (400, 200), size=(5, 100)),
    ],
    ids=["a wide margin", "a small box", "a flat box"],
)
@pytest.mark.parametrize("layout", ["channels first", "channels last"])
def test_neither_the_unscaled_box_nor_the_picture_is_made_where_more_is_not_asked_for(crop, layout):
    """Of a photograph of 24 megapixels with a margin of 2 the box would take 10 GB."""
    picture = noise(*crop.picture)
    picture = picture if layout == "channels first" else picture.movedim(0, -1).contiguous().movedim(-1, 0)
    with Allocations(picture) as made:
        crop.image(picture, "mirror")
    asked = max(crop.size[0] * crop.size[1], crop.height * min(crop.width, crop.picture[1]))
    assert made.largest <= 3 * asked * picture.element_size()
