"""RePoseDM's networks in ComfyUI's hands: samplers, previews, memory, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reposedm_core import RePoseDMPipeline
from reposedm_core.pose import load_pose_file, to_keypoints
from tests.fixtures.projections import computed_projections
from workflows.comfy_server import ROOT

POSE = sorted((ROOT / "workflows" / "examples").glob("*_pose.json"))[0]


@pytest.fixture(scope="module")
def pose():
    return to_keypoints(load_pose_file(POSE))


@pytest.fixture(scope="module")
def source():
    return torch.rand(1, 80, 64, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def host(pack, tiny):
    """MODEL, VAE, aligner and estimator of the tiny checkpoint, fresh."""
    return pack.nodes.loaders.load_checkpoint(tiny)


def align(pack, host, source, pose, width=0, height=0):
    with torch.inference_mode():
        return pack.nodes.aligner.RecurrentPoseAlignerNode.execute(host[2], host[1], source, pose, width, height).args


def sample(
    pack, model, aligned, seed=0, steps=3, cfg=1.5, sampler="ddim", scheduler="simple", denoise=1.0, latent=None
):
    with torch.inference_mode():
        out = pack.nodes.sampler.RePoseDMKSampler.execute(
            model, *aligned[:2], latent or aligned[2], seed, steps, cfg, sampler, scheduler, denoise
        )
    return out.args[0]["samples"]


def guide(pack, host, pose, strength=0.05, start=0.0, end=1.0, space="heatmaps", model=None):
    with torch.inference_mode():
        return pack.nodes.guidance.PoseInteractionFieldGuidance.execute(
            model or host[0], host[1], host[3], pose, strength, start, end, space
        ).args[0]


@pytest.mark.parametrize(("cfg", "size"), [(1.5, (0, 0)), (1.0, (0, 0)), (2.5, (56, 72))])
def test_same_latent_as_the_pipeline(pack, tiny, host, source, pose, cfg, size):
    latent = sample(pack, host[0], align(pack, host, source, pose, *size), seed=3, cfg=cfg)
    width, height = (side or None for side in size)
    result = RePoseDMPipeline.from_pretrained(tiny)(
        source, POSE, seed=3, steps=3, guidance_scale=cfg, width=width, height=height, field_strength=0.0
    )
    assert (latent - result.latent).abs().max() < 1e-5 * result.latent.abs().max()
    picture = host[1].decode(latent).movedim(-1, 1)
    assert (picture - result.image).abs().max() < 1e-5


@pytest.mark.parametrize(("cfg", "sampler"), [(1.0, "ddim"), (1.5, "ddim"), (1.5, "heun")])
def test_keys_and_values_are_computed_once_a_run(pack, host, source, pose, cfg, sampler, monkeypatch):
    """The conditioning comes concatenated anew in every step, and is known by its values."""
    aligned = align(pack, host, source, pose)
    calls = computed_projections(host[0].model.diffusion_model, monkeypatch)
    latent = sample(pack, host[0], aligned, seed=3, cfg=cfg, sampler=sampler)
    assert len(calls) == len(set(calls)) > 1
    plain = host[0].clone()
    plain.remove_wrappers_with_key("sampler_sample", "reposedm")
    calls.clear()
    assert torch.equal(sample(pack, plain, aligned, seed=3, cfg=cfg, sampler=sampler), latent), "bit for bit"
    assert len(calls) >= 3 * len(set(calls)), "without it, once a step"
    other = align(pack, host, source.flip(2), pose)
    assert torch.equal(sample(pack, host[0], other, seed=3, cfg=cfg), sample(pack, plain, other, seed=3, cfg=cfg))


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.3, 1.0), (0.3, 0.6)])
def test_guided_latent_is_the_pipeline_s(pack, tiny, host, source, pose, start, end):
    aligned = align(pack, host, source, pose)
    latent = sample(pack, guide(pack, host, pose, 0.05, start, end), aligned, seed=3)
    result = RePoseDMPipeline.from_pretrained(tiny)(
        source, POSE, seed=3, steps=3, guidance_scale=1.5, field_strength=0.05, field_start=start, field_end=end
    )
    assert (latent - result.latent).abs().max() < 1e-4 * result.latent.abs().max()
    assert (latent - sample(pack, host[0], aligned, seed=3)).abs().max() > 1e-3


def test_guidance_composes_and_leaves_its_model_alone(pack, host, source, pose):
    aligned = align(pack, host, source, pose)
    before = sample(pack, host[0], aligned)
    once = guide(pack, host, pose)
    twice = guide(pack, host, pose, model=once)
    first, second = sample(pack, once, aligned), sample(pack, twice, aligned)
    assert not torch.equal(first, before) and not torch.equal(second, first)
    assert torch.equal(sample(pack, host[0], aligned), before)
    assert torch.equal(sample(pack, once, aligned), first)


def test_guidance_off_is_the_model_itself(pack, host, pose):
    assert guide(pack, host, pose, strength=0.0) is host[0]
    assert guide(pack, host, pose, start=0.7, end=0.7) is host[0]


@pytest.mark.parametrize(
    "move", [lambda network: network.double(), lambda network: network.to("meta").to_empty(device="cpu")]
)
def test_field_stays_differentiable_when_moved_in_inference_mode(pack, host, move):
    bridge = pack.nodes.host.patchers
    network = bridge.own_copy(host[3].patcher)
    assert network is not host[3].patcher.model
    with torch.inference_mode():
        move(network)
        for layer in network.modules():
            for name, value in layer.named_buffers(recurse=False):
                setattr(layer, name, torch.zeros_like(value))
    assert any(value.is_inference() for value in network.state_dict(keep_vars=True).values())
    patcher = bridge.differentiable(network)
    with torch.inference_mode():
        pack.nodes.host.patchers.load(patcher)
    assert not any(value.is_inference() for value in network.state_dict(keep_vars=True).values())
    image = torch.zeros(1, 3, 64, 48, dtype=next(network.parameters()).dtype, requires_grad=True)
    network(image).heatmaps_half.sum().backward()
    assert image.grad.shape == image.shape


def test_every_sampler_and_scheduler(pack, host, source, pose):
    import comfy.samplers

    aligned = align(pack, host, source, pose)
    for sampler in comfy.samplers.SAMPLER_NAMES:
        latent = sample(pack, host[0], aligned, steps=2, sampler=sampler)
        assert latent.shape == (1, 16, 8, 6) and latent.isfinite().all(), sampler
    for scheduler in comfy.samplers.SCHEDULER_NAMES:
        assert sample(pack, host[0], aligned, steps=4, scheduler=scheduler).isfinite().all(), scheduler


def test_weights_left_in_main_memory_compute_the_same(pack, host, source, pose):
    """What ComfyUI does when memory is short: layers cast their weights when they are used."""
    aligned = align(pack, host, source, pose)
    whole = sample(pack, host[0], aligned)
    patcher = host[0]
    patcher.detach()
    patcher.patch_model(lowvram_model_memory=1, device_to=patcher.load_device)
    layers = [layer for layer in patcher.model.modules() if getattr(layer, "comfy_cast_weights", False)]
    assert patcher.model.model_lowvram and len(layers) > 20
    assert torch.equal(sample(pack, patcher, aligned), whole)


def test_empty_latent_of_another_model_is_taken_up(pack, host, source, pose):
    aligned = align(pack, host, source, pose)
    empty = {"samples": torch.zeros(1, 4, 8, 6)}
    assert torch.equal(sample(pack, host[0], aligned, latent=empty), sample(pack, host[0], aligned))


def test_start_from_a_picture(pack, host, source, pose):
    aligned = align(pack, host, source, pose)
    with torch.inference_mode():
        latent = {"samples": host[1].encode(aligned[3])}
    kept = [
        (
            sample(pack, host[0], aligned, steps=2, denoise=denoise, latent=latent)
            - sample(pack, host[0], aligned, steps=2, denoise=denoise)
        )
        .abs()
        .mean()
        for denoise in (0.1, 0.4, 1.0)
    ]
    assert kept[0] > 2 * kept[1] > 4 * kept[2]


def test_frames_and_pictures_make_a_batch(pack, host, source, pose):
    other = torch.rand(1, 80, 64, 3, generator=torch.Generator().manual_seed(1))
    frames = pose + to_keypoints(load_pose_file(sorted(POSE.parent.glob("*_pose.json"))[1]))
    alone = [align(pack, host, *pair) for pair in ((source, pose), (other, frames[1:]))]
    both = align(pack, host, torch.cat([source, other]), frames)
    for index, single in enumerate(alone):
        assert torch.allclose(both[3][index], single[3][0], atol=1e-5)
        assert torch.allclose(both[0][0][0][index], single[0][0][0][0], atol=1e-4)
    assert align(pack, host, source, frames)[2]["samples"].shape == (2, 16, 8, 6)
    assert align(pack, host, torch.cat([source, other]), pose)[2]["samples"].shape == (2, 16, 8, 6)
    with pytest.raises(pack.reposedm_core.InputError, match="2 frames and source 3 pictures"):
        align(pack, host, source.expand(3, -1, -1, -1), frames)
    latents = sample(pack, host[0], both)
    assert latents.shape == (2, 16, 8, 6) and not torch.equal(latents[0], latents[1])


def test_vae_is_the_autoencoder(pack, host):
    vae, autoencoder = host[1], host[1].first_stage_model
    picture = torch.rand(2, 64, 48, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        latent = vae.encode(picture)
        assert torch.allclose(latent, autoencoder.encode(picture.movedim(-1, 1) * 2 - 1), atol=1e-6)
        expected = ((autoencoder.decode(latent) + 1) / 2).clamp(0, 1).movedim(1, -1)
        assert torch.allclose(vae.decode(latent), expected, atol=1e-6)
        assert vae.decode_tiled(latent, tile_x=4, tile_y=4, overlap=1).shape == picture.shape
        assert vae.encode(picture[:, :61, :47]).shape == (2, 16, 7, 5), "stock nodes crop to whole cells"


def test_vae_has_all_that_a_stock_vae_has(host):
    import comfy.sd

    assert set(vars(comfy.sd.VAE(sd={}))) <= set(vars(host[1]))


def test_preview_shows_the_colours_of_the_decoded_picture(pack, host):
    import latent_preview

    latent_format, autoencoder = host[0].model.latent_format, host[1].first_stage_model
    latent = torch.randn(1, 16, 8, 6, generator=torch.Generator().manual_seed(0))
    shown = latent_preview.Latent2RGBPreviewer(
        latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias
    ).decode_latent_to_preview(latent)
    cells = torch.nn.functional.avg_pool2d(autoencoder.decode_linear(latent), 8)[0].movedim(0, -1)
    expected = ((cells + 1) / 2).clamp(0, 1) * 255
    assert np.abs(np.asarray(shown).astype(float) - expected.numpy()).max() <= 1.001


def test_conditioning_without_a_pose_is_refused(pack, host, source, pose):
    aligned = align(pack, host, source, pose)
    text = [[torch.zeros(1, 77, 32), {}]]
    with pytest.raises(pack.reposedm_core.InputError, match="has no pose; connect"):
        sample(pack, host[0], (text, aligned[1], aligned[2]))


def test_vae_of_another_model_is_refused(pack, host, source, pose):
    import comfy.sd

    with pytest.raises(pack.reposedm_core.InputError, match="vae: this is no VAE of RePoseDM"):
        align(pack, (host[0], comfy.sd.VAE(sd={}), host[2]), source, pose)


def test_picture_with_holes_is_refused(pack, host, source, pose):
    broken = source.clone()
    broken[0, 3, 4] = float("nan")
    with pytest.raises(pack.reposedm_core.InputError, match="source: the picture has values that are not numbers"):
        align(pack, host, broken, pose)


def test_model_read_again_has_the_same_weights(pack, host):
    model, vae, aligner, estimator = host
    for patcher in (model, vae.patcher, aligner.patcher, estimator.patcher):
        build, arguments, index = patcher.cached_patcher_init
        again = build(*arguments, disable_dynamic=True)[index].model
        assert again is not patcher.model
        for key, value in patcher.model.state_dict().items():
            assert torch.equal(value, again.state_dict()[key]), key


def test_lora_on_the_denoiser(pack, host, source, pose):
    import comfy.sd

    aligned = align(pack, host, source, pose)
    key = "denoiser.unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
    rows, columns = host[0].model.diffusion_model.get_submodule(key).weight.shape
    lora = {
        f"diffusion_model.{key}.lora_up.weight": torch.ones(rows, 2),
        f"diffusion_model.{key}.lora_down.weight": torch.ones(2, columns),
    }
    with torch.inference_mode():
        patched = comfy.sd.load_lora_for_models(host[0], None, lora, 1.0, 0.0)[0]
    before = sample(pack, host[0], aligned)
    assert not torch.equal(sample(pack, patched, aligned), before)
    assert torch.equal(sample(pack, host[0], aligned), before), "taken off again"


def test_frame_without_a_person_is_named(pack, host, source, pose):
    frames = [*pose, {**pose[0], "people": []}]
    with pytest.raises(pack.reposedm_core.InputError, match="nobody is in frame 1"):
        align(pack, host, source, frames)
    with pytest.raises(pack.reposedm_core.InputError, match="nobody is in frame 1"):
        guide(pack, host, frames)


def test_fingerprint_of_a_linked_input_is_a_constant(pack):
    """The host asks for it before the node that supplies the input has run, and gives None."""
    loader, load_pose = pack.nodes.loaders.RePoseDMLoader, pack.nodes.pose_io.LoadPose
    assert loader.fingerprint_inputs(checkpoint=None) == loader.fingerprint_inputs(checkpoint=None)
    assert load_pose.fingerprint_inputs(file="none", text=None) == load_pose.fingerprint_inputs(file=None, text="")
    assert load_pose.fingerprint_inputs(file="none", text="a") != load_pose.fingerprint_inputs(file="none", text="b")


def test_a_sampling_of_another_kind_is_named_before_the_first_step(pack, host, source, pose):
    """Its times are no places in the schedule."""
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    model = ModelSamplingContinuousEDM().patch(host[0], "v_prediction", 120.0, 0.002)[0]
    with pytest.raises(pack.reposedm_core.InputError, match=r"^model: its noise levels .* RePoseDM knows 0 to 999"):
        sample(pack, model, align(pack, host, source, pose), steps=20)
