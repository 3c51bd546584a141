"""What RePoseSD Loader offers, what it reads, and what it says about files of other kinds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from reposedm_core import PRESETS

UNET = "model.diffusion_model."
SD21 = PRESETS["sd21"]
CONFIG = replace(
    SD21,
    autoencoder=replace(SD21.autoencoder, widths=(8, 8, 8, 8)),
    denoiser=replace(
        SD21.denoiser,
        block_channels=(64, 128),
        attention=(True, False),
        layers=1,
        context_dim=PRESETS["mini"].denoiser.context_dim,
    ),
)


@pytest.fixture(scope="module")
def network():
    from reposedm_core.reposesd.network import RePoseSD

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RePoseSD(CONFIG.denoiser)


@pytest.fixture
def models(pack, tmp_path, monkeypatch):
    """Empty model folders of ComfyUI's."""
    import folder_paths

    for kind in ("checkpoints", "diffusers", "reposedm"):
        (tmp_path / kind).mkdir()
        found = folder_paths.folder_names_and_paths[kind]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path / kind)], found[1]))
        folder_paths.filename_list_cache.pop(kind, None)
    yield tmp_path
    for kind in ("checkpoints", "diffusers", "reposedm"):
        folder_paths.filename_list_cache.pop(kind, None)


def mark(path, text="{}"):
    (path / "unet").mkdir(parents=True)
    (path / "unet" / "config.json").write_text(text)


def options(pack):
    (combo,) = pack.nodes.reposesd.RePoseSDLoader.define_schema().inputs
    return combo.options


def test_files_and_folders_are_offered(pack, models):
    (models / "checkpoints" / "humansd-v1.ckpt").write_bytes(b"")
    (models / "reposedm" / "own.safetensors").write_bytes(b"")
    for place in ("diffusers/pose", "reposedm/a/b", "diffusers/pose/inner", "diffusers/1/2/3/4/5", "checkpoints/other"):
        mark(models / place)
    mark(models / "outside")
    (models / "diffusers" / "circle").symlink_to(models / "diffusers", target_is_directory=True)
    (models / "diffusers" / "empty").mkdir()
    found = options(pack)
    assert found[:2] == ["humansd-v1.ckpt", "own.safetensors"]
    assert {name for name in found[2:] if "circle" not in name} == {"a/b/", "pose/"}
    resolve = pack.nodes.reposesd.weights_path
    assert resolve("pose/") == models / "diffusers" / "pose" and resolve("a/b/") == models / "reposedm" / "a" / "b"
    validate = pack.nodes.reposesd.RePoseSDLoader.validate_inputs
    assert validate("pose/") is True and validate(None) is True
    for name in ("../outside/", str(models / "outside") + "/", "pose/../../outside/", "empty/", "./", "/"):
        assert "there is no folder" in validate(name) and "models/diffusers" in validate(name)


def test_loader_runs_again_when_weights_were_changed(pack, models):
    import os

    mark(models / "diffusers" / "pose")
    file = models / "diffusers" / "pose" / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(b"")
    (models / "checkpoints" / "a.ckpt").write_bytes(b"")
    fingerprint = pack.nodes.reposesd.RePoseSDLoader.fingerprint_inputs
    for name, path in (("pose/", file), ("a.ckpt", models / "checkpoints" / "a.ckpt")):
        before = fingerprint(name)
        assert fingerprint(name) == before
        os.utime(path, ns=(0, before + 1))
        assert fingerprint(name) == before + 1
    assert fingerprint(None) == "linked"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_folder_of_diffusers_gives_the_model_of_the_same_file(pack, models, network, tiny_vae, prediction):
    from reposedm_core.diffusion.autoencoder import KLAutoencoder
    from reposedm_core.reposesd.network import save_reposesd

    folder = models / "reposedm" / "pose"
    network.unet.save_pretrained(folder / "unet")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": prediction}))
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text("{}")
    save_file(tiny_vae, folder / "vae" / "diffusion_pytorch_model.safetensors")
    with torch.inference_mode():
        model, clip, vae = pack.nodes.reposesd.RePoseSDLoader.execute("pose/").args
    assert clip is None and model.model.model_type.name == ("EPS" if prediction == "epsilon" else "V_PREDICTION")
    assert torch.equal(vae.first_stage_model.state_dict()["taesd_encoder.0.weight"], tiny_vae["taesd_encoder.0.weight"])
    path = models / "checkpoints" / "own.safetensors"
    config = replace(CONFIG, schedule=replace(CONFIG.schedule, prediction=prediction))
    save_reposesd(path, network, KLAutoencoder(CONFIG.autoencoder), {}, config, dtype=torch.float32)
    state = load_file(path)
    found = model.model.diffusion_model.state_dict()
    assert {UNET + key for key in found} == {key for key in state if key.startswith(UNET)}
    assert all(torch.equal(value, state[UNET + key]) for key, value in found.items())
    # The host reads a model again where it needs a second one.
    load, arguments = model.cached_patcher_init
    again = load(*arguments, disable_dynamic=True).model.diffusion_model.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in found.items())


def test_vae_tells_how_the_model_learned_its_poses(pack, models, network, reposesd_file):
    from reposedm_core.diffusion.autoencoder import KLAutoencoder
    from reposedm_core.reposesd.network import save_reposesd

    ours = models / "reposedm" / "own.safetensors"
    save_reposesd(ours, network, KLAutoencoder(CONFIG.autoencoder), {}, CONFIG)
    # The host knows a VAE of the full size only: without it, with the header.
    from safetensors import safe_open

    with safe_open(ours, "pt") as file:
        metadata = file.metadata()
    save_file({key: value for key, value in load_file(ours).items() if key.startswith(UNET)}, ours, metadata=metadata)
    habits = pack.nodes.host.reposesd_model
    for path, expected in ((ours, habits.OWN), (reposesd_file, habits.HUMANSD)):
        assert getattr(pack.nodes.reposesd.load_checkpoint(path)[2], habits.HABITS) == expected


def test_unet_alone_is_loaded(pack, tmp_path, reposesd_state):
    path = tmp_path / "unet.safetensors"
    save_file({key.removeprefix(UNET): value for key, value in reposesd_state.items()}, path)
    model, clip, vae = pack.nodes.reposesd.load_checkpoint(path)
    first = model.model.diffusion_model.state_dict()["input_blocks.0.0.weight"]
    assert torch.equal(first, reposesd_state[UNET + "input_blocks.0.0.weight"])
    assert clip is None and vae.first_stage_model is None


def weights(*keys, **shapes):
    return {**{key: torch.zeros(2) for key in keys}, **{key: torch.zeros(shape) for key, shape in shapes.items()}}


FIRST = UNET + "input_blocks.0.0.weight"
KINDS = {
    "LoRA of kohya": (weights("lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"), "a LoRA; use Load LoRA"),
    "LoRA of diffusers": (
        weights("unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k.lora_A.weight"),
        "a LoRA; use Load LoRA",
    ),
    "LyCORIS": (weights("lora_unet_input_blocks_0_0.hada_w1_a"), "a LoRA; use Load LoRA"),
    "ControlNet": (
        weights("control_model.input_hint_block.0.weight", "control_model.input_blocks.0.0.weight"),
        "a ControlNet; use Load ControlNet Model",
    ),
    "ControlNet of diffusers": (
        weights("controlnet_cond_embedding.conv_in.weight", "conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
        "a ControlNet; use Load ControlNet Model",
    ),
    "estimator": (weights("stage2.0.branches.0.0.conv1.weight"), "a pose estimator; use Pose Estimator Loader"),
    "estimator of mmpose": (
        weights("backbone.stage2.0.branches.0.0.conv1.weight"),
        "a pose estimator; use Pose Estimator Loader",
    ),
    "part of a folder": (
        weights("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
        "the U-Net of a folder of diffusers; use the whole folder, in models/diffusers, for it",
    ),
    "VAE": (weights("decoder.conv_in.weight"), "a VAE; use Load VAE for it"),
    "VAE of diffusers": (
        weights("decoder.conv_in.weight", "encoder.down_blocks.0.resnets.0.conv1.weight"),
        "a VAE; use Load VAE for it",
    ),
    "text encoder": (weights("text_model.encoder.layers.0.mlp.fc1.weight"), "a text encoder; use Load CLIP"),
    "Flux": (weights("double_blocks.0.img_attn.qkv.weight"), "another kind of diffusion model; use Load Checkpoint or"),
    "four channels": (weights(**{FIRST: (8, 4, 3, 3)}), "has 4 input channels.*use Load Checkpoint"),
    "inpainting": (weights(**{FIRST: (8, 9, 3, 3)}), "has 9 input channels.*use Load Checkpoint"),
    "InstructPix2Pix": (
        weights(**{FIRST: (8, 8, 3, 3), UNET + "input_blocks.1.1.proj_in.weight": (8, 8, 1, 1)}),
        "is Stable Diffusion 1 with 8 input channels, such as InstructPix2Pix.*use Load Checkpoint",
    ),
    "InstructPix2Pix XL": (
        weights(UNET + "label_emb.0.0.weight", **{FIRST: (8, 8, 3, 3)}),
        "is Stable Diffusion XL with 8 input channels.*use Load Checkpoint",
    ),
    "something else": (weights("weight"), "is no Stable Diffusion checkpoint in LDM layout; RePoseSD Loader takes Hum"),
    "Flux, all in one": (
        weights(
            UNET + "double_blocks.0.img_attn.qkv.weight",
            "vae.decoder.conv_in.weight",
            "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
        ),
        "another kind of diffusion model; use Load Checkpoint or",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_message_names_the_right_loader(pack, tmp_path, kind):
    state, message = KINDS[kind]
    path = tmp_path / "file.safetensors"
    save_file(state, path)
    with pytest.raises(pack.reposedm_core.InputError, match=f"^checkpoint: file.safetensors .*{message}"):
        pack.nodes.reposesd.load_checkpoint(path)


def test_our_own_and_the_host_s_whole_checkpoints_are_told_apart(pack, tiny, models):
    (models / "reposedm" / "tiny.safetensors").write_bytes(tiny.read_bytes())
    with pytest.raises(pack.reposedm_core.InputError, match="is a RePoseDM model; use RePoseDM Loader"):
        pack.nodes.reposesd.RePoseSDLoader.execute("tiny.safetensors")


def test_folder_of_four_channels_is_named(pack, tmp_path, network):
    from diffusers import UNet2DConditionModel

    settings = {key: value for key, value in network.unet.config.items() if not key.startswith("_")}
    UNet2DConditionModel(**{**settings, "in_channels": 4}).save_pretrained(tmp_path / "sd" / "unet")
    with pytest.raises(pack.reposedm_core.InputError, match=r"sd has 4 input channels.*for a folder, Load Diffusers"):
        pack.nodes.reposesd.load_checkpoint(tmp_path / "sd")
