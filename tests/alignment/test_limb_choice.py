"""The choice among whole maps where limbs meet: limbs' maps, halves of maps, shares before and after training."""

import math

import pytest
import torch
from torch import nn

from reposedm_core.alignment.limb_choice import FIRST, LimbChoice, coarse_map
from reposedm_core.alignment.skeleton_map import FLOOR, LIMBS, limb_maps, skeleton_map
from reposedm_core.alignment.warp import identity_map

SIZE, FINE = (32, 24), (16, 12)


def joints(seed, batch=2):
    places = torch.rand(batch, 18, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([24.0, 32.0])
    return torch.cat([places, torch.ones(batch, 18, 1)], -1)


def given(batch=2, channels=10):
    """What a choice is given, all limbs known."""
    torch.manual_seed(3)
    grid = identity_map(*FINE).expand(batch, -1, -1, -1)
    limbs, near = limb_maps(joints(0, batch), joints(1, batch), SIZE, SIZE, FINE)
    matched, previous = (grid + 0.2 * torch.randn(batch, 2, *FINE) for _ in range(2))
    return [
        matched,
        torch.randn(batch, 2, *FINE),
        torch.randn(batch, channels, 8, 6),
        previous,
        limbs,
        near,
        torch.rand(batch, 6, *SIZE) * 2 - 1,
        torch.rand(batch, 3, *SIZE) * 2 - 1,
    ]


def test_the_skeleton_map_is_the_blend_of_the_limbs_maps():
    source, target = joints(0), joints(1)
    source[0, 4], target[1, 9] = 0, 0
    limbs, near = limb_maps(source, target, SIZE, SIZE, FINE)
    assert limbs.shape == (2, len(LIMBS), 2, *FINE) and near.shape == (2, len(LIMBS), *FINE)
    for n, joint in enumerate((4, 9)):
        for limb, ends in enumerate(LIMBS):
            assert near[n, limb].any() == (joint not in ends)
            if joint in ends:
                assert torch.equal(limbs[n, limb], identity_map(*FINE)[0])
    weight = torch.where(near > 0, torch.exp(1 - 1 / near), 0)  # near is 1 / (1 + d²)
    total = FLOOR + weight.sum(1, keepdim=True)
    blend = (FLOOR * identity_map(*FINE) + (limbs * weight[:, :, None]).sum(1)) / total
    expected, share = skeleton_map(source, target, SIZE, SIZE, FINE)
    torch.testing.assert_close(blend, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(1 - FLOOR / total, share)


def test_half_a_map_lies_on_one_of_its_surfaces():
    grid = identity_map(8, 6)
    left, right = identity_map(16, 12), 0.5 + 0.1 * identity_map(16, 12)
    fine = torch.where((torch.arange(12) >= 5)[None, None, None], right, left)
    coarse = coarse_map(fine)
    assert coarse.shape == grid.shape
    for row in range(8):
        for column in range(6):
            four = fine[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(1).T.tolist()
            assert coarse[0, :, row, column].tolist() in four
    mixed = torch.zeros(1, 2, 2, 2)
    mixed[0, :, 1, 1] = 1.0
    assert torch.equal(coarse_map(mixed), torch.zeros(1, 2, 1, 1)), "three of the four say so"


def test_before_training_the_match_has_the_largest_share():
    choice, values = LimbChoice(10, 16), given()
    found, logits, candidates, log = choice(*values)
    others = 1 + len(LIMBS)
    torch.testing.assert_close(log.exp()[:, 0], torch.full((2, *FINE), 1 / (1 + others * math.exp(FIRST))))
    assert torch.equal(candidates, torch.cat([values[0][:, None], values[3][:, None], values[4]], 1))
    torch.testing.assert_close(found, (candidates * log.exp()[:, :, None]).sum(1))
    assert torch.equal(logits, values[1])


def test_a_limb_that_nobody_knows_is_never_chosen():
    choice, values = LimbChoice(10, 16), given()
    nn.init.normal_(choice.read.weight, std=1.0)
    values[5][:, 3] = 0
    share = choice(*values)[3].exp()
    assert not share[:, 2 + 3].any() and (share.sum(1) - 1).abs().max() < 1e-5
    values[5][:] = 0
    share = choice(*values)[3].exp()
    assert not share[:, 2:].any() and share[:, :2].any()


@pytest.mark.parametrize("which", range(2 + len(LIMBS)))
def test_the_chosen_map_comes_out_as_it_is(which):
    """No mean of two surfaces where one has all of the share; the residual is added."""
    choice, values = LimbChoice(10, 16), given()
    with torch.no_grad():
        choice.read.bias[which] = 100.0
        choice.read.bias[-4:] = torch.tensor([1.0, -1.0, 0.5, 0.25])
    found, logits, candidates, _ = choice(*values)
    residual = 0.05 * torch.tensor([1.0, -1.0])[:, None, None]
    torch.testing.assert_close(found, candidates[:, which] + residual)
    torch.testing.assert_close(logits, values[1] + torch.tensor([0.5, 0.25])[:, None, None])


def test_everything_that_it_is_given_has_a_say():
    choice, values = LimbChoice(10, 16), given()
    for layer in (*choice.third, choice.read):
        nn.init.normal_(layer.weight, std=0.1)
    values = [value.requires_grad_() for value in values]
    found, logits, *_ = choice(*values)
    (found.square().sum() + logits.square().sum()).backward()
    names = ("matched", "logits", "features", "previous", "limbs", "near", "pictures", "skeleton")
    for name, value in [*zip(names, values, strict=True), *choice.named_parameters()]:
        assert value.grad is not None and value.grad.isfinite().all() and value.grad.any(), name
