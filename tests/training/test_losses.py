"""Losses and the constants under them, against torch.distributions and diffusers' schedulers."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch.distributions import Normal, kl_divergence

from reposedm_core.config import ScheduleConfig
from reposedm_core.diffusion.sampler import Denoised, initial_latent, sample_ddim, simple_sigmas, timestep_of
from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.diffusion.losses import normal_kl, variational_bound

SHAPE = (4, 3, 5, 2)
SCHEDULES = [ScheduleConfig(), ScheduleConfig(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)]


def normal(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def peer(kind, config: ScheduleConfig, **options):
    """A scheduler of diffusers with its own β, accumulated in float64: in float32 1 − ᾱ_1 is only good to 1e-3."""
    scheduler = kind(num_train_timesteps=config.timesteps, beta_start=config.beta_start, beta_end=config.beta_end,
                     beta_schedule=config.beta_schedule, clip_sample=False, **options)
    scheduler.alphas = 1 - scheduler.betas.double()
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    return scheduler


def spread(log_variance: torch.Tensor) -> torch.Tensor:
    return (0.5 * log_variance).exp()


def test_normal_kl_is_the_closed_form():
    mean_a, log_a, mean_b, log_b = (normal(seed) for seed in range(4))
    truth = kl_divergence(Normal(mean_a, spread(log_a)), Normal(mean_b, spread(log_b)))
    torch.testing.assert_close(normal_kl(mean_a, log_a, mean_b, log_b), truth)
    assert normal_kl(mean_a, log_a, mean_a, log_a).abs().max() == 0


def test_variational_bound_is_the_divergence_and_at_the_last_step_the_likelihood():
    schedule = DiffusionSchedule(ScheduleConfig())
    x0, z, mean, log_variance = normal(0), normal(1), normal(2), normal(3) - 4
    t = torch.tensor([0, 1, 500, 999])
    bits = variational_bound(schedule, x0, z, t, mean, log_variance)
    model = Normal(mean, spread(log_variance))
    assert bits.shape == (4,)
    likelihood = -model.log_prob(x0)[0].mean() / math.log(2)
    torch.testing.assert_close(bits[0], likelihood)
    for i in (1, 2, 3):
        beta, before, now = schedule.beta[t[i]], schedule.alpha_bar_previous[t[i]], schedule.alpha_bar[t[i]]
        centre = (before.sqrt() * beta * x0[i] + (1 - beta).sqrt() * (1 - before) * z[i]) / (1 - now)
        posterior = Normal(centre, (beta * (1 - before) / (1 - now)).sqrt())
        truth = kl_divergence(posterior, Normal(mean[i], spread(log_variance)[i])).mean() / math.log(2)
        torch.testing.assert_close(bits[i], truth)


def test_variational_bound_is_least_at_the_posterior():
    schedule = DiffusionSchedule(ScheduleConfig())
    x0, z, t = normal(0), normal(1), torch.tensor([3, 200, 600, 998])
    mean = schedule.posterior_mean(x0, z, t)
    log_variance = schedule.at(schedule.log_posterior_variance, t, z).expand_as(z).clone().requires_grad_(True)
    bound = variational_bound(schedule, x0, z, t, mean, log_variance)
    torch.testing.assert_close(bound.detach(), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)
    (slope,) = torch.autograd.grad(bound.sum(), log_variance)
    assert slope.abs().max() < 1e-12
    assert (variational_bound(schedule, x0, z, t, mean, log_variance + 0.1) > 1e-4).all()
    assert (variational_bound(schedule, x0, z, t, mean + 0.1, log_variance) > 1e-4).all()


@pytest.mark.parametrize("config", SCHEDULES, ids=lambda config: config.beta_schedule)
@pytest.mark.parametrize("level", [0, 1, 37, 500, 999])
def test_posterior_is_that_of_diffusers(config, level):
    ours, theirs = DiffusionSchedule(config), peer(DDPMScheduler, config, variance_type="fixed_small")
    theirs.set_timesteps(config.timesteps)
    x0, noise, t = normal(0), normal(1), torch.full((4,), level)
    z = ours.add_noise(x0, noise, t)
    torch.testing.assert_close(z, theirs.add_noise(x0, noise, t), atol=1e-5, rtol=1e-5)
    variance = ours.posterior_variance[level]
    # their step adds noise of the posterior's variance to the mean, except at the last one
    stepped = theirs.step(noise, level, z, generator=torch.Generator().manual_seed(7)).prev_sample
    added = normal(7) * variance.sqrt() if level else 0
    torch.testing.assert_close(ours.posterior_mean(x0, z, t), stepped - added, atol=1e-5, rtol=1e-5)
    assert float(theirs._get_variance(level)) == pytest.approx(max(float(variance), 1e-20), rel=1e-5)


@pytest.mark.parametrize("config", SCHEDULES, ids=lambda config: config.beta_schedule)
def test_learned_variance_interpolates_as_in_diffusers(config):
    ours, theirs = DiffusionSchedule(config), peer(DDPMScheduler, config, variance_type="learned_range")
    logits = torch.linspace(-1, 1, 5, dtype=torch.float64).view(1, 5, 1, 1)
    for level in (1, 37, 500, 999):
        found = ours.log_variance(logits, torch.tensor([level]))
        torch.testing.assert_close(found, theirs._get_variance(level, predicted_variance=logits), atol=1e-5, rtol=1e-5)
        ends = torch.stack([ours.log_posterior_variance[level], ours.log_beta[level]])
        torch.testing.assert_close(found.flatten()[[0, -1]], ends)
    first = ours.log_variance(logits, torch.tensor([0])).flatten()
    assert first[0] == ours.log_posterior_variance[1], "log β̃_0 = −∞ is clipped to log β̃_1"


def toy(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A smooth network of the sample, its neighbours and the time."""
    return torch.tanh(0.7 * z.roll(1, 1) + 0.3 * z.roll(1, -1) - 0.2) * (0.5 + t.to(z).view(-1, 1, 1, 1) / 1000)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 4, 10, 50])
def test_ddim_is_that_of_diffusers(prediction, steps):
    config = ScheduleConfig(prediction=prediction)
    schedule = DiffusionSchedule(config)
    theirs = peer(DDIMScheduler, config, prediction_type=prediction, timestep_spacing="trailing",
                  set_alpha_to_one=True)
    theirs.set_timesteps(steps)
    seen = []

    def model(x, sigma):
        t = timestep_of(schedule, sigma)
        seen.append(int(t[0]))
        z = x / (sigma.view(-1, 1, 1, 1) ** 2 + 1).sqrt()
        return Denoised(schedule.predict_x0(z, toy(z, t), t))

    noise = normal(0)
    sigmas = simple_sigmas(schedule, steps)
    found = sample_ddim(model, initial_latent(noise, sigmas[0].double()), sigmas.double())
    truth = noise
    for t in theirs.timesteps:
        truth = theirs.step(toy(truth, t.expand(len(truth))), t, truth).prev_sample
    assert seen == theirs.timesteps.tolist()
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-5)
