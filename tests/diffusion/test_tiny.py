"""The tiny autoencoder: public TAESD layouts, what it encodes and decodes in the paper's models, and the switch."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from reposedm_core import PRESETS, InputError, Pose, RePoseDMPipeline, load_networks
from reposedm_core.checkpoint import save_model
from reposedm_core.conditioning import make_condition
from reposedm_core.config import ModelConfig, TinyConfig, from_dict, to_dict
from reposedm_core.diffusion.tiny import HALVES, TinyAutoencoder, load_tiny, tiny_weights
from reposedm_core.networks import build_networks, change_inner, parts_of
from reposedm_core.presets import variant, with_inner
from reposedm_core.summary import cost
from tests.test_presets import small

PAPER = "deepfashion-256x176"


@pytest.fixture(scope="module")
def official():
    """diffusers' own tiny autoencoder, with random weights, and its state under the original's names."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    network = AutoencoderTiny().eval().requires_grad_(False)
    original = {}
    for key, value in network.state_dict().items():
        half, _, rest = key.partition(".layers.")
        number, _, rest = rest.partition(".")
        original[f"{half}/{int(number) + (half == 'decoder')}.{rest}"] = value
    return network, original


@pytest.mark.parametrize("layout", ["diffusers", "halves", "one file"])
def test_public_weights_load_unchanged_from_every_layout(official, layout, tmp_path):
    network, original = official
    file = tmp_path / "taesd_encoder.safetensors"
    if layout == "diffusers":
        save_file(network.state_dict(), file)
    elif layout == "one file":
        save_file({f"taesd_{key.replace('/', '.')}": value for key, value in original.items()}, file)
    else:
        for half in HALVES:
            own = {key.removeprefix(f"{half}/"): v for key, v in original.items() if key.startswith(half)}
            save_file(own, tmp_path / f"taesd_{half}.safetensors")
    loaded = load_tiny(file, TinyConfig("tiny"))
    state = loaded.state_dict()
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    pictures, latents = torch.rand(1, 3, 32, 16) * 2 - 1, 2 * torch.randn(1, 4, 4, 2)
    torch.testing.assert_close(loaded.encode(pictures), network.encode(pictures).latents)
    torch.testing.assert_close(loaded.decode(latents), network.decode(latents).sample)


@pytest.mark.parametrize("names", [("TAESD_Encoder", "TAESD_Decoder"), ("taesdENCODER", "taesdDECODER")])
def test_halves_are_found_whatever_their_capitals(official, names, tmp_path):
    for half, name in zip(HALVES, names, strict=True):
        own = {key.removeprefix(f"{half}/"): v for key, v in official[1].items() if key.startswith(half)}
        save_file(own, tmp_path / f"{name}.safetensors")
    for name in names:
        state = load_tiny(tmp_path / f"{name}.safetensors", TinyConfig("tiny")).state_dict()
        assert all(torch.equal(value, state[key]) for key, value in official[0].state_dict().items())
    (tmp_path / f"{names[1]}.safetensors").unlink()
    with pytest.raises(InputError, match=f"is the encoder alone; put {names[1]}.safetensors beside it"):
        load_tiny(tmp_path / f"{names[0]}.safetensors", TinyConfig("tiny"))


def test_one_half_alone_has_no_weights_of_the_other(official, tmp_path):
    own = {key.removeprefix("decoder/"): v for key, v in official[1].items() if key.startswith("decoder")}
    file = tmp_path / "my_taesd_decoder.safetensors"
    save_file(own, file)
    assert not any(key.startswith("encoder") for key in load_tiny(file, TinyConfig("tiny"), ["decoder"]).state_dict())
    with pytest.raises(InputError, match=r"is the decoder alone; put my_taesd_encoder.safetensors beside it"):
        load_tiny(file, TinyConfig("tiny"))
    with pytest.raises(InputError, match=r"my_taesd_decoder.safetensors: tiny autoencoder does not fit .* shape"):
        load_tiny(file, TinyConfig("tiny", latent_channels=16), ["decoder"])


def test_other_weights_are_refused():
    with pytest.raises(InputError, match=r"vae.pt: no tiny autoencoder of TAESD's kind .* begins with 'first_stage"):
        tiny_weights({"first_stage_model.decoder.conv_in.weight": torch.zeros(1)}, "vae.pt")


def test_gradients_pass_through_both_halves_and_sizes_are_checked():
    network = TinyAutoencoder(TinyConfig("tiny", (8, 8, 8, 8)))
    pictures = torch.rand(1, 3, 16, 24, requires_grad=True)
    network.decode(network.encode(pictures)).sum().backward()
    assert pictures.grad.abs().sum() > 0
    with pytest.raises(InputError, match="divisible by 8"):
        network.encode(torch.zeros(1, 3, 12, 16))
    with pytest.raises(InputError, match="C = 4"):
        network.decode(torch.zeros(1, 3, 2, 2))


@pytest.fixture
def networks(shaken):
    return shaken(small(PRESETS[PAPER]))


def spied(network, name, calls):
    own = getattr(network, name)
    setattr(network, name, lambda x: calls.append(x.shape[-2]) or own(x))


@pytest.mark.parametrize(("inner", "large", "tiny"), [("exact", 8, 0), ("tiny", 2, 7), ("latent", 2, 2)])
def test_the_tiny_encoder_reads_all_but_what_the_denoiser_does(networks, inner, large, tiny):
    """Skeleton and last picture are the denoiser's, from the large one: 2 encodings. The aligner's own are 7: skeleton,
    source, and what five of the six iterations warp."""
    own = change_inner(networks, inner)
    calls = [], []
    spied(networks.autoencoder, "encode", calls[0])
    spied(networks.tiny, "encode", calls[1])
    pictures = torch.rand(2, 1, 3, 32, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    encode = None if own.tiny is None else own.tiny.encode
    found = make_condition(own.aligner, own.denoiser, own.autoencoder.encode, *pictures, 8, inner=encode)
    assert (len(calls[0]), len(calls[1])) == (large, tiny)
    assert torch.equal(found.alignment.features, own.autoencoder.encode(found.alignment.image))
    assert torch.equal(found.condition.pose, own.autoencoder.encode(pictures[1]))


@pytest.mark.parametrize("inner", ["exact", "tiny"])
def test_the_field_decodes_what_the_picture_does_not(networks, inner):
    pipeline, calls = RePoseDMPipeline(change_inner(networks, inner)), ([], [])
    spied(networks.autoencoder, "decode", calls[0])
    spied(networks.tiny, "decode", calls[1])
    joints = torch.cat([torch.rand(1, 18, 2) * 14 + 1, torch.ones(1, 18, 1)], -1)
    pipeline(torch.rand(1, 3, 32, 16), Pose(joints.numpy(), 32, 16), steps=2)
    assert networks.config.field.every == 2, "of two steps one is guided"
    assert [len(each) for each in calls] == ([2, 0] if inner == "exact" else [1, 1])


def test_the_presets_of_the_paper_take_the_tiny_one_and_mini_does_not():
    for name, config in PRESETS.items():
        wanted = "tiny" if name.split("-b")[0] in ("market-128x64", PAPER, "deepfashion-512x352") else "exact"
        assert config.inner == ("exact" if name.endswith("-b1") else wanted), name
        assert ("tiny" in parts_of(config)) == (config.inner == "tiny")
    config = PRESETS[PAPER]
    for inner in ("exact", "tiny", "latent"):
        assert with_inner(config, inner).inner == inner
        assert with_inner(with_inner(config, inner), "tiny") == config
    assert variant(with_inner(config, "exact"), "b2").inner == "exact"
    with pytest.raises(InputError, match="inner = 'none': known are exact, tiny, latent"):
        with_inner(config, "none")


def test_what_does_not_fit_is_named():
    config = PRESETS[PAPER]
    for changes, message in (
        ({"latent_channels": 16}, "latent_channels = 16.*4 channels"),
        ({"widths": (8, 8), "blocks": (1, 1)}, "widths .* stride of 8"),
    ):
        with pytest.raises(InputError, match=message):
            replace(config, tiny=replace(config.tiny, **changes)).check_together()
    with pytest.raises(InputError, match=r"widths .* as many channels"):
        TinyConfig("tiny", (8, 16, 8, 8))
    with pytest.raises(InputError, match=r"blocks .* one number for each"):
        TinyConfig("tiny", blocks=(1, 3))


def test_checkpoints_from_before_there_was_one_are_exact(networks, tmp_path):
    old = to_dict(networks.config)
    del old["tiny"]
    assert from_dict(ModelConfig, old).inner == "exact"
    path = tmp_path / "old.safetensors"
    parts = {part: getattr(networks, part) for part in parts_of(networks.config) if part != "tiny"}
    save_model(path, parts, old, dtype=torch.float32)
    loaded = load_networks(path)
    assert loaded.tiny is None and loaded.config.inner == "exact"
    with pytest.raises(InputError, match="has no tiny autoencoder of its own; give the file of one"):
        RePoseDMPipeline.from_pretrained(path, inner="tiny")
    file = tmp_path / "tiny.safetensors"
    save_file({key: value.contiguous() for key, value in networks.tiny.state_dict().items()}, file)
    with pytest.raises(InputError, match=r"tiny.safetensors: tiny autoencoder does not fit"):
        RePoseDMPipeline.from_pretrained(path, tiny=file)  # TAESD's own size is meant where the file says none
    whole = tmp_path / "whole.safetensors"
    save_model(whole, {part: getattr(networks, part) for part in parts_of(networks.config)}, to_dict(networks.config))
    assert RePoseDMPipeline.from_pretrained(whole).tiny is not None
    assert RePoseDMPipeline.from_pretrained(whole, inner="exact").tiny is None
    with pytest.raises(InputError, match=r"tiny = .*: inner = 'exact' uses no tiny autoencoder; leave tiny out"):
        RePoseDMPipeline.from_pretrained(whole, inner="exact", tiny=file)


def test_an_aligner_of_pictures_has_no_such_switch(first_config):
    with pytest.raises(InputError, match="inner, tiny: the aligner of tiny reads no latents; leave both out"):
        change_inner(build_networks(first_config), "exact")


def test_a_file_of_a_tiny_one_leaves_the_way_of_warping_as_it_is(networks, official, tmp_path):
    file = tmp_path / "taesd.safetensors"
    save_file(official[0].state_dict(), file)
    for inner, wanted in (("latent", "latent"), ("tiny", "tiny"), ("exact", "tiny")):
        own, path = with_inner(networks.config, inner), tmp_path / f"{inner}.safetensors"
        own = replace(own, tiny=TinyConfig(own.tiny.kind))  # of TAESD's own size
        parts = {part: getattr(networks, part) for part in parts_of(own) if part != "tiny"}
        if own.tiny.kind == "tiny":
            parts["tiny"] = TinyAutoencoder(own.tiny)
        save_model(path, parts, to_dict(own), dtype=torch.float32)
        pipeline = RePoseDMPipeline.from_pretrained(path, tiny=file)
        assert pipeline.config.inner == wanted and pipeline.aligner.config.warp == own.aligner.warp
        state = pipeline.tiny.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in official[0].state_dict().items())


def test_the_budget_of_the_aligner_is_met_in_counted_operations():
    """Six iterations within seven steps of two passes, and within 3.2 without the encoding that the denoiser reads."""
    config = PRESETS[PAPER]
    step, exact = 2 * cost(config, "denoiser").flops, with_inner(config, "exact")
    whole = sum(cost(config, part).flops for part in ("aligner", "encodings"))
    last = cost(exact, "encodings").flops / 8
    assert whole <= 7 * step and whole - last <= 3.2 * step
    assert sum(cost(exact, part).flops for part in ("aligner", "encodings")) > 25 * step
