"""Equations 10-12, the pose interaction field G: its mask and distance (eq. 11) against plain references, its gradient
with respect to the decoded latent (eq. 10, 12) against finite differences, in both spaces."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from reposedm_core.diffusion.guided import FieldGuidance
from reposedm_core.estimator import EstimatorOutput, merge_heatmaps
from reposedm_core.field import PoseInteractionField, PoseTarget, heatmap_mask, masked_distance
from tests.field.conftest import MICRO, SIZE, every_space


def test_mask_is_one_where_joints_are():
    maps = torch.zeros(1, 3, 2, 2)
    maps[0, 0, 0, 0] = 0.9
    maps[0, 1, 0, 1] = maps[0, 2, 0, 1] = 0.06  # together above the threshold
    maps[0, 1, 1, 0] = 0.1  # not above it
    assert heatmap_mask(maps).tolist() == [[[[1, 1], [0, 0]]]]


def test_mask_carries_no_gradient():
    maps = torch.rand(1, 3, 2, 2, requires_grad=True)
    assert not heatmap_mask(maps).requires_grad


@every_space
@pytest.mark.parametrize("mask", ["predicted", "union"])
def test_distance_is_equation_11(space, mask, estimator, decoder, latent, make_target):
    field = PoseInteractionField(estimator(), space, mask=mask)
    target, picture = make_target(field), decoder()(latent()).detach()
    out = field.estimator(picture)
    stride = 2 if space == "heatmaps" else 4
    predicted, wanted = merge_heatmaps(out.heatmaps_quarter, out.heatmaps_half), target.heatmaps
    a, b = predicted, wanted
    if space == "features":
        a, b = out.features, target.features
        predicted, wanted = (nn.functional.avg_pool2d(maps, 2) for maps in (predicted, wanted))
    share = (predicted.sum(1) > 0.1).float().mean()
    assert 0.05 < share < 0.95, f"the mask must be seen at work, and covers {share:.0%}"
    expected = torch.zeros(2)
    for i in range(2):
        for y in range(SIZE[0] // stride):
            for x in range(SIZE[1] // stride):
                seen, called = predicted[i, :, y, x].sum() > 0.1, wanted[i, :, y, x].sum() > 0.1
                if seen or (mask == "union" and called):
                    weight = target.known[i, :, 0, 0] if space == "heatmaps" else 1
                    expected[i] += (weight * (a[i, :, y, x] - b[i, :, y, x]) ** 2).sum()
    torch.testing.assert_close(field.distance(picture, target), expected, rtol=1e-4, atol=1e-5)


@every_space
def test_distance_of_a_picture_to_itself_is_zero(space, estimator):
    field, picture = PoseInteractionField(estimator(), space), torch.rand(1, 3, *SIZE)
    assert field.distance(picture, field.target_from_image(picture)).item() == 0


class Quiet(nn.Module):
    """Stands in for an estimator that sees nobody anywhere, with a gradient through one weight."""

    config = MICRO

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor):
        maps = nn.functional.avg_pool2d(x.mean(1, keepdim=True), 2).expand(-1, 17, -1, -1) * 1e-3
        quarter = nn.functional.avg_pool2d(maps, 2)
        return EstimatorOutput(quarter, quarter, maps, quarter)


def test_union_mask_calls_for_a_missing_limb_and_the_papers_does_not(joints):
    picture = torch.zeros(1, 3, *SIZE)
    distances, gradients = {}, {}
    for mask in ("predicted", "union"):
        field = PoseInteractionField(Quiet(), mask=mask)
        target = field.target_from_joints(joints(1), *SIZE)
        gradients[mask], distances[mask] = field.gradient(picture, lambda z: z, target)
    assert distances["predicted"].item() == 0
    assert distances["union"].item() > 1
    assert not gradients["predicted"].any()
    # Going down the gradient brightens the picture, which this estimator reads as joints.
    assert (gradients["union"] <= 0).all()
    assert gradients["union"].any()


def test_unknown_joints_do_not_count(estimator, joints):
    field, picture = PoseInteractionField(estimator(), mask="union"), torch.rand(1, 3, *SIZE)
    some = joints(1)
    some[:, 5:] = 0
    target = field.target_from_joints(some, *SIZE)
    assert target.known.flatten().tolist() == [1.0] * 5 + [0.0] * 12
    moved = PoseTarget(torch.cat([target.heatmaps[:, :5], target.heatmaps[:, 5:] + 0.05], 1), target.known)
    mask = heatmap_mask(target.heatmaps)
    assert masked_distance(moved.heatmaps, target.heatmaps, mask * target.known).item() == 0
    nobody = field.target_from_joints(torch.zeros(1, 17, 3), *SIZE)
    assert field.distance(picture, nobody).item() == 0


@every_space
@pytest.mark.parametrize("mask", ["predicted", "union"])
def test_gradient_against_finite_differences(space, mask, estimator, decoder, latent, make_target, check_slopes):
    dtype = torch.float64
    field = PoseInteractionField(estimator(dtype), space, mask=mask)
    decode, z, target = decoder(dtype), latent(dtype=dtype), make_target(field)
    gradient, distance = field.gradient(z, decode, target)
    assert gradient.shape == z.shape and gradient.abs().max() > 1e-3
    torch.testing.assert_close(distance, field.distance(decode(z), target))
    check_slopes(field, decode, z, target, gradient, 4)


@every_space
def test_steps_down_the_gradient_reduce_the_distance(space, estimator, decoder, latent, make_target):
    field, decode, z = PoseInteractionField(estimator(), space), decoder(), latent()
    target = make_target(field)
    _, first = field.gradient(z, decode, target)
    for _ in range(20):
        gradient, last = field.gradient(z, decode, target)
        z = z - 0.05 * gradient / gradient.square().mean((1, 2, 3), keepdim=True).sqrt()
    assert (last < 0.95 * first).all()


@every_space
def test_gradient_under_inference_mode_equals_outside(space, estimator, decoder, latent, make_target):
    field, decode = PoseInteractionField(estimator(), space), decoder()
    outside = field.gradient(latent(), decode, make_target(field))
    with torch.inference_mode():
        # Latent and target are inference tensors here, as they are in a host's sampling loop.
        inside = field.gradient(latent(), decode, make_target(field))
    for a, b in zip(outside, inside, strict=True):
        assert torch.equal(a, b)
        assert not b.is_inference() and not b.requires_grad


def test_gradient_under_no_grad_and_in_train_mode(estimator, decoder, latent, make_target):
    field, decode = PoseInteractionField(estimator()), decoder()
    target = make_target(field)
    expected, _ = field.gradient(latent(), decode, target)
    before = copy.deepcopy(field.state_dict())
    with torch.no_grad():
        gradient, _ = field.train().gradient(latent(), decode, target)
    assert torch.equal(gradient, expected)
    assert all(torch.equal(before[key], value) for key, value in field.state_dict().items())


@every_space
def test_weights_get_no_gradient(space, estimator, decoder, latent, make_target):
    field, decode, z = PoseInteractionField(estimator(), space), decoder(), latent().requires_grad_()
    gradient, distance = field.gradient(z, decode, make_target(field))
    assert z.grad is None
    assert all(p.grad is None for module in (field, decode) for p in module.parameters())
    assert not gradient.requires_grad and not distance.requires_grad
    assert not any(p.requires_grad for p in field.parameters())


@every_space
def test_batch_is_pictures_one_by_one(space, estimator, decoder, latent, make_target):
    field, decode, z = PoseInteractionField(estimator(), space), decoder(), latent()
    target = make_target(field)
    gradient, distance = field.gradient(z, decode, target)
    for i in range(2):
        one = field.gradient(z[i : i + 1], decode, target.map(lambda t, i=i: t[i : i + 1]))
        torch.testing.assert_close(gradient[i : i + 1], one[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(distance[i : i + 1], one[1], rtol=1e-4, atol=1e-5)


@every_space
def test_one_target_serves_a_batch(space, estimator, decoder, latent, make_target):
    field, decode, z = PoseInteractionField(estimator(), space), decoder(), latent()
    one = make_target(field, 1)
    single = field.gradient(z, decode, one)
    twice = field.gradient(z, decode, one.map(lambda t: torch.cat([t, t])))
    torch.testing.assert_close(single, twice)


def test_strength_zero_leaves_the_estimate_and_asks_nobody(estimator, latent, make_target):
    def decode(_):
        raise AssertionError("nothing is decoded where guidance is off")

    field, x0 = PoseInteractionField(estimator()), latent()
    off = FieldGuidance(field, make_target(field), decode, strength=0.0)
    assert off(x0, 0.5) is x0 and not off.active(0.5)
    assert FieldGuidance(field, make_target(field), decode)(x0, 0.5, weight=0.0) is x0
