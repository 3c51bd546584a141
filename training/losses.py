"""Training losses that need more than one line."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reposedm_core.diffusion.schedule import DiffusionSchedule

LN2 = math.log(2)


def normal_kl(mean_a: Tensor, log_var_a: Tensor, mean_b: Tensor, log_var_b: Tensor) -> Tensor:
    """KL(N(a) ‖ N(b)) per element, in nats."""
    return 0.5 * (log_var_b - log_var_a - 1 + (log_var_a - log_var_b).exp()
                  + (mean_a - mean_b).square() * (-log_var_b).exp())


def variational_bound(schedule: DiffusionSchedule, x0: Tensor, z: Tensor, t: Tensor, mean: Tensor,
                      log_variance: Tensor) -> Tensor:
    """L_vlb of eq. 4 for each example, in bits per dimension, the per-step term unscaled by T.

    KL(q(y_{t-1}|y_t,y_0) ‖ N(mean, Σ_θ)), and at t = 0 the negative log-likelihood of y_0 (a density: latents are
    continuous). The caller detaches `mean`, so that only the variance learns from it.

    Args:
        x0, z, mean, log_variance: (B, C, h, w); t: (B,) int64.

    Returns:
        (B,).
    """
    true_mean = schedule.posterior_mean(x0, z, t)
    true_log_variance = schedule.at(schedule.log_posterior_variance, t, z).expand_as(z)
    kl = normal_kl(true_mean, true_log_variance, mean, log_variance)
    nll = 0.5 * (math.log(2 * math.pi) + log_variance + (x0 - mean).square() * (-log_variance).exp())
    return torch.where((t == 0)[:, None, None, None], nll, kl).flatten(1).mean(1) / LN2
