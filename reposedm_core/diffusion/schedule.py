"""Noise schedule constants (eq. 1-2), computed once in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import ScheduleConfig
from ..errors import InputError


class DiffusionSchedule:
    """β_t, ᾱ_t and the posterior constants of DDPM for t = 0 … T-1 (t = 0 is the least noisy step)."""

    def __init__(self, config: ScheduleConfig):
        self.config, self.timesteps = config, config.timesteps
        if config.beta_schedule == "linear":
            beta = torch.linspace(config.beta_start, config.beta_end, config.timesteps, dtype=torch.float64)
        elif config.beta_schedule == "scaled_linear":
            beta = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.timesteps,
                                  dtype=torch.float64).square()
        else:
            raise InputError(f"schedule.beta_schedule = {config.beta_schedule!r}: known are linear, scaled_linear.")
        if config.prediction not in ("epsilon", "v_prediction"):
            raise InputError(f"schedule.prediction = {config.prediction!r}: known are epsilon, v_prediction.")
        self.beta = beta
        self.alpha_bar = torch.cumprod(1 - beta, 0)
        self.alpha_bar_previous = torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar[:-1]])
        # β̃_t, the posterior's variance; β̃_0 is 0, its logarithm is clipped to β̃_1 as in improved DDPM.
        self.posterior_variance = beta * (1 - self.alpha_bar_previous) / (1 - self.alpha_bar)
        clipped = torch.cat([self.posterior_variance[1:2], self.posterior_variance[1:]])
        self.log_beta, self.log_posterior_variance = beta.log(), clipped.log()
        self.mean_x0 = beta * self.alpha_bar_previous.sqrt() / (1 - self.alpha_bar)
        self.mean_xt = (1 - self.alpha_bar_previous) * (1 - beta).sqrt() / (1 - self.alpha_bar)

    def at(self, values: Tensor, t: Tensor, like: Tensor) -> Tensor:
        """values[t] as (B, 1, 1, 1) in the dtype and on the device of `like`; t (B,) int64."""
        return values[t.to(values.device)].to(like.dtype).to(like.device)[:, None, None, None]

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """y_t = √ᾱ_t y_0 + √(1-ᾱ_t) ε."""
        alpha_bar = self.at(self.alpha_bar, t, x0)
        return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network is asked for: ε, or v = √ᾱ ε - √(1-ᾱ) y_0."""
        if self.config.prediction == "epsilon":
            return noise
        alpha_bar = self.at(self.alpha_bar, t, x0)
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0

    def predict_x0(self, z: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """ŷ_0 of Tweedie's formula from the network's prediction at y_t = z."""
        alpha_bar = self.at(self.alpha_bar, t, z)
        if self.config.prediction == "epsilon":
            return (z - (1 - alpha_bar).sqrt() * prediction) / alpha_bar.sqrt()
        return alpha_bar.sqrt() * z - (1 - alpha_bar).sqrt() * prediction

    def posterior_mean(self, x0: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Mean of q(y_{t-1} | y_t, y_0)."""
        return self.at(self.mean_x0, t, z) * x0 + self.at(self.mean_xt, t, z) * z

    def log_variance(self, logits: Tensor, t: Tensor) -> Tensor:
        """log Σ_θ: the logits (-1 … 1) interpolate log β̃_t and log β_t, as in improved DDPM."""
        fraction = (logits + 1) / 2
        return (fraction * self.at(self.log_beta, t, logits)
                + (1 - fraction) * self.at(self.log_posterior_variance, t, logits))
