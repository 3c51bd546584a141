"""Garment Transfer with a reference decoder: the picture of `RePoseDMPipeline.dress`, and the pose of the garment."""

from __future__ import annotations

import pytest
import torch

from reposedm_core import RePoseDMPipeline
from reposedm_core.pose import load_pose_file, to_keypoints
from tests.nodes.test_garment_transfer import GARMENT, POSE, REFERENCE, SETTINGS, picture

OWN = to_keypoints(load_pose_file(POSE.with_name("lime_top_source.json")))


@pytest.fixture(scope="module")
def pose():
    return to_keypoints(load_pose_file(POSE))


@pytest.fixture(scope="module")
def mask():
    mask = torch.zeros(1, *REFERENCE.shape[1:3])
    rows, columns = (side // 4 for side in REFERENCE.shape[1:3])
    mask[:, rows : 3 * rows, columns : 3 * columns] = 1
    return mask


@pytest.fixture
def dress(pack, host, mask, pose):
    """image, aligned, mask and latent of the node."""

    def run(garment=GARMENT, pose=pose, **changed):
        with torch.inference_mode():
            return pack.nodes.garment_transfer.GarmentTransfer.execute(
                *host[:3], REFERENCE, garment, mask, pose=pose, **{**SETTINGS, **changed}
            ).args

    return run


@pytest.mark.parametrize("given", [True, False], ids=["given", "estimated"])
def test_same_picture_as_dress(tiny_256, host, dress, mask, given):
    garments = GARMENT if given else torch.cat([GARMENT, picture("teal_trousers.png")])
    own = OWN if given else None
    image, aligned, share, latent = dress(garments, garment_pose=own)
    expected = RePoseDMPipeline.from_pretrained(tiny_256).dress(
        REFERENCE, garments, mask, POSE, seed=3, steps=3, guidance_scale=1.5, field_strength=0.0, garment_pose=own
    )
    assert (latent["samples"] - expected.latent).abs().max() < 1e-5 * expected.latent.abs().max()
    for found, right in ((image, expected.image), (aligned, expected.aligned)):
        assert found.shape == (len(garments), 64, 48, 3)
        assert (found.movedim(-1, 1) - right).abs().max() < 1e-5
    outside = expected.mask[0, 0] == 0
    assert torch.equal(share[0] == 0, outside)
    assert torch.equal(image[:, outside], expected.reference.movedim(1, -1)[:, outside])
    with torch.inference_mode():
        alone = host[1].decode(latent["samples"])
    inner = share[0] == 1
    assert (alone[:, inner] - image[:, inner]).abs().max() > 1e-3, "the reference decoder painted it"


def test_the_garment_s_pose_counts_and_frames_are_counted(pack, dress):
    unknown = [{"people": [], "canvas_width": 96, "canvas_height": 128}]
    given, other = dress(garment_pose=OWN), dress(garment_pose=unknown)
    assert (given[1] - other[1]).abs().max() > 1e-3
    with pytest.raises(pack.reposedm_core.InputError, match="garment_pose: it has 2 frames and there are 1 pictures"):
        dress(garment_pose=OWN * 2)
