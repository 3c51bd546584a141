"""People of whom a picture shows little or nothing, and pictures too small for one, through every node of full size."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from tests.nodes.people import EMPTY, POINTS, flat, run

SIZE = 200, 150
HEAD = (0, 14, 15, 16, 17)
CANVAS = {"canvas_height": SIZE[0], "canvas_width": SIZE[1]}


def pose(joints=range(18), move=(0, 0), scale=(SIZE[1] / 96, SIZE[0] / 128)):
    """POSE_KEYPOINT of these joints of a person who fills the picture, moved by so many pixels."""
    values = flat(POINTS * scale + move)
    for joint in set(range(18)) - set(joints):
        values[3 * joint : 3 * joint + 3] = [0.0, 0.0, 0.0]
    return [{"people": [{"pose_keypoints_2d": values}], **CANVAS}]


BODY = pose()
PEOPLE = {
    "a head alone": pose(HEAD),
    "a single joint": pose([4]),
    "half outside": pose(move=(90, 0)),
    "outside": pose(move=(5000, -3000)),
    "all joints in one place": pose(scale=(0, 0), move=(70, 90)),
}


@pytest.fixture(scope="module")
def picture():
    return torch.rand(1, *SIZE, 3, generator=torch.Generator().manual_seed(4))


def transfer(pack, host, source, target, own, **size):
    """Aligned, decoded: what the nodes of pose transfer give at the source's size."""
    size = size or {"output_size": "source"}
    aligned = run(pack, "RePoseDMRecurrentPoseAligner", aligner=host[2], vae=host[1], source=source, pose=target,
                  source_pose=own, width=0, height=0, **size)  # fmt: skip
    latent = run(pack, "RePoseDMKSampler", model=host[0], positive=aligned[0], negative=aligned[1], latent=aligned[2],
                 seed=1, steps=1, cfg=1.5, sampler_name="ddim", scheduler="simple", denoise=1.0)  # fmt: skip
    return aligned, run(pack, "RePoseDMDecode", latent=latent[0], vae=host[1], aligner=host[2])[0]


def dress(pack, host, reference, garment, mask, worn, own):
    return run(pack, "RePoseDMGarmentTransfer", model=host[0], vae=host[1], aligner=host[2], reference=reference,
               garment=garment, mask=mask, pose=own, garment_pose=worn, seed=1, steps=1, cfg=1.5, sampler_name="ddim",
               scheduler="simple", feather=4, output_size="source")  # fmt: skip


def warp_and_paste(pack, source, own, target):
    """The picture of the chain for stock models, without a sampler: crop, warp, mask, back."""
    image, own, target, _, crop = run(pack, "RePoseDMCropToPerson", image=source, pose=own, target_pose=target,
                                      width=64, height=96)  # fmt: skip
    aligned, visibility, _, person, changed = run(pack, "RePoseDMSkeletonWarp", image, own, target)
    reveal = run(pack, "RePoseDMRevealMask", visibility=visibility, person=person, changed=changed)[0]
    assert reveal.shape == (1, 96, 64) and reveal.isfinite().all() and reveal.min() >= 0 and reveal.max() <= 1
    return run(pack, "RePoseDMPasteBack", picture=source, result=aligned, crop=crop, mask=changed)


OUTSIDE = "pose: no joint of its first person lies inside its canvas of 150 × 200 pixels; move the pose into it"
TOLD = {
    ("a single joint", "source", "warp"): "pose: it has no limb in common with source_pose",
    ("a single joint", "target", "warp"): "pose: it has no limb in common with source_pose",
    ("outside", "source", "warp"): "source_" + OUTSIDE,
    ("outside", "source", "transfer"): "source_" + OUTSIDE,
    ("outside", "target", "transfer"): OUTSIDE,
    ("outside", "target", "dress"): "garment_" + OUTSIDE,
    ("outside", "source", "dress"): OUTSIDE,  # the pose of the picture is what the garment is brought into
}
"""What cannot be done: the person, as what it is given, the node, and the message; all else gives a picture."""


@pytest.fixture(params=PEOPLE)
def who(request):
    return request.param


@pytest.fixture(params=["source", "target"])
def role(request):
    return request.param


@pytest.fixture
def poses(who, role):
    """Pose of the picture and pose that is wanted."""
    return (PEOPLE[who], BODY) if role == "source" else (BODY, PEOPLE[who])


@pytest.fixture
def expect(pack, who, role):
    """A context in which a node says what it is to say of this person, if anything."""

    def context(node):
        told = TOLD.get((who, role, node))
        return pytest.raises(pack.reposedm_core.InputError, match=told) if told else nullcontext()

    return context


def test_pose_transfer_of_whom_little_is_seen(pack, host, picture, poses, expect):
    own, target = poses
    with expect("transfer"):
        aligned, image = transfer(pack, host, picture, target, own)
        assert image.shape == (1, *SIZE, 3) and image.isfinite().all()
        assert all(each.shape[1:3] == SIZE and each.isfinite().all() for each in aligned[3:])


def test_garments_of_whom_little_is_seen(pack, host, picture, poses, expect):
    own, worn = poses
    mask = torch.zeros(1, *SIZE)
    mask[:, 80:120, 50:90] = 1
    with expect("dress"):
        dressed, _, share, _ = dress(pack, host, picture, picture.flip(2), mask, worn, own)
        assert dressed.isfinite().all() and torch.equal(dressed[share == 0], picture[share == 0])


def test_a_stock_model_s_picture_of_whom_little_is_seen(pack, picture, poses, expect):
    own, target = poses
    with expect("warp"):
        warped = run(pack, "RePoseDMSkeletonWarp", picture, own, target)
        assert warped[0].shape == (1, *SIZE, 3) and all(each.isfinite().all() for each in warped)
        if PEOPLE["outside"] not in poses:  # who has no crop
            image, share = warp_and_paste(pack, picture, own, target)
            assert image.shape == picture.shape and image.isfinite().all()
            assert torch.equal(image[share == 0], picture[share == 0])


@pytest.mark.parametrize(
    ("own", "target", "message"),
    [
        (PEOPLE["outside"], BODY, "pose: "),
        (BODY, PEOPLE["outside"], "target_pose: "),
        ([{**EMPTY, **CANVAS}], BODY, "pose: nobody is in frame 0"),
    ],
)
def test_a_crop_of_nobody_is_told(pack, picture, own, target, message):
    with pytest.raises(pack.reposedm_core.InputError, match=message):
        run(pack, "RePoseDMCropToPerson", image=picture, pose=own, target_pose=target)


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (7, 300)])
@pytest.mark.parametrize("channels", [3, 4])
def test_small_pictures_with_and_without_transparency(pack, host, size, channels):
    """Garments, crops and warps; those of pose transfer are among the tests of full size."""
    tiny = torch.rand(1, *size, channels)
    canvas = {"canvas_height": size[0], "canvas_width": size[1]}
    points = flat(POINTS * (size[1] / 96, size[0] / 128))
    own = [{"people": [{"pose_keypoints_2d": points}], **canvas}]
    image, share = warp_and_paste(pack, tiny, own, own)
    assert image.shape == tiny.shape and torch.equal(image[share == 0], tiny[share == 0])
    dressed, _, share, _ = dress(pack, host, tiny, tiny, torch.ones(1, *size), own, own)
    assert dressed.shape == (1, *size, 3) and dressed.isfinite().all() and share.shape == (1, *size)


def test_batches_of_unequal_lengths_and_masks_of_other_sizes(pack, host, picture):
    """A mask of another size is stretched; of poses, pictures and crops those that do not match in number are named."""
    mask = torch.zeros(2, 50, 40)
    mask[:, 20:30, 15:25] = 1
    two = torch.cat((picture, picture.flip(1)))
    dressed, _, share, _ = dress(pack, host, picture, two[1:], mask[:1], BODY, BODY)
    assert share.shape == (1, *SIZE) and torch.equal(dressed[share == 0], picture[share == 0])
    error = pack.reposedm_core.InputError
    with pytest.raises(error, match=r"pose"):
        run(pack, "RePoseDMSkeletonWarp", torch.cat((two, picture)), BODY * 2, BODY)
    with pytest.raises(error, match=r"pose"):
        run(pack, "RePoseDMCropToPerson", image=torch.cat((two, picture)), pose=BODY * 2)
    crops = run(pack, "RePoseDMCropToPerson", image=two, pose=BODY, width=64, height=96)
    with pytest.raises(error, match=r"result|crop|picture"):
        run(pack, "RePoseDMPasteBack", picture=picture, result=torch.rand(3, 96, 64, 3), crop=crops[4])
    masks = run(pack, "RePoseDMRevealMask", torch.ones(2, 9, 9), torch.ones(3, 5, 7), torch.ones(1, 9, 9))[0]
    assert masks.shape == (3, 9, 9), "they are taken in turn"
