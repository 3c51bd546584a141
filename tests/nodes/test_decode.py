"""RePoseDM Decode: the pipeline's picture bit for bit, what a latent carries through other nodes, plain decoding."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
import torch

from reposedm_core import RePoseDMPipeline
from tests.nodes.guided import POSES

KEY = "reposedm_reference"


@pytest.fixture
def run(pack, host):
    """The sampled LATENT of sources and poses."""

    def sampled(source, pose, seed=3, host=host, **options):
        with torch.inference_mode():
            positive, negative, latent, *_ = pack.nodes.aligner.RecurrentPoseAlignerNode.execute(
                host[2], host[1], source, pose, 0, 0, **options
            ).args
            return pack.nodes.sampler.RePoseDMKSampler.execute(
                host[0], positive, negative, latent, seed, 2, 1.5, "ddim", "simple", 1.0
            ).args[0]

    return sampled


@pytest.fixture
def decode(pack, host):
    """IMAGE and what the node says."""

    def picture(latent, aligner=host[2], vae=host[1]):
        with torch.inference_mode():
            found = pack.nodes.decode.RePoseDMDecode.execute(latent, vae, aligner)
        return found.args[0], found.ui["text"][0]

    return picture


def plain(host, latent):
    with torch.inference_mode():
        return host[1].decode(latent["samples"])


def test_picture_is_the_pipeline_s_bit_for_bit(tiny_256, run, decode, sources, frames, caplog):
    caplog.set_level("INFO")
    latent = run(sources[:1], frames[1:2], source_pose=frames[:1])
    image, note = decode(latent)
    assert note == "The reference decoder decoded this; around both persons it is the source."
    assert f"RePoseDM Decode: {note}" in caplog.messages
    pipeline = RePoseDMPipeline.from_pretrained(tiny_256)
    seen = pipeline.align(sources[:1], POSES[1], None, None, source_pose=frames[:1]).seen
    source = latent[KEY][:, -3:]
    exact = ((pipeline.picture(latent["samples"], seen, source) + 1) / 2).clamp(0, 1)
    assert torch.equal(image.movedim(-1, 1), exact)
    whole = pipeline(
        sources[:1], POSES[1], seed=3, steps=2, guidance_scale=1.5, field_strength=0.0, source_pose=frames[:1]
    )
    assert (latent["samples"] - whole.latent).abs().max() < 1e-5 * whole.latent.abs().max()
    assert (image.movedim(-1, 1) - whole.image).abs().max() < 1e-5
    assert torch.equal(((source + 1) / 2).clamp(0, 1), whole.source)


def test_several_sources_too(pack, tiny_256, run, decode, sources, frames):
    latent = run(sources, frames[:1], sources=pack.nodes.aligner.TOGETHER)
    expected = RePoseDMPipeline.from_pretrained(tiny_256)(
        sources[:1],
        POSES[0],
        seed=3,
        steps=2,
        guidance_scale=1.5,
        field_strength=0.0,
        more_sources=[sources[1:2], sources[2:]],
    )
    assert latent[KEY].shape == (1, 18, 64, 48)
    assert (decode(latent)[0].movedim(-1, 1) - expected.image).abs().max() < 1e-5


def test_around_both_persons_the_source_s_own_pixels_stay(pack, run, decode, host, sources, frames):
    """With masks that say so: random weights see a person everywhere."""
    latent = run(sources[:1], frames[:1])
    reference, source = pack.nodes.decode.unpack(latent[KEY])
    here = torch.zeros(1, 1, 64, 48)
    here[..., 20:40, 15:30] = 1
    latent[KEY] = pack.nodes.decode.pack(replace(reference, person=here, hidden=here), source)
    image, _ = decode(latent)
    far = torch.nn.functional.max_pool2d(here, 13, 1, 6)[0, 0] == 0
    shown = ((source + 1) / 2).clamp(0, 1).movedim(1, -1)
    assert torch.equal(image[:, far], shown[:, far]) and not torch.equal(image, shown)
    assert not torch.equal(image[:, ~far], plain(host, latent)[:, ~far])


def test_long_batch_is_decoded_a_few_at_a_time_with_the_same_result(
    pack, run, decode, host, sources, frames, monkeypatch
):
    latent = run(sources, frames[:3])
    whole, _ = decode(latent)
    monkeypatch.setattr(pack.nodes.decode, "AT_ONCE", 2)
    counts = []
    handle = host[2].decoder.model.register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))
    parts, _ = decode(latent)
    handle.remove()
    assert counts == [2, 1] and torch.allclose(parts, whole, atol=1e-5)


def test_without_an_aligner_or_a_reference_the_vae_decodes(pack, run, decode, host, tiny, sources, frames):
    latent = run(sources[:1], frames[:1])
    image, note = decode(latent, aligner=None)
    assert note.startswith("The VAE alone decoded this: no aligner is connected")
    assert torch.equal(image, plain(host, latent)) and not torch.equal(image, decode(latent)[0])
    bare = {"samples": latent["samples"]}
    image, note = decode(bare)
    assert "the latent carries no reference" in note and torch.equal(image, plain(host, bare))
    first = pack.nodes.loaders.load_checkpoint(tiny)
    latent = run(sources[:1], frames[:1], host=first)
    image, note = decode(latent, first[2], first[1])
    assert "the latent carries no reference" in note and torch.equal(image, plain(first, latent))


def test_any_vae_where_it_decodes_alone(pack, made, decode, host):
    """As VAE Decode: also of videos, whose frames are pictures of the batch, and of videos with sound."""
    from comfy.nested_tensor import NestedTensor

    for family, shape in (("SD 1.5", (1, 4, 8, 6)), ("Qwen Image", (2, 16, 1, 8, 6))):
        _, vae = made(family)
        for samples in (torch.zeros(shape), NestedTensor([torch.zeros(shape), torch.zeros(1, 8, 4)])):
            image, note = decode({"samples": samples}, None, vae)
            assert image.shape == (shape[0], 64, 48, 3) and "carries no reference" in note


def test_vae_of_another_model_is_told_where_there_is_a_reference(pack, made, run, decode, sources, frames):
    with pytest.raises(pack.reposedm_core.InputError, match="vae: this is no VAE of RePoseDM"):
        decode(run(sources[:1], frames[:1]), vae=made("SD 1.5")[1])


def test_without_a_decoder_in_the_checkpoint_it_is_pasted_on_the_source(
    pack, tiny_256, tmp_path, run, decode, sources, frames
):
    from reposedm_core.checkpoint import save_model
    from reposedm_core.config import DecoderConfig, to_dict
    from reposedm_core.networks import load_networks, parts_of

    networks = load_networks(tiny_256)
    config, path = replace(networks.config, decoder=DecoderConfig()), tmp_path / "without.safetensors"
    save_model(path, {part: getattr(networks, part) for part in parts_of(config)}, to_dict(config), dtype=torch.float32)
    host = pack.nodes.loaders.load_checkpoint(path)
    image, note = decode(run(sources[:1], frames[:1], host=host), host[2], host[1])
    assert note == "The VAE decoded this; around both persons it is the source."
    expected = RePoseDMPipeline.from_pretrained(path)(
        sources[:1], POSES[0], seed=3, steps=2, guidance_scale=1.5, field_strength=0.0
    ).image
    assert (image.movedim(-1, 1) - expected).abs().max() < 1e-5


def stock(name, *args, **kwargs):
    """The LATENT that a node of ComfyUI's own makes."""
    import nodes

    importlib.import_module("comfy_extras.nodes_post_processing")  # first: it and the next import each other
    nodes_latent = importlib.import_module("comfy_extras.nodes_latent")
    if hasattr(nodes, name):
        kind = getattr(nodes, name)
        return getattr(kind(), kind.FUNCTION)(*args, **kwargs)[0]
    return getattr(nodes_latent, name).execute(*args, **kwargs).args[0]


def test_latents_taken_out_of_a_batch_keep_their_own_reference(run, decode, sources, frames):
    latent = run(sources, frames[:3])
    whole, _ = decode(latent)
    for start, count in ((0, 1), (2, 1), (1, 2)):
        image, note = decode(stock("LatentFromBatch", latent, start, count))
        assert note.startswith("The reference decoder") and torch.allclose(
            image, whole[start : start + count], atol=1e-5
        )
    last, first = (stock("LatentFromBatch", latent, row, 1) for row in (2, 0))
    image, _ = decode(stock("LatentBatch", last, first))
    assert torch.allclose(image, whole[[2, 0]], atol=1e-5)


def test_a_repeated_latent_keeps_its_reference(pack, host, run, decode, sources, frames):
    latent = run(sources[:1], frames[:1])
    whole, _ = decode(latent)
    four = stock("RepeatLatentBatch", latent, 4)
    image, note = decode(four)
    assert note.startswith("The reference decoder") and torch.allclose(image, whole.expand(4, -1, -1, -1), atol=1e-5)
    assert torch.allclose(decode(stock("LatentFromBatch", four, 2, 2))[0], whole.expand(2, -1, -1, -1), atol=1e-5)
    several = run(sources, frames[:3])
    image, _ = decode(stock("RepeatLatentBatch", several, 2))
    assert torch.allclose(image, decode(several)[0].repeat(2, 1, 1, 1), atol=1e-5)
    fixed = stock("LatentBatchSeedBehavior", several, "fixed")
    assert torch.equal(decode(fixed)[0], decode(several)[0]), "one noise for all is no choice of pictures"


def test_where_it_cannot_be_told_whose_a_latent_is_nobody_s_reference_is_used(host, run, decode, sources, frames):
    one, other = run(sources[:1], frames[:1]), run(sources[1:2], frames[1:2])
    several = run(sources, frames[:3])
    for joined in (
        stock("LatentBatch", one, other),
        stock("LatentBatch", several, one),
        {**several, "samples": several["samples"][:2]},
    ):
        image, note = decode(joined)
        assert "it is unknown which of" in note and "are; decode before latents are joined" in note
        assert torch.equal(image, plain(host, joined))


def test_a_latent_of_another_size_is_decoded_alone(host, run, decode, sources, frames):
    latent = run(sources[:1], frames[:1])
    for changed in (stock("LatentUpscaleBy", latent, "bilinear", 2.0), stock("LatentRotate", latent, "90 degrees")):
        image, note = decode(changed)
        assert "and the reference of 48 × 64; it was resized or turned" in note
        assert torch.equal(image, plain(host, changed))


def test_a_latent_of_a_video_has_no_reference(pack, host, run, sources, frames):
    latent = run(sources[:1], frames[:1])
    assert pack.nodes.decode.rows_seen(latent, host[2])[0] is not None
    video = {**latent, "samples": latent["samples"][:, :, None]}
    assert pack.nodes.decode.rows_seen(video, host[2]) == (None, "these are not latents of pictures")


def test_an_interruption_takes_effect_within_the_decoding(host, run, decode, sources, frames):
    import comfy.model_management as management

    latent = run(sources[:1], frames[:1])
    stem, read = host[2].decoder.model.stem, host[2].decoder.model.read
    done = []
    handles = [
        stem.register_forward_hook(lambda *_: management.interrupt_current_processing()),
        read.register_forward_hook(lambda *_: done.append(1)),
    ]
    try:
        with pytest.raises(management.InterruptProcessingException):
            decode(latent)
    finally:
        management.interrupt_current_processing(False)
        for handle in handles:
            handle.remove()
    assert not done and decode(latent)[0].isfinite().all()


def test_the_decoder_is_on_the_device_whole_or_not_at_all(host):
    patcher = host[2].decoder
    patcher.partially_load(torch.device("cpu"), 1)
    assert patcher.loaded_size() == patcher.model_size() and not patcher.model.model_lowvram
    patcher.detach()
    assert patcher.loaded_size() == 0


def test_guided_picture_is_the_pipeline_s(pack, tiny_256, host, decode, sources, frames):
    with torch.inference_mode():
        aligned = pack.nodes.aligner.RecurrentPoseAlignerNode.execute(host[2], host[1], sources[:1], frames[:1], 0, 0)
        bent = pack.nodes.guidance.PoseInteractionFieldGuidance.execute(
            host[0], host[1], host[3], frames[:1], 0.05, 0.0, 1.0, "heatmaps"
        ).args[0]
        latent = pack.nodes.sampler.RePoseDMKSampler.execute(bent, *aligned.args[:3], 3, 2, 1.5, "ddim", "simple", 1.0)
    expected = RePoseDMPipeline.from_pretrained(tiny_256)(
        sources[:1], POSES[0], seed=3, steps=2, guidance_scale=1.5, field_strength=0.05, field_start=0.0
    )
    assert (latent.args[0]["samples"] - expected.latent).abs().max() < 1e-4 * expected.latent.abs().max()
    assert (decode(latent.args[0])[0].movedim(-1, 1) - expected.image).abs().max() < 1e-4


def test_pictures_of_the_first_generation_are_those_of_vae_decode(pack, tiny, decode, run, sources, frames):
    first = pack.nodes.loaders.load_checkpoint(tiny)
    latent = run(sources[:1], frames[:1], host=first)
    image, note = decode(latent, first[2], first[1])
    assert torch.equal(image, plain(first, latent)) and "carries no reference" in note
