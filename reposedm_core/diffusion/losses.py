"""What the denoiser is trained with: L_mse + L_vlb (eq. 3-4), with the pose field in the prediction (eq. 10-15)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_tensor
from ..errors import InputError, quoted
from .guidance import limit_step, noise_factor
from .schedule import DiffusionSchedule

LN2 = math.log(2)
ESTIMATES = ("noise", "x0")


def normal_kl(mean_a: Tensor, log_var_a: Tensor, mean_b: Tensor, log_var_b: Tensor) -> Tensor:
    """KL(N(a) ‖ N(b)) per element, in nats."""
    return 0.5 * (
        log_var_b - log_var_a - 1 + (log_var_a - log_var_b).exp() + (mean_a - mean_b).square() * (-log_var_b).exp()
    )


def gaussian_nll(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """-log of the density N(x; mean, exp log_variance) per element, in nats: latents are continuous."""
    return 0.5 * (math.log(2 * math.pi) + log_variance + (x - mean).square() * (-log_variance).exp())


def variational_bound(
    schedule: DiffusionSchedule, x0: Tensor, z: Tensor, t: Tensor, mean: Tensor, log_variance: Tensor
) -> Tensor:
    """L_vlb of eq. 4 for each example, in bits per dimension, the per-step term unscaled by T.

    KL(q(y_{t-1}|y_t,y_0) ‖ N(mean, Σ_θ)), and at t = 0 the negative log-likelihood of y_0 (a density: latents are
    continuous). The caller detaches `mean`, so that only the variance learns from it.

    Args:
        x0, z, mean, log_variance: (B, C, h, w); t: (B,) int64.

    Returns:
        (B,).
    """
    sizes = check_tensor(x0, "x0", "B C h w")
    for name, value in (("z", z), ("mean", mean), ("log_variance", log_variance)):
        check_tensor(value, name, "B C h w", sizes, like=x0)
    true_mean = schedule.posterior_mean(x0, z, t)
    true_log_variance = schedule.at(schedule.log_posterior_variance, t, z).expand_as(z)
    kl = normal_kl(true_mean, true_log_variance, mean, log_variance)
    nll = gaussian_nll(x0, mean, log_variance)
    return torch.where((t == 0)[:, None, None, None], nll, kl).flatten(1).mean(1) / LN2


def pose_estimate(
    schedule: DiffusionSchedule, z: Tensor, noise: Tensor, prediction: Tensor, t: Tensor, estimate: str
) -> Tensor:
    """The latent whose decoded picture the pose field looks at in training, (B, C, h, w), detached.

    Args:
        z, noise, prediction: y_t, its ε and the network's prediction; t (B,) int64.
        estimate: "noise", the ε - ε_θ of eq. 10 as written; "x0", Tweedie's ŷ_0, of which section 3.1 speaks.
    """
    if estimate not in ESTIMATES:
        raise InputError(f"field.estimate = {quoted(estimate)}: known are {', '.join(ESTIMATES)}.")
    prediction = prediction.detach()
    if estimate == "noise":
        return noise - schedule.predict_noise(z, prediction, t)
    return schedule.predict_x0(z, prediction, t)


def guided_prediction(
    schedule: DiffusionSchedule,
    prediction: Tensor,
    gradient: Tensor,
    t: Tensor,
    weight: float = 1.0,
    limit: float = 0.0,
    update: str = "eq15",
) -> Tensor:
    """ε̃ = ε_θ + η √(1-ᾱ_t) ∇G of eq. 15, in what the network predicts: ε, or v = (ε - √(1-ᾱ_t) y_t) / √ᾱ_t.

    ∇G is detached (**ours**: no second-order terms), so that the gradient of a loss on ε̃ reaches ε_θ unchanged.

    Args:
        prediction, gradient: (B, C, h, w); t: (B,) int64.
        weight: η; 0 returns `prediction` itself.
        limit: above 0, the largest root mean square of a picture's shift, in that of the noise, 1 (**ours**); 0 is
            the equation as written.
        update: "eq14" has √ᾱ_t in place of √(1-ᾱ_t), see `guidance.noise_factor`.
    """
    if weight == 0:
        return prediction
    check_tensor(gradient, "gradient", "B C h w", check_tensor(prediction, "prediction", "B C h w"))
    schedule.check_times(t, len(prediction))
    factor = weight * noise_factor(schedule.each(schedule.alpha_bar, t), update)
    if schedule.config.prediction == "v_prediction":
        factor = factor / schedule.each(schedule.root_alpha_bar, t)
    return (prediction + limit_step(gradient.detach(), factor, limit or None)).to(prediction.dtype)


def training_loss(
    schedule: DiffusionSchedule,
    x0: Tensor,
    noise: Tensor,
    z: Tensor,
    t: Tensor,
    prediction: Tensor,
    variance_logits: Tensor | None = None,
    vlb_weight: float = 0.0,
    gradient: Tensor | None = None,
    field_weight: float = 0.0,
    field_limit: float = 0.0,
    weight: Tensor | None = None,
    field_update: str = "eq15",
) -> dict[str, Tensor]:
    """eq. 3: L = L_mse + weight · L_vlb, L_mse with ε̃ in place of ε_θ where there is a gradient of the field.

    Args:
        x0, noise, z, prediction: y_0, ε, y_t and the network's output (ε or v, as `schedule` says), (B, C, h, w).
        t: (B,) int64.
        variance_logits: like `prediction`, or None for a network without learned variance.
        vlb_weight: factor of L_vlb; 0 leaves it out. Its mean is detached, and is the network's without ∇G.
        gradient, field_weight, field_limit, field_update: ∇G, η, limit and update of `guided_prediction`; η = 0 trains
            without the field.
        weight: of each cell in L_mse, (B, 1, h, w), of mean 1 in each example (**ours**); None is 1 everywhere.

    Returns:
        {"loss": to minimise, "mse": L_mse, "vlb": L_vlb where it was computed}, scalars.
    """
    sizes = check_tensor(x0, "x0", "B C h w")
    for name, value in (("noise", noise), ("z", z), ("prediction", prediction)):
        check_tensor(value, name, "B C h w", sizes, like=x0)
    guided = prediction
    if gradient is not None:
        guided = guided_prediction(schedule, prediction, gradient, t, field_weight, field_limit, field_update)
    mse = F.mse_loss(guided, schedule.target(x0, noise, t), reduction="none")
    mse = (mse if weight is None else mse * weight).mean()
    values = {"loss": mse, "mse": mse}
    if vlb_weight > 0 and variance_logits is not None:
        mean = schedule.posterior_mean(schedule.predict_x0(z, prediction.detach(), t), z, t)
        bound = variational_bound(schedule, x0, z, t, mean, schedule.log_variance(variance_logits, t)).mean()
        values.update(loss=mse + vlb_weight * bound, vlb=bound)
    return values
