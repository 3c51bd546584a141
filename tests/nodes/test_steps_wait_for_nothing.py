"""What the pack adds to a step of ComfyUI's never makes the host wait for a device; see tests/diffusion for core's."""

from __future__ import annotations

import sys

import pytest
import torch

from reposedm_core.config import DenoiserConfig, ScheduleConfig
from reposedm_core.diffusion.context_cache import cached_context
from reposedm_core.diffusion.denoiser import Denoiser
from reposedm_core.diffusion.schedule import DiffusionSchedule
from tests.fixtures.waits import Waits
from tests.nodes import families
from workflows.comfy_server import ROOT

ONCE = ["ddim", "euler", "euler_ancestral", "lms", "dpmpp_2m", "ddpm", "lcm", "ipndm", "deis", "res_multistep"]
OWN = (str(ROOT / "nodes"), str(ROOT / "reposedm_core"))


class OurWaits(Waits):
    """Those alone that the pack asks for, not the host's own."""

    def waits(self, name: str) -> None:
        frame = sys._getframe(2)
        while frame is not None and not frame.f_code.co_filename.startswith((*OWN, self.host)):
            frame = frame.f_back
        if frame is not None and frame.f_code.co_filename.startswith(OWN):
            super().waits(name)

    @property
    def host(self) -> str:
        import comfy.samplers

        return comfy.samplers.__file__.removesuffix("samplers.py")


def test_no_pass_of_the_model_reads_or_copies(pack):
    """On a device without values; weights are cast by the host's layers."""
    config = DenoiserConfig(
        latent_channels=4, block_channels=(16, 32), layers=1, heads_dim=16, context_dim=16, height=8, width=8
    )
    with torch.device("meta"), torch.no_grad():
        schedule = DiffusionSchedule(ScheduleConfig())
        network = pack.nodes.host.reposedm_model.HostDenoiser(Denoiser(config).eval().requires_grad_(False), schedule)
        z, context, t = torch.randn(2, 4, 8, 8), torch.randn(2, 64, 16), torch.full((2,), 400)
        seen: list = []
        options = {
            pack.nodes.host.reposedm_model.VARIANCE: lambda *given: seen.append(given),
            "cond_or_uncond": [0, 1],
        }
        with cached_context(network.denoiser):
            for _ in range(2):
                with Waits() as waits:
                    found = network(z, t, context.clone(), z, z, z[:, :1], transformer_options=options)
    assert waits.found == [] and found.is_meta and len(seen) == 2


@pytest.mark.parametrize("sampler", ONCE)
def test_no_guided_step_reads(pack, made, guide, sampler, monkeypatch):
    """Of samplers that step from level to level; noise levels are the sampler's own all the same."""
    run = pack.nodes.host.field_sampling.Run
    known, levels = run.level, []

    def level(self, sigma):
        levels.append((known(self, sigma), sigma))
        return levels[-1][0]

    monkeypatch.setattr(run, "level", level)
    model, vae = made("SD 1.5")
    bent, counts = guide(model, vae, start=0.1, every_nth_step=2, joints="arms", normalise=True), []
    with OurWaits() as waits:
        found = families.sample(bent, 6, sampler, callback=lambda *_: counts.append(len(waits.found)))
    assert len(counts) == 6 and not found.equal(families.sample(model, 6, sampler))
    guided = counts[2]  # the first guided step is checked, and its target made
    assert 0 < guided == counts[-1] == len(waits.found)
    assert len(levels) == 6 and all(told == float(sigma[0]) for told, sigma in levels)


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "uni_pc", "dpmpp_sde"])
def test_other_samplers_are_asked_for_the_level_alone(made, guide, sampler):
    model, vae = made("SD 1.5")
    bent, counts = guide(model, vae), []
    with OurWaits() as waits:
        families.sample(bent, 5, sampler, callback=lambda *_: counts.append(waits.found.copy()))
    assert set(counts[-1][len(counts[1]) :]) == {"item"}
    assert len(counts[-1]) - len(counts[1]) <= 2 * (len(counts) - 2), "once per evaluation"


@pytest.mark.parametrize("step", [0, 2])
def test_a_decoder_that_overflows_in_any_step_is_named(pack, made, guide, step):
    from tests.nodes.guided import networks

    model, vae = made("SD 1.5")
    bent, calls = guide(model, vae), []
    own = networks(bent)[0].vae
    decode = own.decode
    own.decode = lambda latent: calls.append(1) or decode(latent) / (0 if len(calls) == step + 1 else 1)
    with pytest.raises(pack.reposedm_core.InputError, match=r"^vae: the picture .* not finite\. Start ComfyUI with"):
        families.sample(bent)
    assert len(calls) == (1 if step == 0 else 3), "at once in the first guided step, at the end in others"
