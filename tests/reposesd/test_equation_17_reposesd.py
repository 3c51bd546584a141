"""Equation 17: RePoseSD, Stable Diffusion 2.1 with the pose latent beside the noise latent, and its guided loss."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from reposedm_core import PRESETS, InputError
from reposedm_core.checkpoint import load_into, read_header
from reposedm_core.diffusion.autoencoder import KLAutoencoder, load_autoencoder
from reposedm_core.diffusion.guided import FieldGuidance
from reposedm_core.diffusion.ldm_layout import PREFIXES, text_from_ldm, text_to_ldm, unet_to_ldm, vae_to_ldm
from reposedm_core.diffusion.losses import training_loss
from reposedm_core.diffusion.sampler import initial_latent, simple_sigmas
from reposedm_core.diffusion.schedule import DiffusionSchedule, schedule_sigmas
from reposedm_core.diffusion.schedulers import SAMPLERS
from reposedm_core.reposesd.network import (
    V_PREDICTION,
    GuidedRePoseSD,
    RePoseSD,
    TextCondition,
    grow_input,
    load_reposesd,
    reposesd_config,
    save_reposesd,
    unet_weights,
)
from tests.fixtures.projections import computed_projections

SHAPES = json.loads((Path(__file__).parents[1] / "fixtures" / "humansd" / "keys.json").read_text())
SD21 = PRESETS["sd21"].denoiser
TINY = replace(SD21, block_channels=(16, 32, 32, 32), heads_dim=16, context_dim=24, norm_groups=8)
LDM = "model.diffusion_model."


def fill(network):
    """Random weights everywhere, so that every input has an influence."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(0.1 * torch.randn(value.shape, generator=generator) + (value.ndim == 1) * 0.5)
    return network.eval()


@pytest.fixture(scope="module")
def tiny():
    return fill(RePoseSD(TINY))


def inputs(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z, pose = (torch.randn(batch, 4, 8, 8, generator=generator) for _ in range(2))
    return z, torch.tensor([900, 10])[:batch], pose, torch.randn(batch, 7, TINY.context_dim, generator=generator)


def test_every_key_of_a_humansd_checkpoint_has_its_place_and_shape():
    with torch.device("meta"):
        network = RePoseSD(SD21)
    state = unet_weights({key: torch.empty(shape, device="meta") for key, shape in SHAPES.items()}, SD21)
    assert {k: list(v.shape) for k, v in state.items()} == {k: list(v.shape) for k, v in network.state_dict().items()}
    # Nothing of the file is left over: as many numbers go in as come out.
    assert len(state) == sum(key.startswith(LDM) for key in SHAPES)
    assert network.unet.config.attention_head_dim == (5, 10, 20, 20)


def to_ldm(state, layers=2, levels=4):
    """Diffusers' names → LDM's, a plain reference for the tiny network, written out from the two layouts."""
    resnet = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    start = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    out = {}
    for key, value in state.items():
        path = key.removeprefix("unet.").split(".")
        name = ".".join(path)
        if path[0] in ("down_blocks", "up_blocks"):
            level, kind, index = int(path[1]), path[2], int(path[3])
            attends = level < levels - 1 if path[0] == "down_blocks" else level > 0
            if path[0] == "down_blocks":
                block = f"input_blocks.{1 + level * (layers + 1) + (layers if kind == 'downsamplers' else index)}"
            else:
                block = f"output_blocks.{level * (layers + 1) + (layers if kind == 'upsamplers' else index)}"
            if kind == "resnets":
                name = ".".join([block, "0", resnet[path[4]], path[5]])
            elif kind == "attentions":
                name = ".".join([block, "1", *path[4:]])
            elif kind == "downsamplers":
                name = f"{block}.0.op.{path[5]}"
            else:
                name = f"{block}.{2 if attends else 1}.conv.{path[5]}"
        elif path[0] == "mid_block":
            if path[1] == "resnets":
                name = ".".join(["middle_block", str(2 * int(path[2])), resnet[path[3]], path[4]])
            else:
                name = ".".join(["middle_block.1", *path[3:]])
        else:
            for old, new in start.items():
                if name.startswith(old + "."):
                    name = new + name.removeprefix(old)
        out[LDM + name] = value
    return out


def test_the_reference_layout_is_humansds():
    with torch.device("meta"):
        state = to_ldm(RePoseSD(SD21).state_dict())
    assert {k: list(v.shape) for k, v in state.items()} == {k: s for k, s in SHAPES.items() if k.startswith(LDM)}


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_weights_load_unchanged_from_either_kind_of_file(tiny, tmp_path, suffix):
    state = to_ldm(tiny.state_dict())
    path = tmp_path / f"tiny{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": state, "global_step": 3}, path)
    else:
        save_file(state, path)
    loaded = load_reposesd(path, TINY)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in tiny.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(loaded(*inputs()), tiny(*inputs()))


def test_diffusers_layout_loads_too(tiny):
    state = {key.removeprefix("unet."): value for key, value in tiny.state_dict().items()}
    loaded = RePoseSD(TINY)
    load_into(loaded, unet_weights(state, TINY), "tiny")
    assert torch.equal(loaded.unet.conv_in.weight, tiny.unet.conv_in.weight)


def test_a_four_channel_model_grows_and_does_what_it_did(tiny):
    """Whatever the pose latent, the output is that of the 4-channel network on the noise latent alone."""
    from diffusers import UNet2DConditionModel

    narrow = fill(UNet2DConditionModel.from_config({**tiny.unet.config, "in_channels": 4}))
    grown = RePoseSD(TINY).eval()
    load_into(grown, unet_weights(to_ldm(narrow.state_dict()), TINY), "sd")
    z, t, pose, tokens = inputs()
    with torch.no_grad():
        expected = narrow(z, t, encoder_hidden_states=tokens).sample
        assert expected.std() > 0.01
        for latent in (pose, 100 * pose, torch.zeros_like(pose)):
            torch.testing.assert_close(grown(z, t, latent, tokens), expected, rtol=1e-5, atol=1e-5)


def test_grown_channels_are_zero_and_the_others_untouched():
    weight = torch.randn(6, 4, 3, 3)
    grown = grow_input(weight, 8)
    assert grown.shape == (6, 8, 3, 3) and torch.equal(grown[:, :4], weight) and not grown[:, 4:].any()
    assert torch.equal(grow_input(grown, 8), grown)


def test_pose_and_text_reach_the_network_and_a_batch_is_its_pictures(tiny):
    z, t, pose, tokens = inputs()
    with torch.no_grad():
        both = tiny(z, t, pose, tokens)
        for other in ((z, t, -pose, tokens), (z, t, pose, -tokens), (z, t.flip(0), pose, tokens)):
            assert (tiny(*other) - both).abs().max() > 1e-3
        single = torch.cat([tiny(z[i : i + 1], t[i : i + 1], pose[i : i + 1], tokens[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(single, both, rtol=1e-4, atol=1e-4)


def test_loss_is_the_written_one_and_takes_no_derivative_of_the_gradient():
    generator, schedule = torch.Generator().manual_seed(0), DiffusionSchedule(PRESETS["sd21"].schedule)
    x0, noise, prediction, gradient = (
        torch.randn(3, 4, 2, 2, generator=generator, dtype=torch.float64) for _ in range(4)
    )
    t = torch.tensor([3, 500, 999])
    z = schedule.add_noise(x0, noise, t)
    prediction.requires_grad_(True)
    gradient.requires_grad_(True)

    def loss(p, weight=0.7):
        return training_loss(schedule, x0, noise, z, t, p, gradient=gradient, field_weight=weight)["loss"]

    # Stable Diffusion's β are evenly spaced in their roots.
    alpha_bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[t]
    total = 0.0
    for i in range(3):
        guided = prediction[i] + 0.7 * (1 - alpha_bar[i]) ** 0.5 * gradient[i]
        total += float((noise[i] - guided).detach().square().sum())
    assert float(loss(prediction).detach()) == pytest.approx(total / noise.numel(), rel=1e-12)
    loss(prediction).backward()
    assert gradient.grad is None and prediction.grad.abs().max() > 0
    assert torch.autograd.gradcheck(loss, prediction)
    assert torch.equal(loss(prediction, 0.0), torch.nn.functional.mse_loss(prediction, noise))


# -- export


WIDE = replace(SD21, block_channels=(64, 128), attention=(True, False), layers=1, heads_dim=64, context_dim=32)
MODEL = replace(PRESETS["sd21"], denoiser=WIDE, autoencoder=replace(PRESETS["sd21"].autoencoder, widths=(8, 8, 8, 8)))


def text_encoder(layers=2):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=40,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=9,
            hidden_act="gelu",
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
    )


def test_every_network_is_written_under_the_keys_of_humansd():
    from transformers import CLIPTextConfig, CLIPTextModel

    model = PRESETS["sd21"]
    with torch.device("meta"):
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16
            )
        )
        parts = {
            "denoiser": unet_to_ldm(RePoseSD(SD21).unet.state_dict(), SD21),
            "autoencoder": vae_to_ldm(KLAutoencoder(model.autoencoder).vae.state_dict(), model.autoencoder),
            "text": text_to_ldm(text.state_dict()),
        }
    own = {PREFIXES[part] + key: list(value.shape) for part, state in parts.items() for key, value in state.items()}
    unread = {PREFIXES["text"] + name for name in ("text_projection", "logit_scale")}
    assert own == {key: shape for key, shape in SHAPES.items() if key not in unread}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_an_exported_file_is_read_back_bit_for_bit(tmp_path, prediction):
    network, vae, text = fill(RePoseSD(WIDE)), fill(KLAutoencoder(MODEL.autoencoder)), fill(text_encoder())
    config = replace(MODEL, schedule=replace(MODEL.schedule, prediction=prediction))
    path = tmp_path / "own.safetensors"
    save_reposesd(path, network, vae, text.state_dict(), config, {"data": "few"}, torch.float32)
    assert reposesd_config(path) == config and read_header(path, "reposesd")["card"] == {"data": "few"}
    for loaded, kept in ((load_reposesd(path), network), (load_autoencoder(path, config.autoencoder), vae)):
        assert {k: v.tolist() for k, v in loaded.state_dict().items()} == {
            k: v.tolist() for k, v in kept.state_dict().items()
        }
    state = load_file(path)
    assert (V_PREDICTION in state) == (prediction == "v_prediction")
    read, names = text_from_ldm(state), text.state_dict()
    assert set(read) == set(names) and all(torch.equal(value, names[key]) for key, value in read.items())


def test_diffusers_reads_the_text_encoder_back(tmp_path):
    """Its converter of OpenCLIP's names is the judge of ours."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    text = fill(text_encoder())
    state = {PREFIXES["text"] + key: value for key, value in text_to_ldm(text.state_dict()).items()}
    found = {key.removeprefix("text_model."): value for key, value in convert_open_clip_checkpoint(text, state).items()}
    kept = text.state_dict()
    assert all(torch.equal(found[key], value) for key, value in kept.items())
    assert set(found) - set(kept) == {key.replace("layers.1.", "layers.2.") for key in kept if "layers.1." in key}


def test_a_network_with_other_heads_is_not_exported(tmp_path):
    with pytest.raises(InputError, match=r"own\.safetensors: the U-Net's heads have 16 channels; .* take 64"):
        save_reposesd(
            tmp_path / "own.safetensors",
            RePoseSD(TINY),
            KLAutoencoder(MODEL.autoencoder),
            {},
            replace(MODEL, denoiser=TINY),
        )


def test_sampling_follows_equation_16_and_a_sampler_runs_it(tiny):
    schedule = DiffusionSchedule(PRESETS["sd21"].schedule)
    z, _, pose, tokens = inputs(1)
    told = TextCondition(pose, tokens, -tokens)
    sigma = simple_sigmas(schedule, 2)
    x = initial_latent(z, sigma[0])
    with torch.no_grad():
        outputs = {w: GuidedRePoseSD(tiny, schedule, told, w)(x, sigma[:1]).x0 for w in (0.0, 1.0, 3.0)}
        torch.testing.assert_close(outputs[3.0], outputs[0.0] + 3 * (outputs[1.0] - outputs[0.0]), rtol=1e-3, atol=0.05)
        # At w_c = 0 neither text nor pose has a say.
        silent = GuidedRePoseSD(tiny, schedule, TextCondition(-pose, 2 * tokens, -tokens), 0.0)(x, sigma[:1]).x0
        torch.testing.assert_close(silent, outputs[0.0])
    latents = [SAMPLERS["ddim"](GuidedRePoseSD(tiny, schedule, told, 3.0), x, sigma) for _ in range(2)]
    assert latents[0].isfinite().all() and torch.equal(*latents)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_text_s_keys_and_values_are_computed_once_a_run(tiny, scale, monkeypatch):
    schedule = DiffusionSchedule(PRESETS["sd21"].schedule)
    z, _, pose, tokens = inputs(1)
    guided = GuidedRePoseSD(tiny, schedule, TextCondition(pose, tokens, -tokens), scale)
    sigmas = simple_sigmas(schedule, 5)
    calls = computed_projections(tiny, monkeypatch)
    found = SAMPLERS["ddim"](guided, initial_latent(z, sigmas[0]), sigmas)
    once = len(calls)
    assert once == len(set(calls)) > 10
    bare = SAMPLERS["ddim"](lambda x, sigma: guided(x, sigma), initial_latent(z, sigmas[0]), sigmas)
    assert len(calls) == 6 * once and torch.equal(found, bare)


class Push:
    """A field whose gradient is its image: what the guidance does with it can be written out."""

    def gradient(self, x0, decode, target, chunk=None, watch=None):
        return decode(x0), torch.zeros(len(x0))


@pytest.mark.parametrize("scale", [3.0, 1.0, 0.0, -2.0])
def test_the_field_is_applied_with_the_weight_of_equation_16(tiny, scale):
    schedule = DiffusionSchedule(PRESETS["sd21"].schedule)
    z, _, pose, tokens = inputs(1)
    told, seen, level = TextCondition(pose, tokens, -tokens), [], 400
    sigma, a = schedule_sigmas(schedule)[[level]], float(schedule.alpha_bar[level])

    def decode(latent):
        seen.append(latent)
        return latent.roll(1, -1)

    field = FieldGuidance(Push(), None, decode, 0.5, 0.2, 0.7, limit=0.0)
    with torch.no_grad():
        plain = GuidedRePoseSD(tiny, schedule, told, scale)(z, sigma).x0
        found = GuidedRePoseSD(tiny, schedule, told, scale, field)(z, sigma).x0
        torch.testing.assert_close(found, plain - 0.5 * scale * (1 - a) / a**0.5 * plain.roll(1, -1))
        assert len(seen) == (scale != 0)
        outside = schedule_sigmas(schedule)[[900]]
        assert torch.equal(
            GuidedRePoseSD(tiny, schedule, told, scale, field)(z, outside).x0,
            GuidedRePoseSD(tiny, schedule, told, scale)(z, outside).x0,
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": torch.ones(3)}, r"sigma has shape \(3,\).*B = 2"),
        ({"x": torch.zeros(2, 3, 8, 8)}, r"x has shape \(2, 3, 8, 8\).*C = 4"),
        ({"x": torch.zeros(3, 4, 8, 8), "sigma": torch.ones(3)}, "condition: it is for 2 pictures, and x has 3"),
        ({"x": torch.zeros(2, 4, 8, 8).double()}, "z .*float64; the network's weights are torch.float32"),
        ({"x": torch.zeros(2, 4, 8, 7)}, r"condition.pose has shape \(2, 4, 8, 8\).*w = 7"),
        ({"null_tokens": torch.zeros(2, 9, 24)}, r"null_tokens has shape \(2, 9, 24\).*n = 7"),
        ({"null_tokens": torch.zeros(2, 7, 20)}, r"null_tokens has shape \(2, 7, 20\).*D = 24"),
        ({"scale": float("nan")}, "w_c = nan"),
    ],
)
def test_what_cannot_be_guided_is_named(tiny, change, message):
    z, _, pose, tokens = inputs()
    given = {"x": z, "sigma": torch.ones(2), "scale": 3.0, "null_tokens": -tokens, **change}
    told, schedule = TextCondition(pose, tokens, given["null_tokens"]), DiffusionSchedule(PRESETS["sd21"].schedule)
    with pytest.raises(InputError, match=message):
        GuidedRePoseSD(tiny, schedule, told, given["scale"])(given["x"], given["sigma"])


def test_what_does_not_fit_is_named(tiny, tmp_path):
    with pytest.raises(InputError, match="texture = 'text'"):
        RePoseSD(PRESETS["mini"].denoiser)
    with pytest.raises(InputError, match=r"9 input channels.*Inpainting"):
        unet_weights({LDM + "input_blocks.0.0.weight": torch.zeros(1, 9, 3, 3)}, TINY)
    with pytest.raises(InputError, match="no Stable Diffusion U-Net"):
        unet_weights({"layer.weight": torch.zeros(1)}, TINY)
    state = to_ldm(tiny.state_dict())
    del state[LDM + "time_embed.2.bias"]
    save_file(state, tmp_path / "torn.safetensors")
    with pytest.raises(InputError, match=r"torn\.safetensors.*missing: unet\.time_embedding\.linear_2\.bias"):
        load_reposesd(tmp_path / "torn.safetensors", TINY)
    z, t, pose, tokens = inputs()
    with pytest.raises(InputError, match=r"pose_latent has shape \(1, 4, 8, 8\).*B = 2"):
        tiny(z, t, pose[:1], tokens)
    with pytest.raises(InputError, match="tokens"):
        tiny(z, t, pose, tokens[..., :5])
    with pytest.raises(InputError, match=r"t is \(3,\); expected .*\(2,\)"):
        tiny(z, torch.tensor([1, 2, 3]), pose, tokens)
    with pytest.raises(InputError, match=r"z .*float16; the network's weights are"):
        tiny(z.half(), t, pose, tokens)
