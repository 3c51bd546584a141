"""OpenPose's body network: the maps are those of controlnet_aux, from a file with the public names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reposedm_core import InputError
from reposedm_core.estimator import predict_pose
from reposedm_core.estimator.load import OPENPOSE, load_estimator
from reposedm_core.estimator.openpose import OpenPose
from reposedm_core.pose.skeleton import COCO17, OPENPOSE18


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return OpenPose().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    """As the public file names them: without the parts that controlnet_aux puts in front."""
    path = tmp_path_factory.mktemp("openpose") / "body_pose_model.pth"
    torch.save({name.split(".", 1)[1]: value for name, value in network.network.state_dict().items()}, path)
    return path


def test_maps_are_those_of_controlnet_aux(network):
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)  # red, green, blue
    blob = torch.from_numpy(np.float32(picture[:, :, ::-1].copy()).transpose(2, 0, 1)[None] / 256 - 0.5)
    expected = network.network(blob)[1]
    maps = network(torch.from_numpy(picture).movedim(-1, 0)[None] / 127.5 - 1)
    assert maps.heatmaps[0].shape == (1, 17, 4, 6) and maps.features.shape == (1, 128, 4, 6) and maps.tags is None
    for number, joint in enumerate(COCO17):
        torch.testing.assert_close(maps.heatmaps[0][:, number], expected[:, OPENPOSE18.index(joint)])


def test_is_known_by_its_weights_and_sees_one_person(network, file):
    found = load_estimator(file)
    assert (found.height, found.width) == OPENPOSE and not found.several and not found.fixed
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert torch.equal(predict_pose(found.network, picture, 0.0), predict_pose(network, picture, 0.0))


def test_gradient_reaches_the_picture(network):
    picture = torch.zeros(1, 3, 16, 16, requires_grad=True)
    network(picture).heatmaps[0].sum().backward()
    assert picture.grad.isfinite().all() and picture.grad.abs().max() > 0


def test_missing_weight_is_named(file):
    state = torch.load(file, weights_only=True)
    state.pop("conv1_1.weight")
    torch.save(state, file.with_name("half.pth"))
    with pytest.raises(InputError, match=r"half\.pth.*conv1_1\.weight"):
        load_estimator(file.with_name("half.pth"))
