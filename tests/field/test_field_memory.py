"""The field in chunks: the same numbers in bounded memory; and in half precision."""

from __future__ import annotations

import weakref
from collections import Counter

import pytest
import torch

from reposedm_core.config import EstimatorConfig
from reposedm_core.estimator import HigherHRNet
from reposedm_core.field import PoseInteractionField, PoseTarget
from reposedm_core.presets import ESTIMATORS
from tests.field.conftest import SIZE, every_space


@every_space
@pytest.mark.parametrize("chunk", [1, 2, 3, None])
def test_chunks_change_nothing(space, chunk, estimator, decoder, latent, make_target):
    field, decode, z = PoseInteractionField(estimator(), space), decoder(), latent(5)
    for target in (make_target(field, 5), make_target(field, 1)):
        whole = field.gradient(z, decode, target, chunk=5)
        parts = field.gradient(z, decode, target, chunk=chunk)
        for a, b in zip(whole, parts, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            assert len(b) == 5


class Kept:
    """What autograd holds for backward in place of a tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class Peak:
    """The most bytes that autograd keeps at one time, weights included, each storage once."""

    def __init__(self) -> None:
        self.kept, self.now, self.most = Counter(), 0, 0

    def pack(self, tensor: torch.Tensor) -> Kept:
        key, size = tensor.untyped_storage()._cdata, tensor.untyped_storage().nbytes()
        self.now += size * (self.kept[key] == 0)
        self.kept[key] += 1
        self.most = max(self.most, self.now)
        box = Kept(tensor)
        weakref.finalize(box, self.drop, key, size)
        return box

    def drop(self, key: int, size: int) -> None:
        self.kept[key] -= 1
        self.now -= size * (self.kept[key] == 0)

    @staticmethod
    def unpack(box: Kept) -> torch.Tensor:
        return box.tensor


def peak(config: EstimatorConfig, batch: int, chunk: int | None, height: int = 512, width: int = 352) -> int:
    """Bytes kept by a gradient with respect to pictures; shapes alone are computed with."""
    measured, size = Peak(), (height // 2, width // 2)
    field = PoseInteractionField(HigherHRNet(config, device="meta"))
    target = PoseTarget(torch.zeros(1, 17, *size, device="meta"), torch.ones(1, 17, 1, 1, device="meta"))
    with torch.autograd.graph.saved_tensors_hooks(measured.pack, measured.unpack):
        gradient, _ = field.gradient(torch.zeros(batch, 3, height, width, device="meta"), torch.tanh, target, chunk)
    assert gradient.shape == (batch, 3, height, width)
    return measured.most


def test_memory_is_that_of_one_picture_at_512x352():
    one, four = (peak(EstimatorConfig(), batch, None) for batch in (1, 4))
    assert 50e6 < one < 100e6 and four <= 1.01 * one
    assert peak(EstimatorConfig(), 4, chunk=4) > 3.5 * one, "the measure must see the batch where there are no chunks"


def test_small_pictures_share_a_pass():
    one, eight = (peak(EstimatorConfig(), batch, None, 128, 96) for batch in (1, 8))
    assert 3 * one < eight < 100e6


def test_memory_of_the_papers_estimator():
    """What the docstring of `gradient` says of W32; W48's is measured in the same way."""
    assert 0.7e9 < peak(ESTIMATORS["w32"], 1, None) < 0.8e9


def test_half_precision_latent_gets_a_half_precision_gradient(estimator, decoder, latent, make_target):
    field, decode = PoseInteractionField(estimator()), decoder(torch.bfloat16)
    gradient, _ = field.gradient(latent(dtype=torch.bfloat16), decode, make_target(field))
    assert gradient.dtype == torch.bfloat16
    assert gradient.isfinite().all() and gradient.any()


@every_space
@pytest.mark.parametrize(("dtype", "error", "cosine"), [(torch.float16, 0.01, 0.98), (torch.bfloat16, 0.03, 0.9)])
def test_half_precision_weights(space, dtype, error, cosine, estimator, decoder, latent, make_target):
    """Distances to 1 % (float16) and 3 % (bfloat16) of single precision's, gradients to 12 and 26 degrees."""
    single = PoseInteractionField(estimator(), space)
    half = PoseInteractionField(estimator().to(dtype), space)
    gradient, distance = single.gradient(latent(), decoder(), make_target(single))
    rough, far = half.gradient(latent(), decoder(), make_target(half))
    assert far.dtype == rough.dtype == torch.float32
    torch.testing.assert_close(far, distance, rtol=error, atol=0)
    assert not torch.equal(far, distance)
    assert torch.cosine_similarity(gradient.flatten(), rough.flatten(), 0) > cosine
    target = half.target_from_image(torch.zeros(1, 3, *SIZE))
    assert {target.heatmaps.dtype, target.known.dtype, target.features.dtype} == {torch.float32}
