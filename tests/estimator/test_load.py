"""A pose estimator from any file or folder that holds one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from reposedm_core import InputError, load_networks
from reposedm_core.checkpoint import save_model
from reposedm_core.config import EstimatorConfig, to_dict
from reposedm_core.estimator import HigherHRNet, predict_people, predict_pose
from reposedm_core.estimator.load import load_estimator, size_in_name
from reposedm_core.networks import SHIPPED
from reposedm_core.presets import PRESETS
from tests.estimator.test_vitpose import save_tiny
from tests.field.conftest import MICRO


def picture(height: int = 64, width: int = 48) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def micro() -> HigherHRNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HigherHRNet(MICRO).eval()


def flat(estimator: HigherHRNet) -> dict[str, torch.Tensor]:
    return {key.removeprefix("trunk."): value for key, value in estimator.state_dict().items()}


def test_shipped_weights():
    found = load_estimator(SHIPPED)
    assert found[1:] == (128, 96, False, False, True)
    with torch.no_grad():
        expected = load_networks(SHIPPED).estimator(picture())
        assert torch.equal(found.network(picture()).heatmaps_half, expected.heatmaps_half)


def test_a_file_of_the_estimator_alone(tmp_path):
    save_model(tmp_path / "estimator.safetensors", {"estimator": micro()}, to_dict(MICRO), dtype=torch.float32)
    found = load_estimator(tmp_path / "estimator.safetensors")
    assert found[1:] == (128, 96, False, False, False)
    assert not found.network.training and not any(weight.requires_grad for weight in found.network.parameters())
    with torch.no_grad():
        assert torch.equal(found.network(picture()).heatmaps_half, micro()(picture()).heatmaps_half)


CARDS = {
    "the preset's": ({"preset": "deepfashion-256x176", "settings": {"model": {}}}, (256, 176, True)),
    "changed": ({"preset": "deepfashion-256x176", "settings": {"model": {"height": 512}}}, (128, 96, False)),
    "of no preset": ({"preset": "mine"}, (128, 96, False)),
    "of other things": ({"preset": [1], "settings": "many"}, (128, 96, False)),
}


@pytest.mark.parametrize(("card", "size"), CARDS.values(), ids=CARDS.keys())
def test_the_card_says_the_size_of_an_estimator_alone(tmp_path, card, size):
    save_model(tmp_path / "estimator.safetensors", {"estimator": micro()}, to_dict(MICRO), card)
    found = load_estimator(tmp_path / "estimator.safetensors")
    assert (found.height, found.width, found.size_known) == size


def test_a_whole_checkpoint_says_the_size_that_its_networks_see(tmp_path):
    """Half the pictures', where the autoencoder averages over two pixels first."""
    whole = replace(PRESETS["mini-256"], estimator=MICRO)
    assert whole.network_size == (whole.height // 2, whole.width // 2)
    save_model(tmp_path / "whole.safetensors", {"estimator": micro(), "other": torch.nn.Linear(1, 1)}, to_dict(whole))
    found = load_estimator(tmp_path / "whole.safetensors")
    assert (found.height, found.width, found.size_known) == (*whole.network_size, True)


def test_a_file_of_another_part_is_refused(tmp_path):
    save_model(tmp_path / "other.safetensors", {"aligner": torch.nn.Linear(2, 2)}, {})
    with pytest.raises(InputError, match=r"other.safetensors holds aligner and no pose estimator; choose"):
        load_estimator(tmp_path / "other.safetensors")


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_public_files_tell_people_apart(tmp_path, form):
    path = tmp_path / f"pose_higher_hrnet_w8_640.{form}"
    (torch.save if form == "pth" else save_file)(flat(micro()), path)
    found = load_estimator(path)
    assert found[1:] == (640, 640, True, False, True)
    assert len(predict_people(found.network, picture(), max_people=3)) == 2
    assert not load_estimator(path).network.config.udp and load_estimator(path, udp=True).network.config.udp


def test_vitpose_folder(tmp_path):
    save_tiny(tmp_path / "vitpose")
    found = load_estimator(tmp_path / "vitpose")
    assert found[1:] == (64, 48, False, True, True)
    assert predict_pose(found.network, picture()).shape == (2, 17, 3)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("pose_higher_hrnet_w32_512", (512, 512)),
        ("pose_higher_hrnet_w48_640", (640, 640)),
        ("higher_hrnet32_coco_640x640-295021bb_20200712", (640, 640)),
        ("higher_hrnet48_coco_512x512_udp-7cad61ef_20210222", (512, 512)),
        ("mine_256x320", (320, 256)),
        ("weights", None),
        ("hrnet_500", None),
        ("epoch300", None),
    ],
)
def test_size_in_a_name(name, size):
    assert size_in_name(name) == size


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("torn.safetensors", b"\0" * 100, "torn.safetensors: not a readable weights file"),
        ("torn.pth", b"no weights", "torn.pth: not a readable weights file"),
        ("gone.pth", None, "gone.pth: no such file"),
    ],
)
def test_unreadable(tmp_path, name, content, problem):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=problem):
        load_estimator(tmp_path / name)


def test_other_weights_and_folders(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    with pytest.raises(InputError, match=r"lora.safetensors: these are not the weights of a HigherHRNet; choose"):
        load_estimator(tmp_path / "lora.safetensors")
    with pytest.raises(InputError, match=r"its config.json cannot be read"):
        load_estimator(tmp_path)


def test_sizes_in_the_header_that_do_not_fit(tmp_path):
    config = {**to_dict(MICRO), "deconv_channels": 6}
    save_model(tmp_path / "own.safetensors", {"estimator": micro()}, config)
    with pytest.raises(InputError, match=r"own.safetensors: estimator does not fit"):
        load_estimator(tmp_path / "own.safetensors")
    assert EstimatorConfig(deconv_channels=6) != MICRO
