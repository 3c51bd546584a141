"""Equations 12-15, the field's gradient in sampling and in training: against finite differences and the written forms.

Eq. 16 has its own module.
"""

from __future__ import annotations

import math

import pytest
import torch

from reposedm_core.config import EstimatorConfig, FieldConfig, ScheduleConfig
from reposedm_core.diffusion.guidance import alpha_bar_of, clean_factor, guide_epsilon, guide_x0, limit_step
from reposedm_core.diffusion.guided import FieldGuidance, in_window
from reposedm_core.diffusion.losses import guided_prediction, pose_estimate, training_loss
from reposedm_core.diffusion.schedule import PREDICTIONS, DiffusionSchedule, simple_sigmas, timestep_of
from reposedm_core.errors import InputError
from reposedm_core.estimator import HigherHRNet
from reposedm_core.field import PoseInteractionField


def tensors(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(3, 4, 5, 2, generator=generator, dtype=dtype) for _ in range(3))


def test_equation_15():
    epsilon, gradient, _ = tensors()
    torch.testing.assert_close(guide_epsilon(epsilon, gradient, 0.36, 3.0), epsilon + 3 * 0.8 * gradient)
    torch.testing.assert_close(guide_epsilon(epsilon, gradient, 1.0), epsilon)


@pytest.mark.parametrize("alpha_bar", [0.3, 1e-4, 0.9999, torch.tensor([0.9, 0.5, 0.01]).double()])
def test_epsilon_and_x0_forms_agree(alpha_bar):
    epsilon, y, gradient = tensors()
    a = torch.as_tensor(alpha_bar, dtype=torch.float64).reshape(-1, 1, 1, 1)

    def clean(eps: torch.Tensor) -> torch.Tensor:
        return (y - (1 - a).sqrt() * eps) / a.sqrt()

    guided = clean(guide_epsilon(epsilon, gradient, alpha_bar, 0.7))
    torch.testing.assert_close(guide_x0(clean(epsilon), gradient, alpha_bar, 0.7), guided)


def test_weight_zero_is_the_same_tensor():
    x, gradient, _ = tensors()
    for guide in (guide_epsilon, guide_x0):
        assert guide(x, gradient * torch.nan, 0.5, 0.0) is x
        assert not torch.equal(guide(x, gradient, 0.5, 1e-3), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_is_kept(dtype):
    x, gradient, _ = tensors(dtype)
    for alpha_bar in (0.5, torch.full((3,), 0.5, dtype=torch.float64)):
        for guide in (guide_epsilon, guide_x0):
            assert guide(x, gradient, alpha_bar).dtype == dtype


def test_alpha_bar_of_a_noise_level():
    alpha_bar = torch.tensor([0.9999, 0.5, 0.01], dtype=torch.float64)
    torch.testing.assert_close(alpha_bar_of(((1 - alpha_bar) / alpha_bar).sqrt()), alpha_bar)
    # x = (1 - σ) y_0 + σ ε is (1 - σ) times y_0 + σ / (1 - σ) ε.
    sigma = torch.tensor([0.0, 0.2, 0.9], dtype=torch.float64)
    torch.testing.assert_close(alpha_bar_of(sigma, flow=True), alpha_bar_of(sigma / (1 - sigma)))
    at_pure_noise = guide_x0(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), alpha_bar_of(torch.ones(1), flow=True))
    assert at_pure_noise.isfinite().all()


def test_a_limited_step_keeps_its_direction_and_leaves_small_steps_alone():
    torch.manual_seed(0)
    x0, gradient = torch.randn(3, 3, 4, 4), torch.randn(3, 3, 4, 4)
    gradient[2] = 0
    small = guide_x0(x0, gradient, 0.5, 1e-3)
    torch.testing.assert_close(guide_x0(x0, gradient, 0.5, 1e-3, limit=0.1), small)
    for weight in (50.0, -50.0):
        taken = guide_x0(x0, gradient, 0.5, weight, limit=0.1) - x0
        size, scale = (t.square().flatten(1).mean(1).sqrt() for t in (taken, x0))
        torch.testing.assert_close(size[:2], 0.1 * scale[:2])
        cosine = torch.nn.functional.cosine_similarity(taken.flatten(1), -weight * gradient.flatten(1))
        torch.testing.assert_close(cosine, torch.tensor([1.0, 1.0, 0.0]))
        assert not taken[2].any()


def test_a_number_or_one_a_picture():
    direction = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    factor, size = torch.tensor([2.0, -3.0, 1e-3]), torch.tensor([0.1, 0.2, 1.0])
    together = limit_step(direction, factor, size)
    alone = [limit_step(direction[i : i + 1], float(factor[i]), float(size[i])) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "weight"), [(500.0, 1.0), (6e4, 1.0), (1e-7, 1.0), (1.0, 1e38), (1e30, 1e38)])
def test_no_gradient_and_no_strength_makes_a_limited_step_infinite(dtype, size, weight):
    """At ᾱ_T the step itself would be beyond half precision, and its square beyond single."""
    x0, gradient, _ = (value.to(dtype) for value in tensors())
    gradient = (gradient.double() * size).clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)
    found = guide_x0(x0, gradient, 4e-5, weight, limit=0.1)
    assert found.dtype == dtype and found.isfinite().all()
    exact = guide_x0(x0.double(), gradient.double(), 4e-5, weight, limit=0.1)
    torch.testing.assert_close(found.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


def test_double_precision_is_kept():
    x0, gradient, _ = tensors()
    limited = guide_x0(x0, gradient, 0.5, 1e-3, limit=1e9)
    torch.testing.assert_close(limited, x0 - 1e-3 * 0.5 / 0.5**0.5 * gradient, rtol=1e-14, atol=1e-14)


def test_equations_13_and_14_give_equation_15():
    """ε̃ = ε − √(ᾱ/(1−ᾱ)) Δy_0 with Δy_0 = −η ∇G and η = (1−ᾱ)/√ᾱ, for which eq. 15 is what eq. 14 says.

    And eq. 13 holds: y_t = √ᾱ (ŷ_0 + Δy_0) + √(1−ᾱ) ε̃ is still the same y_t.
    """
    epsilon, y, gradient = tensors()
    for a in (0.05, 0.5, 0.98):
        clean = (y - (1 - a) ** 0.5 * epsilon) / a**0.5
        step = -(1 - a) / a**0.5 * gradient
        tilde = epsilon - (a / (1 - a)) ** 0.5 * step
        torch.testing.assert_close(guide_epsilon(epsilon, gradient, a), tilde)
        torch.testing.assert_close(guide_x0(clean, gradient, a), clean + step)
        torch.testing.assert_close(a**0.5 * (clean + step) + (1 - a) ** 0.5 * tilde, y)


def test_equation_14_with_the_papers_eta_is_another_step():
    """η = √(1−ᾱ): ŷ_0 − √(1−ᾱ) ∇G, never more than ∇G, where eq. 15 as printed gives 157 ∇G at the first step."""
    epsilon, y, gradient = tensors()
    alpha_bar = DiffusionSchedule(ScheduleConfig()).alpha_bar
    for a in (float(alpha_bar[-1]), 0.05, 0.5, 0.98):
        clean = (y - (1 - a) ** 0.5 * epsilon) / a**0.5
        step = -((1 - a) ** 0.5) * gradient
        tilde = epsilon - (a / (1 - a)) ** 0.5 * step  # eq. 14
        torch.testing.assert_close(guide_epsilon(epsilon, gradient, a, update="eq14"), tilde)
        torch.testing.assert_close(guide_x0(clean, gradient, a, update="eq14"), clean + step, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(a**0.5 * (clean + step) + (1 - a) ** 0.5 * tilde, y)  # eq. 13
    assert float(clean_factor(alpha_bar[-1])) == pytest.approx(157, abs=0.5)
    assert float(clean_factor(alpha_bar, "eq14").max()) <= 1
    for guide in (guide_epsilon, guide_x0):
        with pytest.raises(InputError, match="update = 'eq16'"):
            guide(epsilon, gradient, 0.5, update="eq16")


# -- the whole way through decoder and estimator


@pytest.fixture(scope="module")
def field():
    torch.manual_seed(0)
    estimator = HigherHRNet(
        EstimatorConfig(stem=8, bottleneck=8, channels=(8, 16), modules=(1,), blocks=1, deconv_channels=8)
    ).double()
    for parameter in estimator.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return PoseInteractionField(estimator, mask="predicted", threshold=-1e9)  # everywhere: a mask has no slope


def decode(latent: torch.Tensor) -> torch.Tensor:
    """A smooth decoder: (B, 4, h, w) → (B, 3, 8h, 8w)."""
    mixed = torch.einsum("oc,bchw->bohw", torch.linspace(-1, 1, 12).view(3, 4).to(latent), latent)
    return torch.tanh(torch.nn.functional.interpolate(mixed, scale_factor=8, mode="bilinear"))


def wanted(field, batch: int = 1):
    joints = torch.rand(batch, 17, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return field.target_from_joints(joints * torch.tensor([24.0, 32.0, 1.0]), 32, 24)


def latent(batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 4, 4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_step_is_finite_differences_of_the_distance(field):
    """x̂₀ − guided = w (1−ᾱ)/√ᾱ ∇G, ∇G measured by moving each number of the latent."""
    target, x0, a, h = wanted(field), latent(), 0.4, 1e-5
    slope = torch.empty_like(x0)
    for index in range(x0.numel()):
        moved = [x0.clone(), x0.clone()]
        for sign, value in zip((1, -1), moved, strict=True):
            value.view(-1)[index] += sign * h
        up, down = (field.distance(decode(value), target) for value in moved)
        slope.view(-1)[index] = (up - down) / (2 * h)
    guided = FieldGuidance(field, target, decode, 0.3, limit=1e9)(x0, a, 2.0)
    torch.testing.assert_close(guided, x0 - 0.6 * 0.6 / 0.4**0.5 * slope, rtol=1e-5, atol=1e-7)
    assert slope.abs().max() > 1e-3


def test_a_small_step_brings_the_pose_nearer(field):
    target, x0 = wanted(field, 3), latent(3)
    before = field.distance(decode(x0), target)
    guided = FieldGuidance(field, target, decode, 1.0, limit=0.01)(x0, 0.5)
    assert (field.distance(decode(guided), target) < before).all()


def test_a_batch_is_guided_as_its_pictures_one_by_one(field):
    target, x0, a = wanted(field, 3), latent(3), torch.tensor([0.9, 0.5, 0.1]).double()
    together = FieldGuidance(field, target, decode)(x0, a)
    for i in range(3):
        one = target.map(lambda value, i=i: value[i : i + 1])
        torch.testing.assert_close(FieldGuidance(field, one, decode)(x0[i : i + 1], a[i : i + 1]), together[i : i + 1])


def test_strength_zero_is_the_same_tensor(field):
    x0 = latent()
    off = FieldGuidance(field, wanted(field), None, 0.0)  # calling its decoder would fail
    assert off(x0, 0.5) is x0 and not any(off.active(part / 10) for part in range(10))
    assert FieldGuidance(field, wanted(field), None, 1.0)(x0, 0.5, 0.0) is x0


def test_it_acts_in_its_share_of_the_sampling(field):
    guide = FieldGuidance.configured(FieldConfig(0.7, 0.25, 0.75), field, wanted(field), decode)
    assert (guide.strength, [guide.active(f) for f in (0, 0.24, 0.25, 0.74, 0.75, 1)]) == (
        0.7,
        [False, False, True, True, False, False],
    )
    assert FieldGuidance.configured(FieldConfig(limit=0.3), field, wanted(field), decode).limit == 0.3


@pytest.mark.parametrize("steps", [1, 3, 10, 20, 30, 50, 77, 100])
def test_no_step_is_lost_to_rounding(steps):
    """Started at k/n, it acts from step k of n on; ended there, it does not act in it."""
    schedule = DiffusionSchedule(ScheduleConfig())
    passed = [999 - int(t) for t in timestep_of(schedule, simple_sigmas(schedule, steps)[:-1])]
    for first in range(steps + 1):
        acts = [in_window(p / 1000, first / steps, 1.0, 1000) for p in passed]
        assert acts == [k >= first for k in range(steps)]
        assert acts == [not in_window(p / 1000, 0.0, first / steps, 1000) for p in passed]


def test_without_a_limit_it_is_equation_15_as_written(field):
    target, x0 = wanted(field), latent()
    gradient = field.gradient(x0, decode, target)[0]
    free = FieldGuidance(field, target, decode, 3.0, limit=0.0)(x0, 1e-3, 2.0)
    torch.testing.assert_close(free, x0 - 6 * (1 - 1e-3) / 1e-3**0.5 * gradient)
    assert not torch.allclose(FieldGuidance(field, target, decode, 3.0)(x0, 1e-3, 2.0), free)
    other = FieldConfig(3.0, limit=0.0, update="eq14")
    found = FieldGuidance.configured(other, field, target, decode)(x0, 1e-3, 2.0)
    torch.testing.assert_close(found, x0 - 6 * (1 - 1e-3) ** 0.5 * gradient)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"strength": math.nan}, "strength = nan"),
        ({"start": -0.1}, "start = -0.1"),
        ({"end": 1.5}, "end = 1.5"),
        ({"limit": -1.0}, "limit = -1"),
        ({"limit": math.nan}, "limit = nan"),
        ({"limit": math.inf}, "limit = inf"),
        ({"space": "features"}, "heatmaps .*'features'"),
    ],
)
def test_settings_that_make_no_sense_are_named(field, config, named):
    with pytest.raises(InputError, match=named):
        FieldGuidance.configured(FieldConfig(**config), field, wanted(field), decode)
    if "space" not in config:
        with pytest.raises(InputError, match=named):
            FieldGuidance(field, wanted(field), decode, **config)


# -- in training

T = torch.tensor([3, 400, 900])


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("t", [torch.tensor([-1, 0, 1]), torch.tensor([1, 2]), torch.tensor([1, 2, 1000])])
def test_times_that_do_not_fit_are_named_in_training(prediction, t):
    output, _, gradient = tensors()
    with pytest.raises(InputError, match=r"^t (=|has)"):
        guided_prediction(DiffusionSchedule(ScheduleConfig(prediction=prediction)), output, gradient, t)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_guided_prediction_is_equation_15_of_its_noise(prediction):
    """Whatever the network predicts, its ε moves by η √(1−ᾱ) ∇G; η = 0 is the same tensor."""
    schedule = DiffusionSchedule(ScheduleConfig(prediction=prediction))
    output, z, gradient = tensors()
    found = schedule.predict_noise(z, guided_prediction(schedule, output, gradient, T, 0.7), T)
    a = schedule.alpha_bar[T]
    torch.testing.assert_close(found, guide_epsilon(schedule.predict_noise(z, output, T), gradient, a, 0.7))
    moved = schedule.predict_x0(z, guided_prediction(schedule, output, gradient, T, 0.7), T)
    torch.testing.assert_close(moved, guide_x0(schedule.predict_x0(z, output, T), gradient, a, 0.7))
    assert guided_prediction(schedule, output, gradient, T, 0.0) is output
    moved = schedule.predict_x0(z, guided_prediction(schedule, output, gradient, T, 0.7, update="eq14"), T)
    torch.testing.assert_close(moved, guide_x0(schedule.predict_x0(z, output, T), gradient, a, 0.7, update="eq14"))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_limit_shortens_the_shift_in_training_and_keeps_its_direction(prediction):
    schedule = DiffusionSchedule(ScheduleConfig(prediction=prediction))
    output, _, gradient = tensors()
    gradient[0] *= 1e-6  # within the limit already
    free = guided_prediction(schedule, output, gradient, T) - output
    bounded = guided_prediction(schedule, output.requires_grad_(), gradient, T, limit=0.1)
    assert torch.equal(torch.autograd.grad(bounded.sum(), output)[0], torch.ones_like(output))
    output, bounded = output.detach(), bounded.detach()
    sizes = (bounded - output).square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(sizes[1:], torch.full_like(sizes[1:], 0.1))
    torch.testing.assert_close((bounded - output)[0], free[0], rtol=1e-6, atol=1e-12)
    cosine = torch.nn.functional.cosine_similarity((bounded - output).flatten(1), free.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(3).double())


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_estimate_is_equation_10_or_tweedie_s(prediction):
    schedule = DiffusionSchedule(ScheduleConfig(prediction=prediction))
    x0, noise, output = tensors()
    z = schedule.add_noise(x0, noise, T)
    a = schedule.alpha_bar[T].view(-1, 1, 1, 1)
    epsilon = output if prediction == "epsilon" else a.sqrt() * output + (1 - a).sqrt() * z
    torch.testing.assert_close(pose_estimate(schedule, z, noise, output, T, "noise"), noise - epsilon)
    clean = (z - (1 - a).sqrt() * epsilon) / a.sqrt()
    torch.testing.assert_close(pose_estimate(schedule, z, noise, output, T, "x0"), clean)
    truth = schedule.target(x0, noise, T)
    torch.testing.assert_close(
        pose_estimate(schedule, z, noise, truth, T, "noise"), torch.zeros_like(x0), atol=1e-9, rtol=0
    )
    assert not pose_estimate(schedule, z, noise, output.requires_grad_(), T, "x0").requires_grad
    with pytest.raises(InputError, match="estimate = 'y0'"):
        pose_estimate(schedule, z, noise, output, T, "y0")


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("estimate", ["noise", "x0"])
def test_the_loss_reaches_the_network_unchanged(field, prediction, estimate):
    """∂L/∂ε_θ is that of the mean square alone, at ε̃: nothing comes back through decoder and estimator."""
    schedule = DiffusionSchedule(ScheduleConfig(prediction=prediction))
    x0, noise, output = latent(3), latent(3, 1), latent(3, 2).requires_grad_()
    z = schedule.add_noise(x0, noise, T)
    seen = pose_estimate(schedule, z, noise, output, T, estimate)
    gradient, _ = field.gradient(seen, decode, wanted(field, 3))
    assert gradient.abs().max() > 1e-3
    values = training_loss(
        schedule, x0, noise, z, T, output, None, gradient=gradient.requires_grad_(), field_weight=0.5
    )
    slope, through = torch.autograd.grad(values["loss"], (output, gradient), allow_unused=True)
    guided = guided_prediction(schedule, output, gradient, T, 0.5)
    torch.testing.assert_close(slope, 2 * (guided - schedule.target(x0, noise, T)).detach() / output.numel())
    assert through is None
    plain = training_loss(schedule, x0, noise, z, T, output)["loss"]
    assert torch.equal(training_loss(schedule, x0, noise, z, T, output, None, 0.0, gradient, 0.0)["loss"], plain)
    assert not torch.equal(values["loss"], plain)
