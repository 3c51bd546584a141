"""RePoseDM Example: what a shipped person is given out as."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reposedm_core import RePoseDMPipeline, parse_keypoints
from reposedm_core.pose.skeleton import OPENPOSE18
from workflows.comfy_server import ROOT

NAMES = sorted(path.name.removesuffix("_pose.json") for path in (ROOT / "workflows" / "examples").glob("*_pose.json"))
TRUNK = [OPENPOSE18.index(name) for name in ("neck", "right_hip", "left_hip")]


@pytest.fixture(scope="module")
def pipeline():
    return RePoseDMPipeline.from_pretrained()


@pytest.mark.parametrize("name", NAMES)
def test_mask_lies_on_the_clothes(pack, name):
    source, _, target, mask, own = pack.nodes.loaders.RePoseDMExample.execute(name).args
    assert source.shape == target.shape == (1, 256, 192, 3)
    assert mask.shape == source.shape[:3] and mask.dtype == torch.float32
    assert set(mask.unique().tolist()) == {0.0, 1.0} and 0.03 < float(mask.mean()) < 0.25
    (told,) = parse_keypoints(own)
    x, y = (np.array([0.7, 0.15, 0.15]) @ told.joints[0, TRUNK, :2]).round().astype(int)
    assert mask[0, y, x] == 1, "the chest is dressed"
    assert not mask[0, 0].any() and not mask[0, :, 0].any()


@pytest.mark.parametrize("name", NAMES)
def test_poses_are_those_of_the_pictures(pack, pipeline, name):
    source, pose, target, _, own = pack.nodes.loaders.RePoseDMExample.execute(name).args
    for picture, frames in ((source, own), (target, pose)):
        (told,) = parse_keypoints(frames)
        assert (told.height, told.width) == picture.shape[1:3]
        found = pipeline.estimate(picture.movedim(-1, 1)).joints[0]
        both = (told.joints[0, :, 2] > 0) & (found[:, 2] > 0)
        distance = np.linalg.norm(found[both, :2] - told.joints[0, both, :2], axis=1)
        assert both.sum() >= 12 and np.median(distance) < 0.04 * told.height


def test_unknown_example_is_named(pack):
    example = pack.nodes.loaders.RePoseDMExample
    assert "there is no example 'nobody'" in example.validate_inputs("nobody")
    with pytest.raises(pack.reposedm_core.InputError, match=r"^example: there is no example 'nobody'"):
        example.execute("nobody")
