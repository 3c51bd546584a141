"""What decodes for the guidance: the families' tiny decoders, reduced pictures, and what cannot be decoded."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from tests.nodes import families
from tests.nodes.guided import count_decodings, networks

TINY = {
    "SD 1.5": "taesd_decoder",
    "SD 2.1": "taesd_decoder",
    "SDXL": "taesdxl_decoder",
    "SDXL v": "taesdxl_decoder",
    "AuraFlow": "taesdxl_decoder",
    "Flux": "taef1_decoder",
}


@pytest.mark.parametrize("family", TINY)
def test_tiny_decoder_of_the_family(pack, made, guide, family, tmp_path, monkeypatch):
    import folder_paths
    from comfy.taesd.taesd import TAESD

    model, vae = made(family)
    channels = model.model.latent_format.latent_channels
    with monkeypatch.context() as patch:
        patch.setitem(folder_paths.folder_names_and_paths, "vae_approx", ([str(tmp_path)], {".safetensors", ".pth"}))
        with pytest.raises(
            pack.reposedm_core.InputError,
            match=f"decoder: there is no {TINY[family]} in models/vae_approx; put {TINY[family]}.safet",
        ):
            guide(model, vae, decoder="taesd")
        network = TAESD(latent_channels=channels)
        families.randomise(network)
        save_file(network.taesd_decoder.state_dict(), tmp_path / f"{TINY[family]}.safetensors")
        folder_paths.cache_helper.clear() if hasattr(folder_paths, "cache_helper") else None
        folder_paths.filename_list_cache.clear()
        bent = guide(model, vae, decoder="taesd")
    (own,) = networks(bent)
    assert type(own.vae) is pack.reposedm_core.diffusion.tiny.TinyAutoencoder and not any(
        weight.is_inference() for weight in own.parameters()
    )
    z = 2 * torch.randn(1, channels, *families.SIDE)
    network.to(memory_format=torch.channels_last)  # as ours is: other layouts add up in another order
    torch.testing.assert_close(own.vae.decode(z), network.taesd_decoder(z) * 2 - 1)
    shapes = count_decodings(bent)
    latent = families.sample(bent)
    assert latent.isfinite().all() and not latent.equal(families.sample(model))
    assert shapes == [(1, channels, *families.SIDE)] * 3


def test_tiny_decoder_that_is_torn_or_another_s(pack, made, guide, tmp_path, monkeypatch):
    import folder_paths

    model, vae = made("SD 1.5")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae_approx", ([str(tmp_path)], {".safetensors", ".pth"}))
    for content in (b"torn", None):
        folder_paths.filename_list_cache.clear()
        if content:
            (tmp_path / "taesd_decoder.safetensors").write_bytes(content)
        else:
            save_file({"weight": torch.zeros(2)}, tmp_path / "taesd_decoder.safetensors")
        with pytest.raises(
            pack.reposedm_core.InputError,
            match=r"decoder: taesd_decoder.safetensors is no tiny decoder for this model .*choose vae",
        ):
            guide(model, vae, decoder="taesd")


@pytest.mark.parametrize(
    ("family", "other", "message"),
    [
        (
            "SD 1.5",
            "Flux",
            "its latents have 16 channels in 2 dimensions and 8 pixels a cell, those of the guided mod.* 4",
        ),
        ("Flux", "SDXL", "its latents have 4 channels .* those of the guided model 16"),
        ("Flux", "Qwen Image", "its latents have 16 channels in 3 dimensions .* those of the guided model 16 in 2"),
        ("Qwen Image", "Flux", "its latents have 16 channels in 2 dimensions .* those of the guided model 16 in 3"),
        ("Flux", "RePoseDM", "this is RePoseDM's and the guided model another one; connect the VAE of that"),
        (
            "RePoseDM",
            "Flux",
            "the guided model is RePoseDM and this is no VAE of it; connect the vae of RePoseDM Loader",
        ),
        ("RePoseDM", "SD 1.5", "the guided model is RePoseDM and this is no VAE of it"),
    ],
)
@pytest.mark.parametrize("decoder", ["vae", "taesd"])
def test_vae_of_another_model_is_named_at_once(pack, tiny, made, guide, family, other, message, decoder):
    own = pack.nodes.loaders.load_checkpoint(tiny)[:2]
    (model, _), (_, vae) = (own if name == "RePoseDM" else made(name) for name in (family, other))
    with pytest.raises(pack.reposedm_core.InputError, match=f"^vae: .*{message}"):
        guide(model, vae, decoder=decoder)


def test_vae_of_another_stride_is_named(pack, made, guide):
    """That of Stable Diffusion's upscaler: 4 channels as well, and 4 pixels a cell; the host's tiny VAEs fit."""
    import comfy.sd

    model, vae = made("SD 1.5")
    upscaler = comfy.sd.VAE(
        sd={
            key: value
            for key, value in vae.first_stage_model.state_dict().items()
            if ".down.2.downsample" not in key and ".up.3." not in key
        },
        config={
            "params": {
                "embed_dim": 4,
                "ddconfig": {
                    "double_z": True,
                    "z_channels": 4,
                    "resolution": 64,
                    "in_channels": 3,
                    "out_ch": 3,
                    "ch": 32,
                    "ch_mult": [1, 1, 2],
                    "num_res_blocks": 1,
                    "attn_resolutions": [],
                    "dropout": 0.0,
                },
            }
        },
    )
    upscaler.downscale_ratio = upscaler.upscale_ratio = 4  # as where the host knows it by its weights
    with pytest.raises(pack.reposedm_core.InputError, match=r"^vae: it is of another .* and 4 pixels a cell, those of"):
        guide(model, upscaler)


def test_reposedm_has_no_tiny_decoder(pack, tiny, guide):
    model, vae, _, _ = pack.nodes.loaders.load_checkpoint(tiny)
    with pytest.raises(pack.reposedm_core.InputError, match="decoder: for the latents of this model there is no tiny"):
        guide(model, vae, decoder="taesd")


def test_reposedm_with_a_tiny_autoencoder_brings_its_own(pack, guide, tmp_path_factory):
    from reposedm_core.presets import PRESETS
    from tests.nodes.conftest import save
    from tests.test_presets import small

    path = save(tmp_path_factory, small(PRESETS["deepfashion-256x176"], 64, 48))
    model, vae, aligner, _ = pack.nodes.loaders.load_checkpoint(path)
    (own,) = networks(guide(model, vae, decoder="taesd"))
    assert own.vae is not vae.tiny and own.vae is not aligner.patcher.model.tiny
    assert {len(layer._forward_pre_hooks) for layer in own.vae.modules()} == {1}, "interruptible, each layer once"
    z = torch.randn(1, 4, 8, 6)
    assert torch.equal(own.vae.decode(z), vae.tiny.decode(z))
    calls, inner = [], aligner.patcher.model.tiny
    encode = inner.encode
    inner.encode = lambda picture: calls.append(len(picture)) or encode(picture)
    found = pack.nodes.aligning.align(aligner, vae, *torch.rand(2, 1, 3, 64, 48) * 2 - 1)
    assert calls == [1] * 7, "skeleton, source, and what five of the six iterations warped"
    assert torch.equal(found.condition.aligned, vae.first_stage_model.encode(found.image))


@pytest.mark.parametrize(("share", "size"), [(0.5, (4, 3)), (0.25, (2, 2)), (0.125, (1, 1))])
def test_reduced_decoding(made, guide, share, size):
    model, vae = made("SDXL")
    bent = guide(model, vae, decode_size=share)
    shapes = count_decodings(bent)
    latent = families.sample(bent)
    assert shapes == [(1, 4, *size)] * 3 and latent.isfinite().all()
    assert not latent.equal(families.sample(model)) and not latent.equal(families.sample(guide(model, vae)))


@pytest.mark.parametrize(("share", "chunks"), [(1.0, [1, 1, 1]), (0.5, [3])])
def test_large_pictures_are_decoded_one_at_a_time(pack, made, guide, monkeypatch, share, chunks):
    """The estimator of 64 × 48 pixels would take many pictures at once, whatever the size of those decoded."""
    model, vae = made("SDXL")
    whole = families.sample(guide(model, vae, decode_size=share), steps=1, batch=3)
    monkeypatch.setattr(pack.nodes.host.field_sampling, "CHUNK_PIXELS", 64 * 48 + (3 * 64 * 48 if share < 1 else 0))
    bent = guide(model, vae, decode_size=share)
    shapes = count_decodings(bent)
    found = families.sample(bent, steps=1, batch=3)
    assert [shape[0] for shape in shapes] == chunks
    torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-4)


def test_a_decoder_that_overflows_is_named(pack, made, guide):
    model, vae = made("SD 1.5")
    bent = guide(model, vae)
    own = networks(bent)[0].vae
    decode = own.decode
    own.decode = lambda latent: decode(latent) * torch.inf
    with pytest.raises(pack.reposedm_core.InputError, match=r"^vae: the picture .* not finite\. Start ComfyUI with"):
        families.sample(bent)
    own.decode = lambda latent: decode(latent) + (latent * 0).sqrt().sum()
    with pytest.raises(pack.reposedm_core.InputError, match="the gradient through decoder and estimator is not f"):
        families.sample(bent)


def test_streamed_vae_without_a_file_is_refused(pack, made, guide, monkeypatch):
    """Of the host's Load VAE, when it puts one together from two files, and of checkpoints on older hosts."""
    model, vae = made("SD 1.5")
    guide(model, vae)
    monkeypatch.setattr(type(vae.patcher), "is_dynamic", lambda patcher: patcher is vae.patcher)
    assert vae.patcher.cached_patcher_init is None
    with pytest.raises(pack.reposedm_core.InputError, match=r"^vae: ComfyUI streams .* or start ComfyUI with --"):
        guide(model, vae)


def test_videos_are_refused(pack, made, guide):
    import comfy.sample

    model, vae = made("Qwen Image")
    noise = torch.randn(1, 16, 2, *families.SIDE)
    with torch.inference_mode(), pytest.raises(pack.reposedm_core.InputError, match=r"^latent: these are video"):
        comfy.sample.sample(
            guide(model, vae),
            noise,
            1,
            1.0,
            "euler",
            "normal",
            families.conditioning(model),
            families.conditioning(model),
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=0,
        )
    model, vae = made("SD 1.5")
    sound = vae.__class__.__new__(vae.__class__)
    sound.__dict__.update({**vae.__dict__, "latent_dim": 1})
    with pytest.raises(pack.reposedm_core.InputError, match=r"^vae: this is no VAE of pictures; connect"):
        guide(model, sound)
