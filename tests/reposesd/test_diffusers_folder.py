"""A folder of diffusers is read as one file in LDM's layout is."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from reposedm_core import PRESETS, InputError
from reposedm_core.diffusion.autoencoder import KLAutoencoder
from reposedm_core.reposesd.diffusers_folder import DiffusersFolder, read_folder
from reposedm_core.reposesd.network import RePoseSD, save_reposesd

SD21 = PRESETS["sd21"]
MODEL = replace(
    SD21,
    autoencoder=replace(SD21.autoencoder, widths=(8, 8, 8, 8)),
    denoiser=replace(SD21.denoiser, block_channels=(64, 128), attention=(True, False), layers=1, context_dim=32),
)


def text_encoder(layers=23):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=40,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=9,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
    )


@pytest.fixture(scope="module")
def networks():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RePoseSD(MODEL.denoiser), KLAutoencoder(MODEL.autoencoder), text_encoder()


@pytest.fixture
def folder(networks, tmp_path):
    """As diffusers saves it."""
    path = tmp_path / "model"
    for name, network in zip(
        ("unet", "vae", "text_encoder"), (networks[0].unet, networks[1].vae, networks[2]), strict=True
    ):
        network.save_pretrained(path / name)
    return path


def scheduler(folder, **values):
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(values))


def change(folder, part, **values):
    path = folder / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_folder_is_the_same_as_an_exported_file(networks, folder, tmp_path, prediction):
    scheduler(folder, prediction_type=prediction)
    config = replace(MODEL, schedule=replace(MODEL.schedule, prediction=prediction))
    save_reposesd(tmp_path / "file.safetensors", *networks[:2], networks[2].state_dict(), config, dtype=torch.float32)
    expected, found = load_file(tmp_path / "file.safetensors"), read_folder(folder)
    assert set(found) == set(expected)
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    assert DiffusersFolder(folder).config() == config


def test_parts_but_the_unet_may_be_missing(folder):
    for part in ("vae", "text_encoder"):
        (folder / part).rename(folder / f"no {part}")
    assert {key.split(".")[0] for key in read_folder(folder)} == {"model"}


def test_old_names_of_the_attention_and_half_precision_files_are_read(folder):
    now = read_folder(folder)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    path.unlink()
    for new, name in old.items():
        state = {key.replace(f".{new}.", f".{name}."): value for key, value in state.items()}
    assert any(".query." in key for key in state)
    half = path.with_name("diffusion_pytorch_model.fp16.safetensors")
    save_file({key: value.half() for key, value in state.items()}, half)
    found = read_folder(folder)
    assert set(found) == set(now)
    assert all(torch.equal(value, now[key].to(value.dtype)) for key, value in found.items())
    assert {value.dtype for key, value in found.items() if key.startswith("first_stage")} == {torch.float16}


WRONG = {
    "Stable Diffusion 1.5": (
        lambda f: change(f, "unet", use_linear_projection=False, attention_head_dim=8),
        r"not Stable Diffusion 2\.1's \(attention heads .*use_linear_projection = False\)\. Other",
    ),
    "XL": (lambda f: change(f, "unet", addition_embed_type="text_time"), "addition_embed_type = 'text_time'"),
    "unCLIP": (lambda f: change(f, "unet", class_embed_type="projection"), "class_embed_type = 'projection'"),
    "no U-Net": (
        lambda f: change(f, "unet", block_out_channels=None),
        r"unet/config\.json of model describes no U-Net",
    ),
    "text encoder of another version": (
        lambda f: change(f, "text_encoder", num_hidden_layers=12),
        r"text encoder of model has 12 layers; Stable Diffusion 2\.1's has 23",
    ),
    "other latents": (lambda f: change(f, "vae", scaling_factor=0.13025), r"scales its latents by 0\.13025"),
    "other groups": (lambda f: change(f, "vae", norm_num_groups=4), "4 groups in its norms; Stable Diffusion's has 8"),
    "other depth": (lambda f: change(f, "vae", block_out_channels=[8, 8.5]), r"vae/config\.json of model"),
    "another schedule": (
        lambda f: scheduler(f, beta_schedule="squaredcos_cap_v2"),
        r"scheduler_config\.json of model.*squaredcos_cap_v2",
    ),
    "flow": (lambda f: scheduler(f, prediction_type="flow"), "model predicts 'flow'; expected epsilon or v_prediction"),
    "no weights": (
        lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
        r"no weights in the folder unet of model; expected diffusion_pytorch_model\.safetensors",
    ),
    "torn weights": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 9),
        r"checkpoint: vae of model: .*diffusion_pytorch_model\.safetensors: not a readable weights file",
    ),
    "torn settings": (
        lambda f: (f / "unet" / "config.json").write_text("{"),
        r"unet/config\.json of model cannot be read",
    ),
    "settings of another form": (
        lambda f: (f / "vae" / "config.json").write_text("[]"),
        r"vae/config\.json of model cannot be read \(it is no JSON object\)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(folder, case):
    break_it, message = WRONG[case]
    break_it(folder)
    with pytest.raises(InputError, match=message):
        read_folder(folder)
