"""The stage of Stable Diffusion's autoencoder: public weights as a start or a result, its loss, and what learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from reposedm_core.checkpoint import load_parts, save_model
from reposedm_core.config import AutoencoderConfig, ModelConfig, to_dict
from reposedm_core.diffusion.autoencoder import KLAutoencoder
from reposedm_core.diffusion.ldm_layout import vae_to_ldm
from reposedm_core.errors import InputError
from training.engine.settings import VaeSettings
from training.metrics.perceptual import perceptual_distance
from training.stages.vae_kl import LEAST_FEATURE, KLVaeStage, Reconstruction
from training.train import main

CONFIG = ModelConfig(autoencoder=AutoencoderConfig(kind="kl", channels=4, widths=(8, 8, 8, 16), scaling=0.5))


def stage_of(root, out, **settings):
    stage = KLVaeStage(CONFIG, VaeSettings(crop=32, **settings), root, out, {}, torch.device("cpu"))
    stage.prepare(True)
    return stage


@pytest.fixture(scope="module")
def public():
    """An autoencoder as somebody else trained it: all weights random."""
    torch.manual_seed(0)
    network = KLAutoencoder(CONFIG.autoencoder)
    for weight in network.parameters():
        weight.data.add_(0.05 * torch.randn_like(weight))
    return network.eval()


def batch_of(stage, count=4):
    return stage.load(stage.plan(np.random.default_rng(0), count))


def same(a, b):
    return all(torch.equal(value, b[key]) for key, value in a.items())


@pytest.mark.parametrize("layout", ["diffusers", "ldm", "own"])
def test_weights_of_a_file_are_the_start(figures, tmp_path, public, layout):
    state, path = public.vae.state_dict(), tmp_path / "vae.safetensors"
    if layout == "own":
        save_model(path, {"autoencoder": public}, to_dict(CONFIG), dtype=torch.float32)
    else:
        save_file(
            state
            if layout == "diffusers"
            else {f"first_stage_model.{key}": value for key, value in vae_to_ldm(state, CONFIG.autoencoder).items()},
            path,
        )
    stage = stage_of(figures, tmp_path, perceptual=0)
    module = stage.build()
    assert not same(public.state_dict(), module.autoencoder.state_dict())
    stage.start_from(module, path)
    assert same(public.state_dict(), stage.part_of(module).state_dict())


def test_a_file_of_other_sizes_is_refused_by_name(figures, tmp_path):
    save_file(KLAutoencoder(replace(CONFIG.autoencoder, channels=8)).vae.state_dict(), tmp_path / "vae.safetensors")
    stage = stage_of(figures, tmp_path, perceptual=0)
    with pytest.raises(InputError, match=r"vae\.init: vae\.safetensors does not fit"):
        stage.start_from(stage.build(), tmp_path / "vae.safetensors")


def test_the_loss_is_the_written_one(figures, tmp_path, public):
    stage = stage_of(figures, tmp_path, perceptual=0, kl=0.25)
    batch = batch_of(stage)
    assert batch["images"].shape == (4, 3, 32, 32) and batch["noise"].shape == (4, 4, 4, 4)
    with torch.no_grad():
        values = stage.loss(Reconstruction(public), batch, 0)
        found = public.vae.encode(batch["images"]).latent_dist
        posterior = torch.distributions.Normal(found.mean, found.std)
        pictures = public.vae.decode(posterior.mean + posterior.stddev * batch["noise"]).sample
        divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    difference = pictures - batch["images"]
    torch.testing.assert_close(values["kl"], divergence.sum() / batch["images"].numel())
    torch.testing.assert_close(
        values["loss"], difference.abs().mean() + difference.square().mean() + 0.25 * values["kl"]
    )


def test_a_batch_s_loss_is_the_mean_of_its_examples(figures, tmp_path, public):
    stage = stage_of(figures, tmp_path)
    batch = batch_of(stage)
    with torch.no_grad():
        whole = stage.loss(Reconstruction(public), batch, 0)
        parts = [stage.loss(Reconstruction(public), {k: v[i : i + 1] for k, v in batch.items()}, 0) for i in range(4)]
    for name, value in whole.items():
        torch.testing.assert_close(value, torch.stack([part[name] for part in parts]).mean(), rtol=1e-4, atol=1e-5)
    assert whole["perceptual"] > 0.05


@pytest.mark.parametrize("encoder", [True, False])
def test_training_brings_the_loss_down_and_a_frozen_encoder_stays(figures, tmp_path, encoder):
    stage = stage_of(figures, tmp_path, train_encoder=encoder)
    torch.manual_seed(0)
    module = stage.build().train()
    before = {key: value.clone() for key, value in module.autoencoder.state_dict().items()}
    optimiser = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], 2e-3)
    batch, losses = batch_of(stage), []
    for step in range(15):
        loss = stage.loss(module, batch, step)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    moved = {key for key, value in module.autoencoder.state_dict().items() if not torch.equal(value, before[key])}
    assert any(".decoder." in key for key in moved)
    assert any(".encoder." in key for key in moved) == encoder


def test_features_without_direction_have_a_finite_gradient():
    dead = torch.zeros(1, 8, 2, 2, requires_grad=True)
    perceptual_distance([dead], [torch.rand(1, 8, 2, 2)], LEAST_FEATURE).sum().backward()
    assert torch.isfinite(dead.grad).all() and dead.grad.abs().max() < 2 / LEAST_FEATURE


def test_validation_names_its_measures(figures, tmp_path, public):
    with torch.no_grad():
        values = stage_of(figures, tmp_path).validate(public)
    assert set(values) == {
        f"{a}_{b}" for a in ("pictures", "skeletons") for b in ("psnr", "perceptual", "latent_deviation")
    }
    assert all(np.isfinite(list(values.values()))) and values["pictures_psnr"] > 0


def test_no_steps_take_public_weights_as_they_are(figures, tmp_path, public):
    save_file(public.vae.state_dict(), tmp_path / "public.safetensors")
    arguments = [
        "preset=market-128x64",
        f"data={figures}",
        f"out={tmp_path}",
        "stages=[vae]",
        "device=cpu",
        "tracker=none",
        "model.autoencoder.widths=[8,8,8,16]",
        "model.autoencoder.scaling=0.5",
        "vae.crop=32",
        "vae.steps=0",
    ]
    assert main(arguments) == 2, "no weights were given"
    assert main([*arguments, f"vae.init={tmp_path / 'public.safetensors'}"]) == 0
    parts, header = load_parts(tmp_path / "vae.safetensors")
    assert header["parts"] == ["autoencoder"] and same(public.state_dict(), parts["autoencoder"])


@pytest.mark.parametrize(("crop", "message"), [(20, "vae.crop = 20: must be a multiple of .* 8"), (0, "vae.crop = 0")])
def test_a_crop_that_does_not_fit_is_named(figures, tmp_path, crop, message):
    stage = KLVaeStage(CONFIG, VaeSettings(crop=crop), figures, tmp_path, {}, torch.device("cpu"))
    with pytest.raises(InputError, match=message):
        stage.prepare(True)
