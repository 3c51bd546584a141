"""Equations 1-2, the forward process and the reverse step: against noise added step by step, and diffusers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from reposedm_core.config import ScheduleConfig
from reposedm_core.diffusion.sampler import Denoised, initial_latent, sample_ddim, simple_sigmas, timestep_of
from reposedm_core.diffusion.schedule import PREDICTIONS, DiffusionSchedule, schedule_sigmas
from reposedm_core.errors import InputError

SHAPE = (4, 3, 5, 2)
SCHEDULES = [ScheduleConfig(), ScheduleConfig(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)]


def normal(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def peer(kind, config: ScheduleConfig, **options):
    """A scheduler of diffusers with its own β, accumulated in float64: in float32 1 − ᾱ_1 is only good to 1e-3."""
    scheduler = kind(
        num_train_timesteps=config.timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
        clip_sample=False,
        **options,
    )
    scheduler.alphas = 1 - scheduler.betas.double()
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    return scheduler


@pytest.mark.parametrize("config", SCHEDULES, ids=lambda config: config.beta_schedule)
def test_closed_form_is_the_process_step_by_step(config):
    """q(y_t | y_{t-1}) = N(√(1-β_t) y_{t-1}, β_t I), applied t times, has the closed form's mean and variance."""
    schedule = DiffusionSchedule(config)
    x0, mean, variance = normal(0), normal(0), 0.0
    for level in range(config.timesteps):
        beta = float(schedule.beta[level])
        mean, variance = (1 - beta) ** 0.5 * mean, (1 - beta) * variance + beta
        if level in (0, 1, 99, 500, 999):
            t = torch.full((4,), level)
            torch.testing.assert_close(schedule.add_noise(x0, torch.zeros_like(x0), t), mean)
            spread = schedule.add_noise(torch.zeros_like(x0), torch.ones_like(x0), t)
            torch.testing.assert_close(spread, torch.full_like(x0, variance**0.5))


def test_posterior_is_bayes_rule():
    """q(y_{t-1} | y_t, y_0) ∝ q(y_t | y_{t-1}) q(y_{t-1} | y_0), the product of two Gaussians."""
    schedule = DiffusionSchedule(ScheduleConfig())
    x0, z = normal(0), normal(1)
    for level in (1, 2, 50, 999):
        beta, before = float(schedule.beta[level]), float(schedule.alpha_bar[level - 1])
        precision = (1 - beta) / beta + 1 / (1 - before)
        mean = ((1 - beta) ** 0.5 / beta * z + before**0.5 / (1 - before) * x0) / precision
        torch.testing.assert_close(schedule.posterior_mean(x0, z, torch.full((4,), level)), mean)
        assert float(schedule.posterior_variance[level]) == pytest.approx(1 / precision, rel=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("config", SCHEDULES, ids=lambda config: config.beta_schedule)
@pytest.mark.parametrize("level", [0, 1, 37, 500, 999])
def test_posterior_is_that_of_diffusers(config, level, prediction):
    config = dataclasses.replace(config, prediction=prediction)
    ours = DiffusionSchedule(config)
    theirs = peer(DDPMScheduler, config, variance_type="fixed_small", prediction_type=prediction)
    theirs.set_timesteps(config.timesteps)
    x0, noise, t = normal(0), normal(1), torch.full((4,), level)
    z = ours.add_noise(x0, noise, t)
    torch.testing.assert_close(z, theirs.add_noise(x0, noise, t), atol=1e-5, rtol=1e-5)
    target = ours.target(x0, noise, t)
    if prediction == "v_prediction":
        torch.testing.assert_close(target, theirs.get_velocity(x0, noise, t), atol=1e-5, rtol=1e-5)
    variance = ours.posterior_variance[level]
    # their step adds noise of the posterior's variance to the mean, except at the last one
    step = theirs.step(target, level, z, generator=torch.Generator().manual_seed(7))
    added = normal(7) * variance.sqrt() if level else 0
    torch.testing.assert_close(ours.posterior_mean(x0, z, t), step.prev_sample - added, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.predict_x0(z, target, t), step.pred_original_sample, atol=1e-5, rtol=1e-5)
    assert float(theirs._get_variance(level)) == pytest.approx(max(float(variance), 1e-20), rel=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_target_gives_back_picture_and_noise(prediction):
    schedule = DiffusionSchedule(ScheduleConfig(prediction=prediction))
    x0, noise, t = normal(0), normal(1), torch.tensor([0, 10, 500, 999])
    z, target = schedule.add_noise(x0, noise, t), schedule.target(x0, noise, t)
    torch.testing.assert_close(schedule.predict_x0(z, target, t), x0, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(schedule.predict_noise(z, target, t), noise, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_half_precision_keeps_the_first_steps(dtype, prediction):
    """1 - ᾱ_0 = 1e-4 is nothing beside 1 in half precision; its root, 0.01, is a number like any other."""
    schedule = DiffusionSchedule(ScheduleConfig(prediction=prediction))
    x0, noise, t = normal(0), normal(1), torch.tensor([0, 1, 100, 500])
    exact = schedule.target(x0, noise, t), schedule.roots(t, x0)[1], schedule.add_noise(x0, noise, t)
    half = (
        schedule.target(x0.to(dtype), noise.to(dtype), t),
        schedule.roots(t, x0.to(dtype))[1],
        schedule.add_noise(x0.to(dtype), noise.to(dtype), t),
    )
    for a, b in zip(exact, half, strict=True):
        assert b.dtype == dtype
        torch.testing.assert_close(b.double(), a, atol=8 * torch.finfo(dtype).eps, rtol=8 * torch.finfo(dtype).eps)


def toy(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A smooth network of the sample, its neighbours and the time."""
    return torch.tanh(0.7 * z.roll(1, 1) + 0.3 * z.roll(1, -1) - 0.2) * (0.5 + t.to(z).view(-1, 1, 1, 1) / 1000)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 4, 10, 50])
def test_ddim_is_that_of_diffusers(prediction, steps):
    config = ScheduleConfig(prediction=prediction)
    schedule = DiffusionSchedule(config)
    theirs = peer(DDIMScheduler, config, prediction_type=prediction, timestep_spacing="trailing", set_alpha_to_one=True)
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


def test_noise_levels_and_times_are_each_other_s_inverse():
    schedule = DiffusionSchedule(ScheduleConfig())
    sigmas = schedule_sigmas(schedule)
    assert torch.equal(timestep_of(schedule, sigmas), torch.arange(1000))
    assert torch.equal(simple_sigmas(schedule, 1000), torch.cat([sigmas.flip(0), torch.zeros(1)]))


METHODS = ("add_noise", "target", "predict_x0", "predict_noise", "posterior_mean")


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "t", [[0, 1, 2, 1000], [-1, 0, 0, 0], [0, 1], [0], [0.5] * 4, [[0], [1], [2], [3]], [True, False, True, False]]
)
def test_times_that_do_not_fit_are_named(method, t, prediction):
    schedule = DiffusionSchedule(ScheduleConfig(prediction=prediction))
    with pytest.raises(InputError, match=r"^t (=|has)"):
        getattr(schedule, method)(normal(0), normal(1), torch.tensor(t))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1, 3, 5, 2), (4, 1, 5, 2), (4, 3, 1, 1), (4, 3, 5, 3), (3, 5, 2)])
def test_nothing_is_broadcast(method, shape, prediction):
    schedule = DiffusionSchedule(ScheduleConfig(prediction=prediction))
    with pytest.raises(InputError, match=rf"has shape \({', '.join(map(str, shape))}\)"):
        getattr(schedule, method)(normal(0), torch.zeros(shape).double(), torch.tensor([0, 1, 2, 3]))


@pytest.mark.parametrize(
    ("noise", "named"),
    [
        (torch.zeros(3, *SHAPE[1:], dtype=torch.float64), r"noise has shape \(3, 3, 5, 2\); expected .* B = 4"),
        (torch.zeros(SHAPE), "noise .*float32 .*expected torch.float64"),
        (torch.zeros(SHAPE, dtype=torch.int64), "noise .*int64"),
    ],
)
def test_noise_that_does_not_fit_is_named(noise, named):
    with pytest.raises(InputError, match=named):
        DiffusionSchedule(ScheduleConfig()).add_noise(normal(0), noise, torch.zeros(4, dtype=torch.int64))


def test_an_empty_batch_is_named():
    empty = torch.zeros(0, 3, 5, 2)
    with pytest.raises(InputError, match=r"x0 has shape \(0, 3, 5, 2\): axis B"):
        DiffusionSchedule(ScheduleConfig()).add_noise(empty, empty, torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"beta_schedule": "cosine"}, "beta_schedule = 'cosine'"),
        ({"prediction": "flow"}, "prediction = 'flow'"),
        ({"timesteps": 0}, "timesteps = 0"),
        ({"beta_end": 1.5}, "beta_end = 1.5: must rise"),
        ({"beta_start": 0.5}, "must rise"),
    ],
)
def test_schedules_that_do_not_exist_are_refused(change, named):
    with pytest.raises(InputError, match=named):
        DiffusionSchedule(dataclasses.replace(ScheduleConfig(), **change))
