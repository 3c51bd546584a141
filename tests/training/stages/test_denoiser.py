"""What the stage `reposedm` does to cached latents, and its training with the pose field (eq. 3, 10-15)."""

import copy
import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from reposedm_core.config import AutoencoderConfig, EstimatorConfig
from reposedm_core.diffusion.autoencoder import Autoencoder, patches_of
from reposedm_core.diffusion.guided import Condition
from reposedm_core.diffusion.losses import pose_estimate
from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.estimator import HigherHRNet
from reposedm_core.field import PoseInteractionField
from reposedm_core.networks import build_networks, load_networks
from reposedm_core.presets import variant
from training.data.people_set import Pairs, People
from training.engine.loop import train
from training.engine.settings import RePoseDMSettings
from training.engine.state import checksum
from training.stages import denoiser as stage
from training.stages.denoiser import RePoseDMStage, denoise
from training.stages.field_loss import FieldTerm
from training.stages.latent_cache import ColourShuffle, cache_latents

HEIGHT, WIDTH = 64, 48


def test_recolouring_latents_is_recolouring_pictures():
    torch.manual_seed(0)
    images = torch.rand(24, 3, 16, 16) * 2 - 1
    autoencoder = Autoencoder(AutoencoderConfig(channels=192, widths=(8, 8, 8)))  # every component: exact
    autoencoder.fit(patches_of(torch.rand(64, 3, 16, 16), 8).flatten(0, 2))
    latents = autoencoder.encode(images)
    batch = {"target": latents, "source": latents, "aligned": latents, "pose": latents}
    choice = torch.randint(1, 6, (24,), generator=torch.Generator().manual_seed(0))
    shuffled = ColourShuffle(autoencoder, torch.device("cpu"))(batch, choice)
    assert torch.equal(shuffled["pose"], latents)
    assert torch.equal(shuffled["target"], shuffled["aligned"])
    orders = list(itertools.permutations(range(3)))[1:]
    recoloured = torch.stack([autoencoder.encode(images[:, list(order)]) for order in orders])
    error = (recoloured - shuffled["target"]).abs().flatten(2).amax(2)
    assert (error.amin(0) < 1e-3).all(), "each example is one of the five permutations"
    assert torch.equal(error.argmin(0), choice - 1), "the one that was chosen"
    untouched = ColourShuffle(autoencoder, torch.device("cpu"))(batch, torch.zeros(24, dtype=torch.long))
    torch.testing.assert_close(untouched["target"], latents)


def test_the_check_sum_sees_every_weight_and_pair():
    layer = torch.nn.Linear(3, 3)
    pairs = Pairs(*(np.arange(4) + i for i in range(3)))

    def of(pairs):
        return checksum(pairs.identity, pairs.source, pairs.target, layer)

    before = of(pairs)
    assert before == of(pairs)
    assert before != of(pairs[:3])
    with torch.no_grad():
        layer.bias[1] += 1e-6
    assert before != of(pairs)


# -- conditions dropped together


@pytest.fixture(scope="module")
def told():
    """What a batch of three is told, noise to predict from, and the second example's conditions dropped."""
    generator = torch.Generator().manual_seed(0)
    batch = {name: torch.randn(3, 16, 8, 6, generator=generator) for name in ("pose", "source", "aligned")}
    batch["visibility"] = torch.rand(3, 1, 8, 6, generator=generator)
    z = torch.randn(3, 16, 8, 6, generator=generator)
    return batch, z, torch.tensor([10, 300, 700]), torch.tensor([False, True, False])


@torch.no_grad()
@pytest.mark.parametrize("texture", ["aligned", "source"], ids=["of the aligned picture", "B1, of the source"])
def test_a_dropped_example_is_told_nothing_and_the_others_everything(networks, told, texture):
    batch, z, t, drop = told
    model = copy.deepcopy(networks.denoiser)
    model.config = replace(model.config, texture=texture)
    schedule = DiffusionSchedule(networks.config.schedule)
    before = denoise(model, batch, z, t, schedule, drop)[0]
    for name in ("pose", "aligned", "visibility" if texture == "aligned" else "source"):
        after = denoise(model, {**batch, name: batch[name].flip(-1)}, z, t, schedule, drop)[0]
        assert torch.equal(after[1], before[1]), f"{name} is dropped"
        assert not torch.isclose(after[[0, 2]], before[[0, 2]]).all((1, 2, 3)).any(), f"{name} is told"
    # Dropped in training is what the unconditional pass of eq. 16 asks for in sampling.
    given = Condition.of(model, batch["pose"], batch["source"], batch["aligned"], batch["visibility"])
    for condition, rows in ((Condition.null(model, given), [1]), (given, [0, 2])):
        expected = model(z, t, *vars(condition).values(), schedule.roots(t, z)[1])[0]
        torch.testing.assert_close(expected[rows], before[rows])


@pytest.mark.parametrize("dropout", [0.0, 0.25, 1.0])
def test_the_share_of_dropped_examples_is_the_dropout(tmp_path, people, networks, monkeypatch, dropout):
    seen = []

    def watched(model, batch, z, t, schedule, drop):
        seen.append(drop)
        return denoise(model, batch, z, t, schedule, drop)

    monkeypatch.setattr(stage, "denoise", watched)
    run(tmp_path, people, networks, steps=1, batch=100, dropout=dropout)
    training, *validation = seen
    assert training.float().mean() == pytest.approx(dropout, abs=0.1 * (0 < dropout < 1))
    assert validation and not torch.cat(validation).any()


# -- with the pose field


@pytest.fixture(scope="module")
def people(figures):
    return figures


@pytest.fixture(scope="module")
def networks(weights):
    """The tiny networks, with an estimator that is quick to go back through."""
    torch.manual_seed(0)
    config = EstimatorConfig(stem=8, bottleneck=8, channels=(8, 16), modules=(1,), blocks=1, deconv_channels=8)
    estimator = HigherHRNet(config)
    for parameter in estimator.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    for layer in estimator.final_layers:
        layer.bias.data.add_(0.3)  # untrained, it would find no joint anywhere and mask all out
    loaded = load_networks(weights)
    loaded.config, loaded.estimator = replace(loaded.config, estimator=config), estimator.eval()
    return loaded


def stage_of(out, people, networks, steps=2, base=None, batch=3, dropout=0.3, **field):
    """The stage, prepared. `field` are fields of the `FieldConfig`."""
    config = base or networks.config
    config = replace(config, field=replace(config.field, **field))
    settings = RePoseDMSettings(
        steps=steps, batch=batch, pairs=4, warmup=0, lr=1e-3, dropout=dropout, vlb_weight=0.1, workers=0
    )
    parts = {part: getattr(networks, part) for part in RePoseDMStage.needs(config)}
    return RePoseDMStage(config, settings, people, out, parts, torch.device("cpu"))


def run(out, people, networks, **options):
    """Train a few steps; returns the trained weights and the last entry of the log."""
    torch.manual_seed(1)  # of the fresh denoiser
    out.mkdir(exist_ok=True)
    average, log = train(stage_of(out, people, networks, **options), out, 0, Accelerator(cpu=True), resume=False)
    return average.state_dict(), log["history"][-1]


def same(a, b):
    return all(torch.equal(value, b[key]) for key, value in a.items())


def test_with_and_without_the_field_differ_by_it_alone(tmp_path, people, networks):
    """B2 trains without the field; the full model is B2 and ∇G: same draws, same L_vlb, other L_mse."""
    base = variant(networks.config, "b2")
    off, plain = run(tmp_path / "off", people, networks, steps=1, base=base)
    on, guided = run(tmp_path / "on", people, networks, steps=1, base=base, training=1.0)
    assert base.field.training == 0 and "field" not in plain and guided["field"] > 0
    assert guided["vlb"] == plain["vlb"] and guided["mse"] != plain["mse"]
    assert not same(on, off)
    # A factor below the precision of the numbers takes every step of the field's way and changes nothing.
    nothing, _ = run(tmp_path / "tiny", people, networks, steps=1, base=base, training=1e-30)
    assert same(nothing, off)


@pytest.mark.parametrize(("space", "estimate"), [("heatmaps", "x0"), ("features", "noise")])
def test_training_with_the_field_runs_and_leaves_the_frozen_networks_alone(tmp_path, people, networks, space, estimate):
    frozen = networks.estimator, networks.autoencoder
    before = [copy.deepcopy(network.state_dict()) for network in frozen]
    trained, history = run(tmp_path, people, networks, training=0.5, space=space, estimate=estimate)
    assert history["step"] == 2 and history["field"] > 0 and np.isfinite(history["loss"])
    assert all(torch.isfinite(value).all() for value in trained.values())
    assert all(same(state, network.state_dict()) for state, network in zip(before, frozen, strict=True))
    assert not any(parameter.grad is not None for network in frozen for parameter in network.parameters())
    assert not networks.estimator.training


def test_what_is_needed_before(networks):
    def needs(config):
        return RePoseDMStage.needs(config)

    assert needs(networks.config) == ("autoencoder", "aligner")
    assert needs(replace(networks.config, field=replace(networks.config.field, training=1.0)))[-1] == "estimator"
    assert needs(variant(networks.config, "b1")) == ("autoencoder",)


def test_latents_are_made_once_and_shared_and_stay_on_disk(tmp_path, people, networks):
    figures, cpu = People(people, "train"), torch.device("cpu")

    def cached(pairs, **options):
        return cache_latents(figures, pairs, networks.autoencoder, networks.aligner, cpu, tmp_path, **options)

    pairs = figures.fixed_pairs(4)
    first = cached(pairs)
    (file,) = tmp_path.iterdir()
    made = file.stat().st_mtime_ns
    joints = cached(pairs, joints=True).tensors["joints"]
    assert file.stat().st_mtime_ns == made, "read back"
    assert joints.dtype == torch.float32, "half precision would move them"
    np.testing.assert_array_equal(joints.numpy(), figures.joints(pairs.identity, pairs.target))
    batch = first.batch(np.array([2, 0]))
    expected = networks.autoencoder.encode(figures.pictures(pairs.identity, pairs.target))[[2, 0]]
    torch.testing.assert_close(batch["target"], expected, rtol=1e-3, atol=1e-3)
    cached(pairs[:3])
    assert len(list(tmp_path.iterdir())) == 2, "other pairs are another file"
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(cached(pairs).batch(np.array([2, 0]))["aligned"], batch["aligned"]), "a damaged one is made anew"


def test_latents_of_another_set_or_another_scaling_are_not_taken(tmp_path, people, networks):
    """Two sets may have the same people and pairs by name; a configuration may change latents and no weight."""
    other, cpu = tmp_path / "set", torch.device("cpu")
    shutil.copytree(people, other)
    np.save(other / "pictures.npy", 255 - np.load(other / "pictures.npy"))
    described = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps({**described, "seed": 2}))
    pairs, cache, targets = People(people, "train").fixed_pairs(3), tmp_path / "cache", []
    aligners = networks.aligner, copy.copy(networks.aligner)
    aligners[1].config = replace(networks.aligner.config, warp="latent")
    for root, aligner in ((people, aligners[0]), (other, aligners[0]), (people, aligners[1])):
        made = cache_latents(People(root, "train"), pairs, networks.autoencoder, aligner, cpu, cache)
        targets.append(made.tensors["target"])
    assert len(list(cache.iterdir())) == 3
    assert not torch.equal(targets[0], targets[1]) and torch.equal(targets[0], targets[2])


def test_runs_that_share_a_cache_may_make_it_at_the_same_time(tmp_path, people, networks, monkeypatch):
    """Another run makes, writes and renames the file while this one is about to write it."""
    figures, save, calls = People(people, "train"), torch.save, []

    def cached():
        return cache_latents(
            figures, figures.fixed_pairs(3), networks.autoencoder, networks.aligner, torch.device("cpu"), tmp_path
        )

    def interleaved(state, file):
        calls.append(file)
        if len(calls) == 1:
            others.append(cached())
        save(state, file)

    others = []
    monkeypatch.setattr(torch, "save", interleaved)
    mine = cached()
    assert len(calls) == 2, "both have written"
    assert [file.suffix for file in tmp_path.iterdir()] == [".pt"]
    assert all(torch.equal(mine.tensors[name], value) for name, value in others[0].tensors.items())


@pytest.mark.parametrize("space", ["heatmaps", "features"])
def test_the_field_s_gradient_is_each_picture_s_own_and_none_where_the_pose_was_dropped(people, networks, space):
    config = replace(networks.config, field=replace(networks.config.field, space=space))
    term = FieldTerm(config, networks.estimator, networks.autoencoder, HEIGHT, WIDTH, torch.device("cpu"))
    figures = People(people, "train")
    joints = torch.from_numpy(figures.joints(np.array([2, 3, 4]), np.array([0, 1, 2])))
    generator = torch.Generator().manual_seed(0)
    z, noise, prediction = (torch.randn(3, 16, 8, 6, generator=generator) for _ in range(3))
    t, drop = torch.tensor([10, 300, 700]), torch.tensor([False, True, False])
    gradient, distance = term(joints, z, z, noise, prediction, t, drop)
    assert gradient.shape == z.shape and distance.shape == (3,)
    assert not gradient[1].any() and gradient[0].any() and gradient[2].any()
    alone, _ = term(joints[2:], z[2:], z[2:], noise[2:], prediction[2:], t[2:], drop[2:])
    torch.testing.assert_close(alone, gradient[2:], rtol=1e-3, atol=1e-4 * float(gradient[2].abs().max()))


@pytest.mark.parametrize("estimate", ["noise", "x0"])
def test_the_field_looks_at_the_estimate_that_is_configured(people, networks, estimate):
    """Eq. 10 as written, the decoded ε - ε_θ, or the decoded ŷ_0, from v = (ε √ᾱ - y_0 √(1-ᾱ)) by hand."""
    config = replace(networks.config, field=replace(networks.config.field, estimate=estimate))
    term = FieldTerm(config, networks.estimator, networks.autoencoder, HEIGHT, WIDTH, torch.device("cpu"))
    figures = People(people, "train")
    joints = torch.from_numpy(figures.joints(np.array([2, 3]), np.array([0, 1])))
    generator = torch.Generator().manual_seed(0)
    z, noise, v = (torch.randn(2, 16, 8, 6, generator=generator) for _ in range(3))
    t = torch.tensor([100, 600])
    assert config.schedule.prediction == "v_prediction"
    beta = np.linspace(config.schedule.beta_start, config.schedule.beta_end, config.schedule.timesteps)
    alpha_bar = torch.from_numpy(np.cumprod(1 - beta)[t]).float()[:, None, None, None]
    latent = {
        "noise": noise - (alpha_bar.sqrt() * v + (1 - alpha_bar).sqrt() * z),
        "x0": alpha_bar.sqrt() * z - (1 - alpha_bar).sqrt() * v,
    }[estimate]
    field = PoseInteractionField(networks.estimator, config.field.space, mask=config.field.mask)
    expected = field.gradient(
        latent, networks.autoencoder.decode_for_field, field.target_from_joints(joints, HEIGHT, WIDTH)
    )
    found = term(joints, z, z, noise, v, t, torch.zeros(2, dtype=torch.bool))
    assert expected[0].any((1, 2, 3)).all()
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("space", ["heatmaps", "features"])
def test_the_true_picture_may_be_the_field_s_target(people, networks, space):
    """G of an estimate that is right is then 0, and that of another one is its distance to the decoded truth."""
    own = replace(networks.config.field, space=space, estimate="x0", target="picture")
    config = replace(networks.config, field=own)
    term = FieldTerm(config, networks.estimator, networks.autoencoder, HEIGHT, WIDTH, torch.device("cpu"))
    schedule, generator = DiffusionSchedule(config.schedule), torch.Generator().manual_seed(0)
    x0, noise, v = (torch.randn(2, 16, 8, 6, generator=generator) for _ in range(3))
    t, told = torch.tensor([100, 600]), torch.zeros(2, dtype=torch.bool)
    z = schedule.add_noise(x0, noise, t)
    nowhere = torch.zeros(2, 17, 3)
    right, wrong = (term(nowhere, x0, z, noise, each, t, told)[1] for each in (schedule.target(x0, noise, t), v))
    field = PoseInteractionField(networks.estimator, space, mask=own.mask)
    target = field.target_from_image(networks.autoencoder.decode_for_field(x0))
    expected = field.distance(networks.autoencoder.decode_for_field(schedule.predict_x0(z, v, t)), target)
    torch.testing.assert_close(wrong, expected, rtol=1e-3, atol=0)
    assert (right < 1e-4 * wrong).all()


def test_the_field_of_larger_pictures_sees_them_at_the_estimators_size(people, second_config):
    """Decoded at that size, and joints of half the coordinates."""
    torch.manual_seed(0)
    built = build_networks(second_config)
    for layer in built.estimator.final_layers:
        torch.nn.init.constant_(layer.bias, 0.3)
    assert second_config.network_size == (HEIGHT // 2, WIDTH // 2)
    config = replace(second_config, field=replace(second_config.field, space="heatmaps", estimate="x0"))
    term = FieldTerm(config, built.estimator, built.autoencoder, HEIGHT, WIDTH, torch.device("cpu"))
    joints = torch.from_numpy(People(people, "train").joints(np.array([2, 3]), np.array([0, 1])))
    generator = torch.Generator().manual_seed(0)
    z, noise, v = (torch.randn(2, 16, 4, 3, generator=generator) for _ in range(3))
    t = torch.tensor([100, 600])
    latent = pose_estimate(DiffusionSchedule(config.schedule), z, noise, v, t, "x0")
    field = PoseInteractionField(built.estimator, "heatmaps", mask=config.field.mask)
    half = torch.cat([joints[..., :2] / 2, joints[..., 2:]], -1)
    expected = field.gradient(
        latent,
        built.autoencoder.decode_for_field,
        field.target_from_joints(half, HEIGHT // 2, WIDTH // 2),
    )
    found = term(joints, z, z, noise, v, t, torch.zeros(2, dtype=torch.bool))
    assert expected[0].any()
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_the_field_of_a_mirrored_picture_asks_for_the_mirrored_pose(tmp_path, people, networks, monkeypatch):
    stage = stage_of(tmp_path, people, networks, training=1.0)
    stage.settings = replace(stage.settings, flip=0.5)
    stage.prepare(True)
    batch = stage.load(stage.plan(np.random.default_rng(0), 8))
    mirrored = batch["order"] >= 6
    assert 0 < mirrored.sum() < 8
    asked, call = [], FieldTerm.__call__
    monkeypatch.setattr(
        FieldTerm, "__call__", lambda term, joints, *rest: asked.append(joints) or call(term, joints, *rest)
    )
    assert stage.loss(stage.build(), batch, 0)["loss"].isfinite()
    for joints, of, flipped in zip(batch["joints"], asked[0], mirrored, strict=True):
        for n, (x, y, score) in enumerate(of):
            own = joints[n if not flipped or n == 0 else n + 1 if n % 2 else n - 1]  # left is odd, right even
            assert (y, score) == (own[1], own[2])
            assert x == (WIDTH - own[0] if flipped and score > 0 else own[0])
