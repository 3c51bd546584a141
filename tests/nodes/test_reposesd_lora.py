"""LoRAs of Stable Diffusion 2.1 on RePoseSD: what ComfyUI's Load LoRA does with them."""

from __future__ import annotations

import logging

import pytest
import torch

from reposedm_core import PRESETS

CONTEXT = PRESETS["mini"].denoiser.context_dim
UNET, RANK, ALPHA, STRENGTH = "model.diffusion_model.", 4, 2.0, 0.7
ATTENTION = "input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight"
FIRST = "input_blocks.0.0.weight"
NAMES = {
    "LDM's": ("lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_v", "lora_up", "lora_down"),
    "kohya's": ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v", "lora_up", "lora_down"),
    "diffusers'": ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_v_lora", "up", "down"),
}


def lora(prefix, up_name, down_name, out, into, alpha=True):
    """A random LoRA of one layer, and what it adds to the weight at strength 1."""
    generator = torch.Generator().manual_seed(3)
    up = 0.3 * torch.randn(out, RANK, *[1] * (len(into) - 1), generator=generator)
    down = 0.3 * torch.randn(RANK, *into, generator=generator)
    state = {f"{prefix}.{up_name}.weight": up, f"{prefix}.{down_name}.weight": down}
    if alpha:
        state[f"{prefix}.alpha"] = torch.tensor(ALPHA)
    return state, (ALPHA / RANK if alpha else 1) * (up.flatten(1) @ down.flatten(1)).reshape(out, *into)


def load(pack, path, state):
    """The model of a file behind Load LoRA."""
    import comfy.sd

    model = pack.nodes.reposesd.load_checkpoint(path)[0]
    return comfy.sd.load_lora_for_models(model, None, state, STRENGTH, 0.0)[0]


def sample(pack, model):
    generator = torch.Generator().manual_seed(1)
    positive, negative = (
        [
            [
                torch.randn(1, 77, CONTEXT, generator=generator),
                {pack.nodes.host.reposesd_model.POSE_LATENT: torch.ones(1, 4, 8, 6)},
            ]
        ]
        for _ in range(2)
    )
    with torch.inference_mode():
        return pack.nodes.sampler.RePoseDMKSampler.execute(
            model, positive, negative, {"samples": torch.zeros(1, 4, 8, 6)}, 0, 2, 2.0, "euler", "normal", 1.0
        ).args[0]["samples"]


def check(found, expected, plain):
    """`found` is what was expected, up to a hundredth of what the LoRA changes, and that is not little."""
    change = (expected - plain).abs().max()
    assert change > 0.05 and (found - expected).abs().max() < 0.01 * change


@pytest.fixture
def plain(pack, reposesd_file):
    """What is sampled without a LoRA."""
    return sample(pack, pack.nodes.reposesd.load_checkpoint(reposesd_file)[0])


@pytest.fixture
def merged(pack, reposesd_state, tmp_path):
    """The model whose file has something added to one weight: what a LoRA must be equal to."""
    from safetensors.torch import save_file

    def merge(key, value):
        save_file({**reposesd_state, UNET + key: reposesd_state[UNET + key] + value}, tmp_path / "merged.safetensors")
        return pack.nodes.reposesd.load_checkpoint(tmp_path / "merged.safetensors")[0]

    return merge


@pytest.fixture
def no_complaint(caplog):
    """The host only logs what it could not apply."""
    with caplog.at_level(logging.INFO):
        yield
    words = ("lora key not loaded", "NOT LOADED", "ERROR", "SHAPE MISMATCH")
    assert not [record.message for record in caplog.records if any(word in record.message for word in words)]


@pytest.mark.parametrize("names", NAMES)
def test_lora_of_the_attention_is_as_good_as_merged(pack, reposesd_file, merged, plain, no_complaint, names):
    prefix, up, down = NAMES[names]
    state, change = lora(prefix, up, down, 64, (CONTEXT,), alpha=names != "diffusers'")
    found = sample(pack, load(pack, reposesd_file, state))
    check(found, sample(pack, merged(ATTENTION, STRENGTH * change)), plain)


@pytest.mark.parametrize("kind", ["LoRA", "difference"])
@pytest.mark.parametrize("prefix", ["lora_unet_input_blocks_0_0", "lora_unet_conv_in"])
@pytest.mark.parametrize("channels", [4, 8])
def test_lora_of_the_first_convolution_leaves_the_pose_s_channels(
    pack, reposesd_file, merged, plain, no_complaint, kind, prefix, channels
):
    state, change = lora(prefix, "lora_up", "lora_down", 64, (channels, 3, 3))
    if kind == "difference":
        state = {f"{prefix}.diff": change}
    model = load(pack, reposesd_file, state)
    whole = torch.zeros(64, 8, 3, 3)
    whole[:, :channels] = STRENGTH * change
    expected = sample(pack, merged(FIRST, whole))
    check(sample(pack, model), expected, plain)
    check(sample(pack, model.clone().clone()), expected, plain)


def test_two_loras_add_up_and_the_loaded_model_stays_as_it_was(pack, reposesd_file, merged, no_complaint):
    import comfy.sd

    first, one = lora("lora_unet_conv_in", "lora_up", "lora_down", 64, (4, 3, 3))
    second, other = lora("lora_unet_conv_in", "lora_up", "lora_down", 64, (8, 3, 3))
    model = pack.nodes.reposesd.load_checkpoint(reposesd_file)[0]
    plain = sample(pack, model)
    both = comfy.sd.load_lora_for_models(model, None, first, 0.5, 0.0)[0]
    both = comfy.sd.load_lora_for_models(both, None, second, 0.25, 0.0)[0]
    whole = 0.25 * other
    whole[:, :4] += 0.5 * one
    check(sample(pack, both), sample(pack, merged(FIRST, whole)), plain)
    assert torch.equal(sample(pack, model), plain)


def test_lora_as_a_hook_reaches_the_first_convolution_too(pack, reposesd_file, merged, plain):
    """Weights that come and go during sampling, as Create Hook LoRA makes them."""
    import comfy.hooks

    state, change = lora("lora_unet_conv_in", "lora_up", "lora_down", 64, (4, 3, 3))
    model = pack.nodes.reposesd.load_checkpoint(reposesd_file)[0]
    hooks = comfy.hooks.create_hook_lora(state, STRENGTH, 0.0)
    generator = torch.Generator().manual_seed(1)
    prompts = [
        [
            [
                torch.randn(1, 77, CONTEXT, generator=generator),
                {pack.nodes.host.reposesd_model.POSE_LATENT: torch.ones(1, 4, 8, 6), "hooks": hooks},
            ]
        ]
        for _ in range(2)
    ]
    with torch.inference_mode():
        found = pack.nodes.sampler.RePoseDMKSampler.execute(
            model, *prompts, {"samples": torch.zeros(1, 4, 8, 6)}, 0, 2, 2.0, "euler", "normal", 1.0
        ).args[0]["samples"]
    whole = torch.zeros(64, 8, 3, 3)
    whole[:, :4] = STRENGTH * change
    check(found, sample(pack, merged(FIRST, whole)), plain)
