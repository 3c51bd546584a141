"""Equations 3-4, L = L_mse + L_vlb: against torch.distributions, numeric integration and diffusers' schedulers."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch.distributions import Normal, kl_divergence

from reposedm_core.config import ScheduleConfig
from reposedm_core.diffusion.losses import gaussian_nll, normal_kl, training_loss, variational_bound
from reposedm_core.diffusion.schedule import PREDICTIONS, DiffusionSchedule
from reposedm_core.errors import InputError

SHAPE = (4, 3, 5, 2)
T = torch.tensor([0, 1, 500, 999])
SCHEDULES = [ScheduleConfig(), ScheduleConfig(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)]


def normal(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spread(log_variance: torch.Tensor) -> torch.Tensor:
    return (0.5 * log_variance).exp()


def test_normal_kl_is_the_closed_form():
    mean_a, log_a, mean_b, log_b = (normal(seed) for seed in range(4))
    truth = kl_divergence(Normal(mean_a, spread(log_a)), Normal(mean_b, spread(log_b)))
    torch.testing.assert_close(normal_kl(mean_a, log_a, mean_b, log_b), truth)
    assert normal_kl(mean_a, log_a, mean_a, log_a).abs().max() == 0


def test_normal_kl_is_the_integral_that_defines_it():
    for mean_a, log_a, mean_b, log_b in torch.tensor([[0.3, -1.0, -0.2, 0.5], [0.0, 0.4, 1.5, -0.7]]).double():
        x = torch.linspace(-30, 30, 200_001, dtype=torch.float64)
        a, b = Normal(mean_a, spread(log_a)), Normal(mean_b, spread(log_b))
        integral = torch.trapezoid(a.log_prob(x).exp() * (a.log_prob(x) - b.log_prob(x)), x)
        torch.testing.assert_close(normal_kl(mean_a, log_a, mean_b, log_b), integral, rtol=1e-8, atol=1e-8)


def test_the_likelihood_is_that_of_torch():
    x, mean, log_variance = (normal(seed) for seed in range(3))
    torch.testing.assert_close(gaussian_nll(x, mean, log_variance), -Normal(mean, spread(log_variance)).log_prob(x))


def test_variational_bound_is_the_divergence_and_at_the_last_step_the_likelihood():
    schedule = DiffusionSchedule(ScheduleConfig())
    x0, z, mean, log_variance = normal(0), normal(1), normal(2), normal(3) - 4
    bits = variational_bound(schedule, x0, z, T, mean, log_variance)
    model = Normal(mean, spread(log_variance))
    assert bits.shape == (4,)
    likelihood = -model.log_prob(x0)[0].mean() / math.log(2)
    torch.testing.assert_close(bits[0], likelihood)
    for i in (1, 2, 3):
        beta, before, now = schedule.beta[T[i]], schedule.alpha_bar_previous[T[i]], schedule.alpha_bar[T[i]]
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
def test_learned_variance_interpolates_as_in_diffusers(config):
    ours = DiffusionSchedule(config)
    theirs = DDPMScheduler(
        num_train_timesteps=config.timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
        clip_sample=False,
        variance_type="learned_range",
    )
    # In float32 1 − ᾱ_1 is only good to 1e-3.
    theirs.alphas = 1 - theirs.betas.double()
    theirs.alphas_cumprod = theirs.alphas.cumprod(0)
    logits = torch.tensor([-1, -0.3, 0.4, 1, 3, -5], dtype=torch.float64).view(1, 6, 1, 1)  # they have no bounds
    for level in (1, 37, 500, 999):
        found = ours.log_variance(logits, torch.tensor([level]))
        torch.testing.assert_close(found, theirs._get_variance(level, predicted_variance=logits), atol=1e-5, rtol=1e-5)
        ends = torch.stack([ours.log_posterior_variance[level], ours.log_beta[level]])
        torch.testing.assert_close(found.flatten()[[0, 3]], ends)
    first = ours.log_variance(logits, torch.tensor([0])).flatten()
    assert first[0] == ours.log_posterior_variance[1], "log β̃_0 = −∞ is clipped to log β̃_1"


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_training_loss_is_the_sum_as_written(prediction):
    schedule = DiffusionSchedule(ScheduleConfig(prediction=prediction))
    x0, noise, output, logits = (normal(seed) for seed in range(4))
    z = schedule.add_noise(x0, noise, T)
    values = training_loss(schedule, x0, noise, z, T, output, logits, vlb_weight=0.3)
    a = schedule.alpha_bar[T].view(-1, 1, 1, 1)
    wanted = noise if prediction == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * x0
    mse = ((output - wanted) ** 2).mean()
    clean = a.sqrt() * z - (1 - a).sqrt() * output
    if prediction == "epsilon":
        clean = (z - (1 - a).sqrt() * output) / a.sqrt()
    bound = variational_bound(
        schedule, x0, z, T, schedule.posterior_mean(clean, z, T), schedule.log_variance(logits, T)
    ).mean()
    torch.testing.assert_close(values["mse"], mse)
    torch.testing.assert_close(values["vlb"], bound)
    torch.testing.assert_close(values["loss"], mse + 0.3 * bound)
    alone = training_loss(schedule, x0, noise, z, T, output, None, vlb_weight=0.3)
    assert set(alone) == {"loss", "mse"} and torch.equal(alone["loss"], mse)


def test_only_the_variance_learns_from_the_bound():
    """L_vlb sees a detached mean, and L_mse no variance."""
    schedule = DiffusionSchedule(ScheduleConfig())
    x0, noise = normal(0), normal(1)
    output, logits = normal(2).requires_grad_(True), normal(3).requires_grad_(True)
    z = schedule.add_noise(x0, noise, T)

    def slopes(weight):
        loss = training_loss(schedule, x0, noise, z, T, output, logits, weight)["loss"]
        return torch.autograd.grad(loss, (output, logits), allow_unused=True)

    (alone, nothing), (both, learned) = slopes(0.0), slopes(10.0)
    assert nothing is None and learned.abs().max() > 0
    assert torch.equal(alone, both)


def test_gradients_of_the_hand_written_terms():
    schedule = DiffusionSchedule(ScheduleConfig())
    x0, z, mean, log_variance = (normal(seed) * 0.5 for seed in range(4))
    mean.requires_grad_(True), log_variance.requires_grad_(True)
    # The schedule's times of the KL: at t = 1 its curvature is beyond finite differences.
    t = torch.tensor([0, 300, 500, 999])
    assert torch.autograd.gradcheck(lambda m, v: variational_bound(schedule, x0, z, t, m, v), (mean, log_variance))
    assert torch.autograd.gradcheck(normal_kl, (mean, log_variance, z, x0))


def test_a_batch_is_its_examples_one_by_one():
    schedule = DiffusionSchedule(ScheduleConfig())
    values = [normal(seed) for seed in range(4)]
    together = variational_bound(schedule, values[0], values[1], T, *values[2:])
    alone = [
        variational_bound(
            schedule, *(v[i : i + 1] for v in values[:2]), T[i : i + 1], *(v[i : i + 1] for v in values[2:])
        )
        for i in range(4)
    ]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mean", lambda v: v[:, :2], r"mean has shape \(4, 2, 5, 2\)"),
        ("z", lambda v: v.float(), "z .*float32"),
        ("log_variance", lambda v: v[0], r"log_variance has shape \(3, 5, 2\)"),
        ("x0", lambda v: v[:0], r"x0 has shape \(0, 3, 5, 2\): axis B"),
        ("t", lambda v: v + 1, "t = .*must be 0 to 999"),
        ("t", lambda v: v[:2], r"t has shape \(2,\)"),
    ],
)
def test_what_does_not_fit_is_named(name, change, message):
    values = {n: normal(i) for i, n in enumerate(("x0", "z", "mean", "log_variance"))} | {"t": T}
    values[name] = change(values[name])
    with pytest.raises(InputError, match=message):
        variational_bound(DiffusionSchedule(ScheduleConfig()), **values)
