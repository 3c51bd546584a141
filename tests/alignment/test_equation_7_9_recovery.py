"""Equations 7-9, end to end: a short overfit recovers a known translation and a known rotation of a limb.

The figure is an upper arm and a forearm, textured, on a grey ground. In the target it is moved by whole and half
pixels, or its forearm is turned about the elbow. What the aligner sees of the target is a drawing of its two limbs.
The sampling map is known in closed form wherever the target shows a limb that the source shows, too. The aligner of
kind "matching" must also remove, in an iteration after the first, an error that is put into the map before it.
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from reposedm_core.alignment import MatchingPoseAligner, RecurrentPoseAligner, start_from
from reposedm_core.alignment.warp import identity_map, resize_map, warp
from reposedm_core.config import AlignerConfig

HEIGHT, WIDTH = 48, 40
CONFIG = AlignerConfig(kernels=(0, 3), radius=2, blocks=1, channels=8, dim=16, heads=2, height=HEIGHT, width=WIDTH)
SHOULDER, ELBOW = (14.0, 10.0), (16.0, 24.0)
LENGTH, THICK = 15.0, 4.5
STEPS = 160
CASES = {"translation": ((5.0, -2.5), 0.0), "rotation": ((0.0, 0.0), -50.0)}
"""Shift of the figure in pixels (x, y), and degrees by which its forearm turns about the elbow."""


def pixels():
    """Centres of all pixels, x and y each (H, W), in pixels."""
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    return x, y


def limb(start, angle, length, phase):
    """Coverage and a texture of its own of the limb from `start` at `angle` (0 points down), (H, W) and (3, H, W)."""
    x, y = pixels()
    along = (x - start[0]) * math.sin(angle) + (y - start[1]) * math.cos(angle)
    across = (x - start[0]) * math.cos(angle) - (y - start[1]) * math.sin(angle)
    distance = ((along - along.clamp(0, length)) ** 2 + across**2).sqrt()
    waves = [
        torch.sin(a * along + b * across + phase + c) for a, b, c in ((0.7, 0.2, 0), (0.3, 0.8, 1), (0.5, -0.6, 2))
    ]
    return distance < THICK, torch.stack(waves) * 0.8


def scene(shift, degrees):
    """Picture (3, H, W), drawing of its limbs (3, H, W) and where upper arm and forearm are seen (H, W)."""
    shoulder, elbow = (tuple(p + s for p, s in zip(joint, shift, strict=True)) for joint in (SHOULDER, ELBOW))
    upper_angle = math.atan2(ELBOW[0] - SHOULDER[0], ELBOW[1] - SHOULDER[1])
    upper, upper_texture = limb(shoulder, upper_angle, math.dist(SHOULDER, ELBOW), 0.0)
    fore, fore_texture = limb(elbow, math.radians(20 + degrees), LENGTH, 4.0)
    upper = upper & ~fore  # the forearm is in front
    picture = torch.where(fore, fore_texture, torch.where(upper, upper_texture, torch.zeros(())))
    ground = torch.full((3, HEIGHT, WIDTH), -1.0)
    ground[0][upper], ground[1][fore] = 1.0, 1.0
    return picture, ground, upper, fore


def truth(shift, degrees):
    """Source, target, drawing, the sampling map in pixels (2, H, W), and the target's limb pixels where it holds."""
    source, _, source_upper, source_fore = scene((0.0, 0.0), 0.0)
    target, drawing, upper, fore = scene(shift, degrees)
    x, y = pixels()
    x, y = x - shift[0], y - shift[1]
    turn = math.radians(degrees)  # back about the elbow, from the target to the source
    dx, dy = x - ELBOW[0], y - ELBOW[1]
    back = torch.stack(
        [ELBOW[0] + dx * math.cos(turn) - dy * math.sin(turn), ELBOW[1] + dx * math.sin(turn) + dy * math.cos(turn)]
    )
    position = torch.where(fore, back, torch.stack([x, y]))
    column, row = position.floor().long()
    inside = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
    column, row = column.clamp(0, WIDTH - 1), row.clamp(0, HEIGHT - 1)
    visible = inside & ((fore & source_fore[row, column]) | (upper & source_upper[row, column]))
    return source, target, drawing, position, visible


def in_pixels(sampling):
    """φ (B, 2, h, w) as positions in pixels at full resolution, (B, 2, H, W)."""
    return (resize_map(sampling, HEIGHT, WIDTH) + 1) / 2 * torch.tensor([WIDTH, HEIGHT]).view(1, 2, 1, 1)


def distance(position, expected, visible):
    """Mean end-point error on the visible limb pixels, in pixels, a value a picture."""
    error = (position - expected).square().sum(1).add(1e-6).sqrt()
    return (error * visible).sum((1, 2)) / visible.sum((1, 2))


def overfit(kind, maps_of):
    """The cases' truth, what an aligner makes of them after a short training on just these, on one core, and itself.

    `maps_of(network, data, step)` are the maps that learn in a step.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same numbers on any number of cores, and faster for networks this small
    torch.manual_seed(0)
    network = kind(replace(CONFIG, kind="matching" if kind is MatchingPoseAligner else "recurrent"))
    data = [torch.stack(parts) for parts in zip(*(truth(*case) for case in CASES.values()), strict=True)]
    source, _, drawing, expected, visible = data
    optimiser = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=STEPS)
    for step in range(STEPS):
        maps = maps_of(network, data, step)
        optimiser.zero_grad()
        sum(distance(in_pixels(sampling), expected, visible).mean() for sampling in maps).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        out = network.eval()(source, drawing)
    torch.set_num_threads(threads)
    return data, out, network


@pytest.fixture(scope="module")
def overfitted():
    return overfit(RecurrentPoseAligner, lambda network, data, _: network(data[0], data[2]).maps)[:2]


def disturbed(expected, generator):
    """The exact map at the aligner's cells of 4 pixels, off by a smooth random field of some 4 pixels."""
    half = torch.tensor([WIDTH / 2, HEIGHT / 2]).view(1, 2, 1, 1)
    exact = F.avg_pool2d(expected, 4) / half - 1
    field = 4 * torch.randn(len(expected), 2, 4, 3, generator=generator) / half
    return exact + F.interpolate(field, exact.shape[-2:], mode="bicubic", align_corners=False)


@pytest.fixture(scope="module")
def refining():
    """An aligner that matches; in every other step its second iteration starts from a map with an error."""
    generator = torch.Generator().manual_seed(0)

    def maps_of(network, data, step):
        source, _, drawing, expected, _ = data
        if step % 2:
            return network(source, drawing).maps
        nothing = start_from(None, None, source)
        return [network.refine(1, source, drawing, nothing, disturbed(expected, generator)).fine]

    return overfit(MatchingPoseAligner, maps_of)


def apart(a, b, visible):
    """Mean difference of two pictures on the visible limb pixels, a value a picture."""
    return ((a - b).abs().mean(1) * visible).sum((1, 2)) / visible.sum((1, 2))


def test_the_closed_form_makes_the_target(overfitted):
    """Otherwise the tests below would compare with a wrong map."""
    (source, target, _, expected, visible), _ = overfitted
    exact = expected / torch.tensor([WIDTH / 2, HEIGHT / 2]).view(1, 2, 1, 1) - 1
    assert (visible.sum((1, 2)) > 250).all()
    assert (apart(warp(source, exact), target, visible) < 0.04).all()


@pytest.mark.parametrize("case", range(len(CASES)), ids=list(CASES))
def test_recovers_the_map_on_visible_limbs(overfitted, case):
    (_, _, _, expected, visible), out = overfitted
    before = distance(in_pixels(identity_map(HEIGHT, WIDTH)), expected, visible)[case]
    assert before > 4, "there is something to find"
    for sampling in out.maps:
        assert distance(in_pixels(sampling), expected, visible)[case] < 0.15 * before
    assert distance(in_pixels(out.maps[-1]).flip(0), expected, visible)[case] > 2, "each its own, told by the drawing"


@pytest.mark.parametrize("case", range(len(CASES)), ids=list(CASES))
def test_the_warped_picture_is_the_target_there(overfitted, case):
    (source, target, _, _, visible), out = overfitted
    unwarped = apart(source, target, visible)[case]
    assert unwarped > 0.25
    assert apart(out.image, target, visible)[case] < 0.5 * unwarped


# -- the aligner that matches anew in every iteration


@pytest.mark.parametrize("case", range(len(CASES)), ids=list(CASES))
def test_matching_recovers_the_map_without_a_start(refining, case):
    (source, _, _, expected, visible), out, _ = refining
    before = distance(in_pixels(identity_map(HEIGHT, WIDTH)), expected, visible)[case]
    for sampling in out.maps:
        assert distance(in_pixels(sampling), expected, visible)[case] < 0.25 * before
    assert torch.equal(out.image, warp(source, out.maps[-1]))


@pytest.mark.parametrize("seed", [7, 8, 9])
def test_an_iteration_after_the_first_removes_errors_that_it_never_saw(refining, seed):
    (source, _, drawing, expected, visible), _, network = refining
    wrong = disturbed(expected, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        found = network.refine(1, source, drawing, start_from(None, None, source), wrong).fine
    before, after = (distance(in_pixels(sampling), expected, visible) for sampling in (wrong, found))
    assert (before > 3).all() and (after < 0.5 * before).all()
