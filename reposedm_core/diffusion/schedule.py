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
    is broadcast. `at`, `roots` and `tweedie`, which every step of a sampling asks, trust what they are given, and work
    on the device of t without making the host wait for it.
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
        self.log_sigmas = schedule_sigmas(self).log()
        self._moved: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def check_times(self, t: Tensor, count: int) -> None:
        """Raise an `InputError` unless t is (count,) integers in 0..T-1; reads them."""
        if t.shape != (count,) or t.dtype not in WHOLE:
            raise InputError(
                f"t has shape {tuple(t.shape)} and dtype {t.dtype}; expected ({count},) integers, one per picture."
            )
        if len(t) and not 0 <= int(t.min()) <= int(t.max()) < self.timesteps:
            raise InputError(f"t = {t.tolist()}: must be 0 to {self.timesteps - 1}.")

    def table(self, values: Tensor, device: torch.device, dtype: torch.dtype = torch.float64) -> Tensor:
        """`values`, one of this schedule's, on a device: moved there once."""
        if device.type == "mps" and dtype == torch.float64:  # which has none
            dtype = torch.float32
        known = self._moved.get((id(values), device, dtype))
        if known is None or known[0] is not values:
            with torch.inference_mode(False):
                known = values, values.to(dtype).to(device)
            self._moved[id(values), device, dtype] = known
        return known[1]

    def each(self, values: Tensor, t: Tensor) -> Tensor:
        """values[t] as (B,) in float64, on the device of t."""
        return self.table(values, t.device)[t.long()]

    def at(self, values: Tensor, t: Tensor, like: Tensor) -> Tensor:
        """values[t] as (B, 1, 1, 1) in the dtype and on the device of `like`."""
        return self.table(values, like.device, like.dtype)[t.to(like.device).long()][:, None, None, None]

    def roots(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1-ᾱ_t), each (B, 1, 1, 1)."""
        return self.at(self.root_alpha_bar, t, like), self.at(self.root_one_minus_alpha_bar, t, like)

    def tweedie(self, z: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """`predict_x0` of arguments that fit."""
        signal, spread = self.roots(t, z)
        if self.config.prediction == "epsilon":
            return (z - spread * prediction) / signal
        return signal * z - spread * prediction

    def _check(self, t: Tensor, **latents: Tensor) -> None:
        sizes: dict[str, int] = {}
        for name, value in latents.items():
            check_tensor(value, name, "B C h w", sizes)
        self.check_times(t, sizes["B"])

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The forward process of eq. 1 in closed form: y_t = √ᾱ_t y_0 + √(1-ᾱ_t) ε."""
        check_tensor(noise, "noise", "B C h w", check_tensor(x0, "x0", "B C h w"), like=x0)
        self.check_times(t, len(x0))
        signal, spread = self.roots(t, x0)
        return signal * x0 + spread * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network is asked for: ε, or v = √ᾱ ε - √(1-ᾱ) y_0."""
        self._check(t, x0=x0, noise=noise)
        signal, spread = self.roots(t, x0)
        if self.config.prediction == "epsilon":
            return noise
        return signal * noise - spread * x0

    def predict_x0(self, z: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """ŷ_0 of Tweedie's formula from the network's prediction at y_t = z."""
        self._check(t, z=z, prediction=prediction)
        return self.tweedie(z, prediction, t)

    def predict_noise(self, z: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """ε_θ from the network's prediction at y_t = z; for an ε-network the prediction itself."""
        self._check(t, z=z, prediction=prediction)
        signal, spread = self.roots(t, z)
        if self.config.prediction == "epsilon":
            return prediction
        return signal * prediction + spread * z

    def posterior_mean(self, x0: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Mean of q(y_{t-1} | y_t, y_0), which eq. 2 samples from with ŷ_0."""
        self._check(t, x0=x0, z=z)
        return self.at(self.mean_x0, t, z) * x0 + self.at(self.mean_xt, t, z) * z

    def log_variance(self, logits: Tensor, t: Tensor) -> Tensor:
        """log Σ_θ: the logits interpolate log β̃_t (-1) and log β_t (1), and are not bounded, as in improved DDPM."""
        self.check_times(t, len(logits))
        fraction = (logits + 1) / 2
        return fraction * self.at(self.log_beta, t, logits) + (1 - fraction) * self.at(
            self.log_posterior_variance, t, logits
        )


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
    log_table = schedule.table(schedule.log_sigmas, sigma.device, torch.float32)
    return (sigma.float().log()[:, None] - log_table).abs().argmin(1)
