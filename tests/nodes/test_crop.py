"""Crop to Person and Paste Back: batches, several people, round trips, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reposedm_core.pose import parse_keypoints
from tests.nodes.people import CANVAS, EMPTY, PERSON, POINTS, flat, run

CROP, PASTE = "RePoseDMCropToPerson", "RePoseDMPasteBack"
SIZE = 400, 600


def frame(*places, size=SIZE):
    """People of twice the size of `POINTS`, moved to the right and down."""
    people = [{"pose_keypoints_2d": flat(POINTS * 2 + place)} for place in places]
    return {"people": people, "canvas_height": size[0], "canvas_width": size[1]}


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(3, *SIZE, 3, generator=torch.Generator().manual_seed(2))


def joints(poses):
    return [pose.joints[..., :2] for pose in parse_keypoints(poses, "pose", allow_nobody=True)]


def test_a_crop_is_the_picture_s_own_pixels_and_goes_back_to_the_bit(pack, pictures):
    image, pose, _, mask, crop = run(pack, CROP, pictures[:1], [frame((100, 50))])
    (place,) = crop
    rows, columns = slice(place.top, place.top + place.height), slice(place.left, place.left + place.width)
    assert torch.equal(image, pictures[:1, rows, columns]) and mask.min() == 1
    assert np.allclose(joints(pose)[0][0], POINTS * 2 + (100, 50) - (place.left, place.top), atol=1e-3)
    same, share = run(pack, PASTE, pictures[:1], image, crop)
    assert (same - pictures[:1]).abs().max() < 1e-6 and share.shape == (1, *SIZE) and share.max() == 1
    other, share = run(pack, PASTE, pictures[:1], 1 - image, crop, torch.zeros(1, 8, 8))
    assert torch.equal(other, pictures[:1]) and not share.any()


def test_the_model_s_proportions_and_sizes_that_are_asked_for(pack, tiny, pictures):
    aligner = pack.nodes.loaders.load_checkpoint(tiny)[2]
    for options, ratio, size in (
        ({"aligner": aligner}, 0.75, None),
        ({"aligner": aligner, "height": 512}, 0.75, 512),
        ({"width": 320, "height": 320}, 1.0, 320),
        ({"aligner": aligner, "width": 320, "height": 320}, 1.0, 320),
    ):
        image = run(pack, CROP, pictures[:1], [frame((100, 50))], **options)[0]
        height, width = image.shape[1:3]
        assert width / height == pytest.approx(ratio, abs=0.04) and (size is None or height == size)


def test_the_wanted_pose_has_room_too(pack, pictures):
    wide = run(pack, CROP, pictures[:1], [frame((100, 50))], [frame((300, 60))])
    assert wide[0].shape[2] > 200 + 40
    place = wide[4][0]
    for poses, shift in zip(wide[1:3], ((100, 50), (300, 60)), strict=True):
        assert np.allclose(joints(poses)[0][0], POINTS * 2 + shift - (place.left, place.top), atol=1e-3)
    alone = run(pack, CROP, pictures[:1], [frame((100, 50))])
    assert alone[2] == alone[1], "without one it is the pose"


def test_a_mask_in_place_of_a_pose_and_beside_it(pack, pictures):
    mask = torch.zeros(1, *SIZE)
    mask[:, 100:300, 200:260] = 1
    image, pose, _, cut, crop = run(pack, CROP, pictures[:1], mask=mask, margin=0.1)
    assert not pose[0]["people"] and cut.sum() == mask.sum() and image.shape[1:3] == cut.shape[1:]
    small = torch.nn.functional.avg_pool2d(mask, 4)
    assert run(pack, CROP, pictures[:1], mask=small, margin=0.1)[4] == crop, "of another size"
    both = run(pack, CROP, pictures[:1], [frame((400, 50))], mask=mask)[4][0]
    assert both.left < 200 and both.left + both.width > 480


def test_batches_have_one_size_and_go_back_each_to_its_own(pack, pictures):
    poses = [frame((100, 50)), frame((300, 100)), {**frame((10, 20)), "people": [PERSON]}]
    image, _, _, _, crops = run(pack, CROP, pictures, poses)
    assert len(image) == 3 and [crop.index for crop in crops] == [0, 1, 2]
    assert crops[2].height < crops[0].height == image.shape[1] and crops[2].size == crops[0].size
    mask = torch.zeros(1, *image.shape[1:3])
    mask[:, 40:-40, 40:-40] = 1
    found, share = run(pack, PASTE, pictures, 1 - image, crops, mask)
    assert found.shape == pictures.shape and share.shape == (3, *SIZE)
    assert torch.equal(found[share == 0], pictures[share == 0]) and all(each.max() == 1 for each in share)
    together = run(pack, CROP, pictures, poses, crops=pack.nodes.crop.TOGETHER)[4]
    assert len({(crop.top, crop.left, crop.height, crop.width) for crop in together}) == 1


def test_everybody_in_a_picture_goes_back_into_it(pack, pictures):
    image, pose, _, _, crops = run(
        pack, CROP, pictures[:2], [frame((20, 50), (350, 60)), frame((100, 50))], crops="everybody"
    )
    assert len(image) == 3 and [crop.index for crop in crops] == [0, 0, 1]
    assert all(len(each["people"]) == 1 for each in pose)
    found, share = run(pack, PASTE, pictures[:2], torch.ones_like(image), crops, match_colours=0.0)
    assert found.shape == (2, *SIZE, 3)
    white = (found == 1).all(-1)
    for number, shift in ((0, (20, 50)), (0, (350, 60)), (1, (100, 50))):
        x, y = (POINTS[1] * 2 + shift).astype(int)
        assert white[number, y, x] and share[number, y, x] == 1
    assert torch.equal(found[share == 0], pictures[:2][share == 0])


@pytest.mark.parametrize("given", [{}, {"width": 512}, {"height": 512}])
def test_nobody_is_stretched_to_another_shape(pack, pictures, given):
    """Someone who stands, someone who lies, and a small one: their boxes have other proportions."""
    lying = np.array(PERSON["pose_keypoints_2d"]).reshape(-1, 3)[:, [1, 0, 2]]
    poses = [frame((100, 50)), {**frame((100, 50)), "people": [{"pose_keypoints_2d": lying.ravel().tolist()}]}]
    tiny = np.array(PERSON["pose_keypoints_2d"]).reshape(-1, 3) * (0.2, 0.2, 1) + (200, 150, 0)
    poses.append({**frame((100, 50)), "people": [{"pose_keypoints_2d": tiny.ravel().tolist()}]})
    image, _, _, _, crops = run(pack, CROP, pictures, poses, **given)
    shapes = [crop.size[1] / crop.width * crop.height / crop.size[0] for crop in crops]
    assert len(image) == 3 and all(abs(stretched - 1) < 0.03 for stretched in shapes), shapes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(pack, pictures, dtype):
    """What Load Image gives where ComfyUI was started with --fp16-intermediates."""
    given, pose = pictures[:1].to(dtype), [frame((100, 50))]
    image, _, _, _, crop = run(pack, CROP, given, pose, height=96)
    whole = run(pack, CROP, pictures[:1], pose, height=96)[0]
    assert image.shape == whole.shape and (image - whole).abs().max() < 0.02
    found, share = run(pack, PASTE, given, image.to(dtype), crop)
    assert torch.equal(found[share == 0].to(dtype), given[share == 0]) and found.isfinite().all()


def test_a_picture_that_is_not_finite_is_refused(pack, pictures):
    broken = pictures[:1].clone()
    broken[0, 90, 90] = torch.nan
    for node, name, inputs in (
        (CROP, "image", (broken, [frame((100, 50))])),
        (PASTE, "result", (pictures[:1], broken)),
    ):
        with pytest.raises(pack.reposedm_core.InputError, match=f"{name}: the picture has values that are not numbers"):
            run(pack, node, *inputs)


def test_several_results_of_one_crop_give_a_picture_each(pack, pictures):
    image, _, _, _, crop = run(pack, CROP, pictures[:1], [frame((100, 50))])
    found, _ = run(pack, PASTE, pictures[:1], torch.cat([image, 1 - image]), crop)
    assert len(found) == 2 and (found[0] - found[1]).abs().max() > 0.5


def test_without_a_crop_the_result_is_all_of_the_picture(pack, pictures):
    mask = torch.zeros(1, *SIZE)
    mask[:, 100:200, 100:200] = 1
    found, share = run(pack, PASTE, pictures, torch.zeros(3, 40, 60, 3), None, mask)
    assert torch.equal(found[share == 0], pictures[share == 0]) and found[:, 150, 150].max() < 1e-6


def test_transparency_and_values_out_of_range_stay(pack):
    picture = 1.4 * torch.rand(1, *SIZE, 4) - 0.2
    image, _, _, _, crop = run(pack, CROP, picture, [frame((100, 50))])
    assert image.shape[-1] == 3 and image.min() >= 0 and image.max() <= 1
    found, share = run(pack, PASTE, picture, image, crop)
    assert torch.equal(found[share == 0], picture[share == 0]) and torch.equal(found[..., 3], picture[..., 3])


@pytest.mark.parametrize("size", [(16, 16), (3, 200)])
def test_pictures_of_any_shape(pack, size):
    picture = torch.rand(1, *size, 3)
    image, _, _, _, crop = run(pack, CROP, picture, [{"people": [PERSON], **CANVAS}])
    assert min(image.shape[1:3]) >= 16
    assert run(pack, PASTE, picture, image, crop)[0].shape == picture.shape


def test_a_box_too_large_to_be_made_is_told_before(pack, pictures, monkeypatch):
    monkeypatch.setattr(pack.reposedm_core.pose.limits, "MOST_PIXELS", 100_000)
    with pytest.raises(pack.reposedm_core.InputError, match=r"margin: 1 pictures of \d+ × \d+ are"):
        run(pack, CROP, pictures[:1], [frame((100, 50))], margin=2.0, width=64, height=64)


def test_what_does_not_fit(pack, pictures):
    error = pack.reposedm_core.InputError
    image, _, _, _, crop = run(pack, CROP, pictures[:1], [frame((100, 50))])
    two = run(pack, CROP, pictures[:2], [frame((100, 50))])
    far = [frame((5000, 50))]
    for node, values, message in (
        (CROP, (pictures[:1],), "pose: neither a pose nor a mask is connected"),
        (CROP, (pictures[:2], [frame((100, 50)), EMPTY]), "pose: nobody is in frame 1"),
        (CROP, (pictures, [frame((1, 1))] * 2), "pose: it has 2 frames and there are 3 pictures"),
        (CROP, (pictures[:1], far), "pose: no joint of its person lies inside the picture of 600 × 400"),
        (CROP, (pictures[:1], None, None, torch.zeros(1, 20, 30)), "mask: it is black"),
        (
            PASTE,
            (pictures[:2], image[:1].repeat(3, 1, 1, 1), two[4]),
            "result: it has 3 pictures and there are 2 crops",
        ),
        (PASTE, (pictures[:1], two[0], two[4]), "picture: it has 1 pictures and the crops were made of 2"),
        (PASTE, (pictures[:, :50], image, crop), "picture: it is 600 × 50 and the crop was made of one of 600 × 400"),
        (PASTE, (pictures[:2], image[:1].repeat(3, 1, 1, 1)), "result: it has 3 pictures and picture 2"),
    ):
        with pytest.raises(error, match=message):
            run(pack, node, *values)
    with pytest.raises(error, match="target_pose: 1 people are in frame 0 and 2"):
        run(pack, CROP, pictures[:1], [frame((1, 1), (200, 1))], [frame((1, 1))], crops="everybody")
