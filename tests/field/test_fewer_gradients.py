"""Fewer and smaller gradients: one step of n, pictures at a share of their size, in sampling and in training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reposedm_core import PRESETS, InputError, Pose, RePoseDMPipeline
from reposedm_core.config import FieldConfig, shared_size
from reposedm_core.field.field import reduced
from reposedm_core.summary import cost
from tests.test_presets import small
from training.stages.field_loss import FieldTerm

PAPER = "deepfashion-256x176"


@pytest.fixture
def networks(shaken):
    return shaken(small(PRESETS[PAPER], 64, 48))


@pytest.fixture(scope="module")
def pose():
    joints = np.random.default_rng(0).uniform((2, 2), (46, 62), (1, 18, 2))
    return Pose(np.concatenate([joints, np.ones((1, 18, 1))], -1).astype(np.float32), 64, 48)


def decoded(networks, pose, steps, sampler="ddim", **field):
    """Sizes of the latents that the field decodes in a run."""
    networks.config = replace(networks.config, field=replace(networks.config.field, **field))
    own, sizes = networks.tiny.decode, []
    networks.tiny.decode = lambda z: sizes.append(tuple(z.shape[-2:])) or own(z)
    try:
        latent = RePoseDMPipeline(networks)(torch.rand(1, 3, 64, 48), pose, steps=steps, sampler=sampler).latent
    finally:
        networks.tiny.decode = own
    assert latent.isfinite().all()
    return sizes


@pytest.mark.parametrize(
    ("every", "start", "end", "wanted"),
    [(1, 0.0, 1.0, 6), (2, 0.0, 1.0, 3), (3, 0.0, 1.0, 2), (4, 0.0, 1.0, 2), (7, 0.0, 1.0, 1), (2, 0.5, 1.0, 2)],
)
def test_one_step_of_so_many_is_guided(networks, pose, every, start, end, wanted):
    assert len(decoded(networks, pose, 6, every=every, start=start, end=end)) == wanted


@pytest.mark.parametrize(
    ("every", "end", "guided"),
    [(2, 1.0, [2, 4, 6]), (4, 1.0, [2, 6]), (7, 1.0, [6]), (2, 0.5, [1, 3])],
)
def test_the_last_step_is_guided_whatever_is_left_out(networks, pose, every, end, guided):
    """No unguided step may follow and undo it."""
    passes, at, own = [], [], networks.tiny.decode
    hook = networks.denoiser.register_forward_hook(lambda *_: passes.append(1))
    field = replace(networks.config.field, every=every, start=0.0, end=end)
    networks.config = replace(networks.config, field=field)
    networks.tiny.decode = lambda z: at.append(len(passes)) or own(z)
    try:
        RePoseDMPipeline(networks)(torch.rand(1, 3, 64, 48), pose, steps=6)
    finally:
        networks.tiny.decode = own
        hook.remove()
    assert at == guided


def test_samplers_that_add_noise_count_their_steps_too(networks, pose):
    assert len(decoded(networks, pose, 5, "ancestral", every=2)) == 3


@pytest.mark.parametrize(("share", "size"), [(1.0, (8, 6)), (0.5, (4, 3)), (0.25, (2, 2))])
def test_the_picture_is_decoded_and_judged_at_that_share(networks, pose, share, size):
    assert decoded(networks, pose, 1, size=share) == [size]
    pipeline = RePoseDMPipeline(networks)
    seen = pipeline.field_picture(torch.randn(1, 4, 8, 6), share)
    assert tuple(seen.shape[-2:]) == networks.config.field_size(share)
    estimator = []
    networks.estimator.register_forward_hook(lambda _, given, __: estimator.append(tuple(given[0].shape[-2:])))
    pipeline._guidance(pose, (64, 48), None)  # the target is as large as the pictures
    assert set(estimator) == {networks.config.field_size(share)}


def test_sizes_are_whole_cells_of_the_estimator():
    assert PRESETS[PAPER].field_size(0.5) == (128, 88) and PRESETS[PAPER].field_size(1.0) == (256, 176)
    assert shared_size((128, 64), 0.3, 4) == (40, 20) and shared_size((32, 24), 0.05, 4) == (4, 4)
    assert PRESETS["mini-256"].field_size(1.0) == PRESETS["mini-256"].network_size
    z = torch.randn(1, 4, 32, 22)
    assert reduced(z, 1) is z and reduced(z, 0.5).shape == (1, 4, 16, 11)
    flat = torch.full((1, 4, 8, 6), 0.3)
    torch.testing.assert_close(reduced(flat, 0.5), flat[..., :4, :3])


@pytest.mark.parametrize("space", ["features", "heatmaps"])
@pytest.mark.parametrize("target", ["skeleton", "picture"])
def test_training_sees_the_same_size(networks, space, target):
    config = replace(networks.config, field=replace(networks.config.field, size=0.5, space=space, target=target))
    term = FieldTerm(config, networks.estimator, networks.tiny, 64, 48, torch.device("cpu"))
    assert term.size == (32, 24)
    sizes = []
    networks.estimator.register_forward_hook(lambda _, given, __: sizes.append(tuple(given[0].shape[-2:])))
    joints = torch.rand(2, 17, 3) * 40 + 1
    x0, z, noise, prediction = torch.randn(4, 2, 4, 8, 6)
    gradient, distance = term(joints, x0, z, noise, prediction, torch.tensor([10, 900]), torch.zeros(2, dtype=bool))
    assert set(sizes) <= {(32, 24)} and gradient.shape == x0.shape and gradient.isfinite().all()
    assert gradient.abs().sum() > 0 and (distance > 0).all()


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_training_and_sampling_look_at_one_picture(shaken, second_config, share):
    """Of a model, too, that paints larger than its estimator sees: what is decoded is made smaller in one way."""
    networks = shaken(second_config)
    config = replace(networks.config, field=replace(networks.config.field, size=share))
    assert config.network_size == (config.height // 2, config.width // 2)
    term = FieldTerm(config, networks.estimator, networks.autoencoder, config.height, config.width, torch.device("cpu"))
    latents = torch.randn(
        2, config.autoencoder.channels, *(s // config.autoencoder.stride for s in (config.height, config.width))
    )
    seen = RePoseDMPipeline(networks).field_picture(latents, share)
    assert tuple(seen.shape[-2:]) == config.field_size(share) and seen.std() > 0
    torch.testing.assert_close(term._decode(latents), seen)
    if share == 1:
        assert torch.equal(seen, networks.autoencoder.decode_for_field(latents)), "the linear inverse is enough"


def test_a_joint_is_where_it_was_in_the_smaller_picture(networks):
    """The skeleton's heat maps, enlarged again, have their peaks where the whole picture's have them."""
    joints = torch.tensor([[[12.0, 20.0, 2.0]] * 17])
    peaks = []
    for share in (1.0, 0.5):
        field = replace(networks.config.field, space="heatmaps", size=share)
        term = FieldTerm(
            replace(networks.config, field=field), networks.estimator, networks.tiny, 64, 48, torch.device("cpu")
        )
        maps = term.target(joints, torch.zeros(1, 4, 8, 6)).heatmaps
        row, column = divmod(int(maps[0, 0].argmax()), maps.shape[-1])
        peaks.append(((row + 0.5) / maps.shape[-2], (column + 0.5) / maps.shape[-1]))
    assert np.abs(np.subtract(*peaks)).max() < 0.04


@pytest.mark.parametrize(
    ("changes", "named"), [({"every": 0}, "every = 0"), ({"size": 0.0}, "size = 0"), ({"size": 1.5}, "size = 1.5")]
)
def test_what_cannot_be_is_named(changes, named):
    with pytest.raises(InputError, match=named):
        FieldConfig(**changes)


def test_without_these_fields_a_checkpoint_is_as_before():
    assert (FieldConfig().every, FieldConfig().size) == (1, 1.0)
    for name in ("mini", "mini-256", "sd21"):
        assert (PRESETS[name].field.every, PRESETS[name].field.size) == (1, 1.0)


def test_the_budgets_of_a_guided_step_a_run_and_a_training_example_are_met_in_counted_operations():
    """Two passes against those and the gradient of eq. 12, which passes decoder and estimator there and back."""
    config = PRESETS[PAPER]
    share = config.field.size**2
    there = share * (cost(config, "estimator").flops + cost(config, "inner decode").flops)
    step, field = 2 * cost(config, "denoiser").flops, 2 * there
    guided = 1 + field / step
    assert guided <= 2.7 and 1 + (guided - 1) / config.field.every <= 1.6
    trained = 3 * cost(config, "denoiser").flops
    assert 1 + (field + share * cost(config, "estimator").flops) / trained <= 2.4
