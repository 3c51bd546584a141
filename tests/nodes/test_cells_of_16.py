"""A VAE whose cells are 16 pixels wide: sizes, empty latents, tiles, memory; and the estimator's own size."""

from __future__ import annotations

import pytest
import torch

from reposedm_core.estimator.load import load_estimator
from reposedm_core.pose import load_pose_file, to_keypoints
from workflows.comfy_server import ROOT

POSE = sorted((ROOT / "workflows" / "examples").glob("*_pose.json"))[0]


@pytest.fixture
def align(pack, host):
    def run(width=0, height=0):
        with torch.inference_mode():
            return pack.nodes.aligner.RecurrentPoseAlignerNode.execute(
                host[2],
                host[1],
                torch.rand(1, 80, 64, 3, generator=torch.Generator().manual_seed(0)),
                to_keypoints(load_pose_file(POSE)),
                width,
                height,
            ).args

    return run


def peak(run) -> int:
    """The most bytes that are allocated at one time while `run` runs."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    events = sorted(
        (event.start_ns(), event.nbytes())
        for event in seen.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )
    now = most = 0
    for _, size in events:
        now += size
        most = max(most, now)
    return most


def test_vae_is_the_autoencoder(host):
    vae, autoencoder = host[1], host[1].first_stage_model
    assert vae.downscale_ratio == vae.upscale_ratio == vae.spacial_compression_decode() == 16
    assert host[0].model.latent_format.spacial_downscale_ratio == 16
    picture = torch.rand(2, 64, 48, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        latent = vae.encode(picture)
        assert latent.shape == (2, 16, 4, 3)
        assert torch.allclose(latent, autoencoder.encode(picture.movedim(-1, 1) * 2 - 1), atol=1e-6)
        whole = vae.decode(latent)
        expected = ((autoencoder.decode(latent) + 1) / 2).clamp(0, 1).movedim(1, -1)
        assert torch.allclose(whole, expected, atol=1e-6)
        assert vae.encode(picture[:, :63, :33]).shape == (2, 16, 3, 2), "stock nodes crop to whole cells"
        assert torch.allclose(vae.decode_tiled(latent, tile_x=8, tile_y=8, overlap=2), whole, atol=1e-5), "one tile"
        assert vae.decode_tiled(latent, tile_x=4, tile_y=4, overlap=1).shape == whole.shape
        large = torch.nn.functional.interpolate(picture.movedim(-1, 1), scale_factor=2).movedim(1, -1)
        tiled = vae.encode_tiled(large, tile_x=128, tile_y=128, overlap=32)  # also in tiles of 64
        assert torch.allclose(tiled, vae.encode(large), atol=1e-5), "cells do not see one another"


def test_sizes_go_by_the_cells_and_the_nearest_is_named(pack, align):
    assert align(80, 96)[2]["samples"].shape == (1, 16, 6, 5)
    with pytest.raises(
        pack.reposedm_core.InputError,
        match=r"width × height = 56 × 72: both must be divisible by 16; the nearest is 64 × 64",
    ):
        align(56, 72)


def test_empty_latents_of_stock_nodes_have_cells_of_8(pack, host, align):
    aligned = align()

    def sample(latent):
        with torch.inference_mode():
            return pack.nodes.sampler.RePoseDMKSampler.execute(
                host[0], *aligned[:2], latent, 1, 2, 1.5, "ddim", "simple", 1.0
            ).args[0]

    empty = {"samples": torch.zeros(1, 4, 8, 6), "downscale_ratio_spacial": 8, "downscale_ratio_temporal": 1}
    found = sample(empty)
    assert set(found) == {"samples"}, "what it says of the cells holds no more"
    assert torch.equal(found["samples"], sample(aligned[2])["samples"])
    with pytest.raises(pack.reposedm_core.InputError, match="it is for 96 × 128 pixels and the conditioning for"):
        sample({"samples": torch.zeros(1, 4, 8, 6)})


@pytest.mark.parametrize("name", ["mini", "mini-256"])
def test_memory_that_the_host_is_told_of_is_enough_and_not_far_too_much(pack, name):
    """Measured: of decoding and encoding, of decoding with its gradient, and of the alignment."""
    core, (height, width) = pack.reposedm_core, (256, 192)
    config = core.PRESETS[name]
    networks = core.networks.build_networks(config)
    autoencoder, nodes = networks.autoencoder, pack.nodes
    wrapped, stride = nodes.host.reposedm_model, config.autoencoder.stride
    vae = wrapped.RePoseDMVAE(autoencoder, plain=True)
    model = wrapped.in_patcher(wrapped.RePoseDMModel(config, autoencoder, networks.denoiser), plain=True)
    field_decoder = nodes.host.decoding.decoder("vae", vae, model)
    latent = torch.randn(1, 16, height // stride, width // stride)
    picture = torch.rand(1, 3, height, width) * 2 - 1

    def bent():
        z = latent.clone().requires_grad_()
        torch.autograd.grad(field_decoder.decode(z).square().sum(), z)

    def aligned():
        joints = torch.rand(1, 18, 3) * height
        start = core.alignment.start_from(joints, joints.flip(1), picture, 2) if name == "mini-256" else None
        core.conditioning.make_condition(
            networks.aligner, networks.denoiser, autoencoder.encode, picture, picture, stride, start=start
        )

    decoding = vae.memory_used_decode(latent.shape, torch.float32)
    with torch.no_grad():
        found = {
            "decode": (peak(lambda: autoencoder.decode(latent)), decoding),
            "encode": (peak(lambda: autoencoder.encode(picture)), vae.memory_used_encode(picture.shape, torch.float32)),
            "align": (peak(aligned), nodes.aligning.memory(config.aligner, height, width)),
        }
    found["gradient"] = peak(bent), field_decoder.memory(latent.shape)
    for what, (most, told) in found.items():
        assert most < told < (25 if what == "encode" else 8) * most, (what, most, told)


def test_memory_of_an_alignment_grows_as_the_square_where_pictures_are_large(pack):
    core, memory = pack.reposedm_core, pack.nodes.aligning.memory
    for name in ("mini", "mini-256"):
        config = core.PRESETS[name]
        small, large = (memory(config.aligner, 64 * side, 48 * side) for side in (32, 64))
        assert 10 < large / small < 16
        networks, picture = core.networks.build_networks(config), torch.zeros(1, 3, 384, 288)
        with torch.no_grad():
            most = peak(
                lambda networks=networks, picture=picture, config=config: core.conditioning.make_condition(
                    networks.aligner,
                    networks.denoiser,
                    networks.autoencoder.encode,
                    picture,
                    picture,
                    config.autoencoder.stride,
                )
            )
        assert most < memory(config.aligner, 384, 288) < 8 * most


def test_large_pictures_are_aligned_fewer_at_once(pack, host, align, monkeypatch):
    counts = []
    handle = host[2].patcher.model.aligner.register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))
    source, pose = torch.rand(3, 64, 48, 3), to_keypoints(load_pose_file(POSE))
    one = pack.nodes.aligning.memory(host[2].config.aligner, 64, 48)
    for room, expected in ((2.5 * one, [2, 1]), (0.1 * one, [1, 1, 1])):
        counts.clear()
        monkeypatch.setattr(pack.nodes.aligning, "MOST_BYTES", room)
        with torch.inference_mode():
            pack.nodes.aligner.RecurrentPoseAlignerNode.execute(host[2], host[1], source, pose, 0, 0)
        assert counts == expected
    handle.remove()


def test_the_estimator_sees_pictures_of_the_networks_size(host, tiny_256, tiny, pack):
    assert (host[3].height, host[3].width) == (32, 24) and host[2].estimator is host[3]
    assert load_estimator(tiny_256)[1:3] == (32, 24)
    first = pack.nodes.loaders.load_checkpoint(tiny)
    assert (first[3].height, first[3].width) == (64, 48) == load_estimator(tiny)[1:3] and first[2].decoder is None


def test_patchers_are_read_again(host):
    patchers = [host[0], host[1].patcher, host[2].patcher, host[3].patcher, host[2].decoder]
    for patcher in patchers:
        build, arguments, index = patcher.cached_patcher_init
        again = build(*arguments, disable_dynamic=True)[index].model
        assert again is not patcher.model
        for key, value in patcher.model.state_dict().items():
            assert torch.equal(value, again.state_dict()[key]), key
