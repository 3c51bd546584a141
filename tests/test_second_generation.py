"""`mini-256`'s kind of model, tiny and untrained: pipeline end to end, background, garments, checkpoints, B1 and B2."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reposedm_core import InputError, Pose, RePoseDMPipeline, load_networks
from reposedm_core.checkpoint import read_header, save_model
from reposedm_core.config import AlignerConfig, DecoderConfig, DenoiserConfig, ModelConfig, from_dict, to_dict
from reposedm_core.networks import NoAlignment, build_networks, parts_of
from reposedm_core.pose import to_keypoints
from reposedm_core.presets import variant

CERTAIN = 30.0


def body(seed, height=64, width=48):
    """Somebody whose joints lie anywhere in a picture."""
    joints = np.random.default_rng(seed).uniform(2, (width - 2, height - 2), (1, 18, 2))
    return Pose(np.concatenate([joints, np.ones((1, 18, 1))], -1).astype(np.float32), height, width)


POSE, SOURCE_POSE = body(0), body(1)
SOURCE, OTHER = torch.rand(2, 1, 3, 64, 48, generator=torch.Generator().manual_seed(1)).unbind()


@pytest.fixture
def networks(second_config, shaken):
    return shaken(second_config)


@pytest.fixture
def pipeline(networks):
    return RePoseDMPipeline(networks)


def surely(networks, person, source_person):
    """The model then finds the target's and the source's person everywhere (True) or nowhere (False)."""
    for match in networks.aligner.matches:
        match.read.weight[3] = 0
        match.read.bias[3] = CERTAIN if person else -CERTAIN
        match.detail.weight[-4:], match.detail.bias[-4:] = 0, 0
    networks.aligner.source_person.weight.zero_()
    networks.aligner.source_person.bias.fill_(CERTAIN if source_person else -CERTAIN)
    if networks.layout is not None:
        networks.layout.head.weight.zero_()
        networks.layout.head.bias.copy_(CERTAIN * (torch.arange(len(networks.layout.head.bias)) == int(person)))
    return networks


def save(networks, path, without=()):
    parts = [part for part in parts_of(networks.config) if part not in without]
    save_model(path, {part: getattr(networks, part) for part in parts}, to_dict(networks.config), dtype=torch.float32)
    return path


def test_from_source_and_pose_to_a_picture(pipeline):
    runs = [pipeline(SOURCE, POSE, seed=seed, source_pose=SOURCE_POSE) for seed in (1, 1, 2)]
    first = runs[0]
    assert first.image.shape == first.aligned.shape == first.pose_image.shape == (1, 3, 64, 48)
    assert first.latent.shape == (1, 16, 4, 3) and first.visibility.shape == (1, 1, 16, 12)
    assert len(first.alignment.maps) == 2 and first.alignment.maps[0].shape == (1, 2, 16, 12)
    assert first.image.isfinite().all() and first.image.min() >= 0 and first.image.max() <= 1
    assert torch.equal(first.image, runs[1].image) and not torch.equal(first.image, runs[2].image)
    for change in ({"source": OTHER}, {"pose": body(2)}, {"source_pose": body(3)}):
        given = {"source": SOURCE, "pose": POSE, "source_pose": SOURCE_POSE, **change}
        assert not torch.equal(pipeline(seed=1, **given).latent, first.latent), change.keys()


def test_the_sources_pose_is_in_pixels_of_the_sources_picture(pipeline):
    """A larger picture is letterboxed, and its pose with it; a pose on another canvas is scaled to the picture."""
    wide = F.interpolate(F.pad(SOURCE, (16, 16, 0, 0), mode="replicate"), scale_factor=2, mode="nearest")
    large = Pose(SOURCE_POSE.joints * np.float32([2, 2, 1]) + np.float32([32, 0, 0]), 128, 160)
    found = pipeline(wide, POSE, seed=1, source_pose=large)
    for same in (large.resized(64, 80), {"people": to_keypoints(large)[0]["people"]}):
        again = pipeline(wide, POSE, seed=1, source_pose=same)
        torch.testing.assert_close(found.image, again.image, rtol=0, atol=1e-4)
    alone = pipeline.align(found.source, POSE, source_pose=large.resized(64, 48)).alignment
    torch.testing.assert_close(found.alignment.maps[-1], alone.maps[-1], rtol=0, atol=1e-4)


def test_without_the_sources_pose_the_estimator_finds_it(networks):
    """One that sees nobody leaves the aligner blind; one that sees somebody is asked for every picture."""
    for weight in networks.estimator.parameters():
        weight.zero_()
    blind = RePoseDMPipeline(networks)(SOURCE, POSE, seed=1)
    nobody = Pose(np.zeros((0, 18, 3), np.float32), 64, 48)
    with pytest.raises(InputError, match="source_pose: nobody is in it"):
        RePoseDMPipeline(networks)(SOURCE, POSE, seed=1, source_pose=nobody)
    for layer in networks.estimator.final_layers:
        layer.bias.fill_(0.5)
    pipeline = RePoseDMPipeline(networks)
    found = pipeline.estimate(SOURCE)
    assert len(found.joints) == 1
    seen, told = (pipeline(SOURCE, POSE, seed=1, source_pose=pose).alignment.maps[-1] for pose in (None, found))
    torch.testing.assert_close(seen, told)
    assert not torch.equal(seen, blind.alignment.maps[-1])


def test_where_nobody_is_or_was_the_source_stays_to_the_bit(networks):
    result = RePoseDMPipeline(surely(networks, False, False))(SOURCE, POSE, seed=1)
    assert torch.equal(result.image, result.source) and torch.equal(result.aligned, result.source)


def test_the_person_is_painted_by_the_decoder_that_sees_the_source(networks):
    """Everywhere, if the person is: then the plate counts for nothing, and the decoder for something."""
    pipeline = RePoseDMPipeline(surely(networks, True, False))
    result = pipeline(SOURCE, POSE, seed=1)
    with torch.no_grad():
        decoded = pipeline.decode(result.latent)
    assert (result.image - (decoded / 2 + 0.5).clamp(0, 1)).abs().mean() > 0.01
    torch.testing.assert_close(result.aligned, result.alignment.image / 2 + 0.5)
    networks.decoder.read[1].bias.add_(0.5)
    assert not torch.equal(pipeline(SOURCE, POSE, seed=1).image, result.image)
    networks.decoder = None
    without = RePoseDMPipeline(networks)(SOURCE, POSE, seed=1)
    torch.testing.assert_close(without.image, (decoded / 2 + 0.5).clamp(0, 1))


def test_several_sources_make_one_result_on_the_first_ones_background(networks):
    found = RePoseDMPipeline(networks)(SOURCE, POSE, seed=1, source_pose=SOURCE_POSE, more_sources=[OTHER, SOURCE])
    assert found.image.shape == (1, 3, 64, 48) and len(found.source) == 3 == len(found.alignment.maps[-1])
    alone = RePoseDMPipeline(networks)(SOURCE, POSE, seed=1, source_pose=SOURCE_POSE)
    torch.testing.assert_close(found.alignment.maps[-1][:1], alone.alignment.maps[-1], rtol=0, atol=1e-4)
    assert not torch.equal(found.latent, alone.latent)
    nowhere = RePoseDMPipeline(surely(networks, False, False))(OTHER, POSE, seed=1, more_sources=[SOURCE])
    assert torch.equal(nowhere.image, nowhere.source[:1])


def test_a_batch_of_sources_is_aligned_each_for_itself(pipeline):
    both = pipeline(torch.cat([SOURCE, OTHER]), POSE, seed=1)
    assert both.image.shape == (2, 3, 64, 48)
    for i, picture in enumerate((SOURCE, OTHER)):
        torch.testing.assert_close(both.aligned[i : i + 1], pipeline(picture, POSE).aligned, rtol=0, atol=1e-4)


def test_other_sizes_field_and_half_precision(networks, pipeline):
    plain, guided = (
        pipeline(SOURCE, POSE, seed=1, height=96, width=64, field_strength=strength, field_start=0.0)
        for strength in (0.0, 50.0)
    )
    assert plain.image.shape == (1, 3, 96, 64) and not torch.equal(plain.latent, guided.latent)
    with pytest.raises(InputError, match="both must be divisible by 16; the nearest is 48 × 64"):
        pipeline(SOURCE, POSE, height=72)
    half = RePoseDMPipeline(networks, dtype=torch.bfloat16)(SOURCE, POSE, seed=1, height=96, width=64)
    assert half.image.dtype == torch.float32 and half.image.isfinite().all()


@pytest.mark.parametrize("somebody", [False, True])
def test_a_parser_says_where_the_source_s_person_is(networks, somebody):
    """It sees the source and its skeleton; where it is sure, the aligner's doubt does not count."""
    networks.aligner.source_person.weight.zero_()
    networks.aligner.source_person.bias.zero_()
    networks.parser.head.weight.zero_()
    networks.parser.head.bias.copy_(CERTAIN * (torch.arange(len(networks.parser.head.bias)) == int(somebody)))
    shown = []
    networks.parser.register_forward_pre_hook(lambda _, given: shown.append(given))
    pipeline = RePoseDMPipeline(networks)
    found = pipeline.align(SOURCE, POSE, source_pose=SOURCE_POSE)
    assert found.seen.reference.hidden.all() if somebody else not found.seen.reference.hidden.any()
    (picture, skeleton), *more = shown
    assert not more and torch.equal(picture, found.source) and skeleton.shape == picture.shape
    assert (skeleton > -1).any(), "the skeleton is drawn"


def test_a_checkpoint_is_the_model(networks, tmp_path):
    path = save(networks, tmp_path / "second.safetensors")
    assert read_header(path)["parts"] == sorted(parts_of(networks.config)) and len(parts_of(networks.config)) == 7
    loaded = load_networks(path)
    assert loaded.config == networks.config == from_dict(ModelConfig, to_dict(networks.config))
    made, again = (RePoseDMPipeline(n)(SOURCE, POSE, seed=1, source_pose=SOURCE_POSE) for n in (networks, loaded))
    assert torch.equal(made.image, again.image)
    torn = save(networks, tmp_path / "torn.safetensors", ("decoder",))
    with pytest.raises(InputError, match=r"torn\.safetensors holds only .*also has decoder"):
        load_networks(torn)


# -- a garment on another person


MASK = torch.zeros(64, 48)
MASK[20:44, 10:30] = 1


def test_dressing_changes_nothing_outside_of_the_mask_and_paints_inside_with_the_decoder(networks):
    pipeline = RePoseDMPipeline(surely(networks, True, True))
    dressed = pipeline.dress(OTHER, SOURCE, MASK, POSE, seed=1)
    outside = MASK == 0
    assert torch.equal(dressed.image[0, :, outside], dressed.reference[0, :, outside])
    assert dressed.garment.shape == (1, 3, 64, 48) and not torch.equal(dressed.image, dressed.reference)
    again, other = (pipeline.dress(OTHER, SOURCE, MASK, POSE, seed=seed).image for seed in (1, 2))
    assert torch.equal(again, dressed.image) and not torch.equal(other, dressed.image)
    networks.decoder.read[1].bias.add_(0.5)
    assert not torch.equal(pipeline.dress(OTHER, SOURCE, MASK, POSE, seed=1).image, dressed.image)


def test_what_is_behind_the_garment_is_the_references_background(networks):
    """Nobody being found, all is background: that of the picture that is dressed, not of the garment's."""
    pipeline = RePoseDMPipeline(surely(networks, False, True))
    dressed = pipeline.dress(OTHER, SOURCE, torch.ones(64, 48), POSE, seed=1)
    assert torch.equal(dressed.image, dressed.reference) and torch.equal(dressed.aligned, dressed.reference)
    moved = pipeline(SOURCE, POSE, seed=1)
    assert not torch.allclose(moved.aligned, moved.source), "a pose transfer keeps the source's, with a hole filled in"


def test_several_garments_and_masks(pipeline):
    masks = torch.stack([MASK, torch.ones(64, 48)])
    dressed = pipeline.dress(OTHER, torch.cat([SOURCE, 1 - SOURCE]), masks, POSE, seed=1)
    assert dressed.image.shape == (2, 3, 64, 48) and dressed.image.isfinite().all()
    assert torch.equal(dressed.image[0][:, MASK == 0], dressed.reference[0][:, MASK == 0])


# -- the ablations


@pytest.mark.parametrize("name", ["b1", "b2"])
def test_the_ablations_have_no_decoder_of_their_own(second_config, shaken, name, tmp_path):
    config = variant(second_config, name)
    assert config.decoder == DecoderConfig() and "decoder" not in parts_of(config)
    networks = shaken(config)
    assert networks.decoder is None
    loaded = load_networks(save(networks, tmp_path / "ablation.safetensors"))
    made, again = (RePoseDMPipeline(n)(SOURCE, POSE, seed=1, source_pose=SOURCE_POSE) for n in (networks, loaded))
    assert made.image.shape == (1, 3, 64, 48) and torch.equal(made.image, again.image)
    assert RePoseDMPipeline(networks).dress(OTHER, SOURCE, MASK, POSE, seed=1).image.isfinite().all()


def test_b1_is_the_same_with_an_aligner_and_without(second_config, shaken, tmp_path):
    """It does not know where the person is, so its result is not pasted on the source."""
    networks = shaken(variant(second_config, "b1"))
    loaded = load_networks(save(networks, tmp_path / "b1.safetensors", ("aligner",)))
    assert isinstance(loaded.aligner, NoAlignment)
    surely(networks, False, False)
    with_aligner, without = (RePoseDMPipeline(n)(SOURCE, POSE, seed=1) for n in (networks, loaded))
    torch.testing.assert_close(without.image, with_aligner.image)
    assert not torch.equal(without.image, without.source)


def test_b2_is_pasted_on_the_source(second_config, shaken):
    networks = surely(shaken(variant(second_config, "b2")), False, False)
    result = RePoseDMPipeline(networks)(SOURCE, POSE, seed=1)
    assert torch.equal(result.image, result.source)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"aligner": AlignerConfig()}, r"DecoderConfig\.kind = 'reference': it needs an aligner of kind \"matching\""),
        ({"decoder": DecoderConfig("reference", (8, 16), 4)}, r"DecoderConfig\.latent_channels = 4: the .* has 16"),
        (
            {"denoiser": DenoiserConfig(texture="source", channel_condition=False)},
            "'reference': its denoiser reads the so",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(second_config, changes, words):
    with pytest.raises(InputError, match=words):
        build_networks(replace(second_config, **changes))
