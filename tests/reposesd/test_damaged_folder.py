"""Folders of diffusers whose settings are damaged, or no network's: refused by the name of the file."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from reposedm_core import InputError
from reposedm_core.reposesd.diffusers_folder import read_folder
from tests.test_damage import DEEP

UNET = {
    "block_out_channels": [320, 640, 1280, 1280],
    "attention_head_dim": [5, 10, 20, 20],
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 4,
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "norm_num_groups": 32,
    "use_linear_projection": True,
}


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler"])
@pytest.mark.parametrize("text", [DEEP, "", "[]", "3", '{"a":' * 100_000])
def test_settings_of_a_folder_that_are_damaged_are_refused(tmp_path, part, text):
    for name, content in {"unet": json.dumps(UNET), "vae": "{}", part: text}.items():
        (tmp_path / name).mkdir()
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (tmp_path / name / file).write_text(content)
        save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / name / "model.safetensors")
    with pytest.raises(InputError, match=rf"checkpoint: {part}/(scheduler_)?config\.json of .* cannot be read"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"layers_per_block": 10**9},
        {"layers_per_block": "two"},
        {"layers_per_block": 2.0},
        {"norm_num_groups": 0},
        {"block_out_channels": 3},
        {"block_out_channels": []},
        {"attention_head_dim": [0, 0, 0, 0]},
        {"block_out_channels": [64 * 10**400] * 4},
        {"cross_attention_dim": -1},
        {"down_block_types": None},
        {"out_channels": 10**9},
    ],
    ids=lambda change: str(change)[:40],
)
def test_sizes_of_a_folder_that_no_network_has_are_refused(tmp_path, change):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({**UNET, **change}))
    with pytest.raises(InputError, match=r"^checkpoint: "):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["embeddings.token_embedding.weight"],
        ["encoder.layers.x.mlp.fc1.weight"],
        ["encoder.layers.0.self_attn.q_proj.weight"],
    ],
)
def test_a_text_encoder_that_is_none_is_refused(tmp_path, names):
    for name, content in {"unet": UNET, "text_encoder": {"num_hidden_layers": 23}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(content))
        save_file({key: torch.zeros(1) for key in names}, tmp_path / name / "model.safetensors")
    with pytest.raises(InputError, match=r"text_encoder of .* holds no text encoder"):
        read_folder(tmp_path)
