"""Checkpoints describe themselves, load strictly and refuse everything else."""

import json

import pytest
import torch
from safetensors.torch import save_file

from reposedm_core import InputError
from reposedm_core.checkpoint import load_into, load_parts, read_header, read_weights, save_model
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


@pytest.mark.parametrize("content", [b"", b"noise", b"\x80\x02.", b"\x80\x02M\x01", b"\x80\x02]."])
def test_damaged_pickles_are_refused_whatever_the_reader_raises(tmp_path, content):
    (tmp_path / "damaged.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"damaged\.pth: not a readable weights file .* Download it again"):
        read_weights(tmp_path / "damaged.pth")


def test_configuration_survives_json_and_refuses_unknown_keys():
    config = ModelConfig()
    data = json.loads(json.dumps(to_dict(config)))
    assert from_dict(ModelConfig, data) == config
    data["aligner"]["kernel_sizes"] = [1]
    with pytest.raises(InputError, match=r"aligner.*kernel_sizes"):
        from_dict(ModelConfig, data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"denoiser": 5}, r"model\.denoiser = 5: expected an object of the keys .*block_channels"),
        ({"height": "big"}, r"model\.height = 'big': expected int, not str"),
        ({"height": 128.0}, r"model\.height = 128\.0: expected int, not float"),
        ({"steps": True}, r"model\.steps = True: expected int, not bool"),
        ({"guidance_scale": "1"}, r"model\.guidance_scale = '1': expected float, not str"),
        ({"estimator": {"udp": 1}}, r"model\.estimator\.udp = 1: expected bool, not int"),
        ({"aligner": {"kernels": 3}}, r"model\.aligner\.kernels = 3: expected a list of int"),
        ({"aligner": {"kernels": [0, None]}}, r"model\.aligner\.kernels\[1\] = None: expected int, not NoneType"),
        ([], r"model = \[\]: expected an object"),
    ],
)
def test_configuration_refuses_values_of_another_type(data, message):
    with pytest.raises(InputError, match=message):
        from_dict(ModelConfig, data, "model")


def test_a_whole_number_may_stand_for_a_float():
    assert from_dict(ModelConfig, {"guidance_scale": 2}).guidance_scale == 2.0
