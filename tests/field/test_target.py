"""Targets of several people, for any estimator of the protocol."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

from reposedm_core.estimator import merge_heatmaps
from reposedm_core.field import PoseInteractionField
from reposedm_core.pose.heatmaps import render_heatmaps
from tests.field.conftest import SIZE


class Right(nn.Module):
    """An estimator of the protocol, without weights, that sees the target whatever the picture is."""

    def __init__(self, people: torch.Tensor, strides: tuple[int, ...], udp: bool) -> None:
        super().__init__()
        self.people = people
        self.config = types.SimpleNamespace(joints=17, strides=strides, sigma=1.5, udp=udp)

    def forward(self, picture: torch.Tensor) -> types.SimpleNamespace:
        maps = [
            torch.stack(
                [render_heatmaps(p, *picture.shape[-2:], 1.5, stride, self.config.udp) for p in self.people.unbind(1)]
            ).amax(0)
            for stride in self.config.strides
        ]
        return types.SimpleNamespace(heatmaps=maps, features=nn.functional.avg_pool2d(picture, 8))


def crowd(batch: int = 2, people: int = 3, missing: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    found = torch.rand(batch, people, 17, 3, generator=generator) * torch.tensor([24.0, 32.0, 0.0])
    found[..., 2] = 1
    for n in range(missing):
        found[n % batch, n % people, 5 * n % 17] = 0
    return found


@pytest.mark.parametrize("udp", [False, True], ids=["plain", "udp"])
@pytest.mark.parametrize("strides", [(4, 2), (4,), (8,)])
def test_any_estimator_that_is_right_is_at_distance_zero(strides, udp):
    people = crowd(missing=4)
    field = PoseInteractionField(Right(people, strides, udp))
    target = field.target_from_joints(people, *SIZE)
    assert target.heatmaps.shape == (2, 17, SIZE[0] // strides[-1], SIZE[1] // strides[-1])
    picture = torch.zeros(2, 3, *SIZE)
    torch.testing.assert_close(field.distance(picture, target), torch.zeros(2))
    moved = field.target_from_joints(people + torch.tensor([3.0, 0, 0]), *SIZE)
    assert (field.distance(picture, moved) > 0.5).all()
    # Features of any resolution: here a single cell at 1/8 differs, and the mask covers it.
    features = PoseInteractionField(Right(people, strides, udp), "features", threshold=-1.0)
    other = picture.clone()
    other[1, :, :8, :8] = 1
    torch.testing.assert_close(features.distance(picture, features.target_from_image(other)), torch.tensor([0.0, 3.0]))


def test_one_person_either_way(estimator, joints):
    field, some = PoseInteractionField(estimator()), joints()
    some[0, 3] = 0
    one, several = (field.target_from_joints(j, *SIZE) for j in (some, some[:, None]))
    assert torch.equal(one.heatmaps, several.heatmaps) and torch.equal(one.known, several.known)
    # Rows of zeros are nobody: they fill up a picture that has fewer people.
    padded = field.target_from_joints(torch.cat([some[:, None], torch.zeros(2, 2, 17, 3)], 1), *SIZE)
    assert torch.equal(padded.heatmaps, one.heatmaps)
    assert torch.equal(padded.known, one.known.expand_as(padded.known))


def test_several_people_are_their_maximum(estimator):
    field, people = PoseInteractionField(estimator()), crowd(missing=5)
    target = field.target_from_joints(people, *SIZE)
    maps = [
        torch.stack([render_heatmaps(people[:, p], *SIZE, field.estimator.config.sigma, stride) for p in range(3)])
        for stride in (4, 2)
    ]
    torch.testing.assert_close(target.heatmaps, merge_heatmaps(*(m.amax(0) for m in maps)))
    shuffled = field.target_from_joints(people[:, [2, 0, 1]], *SIZE)
    assert torch.equal(target.heatmaps, shuffled.heatmaps) and torch.equal(target.known, shuffled.known)


def test_a_joint_is_compared_in_the_cells_of_those_who_have_it(estimator):
    people = crowd(missing=9)
    people[1, 2] = 0
    known = PoseInteractionField(estimator()).target_from_joints(people, *SIZE).known
    for i in range(2):
        for y in range(16):
            for x in range(12):
                place = torch.tensor([2 * x + 1.0, 2 * y + 1.0])
                nearest = min(
                    (torch.dist(place, joint[:2]).item(), p) for p in range(3) for joint in people[i, p] if joint[2] > 0
                )[1]
                assert known[i, :, y, x].tolist() == people[i, nearest, :, 2].tolist()
    assert 0 < known.mean() < 1


def test_what_one_person_lacks_is_called_for_of_the_other():
    left, right = torch.tensor([10.0, 32.0, 1.0]).repeat(17, 1), torch.tensor([54.0, 32.0, 1.0]).repeat(17, 1)
    without = [person.clone() for person in (left, right)]
    for person in without:
        person[9] = 0

    def distance(seen: list[torch.Tensor]) -> float:
        """To a target that does not know the left one's wrist."""
        field = PoseInteractionField(Right(torch.stack(seen)[None], (4, 2), False))
        target = field.target_from_joints(torch.stack([without[0], right])[None], 64, 64)
        return field.distance(torch.zeros(1, 3, 64, 64), target).item()

    assert distance([without[0], right]) == 0
    assert distance([left, right]) < 1e-4, "nothing is said of a wrist on the left"
    assert distance([left, without[1]]) > 1, "the right one's must be there"
    elsewhere = right.clone()
    elsewhere[9, 1] = 10
    assert distance([left, elsewhere]) > 1, "and nowhere else on the right"


@pytest.mark.parametrize("mask", ["predicted", "union"])
def test_gradient_for_several_people_against_finite_differences(mask, estimator, decoder, latent, check_slopes):
    dtype = torch.float64
    field = PoseInteractionField(estimator(dtype), mask=mask)
    decode, z = decoder(dtype), latent(dtype=dtype)
    target = field.target_from_joints(crowd(missing=5), *SIZE)
    assert target.heatmaps.dtype == dtype
    gradient, _ = field.gradient(z, decode, target, chunk=1)
    check_slopes(field, decode, z, target, gradient, 3)
