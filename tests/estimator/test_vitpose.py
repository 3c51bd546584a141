"""ViTPose as an estimator of the field, on tiny random networks as transformers saves them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from reposedm_core.config import FieldConfig, ModelConfig
from reposedm_core.errors import InputError
from reposedm_core.estimator import VitPose, load_vitpose, predict_people, predict_pose
from reposedm_core.estimator.hrnet import IMAGENET_MEAN, IMAGENET_STD
from reposedm_core.estimator.vitpose import is_vitpose
from reposedm_core.field import PoseInteractionField, joints_target
from reposedm_core.pose.heatmaps import render_heatmaps
from training.stages.field_loss import FieldTerm

SIZE = 64, 48


def save_tiny(folder, simple: bool = True, experts: int = 1, joints: int = 17, seed: int = 0):
    """A ViTPose of two layers in `folder`, as `save_pretrained` leaves it; the network itself."""
    from transformers import VitPoseConfig, VitPoseForPoseEstimation

    backbone = {
        "model_type": "vitpose_backbone",
        "image_size": list(SIZE),
        "patch_size": [16, 16],
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
        "num_experts": experts,
        "part_features": 8 if experts > 1 else 0,
        "out_indices": [2],
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = VitPoseForPoseEstimation(
            VitPoseConfig(backbone_config=backbone, num_labels=joints, use_simple_decoder=simple)
        ).eval()
        with torch.no_grad():
            for weight in network.parameters():
                weight += 0.05 * torch.randn_like(weight)
    network.save_pretrained(folder)
    return network


def picture(batch: int = 2):
    return torch.rand(batch, 3, *SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("simple", [True, False], ids=["simple", "classic"])
@pytest.mark.parametrize("experts", [1, 2], ids=["", "mixture"])
def test_heat_maps_are_the_network_s_own(tmp_path, simple, experts):
    network = save_tiny(tmp_path, simple, experts)
    found = load_vitpose(tmp_path)
    assert is_vitpose(tmp_path)
    assert (found.config.height, found.config.width, found.config.strides, found.config.joints) == (*SIZE, (4,), 17)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    expert = {"dataset_index": torch.zeros(2, dtype=torch.long)} if experts > 1 else {}
    with torch.no_grad():
        expected = network(((picture() + 1) / 2 - mean) / std, **expert).heatmaps
        maps = found(picture())
    torch.testing.assert_close(maps.heatmaps[0], expected)
    assert maps.features.shape == (2, 32, 4, 3)
    assert maps.tags is None
    assert not found.training and not any(weight.requires_grad for weight in found.parameters())


def test_pictures_are_normalised_as_the_folder_says(tmp_path):
    network = save_tiny(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    with torch.no_grad():
        assert torch.allclose(load_vitpose(tmp_path)(picture()).heatmaps[0], network(picture()).heatmaps, atol=1e-6)


@pytest.mark.parametrize("space", ["heatmaps", "features"])
def test_gradient_passes_through_it(tmp_path, space):
    save_tiny(tmp_path)
    field = PoseInteractionField(load_vitpose(tmp_path).double(), space)
    z = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def decode(latent):
        return torch.nn.functional.interpolate(latent, size=SIZE, mode="bilinear").tanh()

    places = torch.rand(2, 17, 2, generator=torch.Generator().manual_seed(3)) * 40
    joints = torch.cat([places, torch.ones(2, 17, 1)], -1)
    target = (
        field.target_from_image(picture().double()) if space == "features" else field.target_from_joints(joints, *SIZE)
    )
    gradient, distance = field.gradient(z, decode, target)
    assert (distance > 0).all() and not any(weight.grad is not None for weight in field.parameters())
    direction, step = torch.randn(z.shape, generator=torch.Generator().manual_seed(4), dtype=z.dtype), 1e-7
    with torch.no_grad():
        ahead, behind = (field.distance(decode(z + s * direction), target) for s in (step, -step))
    slope = (gradient * direction).sum((1, 2, 3))
    torch.testing.assert_close((ahead - behind) / (2 * step), slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("space", ["heatmaps", "features"])
def test_the_field_refuses_another_size_before_it_samples(tmp_path, space):
    save_tiny(tmp_path)
    field = PoseInteractionField(load_vitpose(tmp_path), space)
    joints, half = torch.rand(1, 17, 3) * 20 + 1, tuple(side // 2 for side in SIZE)
    with pytest.raises(InputError, match=r"sees pictures of 48×64 alone, and .* show it 24×32.*field\.size"):
        joints_target(field, joints, *half)
    assert len(joints_target(field, joints, *SIZE).heatmaps) == 1
    model = {"height": SIZE[0], "width": SIZE[1], "field": FieldConfig(space=space, size=0.5)}
    config = replace(ModelConfig(), **model)
    with pytest.raises(InputError, match="field is to show it 24×32"):
        FieldTerm(config, field.estimator, torch.nn.Identity(), *SIZE, torch.device("cpu"))
    config = replace(config, field=replace(config.field, size=1.0))
    assert FieldTerm(config, field.estimator, torch.nn.Identity(), *SIZE, torch.device("cpu")).size == SIZE


class Right(torch.nn.Module):
    """Stands for the head: sees joints where they are, whatever the picture."""

    def __init__(self, joints):
        super().__init__()
        self.joints = joints

    def forward(self, features):
        return render_heatmaps(self.joints, *SIZE, 2.0, 4, udp=True)


def test_joints_are_read_by_udp_s_rule(tmp_path):
    save_tiny(tmp_path)
    found = load_vitpose(tmp_path)
    places = torch.rand(1, 17, 2, generator=torch.Generator().manual_seed(3)) * 16 + 16
    joints = torch.cat([places, torch.ones(1, 17, 1)], -1)
    found.network.head = Right(joints)
    where = predict_pose(found, picture(1), flip=False)
    torch.testing.assert_close(where[..., :2], joints[..., :2], atol=0.35, rtol=0)


def test_it_sees_one_person_of_one_size(tmp_path):
    save_tiny(tmp_path)
    found = load_vitpose(tmp_path)
    with pytest.raises(InputError, match="sees one person a picture: it has no tags"):
        predict_people(found, picture())
    with pytest.raises(InputError, match=r"picture has shape .* expected \(B, 3, 64, 48\)"):
        found(torch.zeros(1, 3, 64, 64))


def test_whole_networks_only(tmp_path):
    from safetensors.torch import load_file, save_file

    save_tiny(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {key: value for key, value in weights.items() if not key.startswith("head.")},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(InputError, match=r"do not fit its config.json, 2 are missing .*head\.conv"):
        load_vitpose(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="not a readable ViTPose"):
        load_vitpose(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert not is_vitpose(tmp_path)
    with pytest.raises(InputError, match="not a readable ViTPose"):
        load_vitpose(tmp_path)


def test_other_joints_are_refused(tmp_path):
    save_tiny(tmp_path, joints=14)
    with pytest.raises(InputError, match="it has 14 joints; choose a ViTPose for COCO's 17"):
        load_vitpose(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "vit"},
        {"backbone_config": None},
        {"backbone": "somebody/a-backbone"},
        {"backbone_config": {"model_type": "resnet"}},
    ],
)
def test_other_folders_are_refused_and_nothing_is_fetched(tmp_path, change, monkeypatch):
    import socket

    save_tiny(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it wanted to fetch something"))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(InputError, match=r"config\.json (describes no ViTPose|names a backbone that is not)"):
        load_vitpose(tmp_path)
    assert is_vitpose(tmp_path) == ("model_type" not in change)


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff"])
def test_config_that_is_none(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert is_vitpose(tmp_path), "who loads it is told what is wrong"
    with pytest.raises(InputError, match=r"config\.json"):
        load_vitpose(tmp_path)


def test_public_sizes_are_read():
    """ViTPose's own size, without its weights."""
    from transformers import VitPoseConfig, VitPoseForPoseEstimation

    with torch.device("meta"):
        network = VitPoseForPoseEstimation(VitPoseConfig(num_labels=17))
    found = VitPose(network)
    assert (found.config.height, found.config.width, found.config.strides, found.cells) == (256, 192, (4,), (16, 12))
