"""The linear encoder and its decoder, and Stable Diffusion's autoencoder with the public layouts of its weights."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from reposedm_core import PRESETS, InputError
from reposedm_core.config import AutoencoderConfig
from reposedm_core.diffusion.autoencoder import (
    OLD_ATTENTION,
    Autoencoder,
    KLAutoencoder,
    kl_weights,
    load_autoencoder,
    patches_of,
)

HUMANSD = json.loads((Path(__file__).parents[1] / "fixtures" / "humansd" / "keys.json").read_text())
PUBLIC = PRESETS["sd21"].autoencoder
SMALL = replace(PUBLIC, widths=(8, 8, 16, 16))
LDM = "first_stage_model."


@pytest.fixture
def fitted():
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(channels=4, widths=(8, 8, 8))).eval()
    low_rank = torch.randn(500, 4) * torch.tensor([4.0, 2.0, 1.0, 0.5]) @ torch.randn(4, 192) * 0.05 + 0.1
    kept = model.fit(low_rank)
    return model, low_rank, kept


def test_as_many_components_as_the_data_has_lose_nothing(fitted):
    model, patches, kept = fitted
    assert kept.sum() == pytest.approx(1, abs=1e-6)
    from einops import rearrange

    images = rearrange(patches[:6], "(h w) (c p q) -> 1 c (h p) (w q)", h=2, w=3, p=8, q=8)
    torch.testing.assert_close(model.decode_linear(model.encode(images)), images, rtol=0, atol=1e-4)
    assert torch.equal(patches_of(images, 8)[0].reshape(6, 192), patches[:6])


def test_latents_have_unit_variance_overall_and_keep_the_order_of_components(fitted):
    model, patches, _ = fitted
    latents = (patches - model.mean) @ model.basis.T / model.scale
    assert latents.var(0).mean() == pytest.approx(1, rel=0.02)
    assert (latents.std(0).diff() < 0).all(), "a large component stays larger than a small one"


def test_the_decoder_adds_to_the_linear_inverse(fitted):
    model, _, _ = fitted
    latents = torch.randn(1, 4, 2, 3)
    expected = model.decode_linear(latents) + model.decoder(latents)
    torch.testing.assert_close(model.decode(latents), expected)
    assert model.decode(latents).shape == (1, 3, 16, 24)


def test_what_a_field_looks_at_encodes_to_the_latents_again(fitted):
    model, _, _ = fitted
    latents = torch.randn(2, 4, 2, 3, requires_grad=True)
    seen = model.decode_for_field(latents)
    torch.testing.assert_close(model.encode(seen), latents)
    seen.sum().backward()
    assert latents.grad.abs().sum() > 0
    with pytest.raises(InputError, match="latents"):
        model.decode_for_field(latents[:, :3])


def test_a_field_looks_at_cells_of_16_at_half_their_size():
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(channels=4, stride=16, widths=(8, 8, 8)))
    latents = torch.randn(2, 4, 2, 3)
    seen = model.decode_for_field(latents)
    assert seen.shape == (2, 3, 16, 24) and model.decode(latents).shape == (2, 3, 32, 48)
    torch.testing.assert_close(model.encode(seen.repeat_interleave(2, 2).repeat_interleave(2, 3)), latents)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((1, 3, 20, 16), "divisible by 8"),
        ((1, 3, 16, 12), "divisible by 8"),
        ((1, 1, 16, 16), "expected (B, 3, H, W)"),
        ((3, 16, 16), "4 axes"),
    ],
)
def test_wrong_sizes_are_named(fitted, shape, wanted):
    with pytest.raises(InputError) as refused:
        fitted[0].encode(torch.zeros(shape))
    assert wanted in str(refused.value) and str(shape) in str(refused.value)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda z: z[:, :3], r"latents has shape \(1, 3, 2, 3\).*C = 4"),
        (lambda z: z[0], "expected 4 axes"),
        (lambda z: z[:0], "axis B"),
        (lambda z: z.double(), "latents .*float64; the network's weights are torch.float32"),
        (lambda z: z.half(), "latents .*float16; the network's"),
    ],
)
@pytest.mark.parametrize("kind", ["pca", "kl"])
def test_latents_and_pictures_that_do_not_fit_are_named(fitted, kl, kind, change, wanted):
    model, latents = fitted[0] if kind == "pca" else kl, torch.randn(1, 4, 2, 3)
    with pytest.raises(InputError, match=wanted):
        model.decode(change(latents))
    with pytest.raises(InputError, match=r"images .*float64; the network's weights are torch.float32"):
        model.encode(torch.zeros(1, 3, 16, 16).double())


# -- Stable Diffusion's


@pytest.fixture(scope="module")
def kl():
    network = KLAutoencoder(SMALL).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for value in network.parameters():
        value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return network


def test_latents_are_the_posterior_s_mean_times_the_scaling(kl):
    """As diffusers' pipelines have it: `scaling_factor` on the way in, its inverse on the way out."""
    assert SMALL.scaling == 0.18215
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = kl.encode(images)
    assert latents.shape == (2, 4, 2, 3) and latents.abs().max() > 1e-3
    torch.testing.assert_close(latents, kl.vae.encode(images).latent_dist.mean * 0.18215)
    torch.testing.assert_close(kl.decode(latents), kl.vae.decode(latents / 0.18215).sample)


def to_ldm(state, levels=4):
    """Diffusers' names of the autoencoder → LDM's, a plain reference written out from the two layouts."""
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
    out = {}
    for key, value in state.items():
        path = (
            key.removeprefix("vae.")
            .replace("conv_shortcut", "nin_shortcut")
            .replace("conv_norm_out", "norm_out")
            .split(".")
        )
        if path[1] in ("down_blocks", "up_blocks"):
            level = int(path[2]) if path[1] == "down_blocks" else levels - 1 - int(path[2])
            kind = {
                "resnets": ["block", path[4], *path[5:]],
                "downsamplers": ["downsample", *path[5:]],
                "upsamplers": ["upsample", *path[5:]],
            }[path[3]]
            path = [path[0], path[1].removesuffix("_blocks"), str(level), *kind]
        elif path[1] == "mid_block" and path[2] == "resnets":
            path = [path[0], "mid", f"block_{int(path[3]) + 1}", *path[4:]]
        elif path[1] == "mid_block":
            path = [path[0], "mid", "attn_1", attention[path[4]], path[-1]]
            value = value[:, :, None, None] if value.ndim == 2 else value  # LDM's are 1×1 convolutions
        out[LDM + ".".join(path)] = value
    return out


def old_names(state):
    """Diffusers' layout of 2022."""

    def old(key):
        for before, now in OLD_ATTENTION.items():
            key = key.replace(now, before)
        return key

    return {old(key.removeprefix("vae.")): value for key, value in state.items()}


def test_the_reference_layout_is_humansds():
    with torch.device("meta"):
        state = to_ldm(KLAutoencoder(PUBLIC).state_dict())
    assert {k: list(v.shape) for k, v in state.items()} == {k: s for k, s in HUMANSD.items() if k.startswith(LDM)}


def test_every_key_of_humansds_autoencoder_has_its_place_and_shape():
    with torch.device("meta"):
        network = KLAutoencoder(PUBLIC)
    state = kl_weights({key: torch.empty(shape, device="meta") for key, shape in HUMANSD.items()}, PUBLIC)
    assert {k: list(v.shape) for k, v in state.items()} == {k: list(v.shape) for k, v in network.state_dict().items()}


@pytest.mark.parametrize(
    "layout",
    [
        to_ldm,
        lambda state: {key.removeprefix(LDM): value for key, value in to_ldm(state).items()},
        old_names,
        lambda state: {key.removeprefix("vae."): value for key, value in state.items()},
        dict,
        lambda state: {**to_ldm(state), "model.diffusion_model.out.0.weight": torch.zeros(1)},
    ],
    ids=["ldm", "ldm alone", "diffusers 2022", "diffusers", "diffusers pipeline", "whole checkpoint"],
)
def test_every_public_layout_loads_unchanged(kl, tmp_path, layout):
    save_file({key: value.contiguous() for key, value in layout(kl.state_dict()).items()}, tmp_path / "vae.safetensors")
    loaded = load_autoencoder(tmp_path / "vae.safetensors", SMALL)
    own = kl.state_dict()
    assert loaded.state_dict().keys() == own.keys()
    assert all(torch.equal(value, own[key]) for key, value in loaded.state_dict().items())
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(loaded.decode(loaded.encode(images)), kl.decode(kl.encode(images)))


def test_files_without_that_autoencoder_are_named(kl, tmp_path):
    with pytest.raises(InputError, match="no Stable Diffusion VAE"):
        kl_weights({"layer.weight": torch.zeros(1)}, SMALL)
    torn = to_ldm(kl.state_dict())
    del torn[LDM + "decoder.mid.attn_1.k.bias"]
    save_file({key: value.contiguous() for key, value in torn.items()}, tmp_path / "torn.safetensors")
    with pytest.raises(InputError, match=r"torn\.safetensors: autoencoder.*missing: vae\.decoder.*to_k\.bias"):
        load_autoencoder(tmp_path / "torn.safetensors", SMALL)
