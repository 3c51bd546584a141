"""The schedulers of diffusers, on Gaussian data, for which the best denoiser is known in closed form."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from reposedm_core.config import ScheduleConfig
from reposedm_core.diffusion.sampler import Denoised, initial_latent, sample_ancestral, sample_ddim, simple_sigmas
from reposedm_core.diffusion.schedule import PREDICTIONS, DiffusionSchedule
from reposedm_core.diffusion.schedulers import SAMPLERS, SCHEDULERS, build_scheduler, sample_with_scheduler
from reposedm_core.errors import InputError

MEAN, VARIANCE = 0.5, 0.3
DETERMINISTIC = ("ddim", "dpmpp_2m", "unipc", "euler", "heun", "pndm")
STOCHASTIC = ("ancestral", "ddpm", "ddpm_learned", "dpmpp_2m_sde", "euler_ancestral")


class Gaussian:
    """The exact ŷ_0 = E[y_0 | x] of data N(0.5, 0.3): what a perfect network would say. Its variance has one logit."""

    def __init__(self, prediction: str = "epsilon", logit: float = 0.0):
        self.schedule, self.levels = DiffusionSchedule(ScheduleConfig(prediction=prediction)), []
        self.logit = logit

    def __call__(self, x, sigma):
        self.levels.append(float(sigma[0]))
        square = sigma[:, None, None, None] ** 2
        x0 = (VARIANCE * x + square * MEAN) / (VARIANCE + square)
        return Denoised(x0, torch.full_like(x0, self.logit))


def noise(seed: int = 0, shape=(2, 4, 8, 8)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sample(name: str, model, steps: int, start: torch.Tensor | None = None, seed: int = 0, callback=None):
    sigmas = simple_sigmas(model.schedule, steps)
    start = initial_latent(noise() if start is None else start, sigmas[0])
    return SAMPLERS[name](model, start, sigmas, callback, torch.Generator().manual_seed(seed))


def flow(start: torch.Tensor, schedule: DiffusionSchedule) -> torch.Tensor:
    """Where the probability flow's differential equation takes the noise, solved by hand."""
    sigma = simple_sigmas(schedule, 1)[0]
    return MEAN + VARIANCE**0.5 * (initial_latent(start, sigma) - MEAN) / (VARIANCE + sigma**2) ** 0.5


def test_every_sampler_is_one_or_the_other():
    assert {*DETERMINISTIC, *STOCHASTIC} == set(SAMPLERS) == {*SCHEDULERS, "ancestral"}


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_solve_the_flow(name, prediction):
    model = Gaussian(prediction)
    errors = [float((sample(name, model, steps) - flow(noise(), model.schedule)).abs().mean()) for steps in (10, 40)]
    assert errors[1] < 0.05 and errors[1] < errors[0] / 3
    if name not in ("ddim", "euler"):
        assert errors[1] < 0.005, "of a higher order"
    assert torch.equal(sample(name, model, 7, seed=1), sample(name, model, 7, seed=2)), "no noise is drawn"


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_have_the_data_s_distribution(name, prediction):
    model, start = Gaussian(prediction), noise(3, (16, 4, 32, 32))
    result = sample(name, model, 100, start)
    # The last step adds no noise, and few steps are rough ones.
    assert float(result.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(result.var()) == pytest.approx(VARIANCE, rel=0.12)
    assert torch.equal(sample(name, model, 5, seed=1), sample(name, model, 5, seed=1)), "one seed, one picture"
    assert not torch.equal(sample(name, model, 5, seed=1), sample(name, model, 5, seed=2))


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("name", SAMPLERS)
def test_any_number_of_steps(name, steps):
    model, seen = Gaussian("v_prediction"), []
    result = sample(name, model, steps, noise(0, (1, 1, 2, 2)), callback=lambda i, n, x0: seen.append((i, n)))
    assert result.isfinite().all()
    assert seen == [(i, len(seen)) for i in range(len(seen))] and len(seen) == len(model.levels) >= steps
    assert model.levels[0] == pytest.approx(float(simple_sigmas(model.schedule, 1)[0]), rel=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    ("ours", "theirs", "logit"),
    [
        ("ddim", "ddim", 0.0),
        ("ancestral", "ddpm_learned", 0.0),
        ("ancestral", "ddpm_learned", 1.5),
        ("ancestral", "ddpm_learned", -3.0),
    ],
)
def test_our_ddim_and_ancestral_sampler_are_those_of_diffusers(ours, theirs, logit, prediction):
    """Logits have no bounds in either."""
    model = Gaussian(prediction, logit)
    # Steps that divide T: for others diffusers' DDIM and DDPM take the level before to be T // steps below.
    found = sample_with_scheduler(
        model, noise(), build_scheduler(theirs, model.schedule), 10, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(sample(ours, model, 10), found, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler])
def test_any_scheduler_of_diffusers_is_taken(kind, prediction):
    """Built elsewhere, with another spacing and prediction type than the network's."""
    options = {"clip_sample": False} if kind in (DDIMScheduler, DDPMScheduler) else {}
    scheduler = kind(beta_start=1e-4, beta_end=0.02, prediction_type=prediction, timestep_spacing="leading", **options)
    model = Gaussian("v_prediction")
    result = sample_with_scheduler(
        model, noise(0, (8, 4, 16, 16)), scheduler, 100, generator=torch.Generator().manual_seed(0)
    )
    assert float(result.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(result.var()) == pytest.approx(VARIANCE, rel=0.15)


def test_times_between_the_schedule_s_are_met_by_their_noise_level():
    """Karras' spacing asks for fractional times."""
    model = Gaussian()
    scheduler = build_scheduler("euler", model.schedule, use_karras_sigmas=True)
    sample_with_scheduler(model, noise(), scheduler, 12)
    levels = torch.tensor(model.levels)
    torch.testing.assert_close(levels, scheduler.sigmas[:-1], rtol=2e-4, atol=0)
    assert any(float(t) % 1 for t in scheduler.timesteps)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
@pytest.mark.parametrize("name", ["ddim", "ddpm_learned", "dpmpp_2m", "euler"])
def test_half_precision_stays_half_and_near(name, dtype, tolerance):
    """The largest difference; the data's deviation is 0.55. The model is told its levels in single precision."""
    model = Gaussian()
    results = [
        sample_with_scheduler(
            model,
            noise().to(dtype).to(kind),
            build_scheduler(name, model.schedule),
            8,
            generator=torch.Generator().manual_seed(0),
        )
        for kind in (torch.float32, dtype)
    ]
    assert results[1].dtype == dtype
    torch.testing.assert_close(results[1].float(), results[0], atol=tolerance, rtol=0)
    torch.testing.assert_close(torch.tensor(model.levels[8:]), torch.tensor(model.levels[:8]), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"noise": torch.zeros(0, 4, 8, 8)}, r"noise has shape \(0, 4, 8, 8\)"),
        ({"noise": torch.full((1, 4, 8, 8), torch.nan)}, "noise .* 256 values that are not finite"),
        ({"noise": torch.zeros(4, 8, 8)}, r"noise has shape \(4, 8, 8\); expected 4 axes"),
        ({"steps": 0}, "steps = 0"),
        ({"steps": 1001}, "steps = 1001"),
        ({"model": lambda x, sigma: x}, "model: a function without `schedule`"),
        ({"scheduler": DDIMScheduler(num_train_timesteps=500)}, "for T = 500, the model for 1000"),
        ({"scheduler": DDIMScheduler(prediction_type="flow")}, "prediction_type = 'flow'"),
        ({"scheduler": DDIMScheduler(beta_end=0.021)}, "its β are not the model's"),
        ({"scheduler": EulerDiscreteScheduler(beta_schedule="scaled_linear")}, "its β are not the model's"),
        ({"scheduler": DDIMScheduler(rescale_betas_zero_snr=True)}, "its β are not the model's"),
        ({"scheduler": DDPMScheduler(variance_type="learned")}, "variance_type = 'learned' is"),
        ({"scheduler": FlowMatchEulerDiscreteScheduler()}, "FlowMatchEulerDiscreteScheduler has no β"),
    ],
)
def test_what_cannot_be_sampled_is_named(arguments, named):
    model = Gaussian()
    given = {"model": model, "noise": noise(), "scheduler": build_scheduler("ddim", model.schedule), "steps": 2}
    with pytest.raises(InputError, match=named):
        sample_with_scheduler(**{**given, **arguments})


def test_a_learned_variance_needs_a_model_that_has_one():
    model = Gaussian()

    def bare(x, sigma):
        return Denoised(model(x, sigma).x0)

    scheduler = build_scheduler("ddpm_learned", model.schedule)
    with pytest.raises(InputError, match="the model has none"):
        sample_with_scheduler(bare, noise(), scheduler, 2, schedule=model.schedule)


def test_unknown_schedulers_and_levels_of_another_spacing_are_named():
    model = Gaussian()
    with pytest.raises(InputError, match="scheduler = 'euler_b': known are ddim, ddpm"):
        build_scheduler("euler_b", model.schedule)
    with pytest.raises(InputError, match="'euler' steps through levels of its own"):
        SAMPLERS["euler"](model, noise(), torch.tensor([5.0, 1.0, 0.0]))


@pytest.mark.parametrize("sampler", [sample_ddim, sample_ancestral])
@pytest.mark.parametrize(
    ("x", "sigmas", "named"),
    [
        (torch.full((1, 4, 8, 8), torch.inf), [2.0, 0.0], "x .*not finite"),
        (noise()[0], [2.0, 0.0], "x has shape"),
        (noise(), [0.0], "sigmas = "),
        (noise(), [2.0, 1.0], "the last 0"),
        (noise(), [1.0, 2.0, 0.0], "falling"),
    ],
)
def test_samplers_name_what_does_not_fit(sampler, x, sigmas, named):
    with pytest.raises(InputError, match=named):
        sampler(Gaussian(), x, torch.tensor(sigmas))
