"""Between its first step and its end a run never makes the host wait for the device.

There need be no GPU: the tensors are PyTorch's fake ones, which are on "cuda" and have no values. To read one raises an
error, and every copy between main memory and the device is seen.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from reposedm_core.config import AutoencoderConfig, DenoiserConfig, EstimatorConfig, ScheduleConfig
from reposedm_core.diffusion import sampler
from reposedm_core.diffusion.autoencoder import Autoencoder
from reposedm_core.diffusion.denoiser import Denoiser
from reposedm_core.diffusion.guided import Condition, FieldGuidance, GuidedDenoiser
from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.errors import InputError
from reposedm_core.estimator import HigherHRNet
from reposedm_core.estimator.hrnet import _constants
from reposedm_core.field import PoseInteractionField, PoseTarget

DENOISER = DenoiserConfig(
    latent_channels=4, block_channels=(16, 32), layers=1, heads_dim=16, context_dim=16, height=8, width=8
)
ESTIMATOR = EstimatorConfig(
    stem=8, bottleneck=8, channels=(8, 16), modules=(1,), blocks=1, deconv_channels=8, normalise="imagenet"
)
READING = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "allclose")


class Waits(TorchDispatchMode):
    """What the host has to wait for: values that are read, and copies to main memory or from it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        name = function.__name__.partition(".")[0]
        if name in READING:
            self.found.append(name)
        if name in ("_to_copy", "copy_"):
            devices = {value.device.type for value in (*args, result) if isinstance(value, torch.Tensor)}
            if len(devices) > 1 and not (kwargs.get("non_blocking") and result.device.type == "cuda"):
                self.found.append(f"{name} between {' and '.join(sorted(devices))}")
        return result


@pytest.fixture
def device():
    """Makes tensors on a device that is not there."""
    _constants.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        yield
    _constants.cache_clear()


def guidance(space: str, joints: tuple[int, ...] | None, normalise: bool) -> FieldGuidance:
    field = PoseInteractionField(HigherHRNet(ESTIMATOR), space, joints=joints)
    decode = Autoencoder(AutoencoderConfig(channels=4, widths=(8, 8, 8))).requires_grad_(False).decode
    target = PoseTarget(torch.rand(1, 17, 32, 32), torch.ones(1, 17, 1, 1), torch.rand(1, 8, 16, 16))
    return FieldGuidance(field, target, decode, normalise=normalise, limit=0.1)


@pytest.mark.parametrize(
    "field",
    [None, ("heatmaps", None, False), ("features", None, True), ("heatmaps", (3, 5), False)],
    ids=["unguided", "guided", "guided by features", "guided by two joints"],
)
@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("sample", [sampler.sample_ddim, sampler.sample_ancestral])
def test_no_step_of_a_run_waits(device, sample, scale, field):
    """The loop of a sampler, as its checks before it and its report after it leave it."""
    network = Denoiser(DENOISER).eval().requires_grad_(False)
    condition = Condition.of(network, *(torch.randn(2, 4, 8, 8) for _ in range(3)), torch.ones(2, 1, 8, 8))
    guide = field and guidance(*field)
    model = GuidedDenoiser(network, DiffusionSchedule(ScheduleConfig()), condition, scale, guide)
    x, level = torch.randn(2, 4, 8, 8), torch.full((2,), 3.0)
    with prepared(model, level):
        model(x, level)
        with Waits() as waits:
            found = model(x, level)
    assert waits.found == [] and found.x0.shape == x.shape and found.x0.device.type == "cuda"
