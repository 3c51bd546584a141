"""The stage of the tiny autoencoder: what it learns from, public weights, and who needs it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from reposedm_core.checkpoint import load_parts
from reposedm_core.config import AutoencoderConfig, ModelConfig, TinyConfig
from reposedm_core.diffusion.autoencoder import KLAutoencoder
from reposedm_core.diffusion.tiny import TinyAutoencoder
from reposedm_core.errors import InputError
from reposedm_core.presets import PRESETS, with_inner
from training.engine.run import SEEDS, stage_class, stages_of
from training.engine.settings import STAGES, TinySettings
from training.stages.tiny import TinyStage
from training.train import main

CONFIG = ModelConfig(
    autoencoder=AutoencoderConfig(kind="kl", channels=4, widths=(8, 8, 8, 16), scaling=0.5),
    tiny=TinyConfig("tiny", (8, 8, 8, 8), (1, 1, 1, 1)),
)


def stage_of(root, out, **settings):
    torch.manual_seed(0)
    large = KLAutoencoder(CONFIG.autoencoder).eval().requires_grad_(False)
    for weight in large.parameters():
        weight.add_(0.05 * torch.randn_like(weight))
    stage = TinyStage(CONFIG, TinySettings(**settings), root, out, {"autoencoder": large}, torch.device("cpu"))
    stage.prepare(True)
    return stage


def batch_of(stage, count=4):
    return stage.load(stage.plan(np.random.default_rng(0), count))


def test_a_perfect_copy_has_no_loss_of_latents_and_pictures(figures, tmp_path):
    """Only what the large one itself loses is left: its decoded pictures are not the pictures."""
    stage = stage_of(figures, tmp_path)
    batch = batch_of(stage)

    def copy(images, latents):
        return stage.large.encode(images), stage.large.decode(latents), stage.large.decode(stage.large.encode(images))

    values = stage.loss(copy, batch, 0)
    lost = stage.large.decode(stage.large.encode(batch["images"])) - batch["images"]
    assert values["latent_mse"] == values["mse"] == 0
    torch.testing.assert_close(values["loss"], 0.25 * lost.abs().mean())
    module = stage.build()
    own, _, alone = module(batch["images"], stage.large.encode(batch["images"]) + batch["noise"])
    assert torch.equal(own, module.tiny.encode(batch["images"])) and torch.equal(alone, module.tiny.decode(own))
    values = stage.loss(module, batch, 0)
    torch.testing.assert_close(values["latent_mse"], (own - stage.large.encode(batch["images"])).square().mean())


def test_the_noise_on_the_latents_is_the_setting_s(figures, tmp_path):
    weak, strong = (batch_of(stage_of(figures, tmp_path, noise=noise), 64)["noise"] for noise in (1.0, 4.0))
    torch.testing.assert_close(strong, 4 * weak)
    assert 0.25 < strong.flatten(1).std(1).max() < 0.4


def test_training_brings_it_closer_and_validation_says_how_close(figures, tmp_path):
    stage = stage_of(figures, tmp_path)
    module, batch = stage.build(), batch_of(stage, 8)
    before = stage.validate(module.tiny)
    optimiser = torch.optim.Adam(module.parameters(), 3e-3)
    for _ in range(15):
        optimiser.zero_grad()
        stage.loss(module, batch, 0)["loss"].backward()
        optimiser.step()
    after = stage.validate(module.tiny)
    assert set(after) == {f"{name}_{key}" for name in ("pictures", "skeletons") for key in ("latent_error", "psnr")}
    assert after["pictures_latent_error"] < before["pictures_latent_error"]
    assert after["pictures_psnr"] > before["pictures_psnr"]
    assert stage.sheet(module.tiny).size[0] > 0


def test_public_weights_are_taken_as_they_are_without_steps(figures, tmp_path):
    torch.manual_seed(1)
    public = TinyAutoencoder(CONFIG.tiny)
    save_file({key: value.contiguous() for key, value in public.state_dict().items()}, tmp_path / "taesd.safetensors")
    vae = tmp_path / "vae.safetensors"
    save_file(KLAutoencoder(CONFIG.autoencoder).vae.state_dict(), vae)
    changes = [
        f"model.{part}.{key}={list(value) if isinstance(value, tuple) else value}"
        for part in ("autoencoder", "tiny")
        for key, value in vars(getattr(CONFIG, part)).items()
    ]
    files = [f"vae.init={vae}", f"tiny.init={tmp_path / 'taesd.safetensors'}", "vae.steps=0", "tiny.steps=0"]
    common = [
        f"data={figures}",
        f"out={tmp_path / 'run'}",
        "device=cpu",
        "tracker=none",
        "vae.perceptual=0",
        "vae.crop=32",
    ]
    main(["preset=market-128x64", "stages=[vae,tiny]", *files, *changes, *common])
    state = load_parts(tmp_path / "run" / "tiny.safetensors")[0]["tiny"]
    assert all(torch.equal(value, state[key]) for key, value in public.state_dict().items())
    with pytest.raises(InputError, match=r"tiny.steps = 0: nothing would be trained; give tiny.init"):
        stage_of(figures, tmp_path, steps=0)


def test_stages_that_use_it_wait_for_it_and_the_others_seeds_stay():
    paper = PRESETS["deepfashion-256x176"]
    assert stages_of(paper) == ("vae", "tiny", "estimator", "aligner", "reposedm")
    assert stages_of(with_inner(paper, "exact")) == ("vae", "estimator", "aligner", "reposedm")
    for config, wanted in ((paper, True), (with_inner(paper, "exact"), False), (PRESETS["mini-256"], False)):
        for name in ("aligner", "reposedm"):
            assert ("tiny" in stage_class(name, config).needs(config)) == wanted
    assert "tiny" not in stages_of(PRESETS["deepfashion-256x176-b1"])
    before = ("vae", "estimator", "aligner", "reposedm", "decoder", "reposesd")
    assert [SEEDS[name] for name in before] == list(range(6)) and set(SEEDS) == set(STAGES)


def test_the_aligner_s_cache_is_another_with_it(figures, tmp_path):
    from reposedm_core.networks import build_networks
    from tests.test_presets import small
    from training.data.people_set import People
    from training.stages.latent_cache import cache_latents

    people = People(figures, "train")
    config = small(PRESETS["deepfashion-256x176"], people.height, people.width)
    networks = build_networks(replace(config, aligner=replace(config.aligner, kernels=(0, 3))))
    pairs, own = people.fixed_pairs(2), (networks.autoencoder, networks.aligner, torch.device("cpu"), tmp_path)
    calls = []
    encode = networks.tiny.encode
    networks.tiny.encode = lambda x: calls.append(len(x)) or encode(x)
    with_it = cache_latents(people, pairs, *own, tiny=networks.tiny)
    assert calls == [2, 2, 2], "skeleton, source, and the picture as the first iteration warped it"
    cache_latents(people, pairs, *own)
    assert len(calls) == 3 and len(list(tmp_path.glob("latents.*.pt"))) == 2
    assert torch.equal(with_it.tensors["pose"], cache_latents(people, pairs, *own).tensors["pose"])
