"""Checkpoints describe themselves, load strictly and refuse everything else."""

import json

import pytest
import torch
from safetensors.torch import save_file

from reposedm_core import InputError
from reposedm_core.checkpoint import load_into, load_parts, read_header, save_model
from reposedm_core.config import ModelConfig, from_dict, to_dict


def test_round_trip_keeps_weights_and_header(tmp_path):
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    path = tmp_path / "model.safetensors"
    save_model(path, {"part": layer}, {"a": 1}, {"note": "x"}, torch.float32)
    parts, header = load_parts(path)
    assert header == {"kind": "reposedm", "parts": ["part"], "config": {"a": 1}, "card": {"note": "x"}}
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    load_into(other, parts["part"], "part")
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in layer.state_dict().items())
    assert not list(tmp_path.glob("*.part"))


def test_a_mismatch_names_the_keys(tmp_path):
    state = torch.nn.Linear(3, 4).state_dict()
    with pytest.raises(InputError, match=r"missing: bias.*unexpected: extra.*weight: file \(4, 3\), network \(4, 5\)"):
        load_into(torch.nn.Linear(5, 4), {"weight": state["weight"], "extra": state["bias"]}, "file.safetensors")


def test_other_files_are_refused_with_a_remedy(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_header(tmp_path / "nothing.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        read_header(tmp_path / "broken.safetensors")
    save_file({"model.diffusion_model.x": torch.zeros(1)}, tmp_path / "sd.safetensors")
    with pytest.raises(InputError, match="RePoseSD Loader"):
        read_header(tmp_path / "sd.safetensors")


def test_configuration_survives_json_and_refuses_unknown_keys():
    config = ModelConfig()
    data = json.loads(json.dumps(to_dict(config)))
    assert from_dict(ModelConfig, data) == config
    data["aligner"]["kernel_sizes"] = [1]
    with pytest.raises(InputError, match=r"aligner.*kernel_sizes"):
        from_dict(ModelConfig, data)
