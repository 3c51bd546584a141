"""The denoiser and what guides it."""

import dataclasses

import pytest
import torch

from reposedm_core.config import DenoiserConfig, ScheduleConfig
from reposedm_core.diffusion.denoiser import Denoiser
from reposedm_core.diffusion.guided import Condition, GuidedDenoiser
from reposedm_core.diffusion.sampler import initial_latent, sample_ancestral, sample_ddim, simple_sigmas
from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.presets import PRESETS

TINY = DenoiserConfig(latent_channels=4, block_channels=(16, 32), layers=1, heads_dim=16, context_dim=16,
                      height=8, width=8)


def make(config=TINY):
    torch.manual_seed(0)
    model = Denoiser(config).eval()
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.1)     # it starts at zero: give it something to say
    return model


def latents(seed, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 4, 8, 8, generator=generator)


@pytest.mark.parametrize(("texture", "channel"), [("aligned", True), ("aligned", False), ("source", False)])
def test_every_variant_predicts_latents_and_variance(texture, channel):
    model = make(dataclasses.replace(TINY, texture=texture, channel_condition=channel))
    schedule = DiffusionSchedule(ScheduleConfig())
    condition = Condition.of(model, latents(1), latents(2), latents(3), torch.rand(2, 1, 8, 8))
    out = GuidedDenoiser(model, schedule, condition)(latents(4) * 5, torch.tensor([5.0, 5.0]))
    assert out.x0.shape == out.variance_logits.shape == (2, 4, 8, 8)


def test_the_source_reaches_b1_and_the_aligned_latent_the_others():
    for texture, moves in (("source", 0), ("aligned", 1)):
        model = make(dataclasses.replace(TINY, texture=texture, channel_condition=False))
        visibility = torch.rand(2, 1, 8, 8)
        base = Condition.of(model, latents(1), latents(2), latents(3), visibility).tokens
        changed = [Condition.of(model, latents(1), latents(5), latents(3), visibility).tokens,
                   Condition.of(model, latents(1), latents(2), latents(5), visibility).tokens]
        assert [bool((c != base).any()) for c in changed] == [i == moves for i in range(2)]


def test_guidance_scale_mixes_both_passes():
    """eq. 16 without the gradient: ε_uncond + w_c (ε_cond - ε_uncond), on x̂₀ as well, being linear."""
    model, schedule = make(), DiffusionSchedule(ScheduleConfig())
    condition = Condition.of(model, latents(1), latents(2), latents(3), torch.rand(2, 1, 8, 8))
    x, sigma = latents(4) * 3, torch.tensor([3.0, 3.0])
    conditional = GuidedDenoiser(model, schedule, condition, 1.0)(x, sigma).x0
    unconditional = GuidedDenoiser(model, schedule, Condition.null(model, condition), 1.0)(x, sigma).x0
    guided = GuidedDenoiser(model, schedule, condition, 2.5)(x, sigma).x0
    torch.testing.assert_close(guided, unconditional + 2.5 * (conditional - unconditional), rtol=1e-4, atol=1e-4)
    assert (conditional - unconditional).abs().max() > 1e-3


def test_samplers_are_deterministic_for_a_seed():
    model, schedule = make(), DiffusionSchedule(ScheduleConfig())
    condition = Condition.of(model, latents(1, 1), latents(2, 1), latents(3, 1), torch.rand(1, 1, 8, 8))
    guided = GuidedDenoiser(model, schedule, condition, 1.5)
    sigmas = simple_sigmas(schedule, 3)
    start = initial_latent(latents(9, 1), sigmas[0])
    assert torch.equal(sample_ddim(guided, start, sigmas), sample_ddim(guided, start, sigmas))

    def ancestral(seed):
        return sample_ancestral(guided, start, sigmas, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(ancestral(1), ancestral(1))
    assert not torch.equal(ancestral(1), ancestral(2))


def test_mini_and_its_ablations_build():
    sizes = {name: sum(p.numel() for p in Denoiser(PRESETS[name].denoiser).parameters())
             for name in ("mini", "mini-b1", "mini-b2")}
    assert sizes["mini"] > sizes["mini-b2"] == sizes["mini-b1"]
