"""Between its first step and its end a run never makes the host wait for a device.

There need be no GPU: the tensors of PyTorch's device "meta" have no values. To read one is an error, and every copy
between main memory and the device is seen. Whole runs are looked at on the CPU.
"""

from __future__ import annotations

import pytest
import torch

from reposedm_core.config import AutoencoderConfig, DenoiserConfig, EstimatorConfig, ScheduleConfig
from reposedm_core.diffusion.autoencoder import Autoencoder
from reposedm_core.diffusion.context_cache import cached_context
from reposedm_core.diffusion.denoiser import Denoiser
from reposedm_core.diffusion.guided import Condition, FieldGuidance, GuidedDenoiser, _Run
from reposedm_core.diffusion.sampler import initial_latent, simple_sigmas
from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.diffusion.schedulers import SAMPLERS
from reposedm_core.errors import InputError
from reposedm_core.estimator import HigherHRNet
from reposedm_core.field import PoseInteractionField, PoseTarget
from tests.fixtures.waits import Waits

DENOISER = DenoiserConfig(
    latent_channels=4, block_channels=(16, 32), layers=1, heads_dim=16, context_dim=16, height=8, width=8
)
ESTIMATOR = EstimatorConfig(
    stem=8, bottleneck=8, channels=(8, 16), modules=(1,), blocks=1, deconv_channels=8, normalise="imagenet"
)
KINDS = {
    "unguided": None,
    "guided": {},
    "by features": {"space": "features", "normalise": True},
    "by two joints": {"joints": (3, 5)},
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def make(kind: dict | None, scale: float) -> GuidedDenoiser:
    network = Denoiser(DENOISER).eval().requires_grad_(False)
    condition = Condition.of(network, *(torch.randn(2, 4, 8, 8) for _ in range(3)), torch.ones(2, 1, 8, 8))
    field = None if kind is None else guidance(**kind)
    return GuidedDenoiser(network, DiffusionSchedule(ScheduleConfig()), condition, scale, field)


def guidance(space: str = "heatmaps", joints: tuple | None = None, normalise: bool = False) -> FieldGuidance:
    field = PoseInteractionField(HigherHRNet(ESTIMATOR), space, joints=joints)
    decode = Autoencoder(AutoencoderConfig(channels=4, widths=(8, 8, 8))).requires_grad_(False).decode_for_field
    target = PoseTarget(torch.rand(1, 17, 32, 32), torch.ones(1, 17, 1, 1), torch.rand(1, 8, 16, 16))
    return FieldGuidance(field, target, decode, normalise=normalise)


@pytest.fixture
def device():
    """Makes tensors on another device than the host's."""
    with torch.device("meta"):
        yield


@every_kind
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_no_step_reads_or_copies(device, kind, scale):
    model = make(kind, scale)
    x, level = torch.randn(2, 4, 8, 8), torch.full((2,), 3.0)
    model._steps[level] = 400  # what a run reads before its first step, and what its first guided step leaves
    if model.field is not None:
        model.field._run = _Run(model.field.field, checked=True)
    with torch.no_grad(), cached_context(model.denoiser):
        model(x, level)
        with Waits() as waits:
            found = model(x, level)
    assert waits.found == [] and found.x0.shape == x.shape and found.x0.is_meta


def test_waits_are_seen(device):
    """The same step of a call that no run has prepared, and copies: what the tests here look for is found."""
    model = make({}, 1.0)
    with Waits() as waits, torch.no_grad(), pytest.raises(RuntimeError, match="meta"):
        model(torch.randn(2, 4, 8, 8), torch.full((2,), 3.0))
    with Waits() as copies:
        torch.ones(2, device="cpu").to("meta")
    assert waits.found == ["_local_scalar_dense"] and copies.found == ["_to_copy between cpu and meta"]


@every_kind
@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_no_run_reads_after_its_first_step(sampler, kind):
    model, counts = make(kind, 1.5), []
    sigmas = simple_sigmas(model.schedule, 4)
    with Waits() as waits:
        SAMPLERS[sampler](
            model,
            initial_latent(torch.randn(2, 4, 8, 8), sigmas[0]),
            sigmas,
            lambda *_: counts.append(len(waits.found)),
            torch.Generator().manual_seed(0),
        )
    # The first guided step checks what the decoder and the estimator make.
    assert len(counts) == 4 and 0 < counts[-1] == counts[0] == len(waits.found)


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("where", ["latent", "picture", "gradient"])
def test_what_is_not_finite_is_named_whatever_the_step(step, where):
    model = make({}, 1.5)
    decode, calls = model.field.decode, []

    def broken(latent):
        calls.append(len(latent))
        if len(calls) != step + 1:
            return decode(latent)
        # The slope of a root at 0 is infinite.
        return decode(latent) / 0 if where == "picture" else decode(latent) + (latent * 0).sqrt().sum()

    if where == "latent":
        predict = model.predict

        def predicted(z, t, *told):
            calls.append(len(z))
            prediction, variance = predict(z, t, *told)
            return prediction / (0 if len(calls) == step + 1 else 1), variance

        model.predict = predicted
    else:
        model.field.decode = broken
    sigmas = simple_sigmas(model.schedule, 3)
    with pytest.raises(InputError, match=where + ".* not finite"):
        SAMPLERS["ddim"](model, initial_latent(torch.randn(2, 4, 8, 8), sigmas[0]), sigmas)
    assert model.field._run is None and not model._steps
