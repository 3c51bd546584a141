"""φ⁰, the map of two skeletons: against a loop over cells and limbs, and known motions of a whole skeleton."""

import math

import pytest
import torch

from reposedm_core import InputError
from reposedm_core.alignment import skeleton_map as module
from reposedm_core.alignment.skeleton_map import (
    FLOOR,
    LIMBS,
    RADII,
    REACH,
    limb_maps,
    limb_mask,
    skeleton_map,
    torso_length,
)
from reposedm_core.alignment.warp import identity_map

SIZE, CELLS = (128, 96), (32, 24)
STANDING = torch.tensor(
    [
        (48, 20),
        (48, 34),
        (38, 34),
        (34, 50),
        (33, 64),
        (58, 35),
        (63, 50),
        (64, 63),
        (42, 66),
        (41, 88),
        (40, 110),
        (54, 66),
        (55, 88),
        (57, 109),
        (45, 17),
        (51, 17),
        (42, 19),
        (54, 19),
    ],
    dtype=torch.float32,
)
"""OpenPose-18 joints of somebody upright in a picture of 128×96."""


def scored(places, score=1.0):
    """Places (…, 18, 2) as joints (…, 18, 3)."""
    return torch.cat([places, torch.full_like(places[..., :1], score)], -1)


def skeletons(seed, batch=2, spread=9.0):
    """`batch` people near `STANDING`, (B, 18, 3)."""
    noise = torch.randn(batch, 18, 2, generator=torch.Generator().manual_seed(seed))
    return scored(STANDING + spread * noise)


def torso(joints):
    """Shoulders' middle to hips' middle, at least half of 0.3 times the diagonal of what is known; else that."""
    known = [complex(x, y) for x, y, score in joints if score > 0]
    box = complex(
        max(p.real for p in known) - min(p.real for p in known), max(p.imag for p in known) - min(p.imag for p in known)
    )
    right, left, hip_right, hip_left = (complex(*joints[n][:2]) for n in (2, 5, 8, 11))
    if all(joints[n][2] > 0 for n in (2, 5, 8, 11)):
        return max(abs((right + left) / 2 - (hip_right + hip_left) / 2), 0.15 * abs(box))
    return 0.3 * abs(box)


def loop(source, target, source_size, target_size, cells):
    """Cell by cell and limb by limb, with complex numbers for places."""
    sampling, share = torch.zeros(len(source), 2, *cells), torch.zeros(len(source), 1, *cells)
    for n, (theirs, mine) in enumerate(zip(source.tolist(), target.tolist(), strict=True)):
        scale = torso(theirs) / torso(mine)
        for row in range(cells[0]):
            for column in range(cells[1]):
                here = complex((column + 0.5) / cells[1] * target_size[1], (row + 0.5) / cells[0] * target_size[0])
                x, y = 2 * (column + 0.5) / cells[1] - 1, 2 * (row + 0.5) / cells[0] - 1
                total, sums = FLOOR, [FLOOR * x, FLOOR * y]
                for (a, b), radius in zip(LIMBS, RADII, strict=True):
                    if min(theirs[a][2], theirs[b][2], mine[a][2], mine[b][2]) <= 0:
                        continue
                    start, end, from_start, from_end = (complex(*j[k][:2]) for j in (mine, theirs) for k in (a, b))
                    along, from_along = (
                        (end - start) / abs(end - start),
                        (from_end - from_start) / abs(from_end - from_start),
                    )
                    local = (here - start) / along
                    inside = min(max(local.real, 0), abs(end - start))
                    stretched = inside * abs(from_end - from_start) / abs(end - start)
                    shown = from_start + from_along * (stretched + scale * (local - inside))
                    weight = math.exp(-((abs(local - inside) / (radius * REACH * torso(mine))) ** 2))
                    total += weight
                    sums[0] += weight * (shown.real / source_size[1] * 2 - 1)
                    sums[1] += weight * (shown.imag / source_size[0] * 2 - 1)
                sampling[n, :, row, column] = torch.tensor(sums) / total
                share[n, 0, row, column] = 1 - FLOOR / total
    return sampling, share


@pytest.mark.parametrize(
    ("source_size", "target_size", "cells"),
    [((128, 96), (128, 96), (16, 12)), ((128, 96), (160, 100), (7, 5)), ((200, 90), (128, 96), (9, 14))],
)
def test_it_equals_the_loop(source_size, target_size, cells):
    source, target = skeletons(0), skeletons(1)
    source[0, 4, 2] = target[0, 9, 2] = 0
    source[1, 8, 2] = 0  # a hip: the torso's length is then that of the box
    found = skeleton_map(source, target, source_size, target_size, cells)
    for mine, expected in zip(found, loop(source, target, source_size, target_size, cells), strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-4)


def test_two_equal_skeletons_give_the_identity_and_the_share_is_high_on_the_limbs_alone():
    joints = skeletons(0)
    sampling, share = skeleton_map(joints, joints, SIZE, SIZE, SIZE)
    torch.testing.assert_close(sampling, identity_map(*SIZE).expand_as(sampling), rtol=0, atol=1e-5)
    assert share.min() >= 0 and share.max() < 1
    for person, own in zip(joints, share, strict=True):
        for a, b in LIMBS:
            x, y = ((person[a, :2] + person[b, :2]) / 2).long().tolist()
            assert own[0, min(max(y, 0), 127), min(max(x, 0), 95)] > 0.9
    far = torch.tensor([[0.0, 0.0], [95.0, 0.0]])
    assert (torch.cdist(far, joints[0, :, :2]).amin(1) > 10).all() and share[0, 0, 0, [0, 95]].max() < 0.3


MOTIONS = {
    "translation": (1.0, 0.0, (9.0, -6.0)),
    "rotation": (1.0, 25.0, (0.0, 0.0)),
    "scale": (0.6, 0.0, (4.0, 8.0)),
    "all": (1.3, -40.0, (-5.0, 3.0)),
}


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_motion_of_a_whole_skeleton_is_found(motion):
    """Every limb says the same then: φ⁰ is a mixture of that and of the identity, by its share, and that of limbs
    high."""
    size, degrees, shift = MOTIONS[motion]
    c, s = size * math.cos(math.radians(degrees)), size * math.sin(math.radians(degrees))
    matrix, centre = torch.tensor([[c, -s], [s, c]]), torch.tensor([48.0, 64.0])
    source = skeletons(0, spread=4.0)
    target = source.clone()
    target[..., :2] = (source[..., :2] - centre) @ matrix.T + centre + torch.tensor(shift)
    sampling, share = skeleton_map(source, target, SIZE, SIZE, CELLS)
    half, here = torch.tensor([48.0, 64.0]), identity_map(*CELLS)[0].movedim(0, -1)
    back = ((here + 1) * half - centre - torch.tensor(shift)) @ matrix.inverse().T + centre
    expected = (back / half - 1).movedim(-1, 0)
    torch.testing.assert_close(sampling, share * expected + (1 - share) * identity_map(*CELLS), rtol=0, atol=1e-4)
    near = share > 0.9
    assert near.float().mean() > 0.05
    off = ((sampling - expected) * half[:, None, None]).norm(dim=1, keepdim=True)[near]
    still = ((here.movedim(-1, 0) - expected) * half[:, None, None]).norm(dim=0).expand(2, 1, -1, -1)[near]
    assert off.mean() < 0.06 * still.mean() and still.mean() > 4


def test_where_an_unknown_joint_is_said_to_be_does_not_matter():
    source, target = skeletons(0), skeletons(1)
    source[:, 7, 2] = target[:, 10, 2] = 0
    before = skeleton_map(source, target, SIZE, SIZE, CELLS)
    source[:, 7, :2], target[:, 10, :2] = 1e6, torch.nan
    for mine, other in zip(skeleton_map(source, target, SIZE, SIZE, CELLS), before, strict=True):
        assert torch.equal(mine, other)
    source[:, 7] = torch.tensor([48.0, 64.0, 1.0])
    assert not torch.equal(skeleton_map(source, target, SIZE, SIZE, CELLS)[0], before[0]), "a known one does"


@pytest.mark.parametrize("unknown", ["source", "target", "both"])
def test_nobody_gives_the_identity(unknown):
    nobody, somebody = torch.zeros(1, 18, 3), skeletons(0, 1)
    source, target = (nobody if unknown in (name, "both") else somebody for name in ("source", "target"))
    sampling, share = skeleton_map(source, target, SIZE, SIZE, CELLS)
    torch.testing.assert_close(sampling, identity_map(*CELLS))
    assert not share.any()


def test_a_single_limb_or_joint_is_enough():
    source = torch.zeros(1, 18, 3)
    source[:, 2:4] = scored(STANDING[2:4])
    target = source + torch.tensor([10.0, 0.0, 0.0]) * (source[..., 2:] > 0)
    sampling, share = skeleton_map(source, target, SIZE, SIZE, CELLS)
    best = share.flatten().argmax()
    moved = (sampling - identity_map(*CELLS)).flatten(2)[0, :, best]
    torch.testing.assert_close(moved, torch.tensor([-10 / 48, 0.0]), rtol=0, atol=0.01)
    source[:, 3] = 0
    assert not skeleton_map(source, target, SIZE, SIZE, CELLS)[1].any(), "a joint alone is no limb"


def test_any_resolution_gives_the_same_map():
    """Of cells, whose centres are among those of three times as many, and of both pictures."""
    source, target = skeletons(0), skeletons(1)
    coarse = skeleton_map(source, target, SIZE, SIZE, (8, 6))
    fine = skeleton_map(source, target, SIZE, SIZE, (24, 18))
    larger = torch.tensor([2.5, 2.5, 1.0])
    enlarged = skeleton_map(source * larger, target * larger, (320, 240), (320, 240), (8, 6))
    wider = skeleton_map(source * larger, target, (320, 240), SIZE, (8, 6))
    for n in range(2):
        torch.testing.assert_close(fine[n][..., 1::3, 1::3], coarse[n], rtol=0, atol=1e-5)
        torch.testing.assert_close(enlarged[n], coarse[n], rtol=0, atol=1e-5)
        torch.testing.assert_close(wider[n], coarse[n], rtol=0, atol=1e-5)


@pytest.mark.parametrize("end_on", ["source", "target", "both"])
def test_a_limb_seen_end_on_carries_only_what_is_near_it(end_on):
    """Elbow on wrist in one picture or both; the forearm then says nothing about the rest of the picture."""
    source, target = scored(STANDING)[None], scored(STANDING + torch.tensor([6.0, 0.0]))[None]
    for name, joints in (("source", source), ("target", target)):
        if end_on in (name, "both"):
            joints[:, 4, :2] = joints[:, 3, :2]
    without = target.clone()
    without[:, 4, 2] = 0
    (found, share), (rest, _) = (skeleton_map(source, each, SIZE, SIZE, CELLS) for each in (target, without))
    centre = torch.stack([identity_map(*CELLS)[0, 0] * 48 + 48, identity_map(*CELLS)[0, 1] * 64 + 64], -1)
    away = torch.minimum(*((centre - target[0, n, :2]).norm(dim=-1) for n in (3, 4))) > 25
    assert away.float().mean() > 0.5
    torch.testing.assert_close(found[..., away], rest[..., away], rtol=0, atol=0.02)
    assert found.isfinite().all() and share[..., away].min() < 0.05
    column, row = (target[0, 3, :2] / 4).long().tolist()
    moved = found[0, 0, row, column] - identity_map(*CELLS)[0, 0, row, column]
    assert moved == pytest.approx(-6 / 48, abs=0.05), "and near it what the whole person does"


def test_the_torsos_length():
    joints = scored(STANDING)[None].repeat(3, 1, 1)
    joints[1, 5, 2] = 0
    joints[2, :, 2] = 0
    middle = (STANDING[2] + STANDING[5]) / 2 - (STANDING[8] + STANDING[11]) / 2
    seen = torch.cat([STANDING[:5], STANDING[6:]])
    box = 0.3 * (seen.amax(0) - seen.amin(0)).norm()
    torch.testing.assert_close(torso_length(joints), torch.stack([middle.norm(), box, torch.tensor(1e-3)]))
    assert box == pytest.approx(float(middle.norm()), rel=0.2), "about the same"


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (torch.zeros(1, 17, 3), torch.zeros(1, 18, 3), r"source joints has shape \(1, 17, 3\); expected \(B, 18, 3\)"),
        (torch.zeros(1, 18, 3), torch.zeros(1, 18, 2), r"target joints has shape \(1, 18, 2\)"),
        (torch.zeros(18, 3), torch.zeros(18, 3), "source joints has shape .* 3 axes"),
        (torch.zeros(2, 18, 3), torch.zeros(1, 18, 3), "target joints has shape .* B = 2"),
        (torch.zeros(1, 18, 3), torch.zeros(1, 18, 3).double(), "target joints has shape .*float64"),
    ],
)
def test_joints_of_another_shape_are_named(source, target, words):
    with pytest.raises(InputError, match=words):
        skeleton_map(source, target, SIZE, SIZE, CELLS)


@pytest.mark.parametrize("together", [1, 7 * 2 * CELLS[0] * CELLS[1]])
def test_limbs_of_a_large_map_come_some_at_a_time(monkeypatch, together):
    """One by one, and seven of two people: the same as all at once."""
    source, target = skeletons(0), skeletons(1)

    def made():
        arguments = source, target, SIZE, SIZE, CELLS
        return [*skeleton_map(*arguments), *limb_maps(*arguments), limb_mask(target, SIZE, CELLS)]

    whole = made()
    monkeypatch.setattr(module, "TOGETHER", together)
    groups = [len(known[0]) for *_, known in module._limbs(source, target, SIZE, SIZE, CELLS)]
    assert sum(groups) == len(LIMBS) and groups[0] == (1 if together == 1 else 7)
    torch.testing.assert_close(made(), whole, rtol=0, atol=1e-6)
