"""Guidance arithmetic: eq. 15 and 16, their agreement, and exact neutrality."""

from __future__ import annotations

import pytest
import torch

from reposedm_core.diffusion.guidance import (
    alpha_bar_of,
    classifier_free,
    guide_epsilon,
    guide_x0,
    limit_step,
    normalise_gradient,
)


def tensors(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(3, 4, 5, 2, generator=generator, dtype=dtype) for _ in range(3))


def test_classifier_free():
    cond, uncond, _ = tensors()
    torch.testing.assert_close(classifier_free(cond, uncond, 2.0), 2 * cond - uncond)
    assert classifier_free(cond, uncond, 1.0) is cond
    assert classifier_free(cond, uncond, 0.0) is uncond


def test_equation_15():
    epsilon, gradient, _ = tensors()
    torch.testing.assert_close(guide_epsilon(epsilon, gradient, 0.36, 3.0), epsilon + 3 * 0.8 * gradient)
    torch.testing.assert_close(guide_epsilon(epsilon, gradient, 1.0), epsilon)


def test_equation_16_whole():
    cond, uncond, gradient = tensors()
    whole = uncond + 2 * ((cond - uncond) + (1 - 0.3) ** 0.5 * gradient)
    torch.testing.assert_close(guide_epsilon(classifier_free(cond, uncond, 2), gradient, 0.3, 2), whole)


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


def test_normalised_gradient_is_as_large_as_its_reference():
    gradient, reference, _ = tensors()
    gradient[1] *= 1e-9
    gradient[2] = 0
    result = normalise_gradient(gradient, reference)

    def size(t: torch.Tensor) -> torch.Tensor:
        return t.square().mean((1, 2, 3)).sqrt()

    torch.testing.assert_close(size(result)[:2], size(reference)[:2])
    torch.testing.assert_close(result[0] / result[0].norm(), gradient[0] / gradient[0].norm())
    assert not result[2].any()


def test_normalised_gradient_survives_half_precision():
    gradient, reference, _ = tensors(torch.float16)
    result = normalise_gradient(gradient * 1e-4, reference)
    assert result.dtype == torch.float16
    torch.testing.assert_close(result.float().std(), reference.float().std(), rtol=0.05, atol=0)


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
    x0 = torch.randn(2, 3, 4, 4)
    step = torch.randn(2, 3, 4, 4)
    small, large = x0 + 1e-3 * step, x0 + 50 * step
    torch.testing.assert_close(limit_step(x0, small, 0.1), small)
    taken = limit_step(x0, large, 0.1) - x0
    size, scale = (t.square().flatten(1).mean(1).sqrt() for t in (taken, x0))
    torch.testing.assert_close(size, 0.1 * scale)
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(taken.flatten(1), step.flatten(1)), torch.ones(2))
    assert torch.equal(limit_step(x0, x0.clone(), 0.1), x0)
