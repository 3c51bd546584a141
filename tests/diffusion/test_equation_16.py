"""Equation 16, ε = ε_uncond + w_c (ε_interaction + √(1−ᾱ_t) ∇G): the guided denoiser against the written form."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from reposedm_core.config import DenoiserConfig, EstimatorConfig, ScheduleConfig
from reposedm_core.diffusion.denoiser import Denoiser
from reposedm_core.diffusion.guidance import classifier_free, guide_epsilon
from reposedm_core.diffusion.guided import Condition, FieldGuidance, GuidedDenoiser
from reposedm_core.diffusion.sampler import initial_latent, sample_ddim, simple_sigmas
from reposedm_core.diffusion.schedule import PREDICTIONS, DiffusionSchedule, schedule_sigmas, timestep_of
from reposedm_core.errors import InputError
from reposedm_core.estimator import HigherHRNet
from reposedm_core.field import PoseInteractionField

TINY = DenoiserConfig(
    latent_channels=4, block_channels=(16, 32), layers=1, heads_dim=16, context_dim=16, height=8, width=8
)


def tensors(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(3, 4, 5, 2, generator=generator, dtype=dtype) for _ in range(3))


def make(config: DenoiserConfig = TINY) -> Denoiser:
    """In float64, every weight random, so that every condition has an influence."""
    torch.manual_seed(0)
    model = Denoiser(config).double().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def latents(seed: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def condition(model: Denoiser) -> Condition:
    visibility = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Condition.of(model, latents(1), latents(2), latents(3), visibility)


def decode(latent: torch.Tensor) -> torch.Tensor:
    return torch.tanh(torch.nn.functional.interpolate(latent[:, :3], scale_factor=4, mode="bilinear"))


@pytest.fixture(scope="module")
def field() -> FieldGuidance:
    torch.manual_seed(0)
    estimator = HigherHRNet(
        EstimatorConfig(stem=8, bottleneck=8, channels=(8, 16), modules=(1,), blocks=1, deconv_channels=8)
    ).double()
    for parameter in estimator.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    joints = torch.rand(2, 17, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 30
    compare = PoseInteractionField(estimator)
    return FieldGuidance(compare, compare.target_from_joints(joints, 32, 32), decode, strength=0.2, limit=1e9)


def test_classifier_free():
    cond, uncond, _ = tensors()
    torch.testing.assert_close(classifier_free(cond, uncond, 2.0), 2 * cond - uncond)
    assert classifier_free(cond, uncond, 1.0) is cond
    assert classifier_free(cond, uncond, 0.0) is uncond


def test_equation_16_whole():
    cond, uncond, gradient = tensors()
    whole = uncond + 2 * ((cond - uncond) + (1 - 0.3) ** 0.5 * gradient)
    torch.testing.assert_close(guide_epsilon(classifier_free(cond, uncond, 2), gradient, 0.3, 2), whole)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("scale", "level"), [(1.0, 300), (2.5, 300), (2.5, 900), (0.3, 300), (-1.5, 300)])
def test_the_guided_denoiser_is_the_written_form(field, prediction, scale, level):
    """Both passes one after the other, their ε by hand, ∇G where the printed form has it, then Tweedie's ŷ_0."""
    model, schedule = make(), DiffusionSchedule(ScheduleConfig(prediction=prediction))
    told = condition(model)
    t = torch.full((2,), level)
    a = float(schedule.alpha_bar[level])
    y = latents(4)
    sigma = torch.full((2,), ((1 - a) / a) ** 0.5, dtype=torch.float64)

    def epsilon(pose, tokens, aligned, visibility):
        spread = torch.full((2, 1, 1, 1), (1 - a) ** 0.5, dtype=torch.float64)
        out = model(y, t, pose, tokens, aligned, visibility, spread)[0]
        return out if prediction == "epsilon" else a**0.5 * out + (1 - a) ** 0.5 * y

    cond = epsilon(told.pose, told.tokens, told.aligned, told.visibility)
    nothing = torch.zeros_like(told.pose)
    uncond = epsilon(nothing, model.null_token.expand(2, 64, 16), nothing, nothing[:, :1])
    interaction = cond - uncond
    plain = (y - (1 - a) ** 0.5 * (uncond + scale * interaction)) / a**0.5
    gradient = 0.2 * field.field.gradient(plain, decode, field.target)[0]
    guided = uncond + scale * (interaction + (1 - a) ** 0.5 * gradient)
    truth = (y - (1 - a) ** 0.5 * guided) / a**0.5
    found = GuidedDenoiser(model, schedule, told, scale, field)(y / a**0.5, sigma)
    torch.testing.assert_close(found.x0, truth, rtol=1e-6, atol=1e-6)
    assert (truth - plain).abs().max() > 1e-4 and interaction.abs().max() > 1e-3


def test_guidance_scale_mixes_both_passes():
    """eq. 16 without the gradient: ε_uncond + w_c (ε_cond - ε_uncond), on x̂₀ as well, being linear."""
    model, schedule = make(), DiffusionSchedule(ScheduleConfig())
    told = condition(model)
    x, sigma = latents(4) * 3, torch.tensor([3.0, 3.0])
    conditional = GuidedDenoiser(model, schedule, told, 1.0)(x, sigma).x0
    unconditional = GuidedDenoiser(model, schedule, Condition.null(model, told), 1.0)(x, sigma).x0
    guided = GuidedDenoiser(model, schedule, told, 2.5)(x, sigma).x0
    torch.testing.assert_close(guided, unconditional + 2.5 * (conditional - unconditional), rtol=1e-4, atol=1e-4)
    assert (conditional - unconditional).abs().max() > 1e-3


def test_at_scale_zero_nothing_is_decoded(field):
    """eq. 16 weights ∇G by w_c: at 0 there is the unconditional network alone."""
    model, schedule = make(), DiffusionSchedule(ScheduleConfig())
    told = condition(model)
    x, sigma = latents(4) * 3, torch.tensor([3.0, 3.0])
    blind = dataclasses.replace(field, decode=None)  # calling it would fail
    found = GuidedDenoiser(model, schedule, told, 0.0, blind)(x, sigma)
    unconditional = GuidedDenoiser(model, schedule, Condition.null(model, told), 1.0)(x, sigma)
    torch.testing.assert_close(found.x0, unconditional.x0)


def test_the_variance_is_the_conditional_pass_s():
    """eq. 16 mixes the ε; Σ_θ is that of the network that is told."""
    model, schedule = make(), DiffusionSchedule(ScheduleConfig())
    told = condition(model)
    x, sigma = latents(4) * 3, torch.tensor([3.0, 3.0])
    conditional, unconditional = (
        GuidedDenoiser(model, schedule, c, 1.0)(x, sigma).variance_logits for c in (told, Condition.null(model, told))
    )
    assert (conditional - unconditional).abs().max() > 1e-2
    for scale in (2.5, 0.0, -1.0):
        found = GuidedDenoiser(model, schedule, told, scale)(x, sigma).variance_logits
        torch.testing.assert_close(found, conditional)


def test_a_step_on_the_edge_of_the_window_is_guided(field):
    """Of ten steps the second starts where 1/10 of the sampling is over: a start of 0.1 does not leave it out."""
    schedule, seen = DiffusionSchedule(ScheduleConfig()), []

    def watched(latent):
        seen.append(len(seen))
        return decode(latent)

    guided = GuidedDenoiser(
        make(), schedule, condition(make()), 1.0, dataclasses.replace(field, start=0.1, end=0.9, decode=watched)
    )
    sigmas = simple_sigmas(schedule, 10)
    counts = []
    sample_ddim(guided, initial_latent(latents(9), sigmas[0]), sigmas, lambda *_: counts.append(len(seen)))
    assert counts == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]


@pytest.mark.parametrize("level", [5, 20, 990])
def test_the_field_is_told_the_noise_level_in_full_precision(field, level):
    """In bfloat16 1 - ᾱ of the first steps is off by a quarter."""
    schedule, seen = DiffusionSchedule(ScheduleConfig()), []

    class Watch(FieldGuidance):
        def __call__(self, x0, alpha_bar, weight=1.0):
            seen.append((x0.dtype, alpha_bar))
            return x0

    model = make().to(torch.bfloat16)
    told = Condition(*(value.to(torch.bfloat16) for value in vars(condition(make())).values()))
    guided = GuidedDenoiser(model, schedule, told, 1.0, Watch(field.field, field.target, decode))
    guided(latents(4).to(torch.bfloat16), schedule_sigmas(schedule)[[level, level]])
    ((dtype, alpha_bar),) = seen
    assert dtype == torch.bfloat16
    torch.testing.assert_close(1 - alpha_bar, (1 - schedule.alpha_bar[level]).expand(2))


def test_dropping_in_training_is_the_null_condition():
    """P and I_S are dropped together: what a dropped example gets is ∅ of the unconditional pass."""
    model = make()
    drop = torch.tensor([True, False])
    dropped = model.context(latents(3), torch.ones(2, 1, 8, 8).double(), drop)
    kept = model.context(latents(3), torch.ones(2, 1, 8, 8).double())
    assert torch.equal(dropped[:1], model.null_context(1, 64)) and torch.equal(dropped[1], kept[1])


def test_guidance_that_is_off_changes_not_one_bit(field):
    model, schedule = make(), DiffusionSchedule(ScheduleConfig())
    told, sigmas = condition(model), simple_sigmas(DiffusionSchedule(ScheduleConfig()), 3)
    start = initial_latent(latents(9), sigmas[0])

    def run(guide):
        return sample_ddim(GuidedDenoiser(model, schedule, told, 1.5, guide), start, sigmas)

    plain = run(None)
    assert torch.equal(run(dataclasses.replace(field, strength=0.0)), plain)
    assert torch.equal(run(dataclasses.replace(field, start=0.5, end=0.5)), plain)
    assert not torch.equal(run(field), plain)
    late = dataclasses.replace(field, start=0.9, decode=None)  # after the last of three steps: nothing to decode
    assert torch.equal(run(late), plain)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_named(scale):
    with pytest.raises(InputError, match=f"w_c = {scale}"):
        GuidedDenoiser(make(), DiffusionSchedule(ScheduleConfig()), condition(make()), scale)


def test_every_time_of_the_schedule_is_found_again():
    schedule = DiffusionSchedule(ScheduleConfig())
    assert torch.equal(timestep_of(schedule, schedule_sigmas(schedule).double()), torch.arange(1000))


def test_one_condition_serves_all_pictures_and_two_do_not_serve_three():
    model, schedule = make(), DiffusionSchedule(ScheduleConfig())
    told = condition(model)
    one = Condition(*(value[:1] for value in vars(told).values()))
    x, sigma = latents(4, 3) * 3, torch.full((3,), 3.0)
    together = GuidedDenoiser(model, schedule, one, 1.5)(x, sigma).x0
    alone = [GuidedDenoiser(model, schedule, one, 1.5)(x[i : i + 1], sigma[:1]).x0 for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))
    with pytest.raises(InputError, match="condition: it is for 2 pictures, and x has 3"):
        GuidedDenoiser(model, schedule, told, 1.5)(x, sigma)


@pytest.mark.parametrize(
    ("x", "sigma", "named"),
    [
        (torch.zeros(0, 4, 8, 8), torch.zeros(0), r"x has shape \(0, 4, 8, 8\): axis B"),
        (torch.zeros(2, 3, 8, 8), torch.ones(2), r"x has shape \(2, 3, 8, 8\).*C = 4"),
        (torch.zeros(2, 4, 8, 8), torch.ones(3), r"sigma has shape \(3,\).*B = 2"),
        (torch.zeros(2, 4, 8, 7), torch.ones(2), r"condition.pose has shape \(2, 4, 8, 8\).*w = 7"),
    ],
)
def test_latents_that_do_not_fit_are_named(x, sigma, named):
    model = make()
    with pytest.raises(InputError, match=named):
        GuidedDenoiser(model, DiffusionSchedule(ScheduleConfig()), condition(model))(x.double(), sigma.double())
