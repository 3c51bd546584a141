"""Noise schedule constants (eq. 1-2), computed once in float64, and the noise levels that samplers step through."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_tensor
from ..config import PREDICTIONS, ScheduleConfig
from ..errors import InputError

__all__ = ["PREDICTIONS", "DiffusionSchedule", "schedule_sigmas", "simple_sigmas", "timestep_of"]

WHOLE = (torch.int64, torch.int32, torch.int16, torch.uint8)


class DiffusionSchedule:
    """β_t, ᾱ_t and the posterior constants of DDPM for t = 0 … T-1 (t = 0 is the least noisy step).

    Methods take latents (B, C, h, w) of one shape and t (B,) int64; an `InputError` names what does not fit: nothing
    is broadcast.
    """

    def __init__(self, config: ScheduleConfig):
        self.config, self.timesteps = config, config.timesteps
        if config.beta_schedule == "linear":
            beta = torch.linspace(config.beta_start, config.beta_end, config.timesteps, dtype=torch.float64)
        else:
            beta = torch.linspace(
                config.beta_start**0.5, config.beta_end**0.5, config.timesteps, dtype=torch.float64
            ).square()
        self.beta = beta
        self.alpha_bar = torch.cumprod(1 - beta, 0)
        # Roots taken here: in half precision 1 - ᾱ of the first steps would be 0.
        self.root_alpha_bar, self.root_one_minus_alpha_bar = self.alpha_bar.sqrt(), (1 - self.alpha_bar).sqrt()
        self.alpha_bar_previous = torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar[:-1]])
        # β̃_t, the posterior's variance; β̃_0 is 0, its logarithm is clipped to β̃_1 as in improved DDPM.
        self.posterior_variance = beta * (1 - self.alpha_bar_previous) / (1 - self.alpha_bar)
        clipped = torch.cat([self.posterior_variance[1:2], self.posterior_variance[1:]])
        self.log_beta, self.log_posterior_variance = beta.log(), clipped.log()
        self.mean_x0 = beta * self.alpha_bar_previous.sqrt() / (1 - self.alpha_bar)
        self.mean_xt = (1 - self.alpha_bar_previous) * (1 - beta).sqrt() / (1 - self.alpha_bar)

    def each(self, values: Tensor, t: Tensor, count: int) -> Tensor:
        """values[t] as (count,) in float64 on the CPU; t (count,) integers in 0..T-1."""
        if t.shape != (count,) or t.dtype not in WHOLE:
            raise InputError(
                f"t has shape {tuple(t.shape)} and dtype {t.dtype}; expected ({count},) integers, one a picture."
            )
        t = t.to(values.device).long()
        if len(t) and not 0 <= int(t.min()) <= int(t.max()) < self.timesteps:
            raise InputError(f"t = {t.tolist()}: must be 0 to {self.timesteps - 1}.")
        return values[t]

    def at(self, values: Tensor, t: Tensor, like: Tensor) -> Tensor:
        """values[t] as (B, 1, 1, 1) in the dtype and on the device of `like`; t (B,) integers in 0..T-1."""
        return self.each(values, t, len(like)).to(like.dtype).to(like.device)[:, None, None, None]

    def roots(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1-ᾱ_t), each (B, 1, 1, 1)."""
        return self.at(self.root_alpha_bar, t, like), self.at(self.root_one_minus_alpha_bar, t, like)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The forward process of eq. 1 in closed form: y_t = √ᾱ_t y_0 + √(1-ᾱ_t) ε."""
        check_tensor(noise, "noise", "B C h w", check_tensor(x0, "x0", "B C h w"), like=x0)
        signal, spread = self.roots(t, x0)
        return signal * x0 + spread * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network is asked for: ε, or v = √ᾱ ε - √(1-ᾱ) y_0."""
        _same_shape(x0=x0, noise=noise)
        signal, spread = self.roots(t, x0)
        if self.config.prediction == "epsilon":
            return noise
        return signal * noise - spread * x0

    def predict_x0(self, z: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """ŷ_0 of Tweedie's formula from the network's prediction at y_t = z."""
        _same_shape(z=z, prediction=prediction)
        signal, spread = self.roots(t, z)
        if self.config.prediction == "epsilon":
            return (z - spread * prediction) / signal
        return signal * z - spread * prediction

    def predict_noise(self, z: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """ε_θ from the network's prediction at y_t = z; for an ε-network the prediction itself."""
        _same_shape(z=z, prediction=prediction)
        signal, spread = self.roots(t, z)
        if self.config.prediction == "epsilon":
            return prediction
        return signal * prediction + spread * z

    def posterior_mean(self, x0: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Mean of q(y_{t-1} | y_t, y_0), which eq. 2 samples from with ŷ_0."""
        _same_shape(x0=x0, z=z)
        return self.at(self.mean_x0, t, z) * x0 + self.at(self.mean_xt, t, z) * z

    def log_variance(self, logits: Tensor, t: Tensor) -> Tensor:
        """log Σ_θ: the logits interpolate log β̃_t (-1) and log β_t (1), and are not bounded, as in improved DDPM."""
        fraction = (logits + 1) / 2
        return fraction * self.at(self.log_beta, t, logits) + (1 - fraction) * self.at(
            self.log_posterior_variance, t, logits
        )


def _same_shape(**latents: Tensor) -> None:
    sizes: dict[str, int] = {}
    for name, value in latents.items():
        check_tensor(value, name, "B C h w", sizes)


def schedule_sigmas(schedule: DiffusionSchedule) -> Tensor:
    """σ_t = √((1-ᾱ_t)/ᾱ_t) for t = 0 … T-1, ascending, float32."""
    return ((1 - schedule.alpha_bar) / schedule.alpha_bar).sqrt().float()


def simple_sigmas(schedule: DiffusionSchedule, steps: int) -> Tensor:
    """`steps` noise levels evenly spaced in t from the noisiest down, then 0 (ComfyUI's scheduler "simple").

    Raises:
        InputError: steps is not in 1..T.
    """
    if not 1 <= steps <= schedule.timesteps:
        raise InputError(f"steps = {steps}: must be 1 to {schedule.timesteps}.")
    table = schedule_sigmas(schedule)
    stride = len(table) / steps
    return torch.cat([torch.stack([table[-(1 + int(i * stride))] for i in range(steps)]), table.new_zeros(1)])


def timestep_of(schedule: DiffusionSchedule, sigma: Tensor) -> Tensor:
    """The t whose σ_t is nearest in logarithm; sigma (B,) → (B,) int64."""
    log_table = schedule_sigmas(schedule).log().to(sigma.device)
    return (sigma.float().log()[:, None] - log_table).abs().argmin(1)
