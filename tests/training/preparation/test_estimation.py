"""Poses for pictures without annotation, from every kind of estimator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reposedm_core.checkpoint import save_model
from reposedm_core.config import EstimatorConfig, to_dict
from reposedm_core.errors import InputError
from reposedm_core.estimator import HigherHRNet
from reposedm_core.networks import parts_of
from reposedm_core.pipeline import RePoseDMPipeline
from reposedm_core.pose import coco_to_openpose
from reposedm_core.presets import ESTIMATORS
from tests.estimator.test_vitpose import save_tiny
from training.preparation.estimation import _openpose, load_estimator

EXAMPLE = Path(__file__).parents[3] / "workflows/examples/red_trousers.png"


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.asarray(Image.open(EXAMPLE).convert("RGB"))


def test_ours_finds_what_the_pipeline_finds_in_a_picture_of_any_size(picture):
    estimator = load_estimator("ours")
    for scaled in (picture, np.asarray(Image.fromarray(picture).resize((310, 257)))):
        joints, points = estimator(scaled)
        expected = RePoseDMPipeline.from_pretrained().estimate(scaled).joints[0]
        found = points[:, 2] > 0
        assert found.sum() >= 15 and np.array_equal(found, expected[:, 2] > 0)
        assert np.abs(points[found, :2] - expected[found, :2]).max() < 1
        assert set(np.unique(joints[:, 2])) <= {0, 2} and np.array_equal(points, coco_to_openpose(joints))


def test_files_of_this_project_and_public_ones_are_told_apart(picture, tmp_path):
    torch.manual_seed(0)
    config = EstimatorConfig(stem=8, bottleneck=8, channels=(8, 16), modules=(1,), blocks=1, deconv_channels=8)
    network = HigherHRNet(config).eval()
    save_model(tmp_path / "estimator.safetensors", {"estimator": network}, to_dict(config))
    assert load_estimator(str(tmp_path / "estimator.safetensors"))(picture)[0].shape == (17, 3)
    save_tiny(tmp_path / "vitpose")
    assert load_estimator(str(tmp_path / "vitpose"))(picture)[0].shape == (17, 3)
    save_model(tmp_path / "other.safetensors", {"aligner": torch.nn.Linear(2, 2)}, {})
    with pytest.raises(InputError, match="holds aligner and no pose estimator"):
        load_estimator(str(tmp_path / "other.safetensors"))
    public = {
        f"module.{key.removeprefix('trunk.')}": value
        for key, value in HigherHRNet(ESTIMATORS["w32"]).state_dict().items()
    }
    torch.save(public, tmp_path / "pose_higher_hrnet_w32_512.pth")
    assert load_estimator(str(tmp_path / "pose_higher_hrnet_w32_512.pth")).args[0].config == ESTIMATORS["w32"]
    torch.save({"weight": torch.zeros(2)}, tmp_path / "linear.pth")
    with pytest.raises(InputError, match=r"linear\.pth: these are not the weights of a HigherHRNet"):
        load_estimator(str(tmp_path / "linear.pth"))
    with pytest.raises(InputError, match="neither ours, openpose or none, nor a file or folder that exists"):
        load_estimator("yours")


def test_pictures_are_shown_to_the_estimator_at_the_networks_size(picture, second_config, shaken, tmp_path):
    """Of a second-generation model, which is half the size of its pictures."""
    networks = shaken(second_config)
    save_model(
        tmp_path / "whole.safetensors",
        {part: getattr(networks, part) for part in parts_of(second_config)},
        to_dict(second_config),
    )
    estimator, sizes = load_estimator(str(tmp_path / "whole.safetensors")), []
    estimator.args[0].register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape[-2:])))
    estimator(picture)
    assert set(sizes) == {(32, 24)}


def test_openpose_gives_the_largest_person_in_pixels(picture):
    """controlnet_aux's own grouping of what its network would have found: two people, one of them near."""
    pytest.importorskip("controlnet_aux.open_pose")
    from controlnet_aux.open_pose import OpenposeDetector
    from controlnet_aux.open_pose.body import Body

    near = {0: (50, 20), 1: (50, 35), 10: (45, 110), 13: (56, 112)}
    far = {0: (80, 20), 1: (80, 25)}

    class Found(Body):
        def __init__(self):
            pass

        def __call__(self, image):
            assert image.shape == picture.shape and np.array_equal(image[..., ::-1], picture), "BGR, as it was trained"
            peaks, people = [], []
            for person in (far, near):
                row = np.full(20, -1.0)
                for joint, (x, y) in person.items():
                    row[joint] = len(peaks)
                    peaks.append((x, y, 0.9, len(peaks)))
                row[18:] = 5.0, len(person)
                people.append(row)
            return np.array(peaks), np.array(people)

    joints, points = _openpose(OpenposeDetector(Found()), picture)
    assert {k: tuple(p[:2].round(3)) for k, p in enumerate(points) if p[2]} == near
    assert joints[15, 2] == joints[16, 2] == joints[0, 2] == 2 and (joints[:, 2] > 0).sum() == 3, "no neck"
    assert joints[15].tolist() == points[13].tolist(), "the left ankle"
