"""The normalised step of the field: one strength means the same whatever the latent, decoder and estimator are."""

from __future__ import annotations

import pytest
import torch

from reposedm_core.config import EstimatorConfig
from reposedm_core.diffusion.guidance import guide_x0
from reposedm_core.diffusion.guided import FieldGuidance
from reposedm_core.estimator import HigherHRNet
from reposedm_core.field import PoseInteractionField


def tensors(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, gradient = (torch.randn(3, 4, 5, 2, generator=generator, dtype=dtype) for _ in range(2))
    return x0, gradient, torch.rand(3, generator=generator, dtype=dtype) + 1


@pytest.mark.parametrize("alpha_bar", [0.36, torch.tensor([0.9, 0.36, 0.01]).double()])
def test_a_plane_falls_by_the_share(alpha_bar):
    """Of G = g·x + c nothing but its first order is left."""
    x0, gradient, distance = tensors()
    moved = guide_x0(x0, gradient, alpha_bar, 0.25, distance=distance)
    fall = -((moved - x0) * gradient).sum((1, 2, 3))
    torch.testing.assert_close(fall, 0.25 * (1 - torch.as_tensor(alpha_bar).double()).sqrt() * distance)
    cosine = torch.nn.functional.cosine_similarity((moved - x0).flatten(1), -gradient.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(3).double())


@pytest.mark.parametrize("scale", [1e-8, 0.18215, 1e6])
def test_the_latent_s_unit_does_not_matter(scale):
    x0, gradient, distance = tensors()
    one = guide_x0(x0, gradient, 0.5, 0.3, 0.1, distance)
    torch.testing.assert_close(guide_x0(x0 * scale, gradient / scale, 0.5, 0.3, 0.1, distance) / scale, one)
    torch.testing.assert_close(guide_x0(x0, gradient * scale, 0.5, 0.3, 0.1, distance * scale), one)


def test_limit_bounds_it_and_weight_zero_is_the_same_tensor():
    x0, gradient, distance = tensors()
    assert guide_x0(x0, gradient, 0.5, 0.0, 0.1, distance) is x0
    step = guide_x0(x0, gradient, 0.5, 1e6, 0.1, distance) - x0
    length = [value.square().mean((1, 2, 3)).sqrt() for value in (step, x0)]
    torch.testing.assert_close(length[0], 0.1 * length[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-7, 6e4])
@pytest.mark.parametrize("limit", [0.0, 0.1])
def test_no_gradient_makes_it_infinite(dtype, size, limit):
    x0, gradient, distance = tensors(torch.float32)
    gradient = (gradient * size).clamp(-6e4, 6e4).to(dtype)
    found = guide_x0(x0.to(dtype), gradient, 0.5, 0.1, limit, distance * 1e-6)
    if limit or size in (0.0, 6e4):
        assert found.dtype == dtype and found.isfinite().all()
    assert size or torch.equal(found, x0.to(dtype))


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_one_strength_takes_the_same_share_off_every_decoder_s_distance(scale):
    """The same picture behind latents of any size: a tenth is asked for, and about a tenth is taken."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        estimator = HigherHRNet(
            EstimatorConfig(stem=8, bottleneck=8, channels=(8, 16), modules=(1,), blocks=1, deconv_channels=8)
        ).double()
        for weight in estimator.parameters():
            weight.data.add_(0.05 * torch.randn_like(weight))
    field = PoseInteractionField(estimator)
    generator = torch.Generator().manual_seed(1)
    joints = torch.rand(1, 17, 3, generator=generator, dtype=torch.float64) * torch.tensor([24, 32, 1.0]).double()
    target = field.target_from_joints(joints, 32, 24)

    def decode(latent):
        return torch.nn.functional.interpolate(latent / scale, scale_factor=8, mode="bilinear").tanh()

    latent = scale * torch.randn(1, 3, 4, 3, generator=generator, dtype=torch.float64)
    fallen = {}
    for normalise in (True, False):
        guidance = FieldGuidance(field, target, decode, 0.1, limit=0.0, normalise=normalise)
        guided = guidance(latent, 1e-4)
        assert torch.equal(guidance(latent, 1e-4, 7.5), guided) == normalise, "w_c weighs the bare gradient alone"
        torch.testing.assert_close(guidance(latent, 1e-4, -1.0) - latent, latent - guided)
        with torch.no_grad():
            before, after = (float(field.distance(decode(z), target)) for z in (latent, guided))
        fallen[normalise] = 1 - after / before
    assert 0.07 < fallen[True] < 0.13, fallen
    assert not 0.07 < fallen[False] < 0.13, "the bare gradient's size is another for every latent"
