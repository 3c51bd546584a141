"""Ancestral sampling with the learned variance (eq. 2, 4): with the exact model of Gaussian data it is exact.

For data N(μ, v) every reverse step p(y_s | y_t) is a Gaussian whose variance lies between β̃ and β: the logits of eq. 4
can say it, and then any number of steps gives the data's own mean and variance.
"""

from __future__ import annotations

import pytest
import torch

from reposedm_core.config import ScheduleConfig
from reposedm_core.diffusion.sampler import Denoised, initial_latent, sample_ancestral, schedule_sigmas, simple_sigmas
from reposedm_core.diffusion.schedule import DiffusionSchedule

SCHEDULE = DiffusionSchedule(ScheduleConfig())
MEAN = 0.4


class Exact:
    """ŷ_0 = E[y_0 | y_t], and the logits of Var[y_s | y_t] for the level s that comes after t in `sigmas`."""

    def __init__(self, variance: float, sigmas: torch.Tensor):
        self.variance, self.sigmas = variance, sigmas.double()

    def __call__(self, x, sigma):
        square = sigma.double()[:, None, None, None] ** 2
        x0 = (self.variance * x + square * MEAN) / (self.variance + square)
        level, after = float(sigma[0]), float(self.sigmas[self.sigmas < float(sigma[0]) - 1e-9].max())
        alpha_t, alpha_s = 1 / (1 + level**2), 1 / (1 + after**2)
        beta = 1 - alpha_t / alpha_s
        least = beta * (1 - alpha_s) / (1 - alpha_t)
        before = alpha_s * self.variance + 1 - alpha_s  # Var[y_s]
        wanted = before * beta / ((1 - beta) * before + beta)  # Var[y_s | y_t], by Bayes' rule
        logit = 0.0
        if after > 0:
            low, high, log = (torch.tensor(v, dtype=torch.float64).log() for v in (least, beta, wanted))
            logit = float(2 * (log - low) / (high - low) - 1)
            assert -1 - 1e-9 <= logit <= 1 + 1e-9
        return Denoised(x0, torch.full_like(x0, logit))


def spread_levels(steps: int) -> torch.Tensor:
    """From pure noise down to t = 0, so that the last step, which adds no noise, loses next to nothing."""
    t = torch.linspace(SCHEDULE.timesteps - 1, 0, steps).round().long()
    return torch.cat([schedule_sigmas(SCHEDULE)[t], torch.zeros(1)])


def draw(variance: float, sigmas: torch.Tensor, model=None) -> torch.Tensor:
    start = torch.randn(64, 1, 40, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return sample_ancestral(
        model or Exact(variance, sigmas),
        initial_latent(start, sigmas[0].double()),
        sigmas.double(),
        generator=torch.Generator().manual_seed(2),
    )


@pytest.mark.parametrize("variance", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("steps", [3, 10, 100])
def test_exact_model_gives_the_data_s_mean_and_variance(variance, steps):
    result = draw(variance, spread_levels(steps))
    error = (variance / result.numel()) ** 0.5
    assert float(result.mean()) == pytest.approx(MEAN, abs=5 * error + 1e-3)
    assert float(result.var()) == pytest.approx(variance, rel=0.02)


def test_both_ends_of_the_logits():
    """Data that are a point need β̃, those that are N(0, 1) need β; the other end is too narrow, or too wide."""
    sigmas = spread_levels(8)

    def with_logit(variance, logit):
        exact = Exact(variance, sigmas)
        return draw(variance, sigmas, lambda x, sigma: Denoised(exact(x, sigma).x0, torch.full_like(x, logit)))

    unit = [float(with_logit(1.0, logit).var()) for logit in (-1.0, 1.0)]
    assert unit[1] == pytest.approx(1.0, rel=0.02) and unit[0] < 0.9
    point = [float(with_logit(1e-6, logit).var()) for logit in (-1.0, 1.0)]
    assert point[0] < 1e-3
    without = draw(1.0, sigmas, lambda x, sigma: Denoised(Exact(1.0, sigmas)(x, sigma).x0))
    torch.testing.assert_close(without, with_logit(1.0, -1.0))


@pytest.mark.parametrize("logit", [0.3, 3.0, -4.0])
def test_the_mean_of_a_step_is_the_posterior_s(logit):
    """One step between neighbours of the schedule: eq. 2's mean with ŷ_0, and Σ_θ of eq. 4, its logits unbounded."""
    sigmas, level = schedule_sigmas(SCHEDULE).double(), 400
    seen = []
    x0, logits = torch.full((2, 3, 4, 4), 0.7).double(), torch.full((2, 3, 4, 4), logit).double()

    def model(x, sigma):
        seen.append(x)
        return Denoised(x0, logits)

    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    pair = torch.stack([sigmas[level], sigmas[level - 1], torch.zeros(()).double()])
    sample_ancestral(model, x, pair, generator=torch.Generator().manual_seed(5))
    t = torch.full((2,), level)
    y = x * SCHEDULE.root_alpha_bar[level]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5)).double()
    expected = SCHEDULE.posterior_mean(x0, y, t) + (0.5 * SCHEDULE.log_variance(logits, t)).exp() * noise
    torch.testing.assert_close(seen[1] * SCHEDULE.root_alpha_bar[level - 1], expected, atol=1e-6, rtol=1e-6)


def test_the_default_levels_lose_only_the_last_step_s_variance():
    """On "simple" levels the last step hands back ŷ_0: what is missing is E Var[y_0 | y_t] of its level."""
    variance, sigmas = 0.5, simple_sigmas(SCHEDULE, 50)
    last = float(sigmas[-2]) ** 2
    result = draw(variance, sigmas)
    assert float(result.var()) == pytest.approx(variance - variance * last / (variance + last), rel=0.02)
