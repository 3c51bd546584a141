"""Every preset builds, and a copy of it with few channels runs end to end: full, B1 and B2, from a checkpoint."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reposedm_core import PRESETS, InputError, Pose, RePoseDMPipeline, load_networks
from reposedm_core.alignment import RecurrentPoseAligner
from reposedm_core.checkpoint import save_model
from reposedm_core.config import EstimatorConfig, ModelConfig, from_dict, to_dict
from reposedm_core.diffusion.autoencoder import KLAutoencoder, build_autoencoder
from reposedm_core.diffusion.sampler import initial_latent, simple_sigmas
from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.diffusion.schedulers import SAMPLERS
from reposedm_core.networks import NETWORKS, PARTS, NoAlignment, build_networks, parts_of
from reposedm_core.presets import ESTIMATORS, VARIANTS, variant
from reposedm_core.reposesd.network import GuidedRePoseSD, RePoseSD, TextCondition

PICTURE_MODELS = [name for name in PRESETS if name != "sd21"]


def small(config: ModelConfig, height: int = 32, width: int = 16) -> ModelConfig:
    """`config` with the same options and few channels, for small pictures."""
    levels, coder, estimator = len(config.denoiser.block_channels), config.autoencoder, config.estimator
    return replace(
        config,
        height=height,
        width=width,
        steps=2,
        autoencoder=replace(coder, widths=(8,) * len(coder.widths)),
        tiny=replace(config.tiny, widths=(8,) * 4, blocks=(1,) * 4),
        aligner=replace(
            config.aligner,
            channels=8,
            dim=16,
            heads=2,
            height=height // config.aligner.shrink,
            width=width // config.aligner.shrink,
        ),
        denoiser=replace(
            config.denoiser,
            block_channels=(16,) * levels,
            heads_dim=8,
            context_dim=16,
            norm_groups=8,
            height=min(config.denoiser.height, height // 8),
            width=min(config.denoiser.width, width // 8),
        ),
        decoder=replace(config.decoder, widths=(8, 8, 8)),
        field=replace(config.field, size=1.0),
        estimator=replace(
            estimator,
            stem=8,
            bottleneck=4,
            channels=(8,) * len(estimator.channels),
            deconv_channels=8,
            modules=(1,) * len(estimator.modules),
            blocks=1,
        ),
    )


@pytest.fixture(scope="module")
def pose():
    rng = np.random.default_rng(0)
    joints = np.concatenate([rng.uniform(2, 14, (1, 18, 2)), np.ones((1, 18, 1))], -1)
    return Pose(joints.astype(np.float32), 32, 16)


SOURCE = torch.rand(1, 3, 32, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", PICTURE_MODELS)
def test_every_picture_model_builds_at_its_full_size(name):
    config = PRESETS[name]
    with torch.device("meta"):
        networks = {part: PARTS[part](getattr(config, part)) for part in parts_of(config)}
    stride = config.autoencoder.stride
    latent = config.height // stride, config.width // stride
    assert config.height % stride == config.width % stride == 0
    assert config.denoiser.latent_channels == networks["autoencoder"].channels
    assert (config.denoiser.height, config.denoiser.width) == (latent if name.startswith("mini") else (0, 0))
    assert (config.aligner.height, config.aligner.width) == config.network_size
    assert config.aligner.shrink == (config.height // config.network_size[0])
    if config.aligner.encoder == "latent":
        assert config.aligner.latent_channels == networks["autoencoder"].channels


def test_the_papers_presets_are_the_papers():
    for name in ("market-128x64", "deepfashion-256x176", "deepfashion-512x352"):
        config = PRESETS[name]
        assert len(config.aligner.kernels) == 6 and config.aligner.encoder == "latent"
        assert config.aligner.warp == "image" and config.autoencoder.kind == "kl"
        assert config.schedule.prediction == "epsilon" and config.denoiser.learned_variance
        assert not config.denoiser.channel_condition, "our extension is never on in a preset named after the paper"
        assert config.estimator == ESTIMATORS["w48"]
        assert config.field.training == config.field.strength == 1
        assert (config.field.space, config.field.mask) == ("features", "predicted")
        assert (config.field.start, config.field.end) == (0, 1)
        assert (config.field.update, config.field.target) == ("eq15", "skeleton")
        less = {"every": 3} if name == "market-128x64" else {"size": 0.5, "every": 2}
        assert config.field == replace(PRESETS["sd21"].field, **less), (
            "eq. 10's estimate in section 4.4 as in section 3.3"
        )
        assert config.field.estimate == "noise"


def test_configurations_survive_json():
    import json

    for config in PRESETS.values():
        assert from_dict(ModelConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("name", PICTURE_MODELS)
def test_a_small_copy_runs_from_its_checkpoint(name, pose, tmp_path, shaken):
    config = small(PRESETS[name])
    networks = shaken(config)
    path = tmp_path / "small.safetensors"
    save_model(path, {part: getattr(networks, part) for part in parts_of(config)}, to_dict(config), dtype=torch.float32)
    loaded = load_networks(path)
    assert loaded.config == config
    made, again = (RePoseDMPipeline(n)(SOURCE, pose, seed=1) for n in (networks, loaded))
    assert made.image.shape == (1, 3, 32, 16) and made.image.isfinite().all()
    assert torch.equal(made.image, again.image)
    pipeline = RePoseDMPipeline(loaded)
    assert not torch.equal(pipeline(SOURCE, pose, seed=2).image, made.image)
    changed = pipeline(1 - SOURCE, pose, seed=1).latent
    assert not torch.equal(changed, made.latent), "the source has a say"
    assert not torch.equal(pipeline(SOURCE, pose.resized(16, 16).resized(32, 16), seed=1).latent, made.latent)
    # An untrained estimator sees nobody, and the paper's mask W_h is then empty: ours also looks where the target is.
    guided, free = (
        pipeline(SOURCE, pose, seed=1, field_strength=strength, field_start=0.0, field_space="heatmaps")
        for strength in (50.0, 0.0)
    )
    assert guided.image.isfinite().all() and not torch.equal(guided.latent, free.latent)
    dressed = pipeline.dress(SOURCE, 1 - SOURCE, torch.ones(32, 16).tril(), pose, seed=1, height=32, width=16)
    assert torch.equal(dressed.image[..., 0, 5:], dressed.reference[..., 0, 5:])


@pytest.mark.parametrize("name", ["mini", "deepfashion-256x176"])
def test_b1_needs_no_aligner_and_reads_the_unaligned_source(name, pose, tmp_path, shaken):
    config = small(PRESETS[f"{name}-b1"])
    networks = shaken(config)
    path = tmp_path / "b1.safetensors"
    parts = {part: getattr(networks, part) for part in NETWORKS if part != "aligner"}
    save_model(path, parts, to_dict(config), dtype=torch.float32)
    loaded = load_networks(path)
    assert isinstance(loaded.aligner, NoAlignment) and isinstance(networks.aligner, RecurrentPoseAligner)
    with_aligner, without = (RePoseDMPipeline(n)(SOURCE, pose, seed=1) for n in (networks, loaded))
    torch.testing.assert_close(without.image, with_aligner.image)
    assert torch.equal(without.aligned, without.source) and bool((without.visibility == 1).all())
    assert not torch.equal(with_aligner.aligned, with_aligner.source)


@pytest.mark.parametrize("name", ["mini", "mini-b2", "market-128x64"])
def test_other_models_need_one(name, tmp_path):
    config = small(PRESETS[name])
    networks = build_networks(config)
    path = tmp_path / "torn.safetensors"
    save_model(path, {part: getattr(networks, part) for part in NETWORKS if part != "aligner"}, to_dict(config))
    with pytest.raises(InputError, match=r"torn\.safetensors holds only .*also has aligner"):
        load_networks(path)
    with pytest.raises(InputError, match="needs an aligner"):
        build_networks(config, aligner=False)


def test_b2_reads_the_aligned_picture(pose, shaken):
    """The same denoiser without an aligner, as B1's, gives another picture."""
    networks = shaken(small(PRESETS["deepfashion-256x176-b2"]))
    aligned = RePoseDMPipeline(networks)(SOURCE, pose, seed=1)
    networks.aligner = NoAlignment()
    assert not torch.equal(RePoseDMPipeline(networks)(SOURCE, pose, seed=1).latent, aligned.latent)


def test_variants_are_switches_of_any_model():
    config = replace(PRESETS["mini"], name="mine", width=64)
    b1, b2, whole = (variant(config, name) for name in VARIANTS)
    assert (b1.name, b1.width, b1.denoiser.texture) == ("mine-b1", 64, "source")
    assert (b2.name, b2.denoiser.texture, b2.denoiser.channel_condition) == ("mine-b2", "aligned", False)
    assert b1.field.strength == b2.field.strength == b1.field.training == 0
    assert whole == replace(b2, name="mine-b2-field", field=replace(config.field, training=1.0))
    assert whole.field.strength == config.field.strength > 0, "the paper's whole model, with this one's field"
    for name in ("market-128x64", "deepfashion-256x176"):
        own = PRESETS[name]
        assert replace(variant(own, "b2-field"), name=own.name) == own and f"{name}-b2-field" not in PRESETS
    with pytest.raises(InputError, match="known are b1, b2, b2-field"):
        variant(config, "b3")
    with pytest.raises(InputError, match="conditioned on text"):
        variant(PRESETS["sd21"], "b1")


def test_a_small_reposesd_samples_with_its_own_autoencoder():
    config = small(PRESETS["sd21"])
    torch.manual_seed(0)
    coder, denoiser = build_autoencoder(config.autoencoder).eval(), RePoseSD(config.denoiser).eval()
    assert isinstance(coder, KLAutoencoder)
    skeleton, tokens = torch.rand(1, 3, 64, 64) * 2 - 1, torch.randn(2, 1, 7, 16)
    schedule = DiffusionSchedule(config.schedule)
    sigmas = simple_sigmas(schedule, config.steps)
    with torch.no_grad():
        model = GuidedRePoseSD(denoiser, schedule, TextCondition(coder.encode(skeleton), *tokens), 7.5)
        start = initial_latent(torch.randn(1, 4, 8, 8), sigmas[0])
        with pytest.raises(InputError, match="the model has none"):
            SAMPLERS["ddpm_learned"](model, start, sigmas, generator=torch.Generator().manual_seed(0))
        for name in SAMPLERS.keys() - {"ddpm_learned"}:
            latent = SAMPLERS[name](model, start, sigmas, generator=torch.Generator().manual_seed(0))
            assert coder.decode(latent).shape == (1, 3, 64, 64) and latent.isfinite().all()
    with pytest.raises(InputError, match=r"conditioned on text.*load_reposesd"):
        build_networks(config)


def test_estimator_sizes_are_the_published_ones():
    assert PRESETS["mini"].estimator == EstimatorConfig() == ESTIMATORS["mini"]
    with torch.device("meta"):
        count = sum(p.numel() for p in NETWORKS["estimator"](ESTIMATORS["w48"]).parameters())
    assert count == pytest.approx(63.8e6, rel=0.01), "HigherHRNet-W48, Cheng et al. 2020, table 1"
