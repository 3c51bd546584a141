"""RePoseSD's start: a local Stable Diffusion 2.1 in either layout, and what is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from reposedm_core.errors import InputError
from training.stages.reposesd.source import StableDiffusion
from training.train_tiny import DIM, WORDS

from .conftest import PRESET, prepared, stage_of, started


def linked(folder, root, **change):
    """A folder with the same parts, but for the U-Net's weights, and with changes of its settings."""
    other = root / "other"
    other.mkdir()
    for part in folder.iterdir():
        (other / part.name).symlink_to(part)
    (other / "unet").unlink()
    (other / "unet").mkdir()
    known = json.loads((folder / "unet" / "config.json").read_text())
    (other / "unet" / "config.json").write_text(json.dumps({**known, **change}))
    return other


def test_the_folder_says_sizes_and_schedule(folder):
    config = StableDiffusion(folder, PRESET).config
    assert config.denoiser.block_channels == (64, 128) and config.denoiser.attention == (True, False)
    assert (config.denoiser.heads_dim, config.denoiser.context_dim, config.denoiser.layers) == (64, DIM, 1)
    assert config.autoencoder.widths == (8, 8, 8, 8) and config.autoencoder.scaling == 0.18215
    assert config.schedule.prediction == "v_prediction" and config.schedule.beta_end == 0.012


def test_of_several_files_safetensors_are_read_as_in_the_node(folder, tmp_path):
    """Half precision beside a pickle in full: what the node samples with is what the training starts from."""
    other, file = linked(folder, tmp_path), "diffusion_pytorch_model"
    state = load_file(folder / "unet" / f"{file}.safetensors")
    save_file({key: value.half() for key, value in state.items()}, other / "unet" / f"{file}.fp16.safetensors")
    torch.save({key: value + 1 for key, value in state.items()}, other / "unet" / f"{file}.bin")
    found = StableDiffusion(other, PRESET).unet()
    for key, value in state.items():
        if key != "conv_in.weight":  # it grows
            assert torch.equal(found[f"unet.{key}"], value.half()), key


@torch.no_grad()
def test_step_0_is_stable_diffusion_whatever_the_pose(folder, figures, tmp_path):
    from diffusers import UNet2DConditionModel

    module = started(stage_of(folder, figures, tmp_path)).eval()
    theirs = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    generator = torch.Generator().manual_seed(0)
    z, pose = (torch.randn(2, 4, 8, 6, generator=generator) for _ in range(2))
    tokens, t = torch.randn(2, WORDS, DIM, generator=generator), torch.tensor([700, 20])
    expected = theirs(z, t, encoder_hidden_states=tokens).sample
    found = module(z, t, pose, tokens)
    assert all(torch.equal(module(z, t, other, tokens), found) for other in (100 * pose, 0 * pose))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(module.unet.conv_in.weight[:, :4], theirs.conv_in.weight)
    assert not module.unet.conv_in.weight[:, 4:].any()


@torch.no_grad()
def test_hidden_states_are_transformers_own(folder):
    from transformers import CLIPTextModel, CLIPTokenizer

    text = StableDiffusion(folder, PRESET).text_encoder()
    captions = ["red hat", "", "a very long caption that does not fit"]
    ids = text.ids(captions)
    tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    assert ids.shape == (3, WORDS) and torch.equal(
        ids, tokenizer(captions, padding="max_length", truncation=True, max_length=WORDS, return_tensors="pt").input_ids
    )
    model = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    assert torch.equal(text(ids), model(ids).last_hidden_state)


@torch.no_grad()
def test_a_public_file_is_a_start_too(folder, figures, tmp_path):
    """LDM's layout with four input channels and no header, as Stable Diffusion itself is published."""
    config, path = StableDiffusion(folder, PRESET).config, tmp_path / "public.safetensors"
    stage = prepared(folder, figures, tmp_path / "a")
    network = started(stage)
    stage.save(network, path, {})
    state = load_file(path)
    first = "model.diffusion_model.input_blocks.0.0.weight"
    state[first] = state[first][:, :4].clone()
    save_file({key: value for key, value in state.items() if key != "v_pred"}, path)
    other = prepared(path, figures, tmp_path / "b", config, tokenizer=str(folder / "tokenizer"))
    assert other.config.denoiser == config.denoiser
    batch = stage.load(stage.plan(np.random.default_rng(0), 2))
    expected, found = (s.loss(started(s).eval(), batch, 0)["loss"] for s in (stage, other))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(other.null, stage.null, rtol=1e-2, atol=1e-2)


def test_what_is_not_there_is_named(folder, figures, tmp_path):
    with pytest.raises(InputError, match=r"reposesd.start = '': give a local Stable Diffusion 2.1"):
        stage_of("", figures, tmp_path)
    with pytest.raises(InputError, match=r"unet/config.json of .* cannot be read"):
        stage_of(tmp_path, figures, tmp_path)
    (tmp_path / "some.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"some.safetensors: a checkpoint file holds no tokenizer"):
        stage_of(tmp_path / "some.safetensors", figures, tmp_path)
    with pytest.raises(InputError, match="no CLIP tokenizer in"):
        stage_of(folder, figures, tmp_path, tokenizer=str(tmp_path)).prepare(True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_linear_projection": False}, r"reposesd\.start: .*use_linear_projection = False"),
        ({"in_channels": 9}, "9 input channels"),
        ({"attention_head_dim": [4, 8]}, r"attention heads \[4, 8\]"),
        ({"attention_head_dim": 2}, r"attention heads \[2, 2\]"),
    ],
)
def test_another_version_is_refused(folder, figures, tmp_path, change, message):
    other = linked(folder, tmp_path, **change)
    with pytest.raises(InputError, match=message):
        stage_of(other, figures, tmp_path)
