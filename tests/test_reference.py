"""The background plate and the result pasted on the source: outside of both people not a bit changes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reposedm_core.alignment import Alignment
from reposedm_core.alignment.warp import identity_map
from reposedm_core.diffusion.reference_decoder import Reference
from reposedm_core.garment_parser import GarmentParser, ParserConfig
from reposedm_core.layout import parse_source, person_of
from reposedm_core.reference import (
    FILL_ROWS,
    MARGIN,
    PARSED_SURE,
    SURE,
    grown,
    make_plate,
    make_reference,
    on_plate,
    paste,
)

SIZES = [(64, 48), (128, 96), (256, 192), (300, 100)]


def ground(height, width, batch=1):
    """A smooth picture in closed form, (B, 3, H, W)."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    shades = torch.stack([0.6 * torch.sin(2 * x + y), 0.5 * torch.cos(2 * y) - 0.3 * x, 0.4 * x * y])
    return torch.stack([shades.roll(n, 0) for n in range(batch)])


def block(height, width, top, bottom, left, right):
    """A mask (1, 1, H, W) of a rectangle whose sides are shares of the picture's."""
    mask = torch.zeros(1, 1, height, width)
    mask[..., round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = 1
    return mask


def grown_by_hand(mask, pixels):
    """A pixel counts as soon as one of the square around it does."""
    on = np.argwhere(mask.numpy() > 0)
    out = torch.zeros_like(mask)
    for y, x in on:
        out[max(0, y - pixels) : y + pixels + 1, max(0, x - pixels) : x + pixels + 1] = 1
    return out


@pytest.mark.parametrize("pixels", [0, 1, 3])
def test_a_mask_grows_by_squares(pixels):
    mask = (torch.rand(2, 1, 20, 15, generator=torch.Generator().manual_seed(0)) > 0.97).float()
    found = grown(mask, pixels)
    assert all(torch.equal(own[0], grown_by_hand(each[0], pixels)) for own, each in zip(found, mask, strict=True))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_plate_is_the_source_to_the_bit_outside_the_grown_mask_and_like_what_is_around_inside(height, width):
    """Sizes below, at and above the rows that are filled in."""
    scene = ground(height, width)
    person = 0.8 * block(height, width, 0.25, 0.75, 0.4, 0.6)
    source = torch.where(person > 0, torch.tensor(1.0), scene)
    person[..., :4, :4] = SURE - 0.01  # not sure enough to be somebody
    plate, hidden = make_plate(source, person)
    expected = grown_by_hand((person[0, 0] > SURE).float(), max(1, round(MARGIN * height)))
    assert torch.equal(hidden[0, 0], expected) and not hidden[..., :4, :4].any()
    outside = (hidden == 0).expand_as(source)
    assert torch.equal(plate[outside], source[outside]) and plate.shape == source.shape
    inside = ~outside
    assert (plate - scene)[inside].abs().mean() < 0.1 < 0.4 < (source - scene)[inside].abs().mean()


def test_every_plate_of_a_batch_is_its_own():
    source = ground(64, 48, batch=3)
    person = torch.cat(
        [block(64, 48, 0.2, 0.6, 0.2, 0.5), block(64, 48, 0.5, 0.9, 0.4, 0.7), torch.zeros(1, 1, 64, 48)]
    )
    together = make_plate(source, person)
    for i in range(3):
        alone = make_plate(source[i : i + 1], person[i : i + 1])
        assert all(torch.equal(one[0], many[i]) for one, many in zip(alone, together, strict=True))
    assert torch.equal(together[0][2], source[2]), "nobody: nothing is filled in"


@pytest.mark.parametrize(("height", "width"), [(64, 48), (256, 192)])
def test_somebody_who_fills_the_picture_leaves_a_plate_of_numbers(height, width):
    plate, hidden = make_plate(ground(height, width), torch.ones(1, 1, height, width))
    assert hidden.all() and plate.isfinite().all() and plate.abs().max() <= 1


def test_large_pictures_are_filled_in_at_a_bounded_size(monkeypatch):
    """Filling in costs by the pixel; and the picture around it keeps all of its own."""
    import cv2

    shapes, inpaint = [], cv2.inpaint

    def watched(picture, *rest):
        shapes.append(picture.shape)
        return inpaint(picture, *rest)

    monkeypatch.setattr(cv2, "inpaint", watched)
    for height, width in ((512, 384), (64, 48)):
        make_plate(ground(height, width), block(height, width, 0.4, 0.6, 0.4, 0.6))
    assert shapes == [(FILL_ROWS, 96, 3), (64, 48, 3)]


def reference(height=64, width=48, batch=1, hidden=None, person=None):
    """Random pictures and masks, but for those that are given."""
    generator = torch.Generator().manual_seed(0)

    def draw(count):
        return torch.rand(batch, count, height, width, generator=generator)

    made = Reference(*(2 * draw(3) - 1 for _ in range(2)), draw(1).round(), draw(1), draw(1), draw(3), draw(3))
    made.hidden = made.hidden if hidden is None else hidden.expand(batch, -1, -1, -1)
    made.person = made.person if person is None else person.expand(batch, -1, -1, -1)
    return made


def test_the_person_on_the_plate():
    ref = reference(batch=2)
    found = on_plate(ref)
    for y, x in ((0, 0), (13, 7), (63, 47)):
        share, warped, plate = (value[:, :, y, x] for value in (ref.person, ref.warped, ref.plate))
        torch.testing.assert_close(found[:, :, y, x], share * warped + (1 - share) * plate)
    nobody = reference(person=torch.zeros(1, 1, 64, 48))
    assert torch.equal(on_plate(nobody), nobody.plate)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pasted_on_the_source_not_a_bit_changes_away_from_both_people_and_they_are_the_pictures(height, width):
    hidden, person = block(height, width, 0.2, 0.5, 0.2, 0.4), 0.9 * block(height, width, 0.5, 0.8, 0.5, 0.7)
    person[..., 0, -1] = SURE - 0.01
    ref = reference(height, width, hidden=hidden, person=person)
    source, picture = ground(height, width), -ground(height, width)
    out = paste(picture, source, ref)
    pixels = max(1, round(MARGIN * height))
    near = torch.maximum(grown_by_hand((person[0, 0] > SURE).float(), pixels), hidden[0, 0])
    far = grown_by_hand(near, 2 * pixels) == 0
    assert torch.equal(out[0][:, far], source[0][:, far]) and far.float().mean() > 0.3
    torch.testing.assert_close(out[0][:, near > 0], picture[0][:, near > 0])
    between = ~far & (near == 0)
    low, high = torch.minimum(picture, source)[0][:, between], torch.maximum(picture, source)[0][:, between]
    assert ((out[0][:, between] >= low - 1e-6) & (out[0][:, between] <= high + 1e-6)).all(), "it fades"
    assert (out[0][:, between] - source[0][:, between]).abs().mean() > 0


def test_pasting_takes_one_source_for_all_and_any_range():
    ref = reference(batch=2, hidden=block(64, 48, 0.2, 0.5, 0.2, 0.4), person=torch.zeros(1, 1, 64, 48))
    pictures, source = torch.rand(2, 3, 64, 48), torch.rand(1, 3, 64, 48)
    both = paste(pictures, source, ref)
    assert all(torch.equal(both[i : i + 1], paste(pictures[i : i + 1], source, ref[i : i + 1])) for i in range(2))
    torch.testing.assert_close(paste(pictures * 2 - 1, source * 2 - 1, ref), both * 2 - 1)


def alignment(batch, height=64, width=48):
    """Random logits at half the picture's size."""
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(3, batch, 1, height // 2, width // 2, generator=generator)
    here = identity_map(height // 2, width // 2).expand(batch, -1, -1, -1)
    return Alignment([here], [logits[0]], torch.zeros(batch, 3, height, width), None, logits[1], logits[2])


def full(values):
    return F.interpolate(values, (64, 48), mode="bilinear", align_corners=False)


def test_what_the_decoder_sees_of_several_sources():
    """The first source's background, the mean of all person logits, and what they show together."""
    source, skeleton = ground(64, 48, batch=4), torch.rand(4, 3, 64, 48)
    found = alignment(4)
    warped, visibility = torch.rand(2, 3, 64, 48), torch.rand(2, 1, 32, 24)
    made = make_reference(source, skeleton, found, warped, visibility, 2)
    plate, hidden = make_plate(source[::2], full(found.source_person[::2]).sigmoid())
    assert torch.equal(made.plate, plate) and torch.equal(made.hidden, hidden) and torch.equal(made.warped, warped)
    assert torch.equal(made.skeleton, skeleton[::2])
    torch.testing.assert_close(made.visibility, full(visibility))
    mean = (found.person[::2] + found.person[1::2]) / 2
    torch.testing.assert_close(made.person, full(mean).sigmoid())


def test_another_background_is_that_of_somebody_in_the_target_pose():
    source, skeleton, background = ground(64, 48, batch=2), torch.rand(2, 3, 64, 48), torch.rand(1, 3, 64, 48)
    found = alignment(2)
    made = make_reference(source, skeleton, found, source, torch.rand(2, 1, 32, 24), background=background)
    plate, hidden = make_plate(background.expand(2, -1, -1, -1), full(found.person).sigmoid())
    assert torch.equal(made.plate, plate) and torch.equal(made.hidden, hidden)


def mask_by(*given):
    """Where `parse_source` sees the person."""
    return person_of(parse_source(*given))


def constant_parser(share: float):
    """A parser that takes every pixel for the person with that probability."""
    network = GarmentParser(ParserConfig(widths=(4, 8), height=32, width=24)).eval().requires_grad_(False)
    others = len(network.config.labels) - 1
    network.head.weight.zero_()
    network.head.bias.copy_(torch.tensor([np.log((1 - share) / share)] + [-np.log(others)] * others))
    return network


@pytest.mark.parametrize("size", [(64, 48), (32, 24), (40, 40)])
def test_the_source_s_person_by_the_odds_of_parser_and_aligner(size):
    """Of pictures larger than the parser's, as large, and of another shape; both count the same."""
    found, source = alignment(2), torch.rand(2, 3, *size)
    made = mask_by(constant_parser(0.7), source, torch.rand(2, 3, 16, 12), found.source_person)
    logits = F.interpolate(found.source_person, size, mode="bilinear", align_corners=False, antialias=True)
    odds = logits.exp() * 0.7 / 0.3
    torch.testing.assert_close(made, odds / (1 + odds), atol=1e-5, rtol=1e-4)


def test_a_certain_parser_leaves_numbers():
    found, source = alignment(2), torch.rand(2, 3, 64, 48)
    for bias in (1e3, -1e3):
        network = constant_parser(0.5)
        network.head.bias[0] = bias
        made = mask_by(network, source, source, found.source_person)
        assert made.isfinite().all() and (made < 0.5 if bias > 0 else made > 0.5).all()


def test_the_plate_where_a_parser_finds_the_person():
    """Surer than where the aligner does, and of the first of several sources alone."""
    source, skeleton, found = ground(64, 48, batch=4), torch.rand(4, 3, 64, 48), alignment(4)
    was = torch.cat([0.6 * block(64, 48, n / 10, 0.8, 0.3, 0.7) for n in range(2)])
    was[..., :4, :4] = PARSED_SURE - 0.01
    made = make_reference(source, skeleton, found, source[::2], torch.rand(2, 1, 32, 24), 2, was=was)
    for n in range(2):
        expected = grown_by_hand((was[n, 0] > PARSED_SURE).float(), max(1, round(MARGIN * 64)))
        assert torch.equal(made.hidden[n, 0], expected) and not made.hidden[n, 0, :3, :3].any()
        outside = (expected == 0).expand(3, -1, -1)
        assert torch.equal(made.plate[n][outside], source[2 * n][outside])
