"""Who finds the people: the shipped estimator at any scale, and public weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from reposedm_core.checkpoint import save_model
from reposedm_core.config import to_dict
from reposedm_core.errors import InputError
from reposedm_core.estimator import HigherHRNet
from reposedm_core.images import fit_image, to_image
from reposedm_core.metrics import object_keypoint_similarity
from reposedm_core.networks import SHIPPED
from reposedm_core.pipeline import RePoseDMPipeline
from reposedm_core.presets import ESTIMATORS
from tests.estimator.test_vitpose import save_tiny
from training.data.people_set import Pairs
from training.evaluation import measure
from training.evaluation.generate import Batch
from training.evaluation.measure import Detector, Judge, load_detector

EXAMPLES = Path(__file__).parents[3] / "workflows" / "examples"


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    files = [EXAMPLES / f"{name}.png" for name in ("red_trousers", "striped_shirt")]
    return torch.cat([fit_image(to_image(path), 128, 96) for path in files])


def test_joints_lie_in_the_picture_s_own_pixels_whatever_the_detector_sees(pictures):
    """Pictures twice as large, brought back to the estimator's own scale, with borders left and right."""
    shipped = load_detector(SHIPPED)
    large = F.interpolate(pictures, scale_factor=2, mode="bicubic").clamp(-1, 1)
    found = Detector(shipped.estimator, "smaller", side=96)(large)  # 192×256 → 96×128 within 128×128
    for one, other in zip(shipped(pictures), found, strict=True):
        sure = (one[0, :, 2] > 0.4) & (other[0, :, 2] > 0.4)
        assert sure.sum() >= 8
        assert np.median(np.abs(2 * one[0, sure, :2] - other[0, sure, :2])) < 2


def test_a_judge_sees_pictures_at_the_size_that_it_was_trained_at(pictures, weights_256, tmp_path):
    """Of a whole checkpoint the size of its networks; of an estimator alone what its card's preset says, if it does."""
    shipped = load_detector(SHIPPED)
    assert shipped.size == (128, 96) and load_detector(weights_256).size == (32, 24)
    assert Detector.of(RePoseDMPipeline.from_pretrained(weights_256), "own").size == (32, 24)
    large = F.interpolate(pictures, scale_factor=2, mode="bicubic").clamp(-1, 1)
    for one, other in zip(shipped(pictures), shipped(large), strict=True):
        sure = (one[0, :, 2] > 0.4) & (other[0, :, 2] > 0.4)
        assert sure.sum() >= 8 and np.median(np.abs(2 * one[0, sure, :2] - other[0, sure, :2])) < 2
    cards = {
        "none": ({}, None),
        "mini": ({"preset": "mini-256", "settings": {"model": {}}}, (128, 96)),
        "changed": ({"preset": "mini-256", "settings": {"model": {"height": 512}}}, None),
    }
    for name, (card, size) in cards.items():
        save_model(tmp_path / name, {"estimator": shipped.estimator}, to_dict(shipped.estimator.config), card)
        assert load_detector((tmp_path / name).rename(tmp_path / f"{name}.safetensors")).size == size


@pytest.mark.parametrize(("height", "width"), [(256, 176), (176, 256), (101, 67)])
def test_the_borders_of_what_the_detector_sees_do_not_move_the_joints(monkeypatch, height, width):
    """An estimator that finds the only bright spot, to a fraction of a pixel."""

    def spot(estimator, seen, threshold):
        light = (seen[:, 0].double() + 1).clamp(min=1e-3) - 1e-3
        total = light.sum((1, 2))
        x, y = ((light.sum(dim) * (torch.arange(light.shape[3 - dim]) + 0.5)).sum(1) / total for dim in (1, 2))
        return torch.stack([x, y, torch.ones_like(x)], -1)[:, None].expand(-1, 17, -1)

    monkeypatch.setattr(measure, "predict_pose", spot)
    x, y = width * 0.4, height * 0.7
    rows, columns = torch.arange(height)[:, None] + 0.5 - y, torch.arange(width) + 0.5 - x
    picture = 2 * torch.exp(-(rows.square() + columns.square()) / 18) - 1
    (found,) = Detector(None, "spot", side=512)(picture.float().expand(1, 3, -1, -1))
    assert found[0, :, :2] == pytest.approx(np.tile([x, y], (17, 1)), abs=0.03)


def test_public_weights_find_several(tmp_path):
    torch.manual_seed(0)
    state = HigherHRNet(ESTIMATORS["w32"]).state_dict()
    torch.save({key.removeprefix("trunk."): value for key, value in state.items()}, tmp_path / "w32.pth")
    detector = load_detector(tmp_path / "w32.pth", udp=True)
    assert detector.several and detector.side == 512 and detector.name == "HigherHRNet-W32 (w32.pth)"
    assert detector.estimator.config.udp and not detector.estimator.training
    own = detector.estimator.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items())
    (tmp_path / "w32.pth").rename(tmp_path / "w32_640_udp.pth")
    detector = load_detector(tmp_path / "w32_640_udp.pth")
    assert detector.side == 640 and detector.estimator.config.udp, "its name says so"
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"judge: .*other\.pth: these are not the weights of a HigherHRNet"):
        load_detector(tmp_path / "other.pth")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors: these are not the weights of a HigherHRNet"):
        load_detector(tmp_path / "other.safetensors")


def test_an_estimator_of_one_size_judges_pictures_of_any(pictures, tmp_path):
    save_tiny(tmp_path / "vitpose")
    detector = load_detector(tmp_path / "vitpose")
    assert detector.size == (64, 48) and not detector.several
    assert [found.shape for found in detector(pictures)] == [(1, 17, 3)] * 2


class Scripted(Detector):
    """Finds what it is told."""

    def __call__(self, images: torch.Tensor) -> list[np.ndarray]:
        return self.found


def test_the_person_most_like_the_pose_is_judged_and_the_others_are_counted():
    rng = np.random.default_rng(0)
    truth = np.concatenate([rng.uniform(10, 60, (3, 17, 2)), np.full((3, 17, 1), 2.0)], -1)
    near, far = truth[0] + (1, 0, 0), truth[0] + (30, 0, 0)
    near[:, 2] = far[:, 2] = 0.5
    unsure = truth[2].copy()
    unsure[:, 2] = 0.05
    grey = np.full((3, 64, 64, 3), 128, np.uint8)
    pairs, unknown, poses = Pairs(*np.zeros((3, 3), np.int64)), (None, None, None), np.zeros((2, 3, 18, 3))
    batch = Batch(0, pairs, grey, grey, torch.zeros(3, 3, 64, 64), truth, *unknown, *poses)
    detector = Scripted(None, "scripted")
    detector.found = [np.stack([far, near]), np.zeros((0, 17, 3)), unsure[None]]
    measured = Judge(detector).measure(grey, batch)
    assert measured.values["joint_error"][0] == pytest.approx(1) and np.isnan(measured.values["joint_error"][1])
    assert measured.values["pck@0.05"].tolist() == [1, 0, 1]
    area = float(np.prod(np.ptp(truth[0, :, :2], 0)))
    assert measured.values["oks"][0] == object_keypoint_similarity(near, truth[0], area) > 0.5
    assert measured.values["oks"][1:].tolist() == [0, 1]
    assert measured.values["pce"].tolist() == [1, 1, 1], "two for one, none for one, and one too unsure to count"
    assert [len(people) for people in measured.people] == [2, 0, 0]
