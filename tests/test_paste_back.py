"""Results in their pictures: not a bit outside of the feathered mask, the colours of the picture at the seam."""

from __future__ import annotations

import pytest
import torch

from reposedm_core import InputError, paste_back
from reposedm_core.crop import Crop
from reposedm_core.paste_back import Seam
from reposedm_core.paste_back import paste_back as paste

SIZE = 300, 400


def noise(height, width, channels=3, seed=0):
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed))


def smooth(height, width):
    """A picture of slow shades."""
    coarse = noise(6, 5, seed=4)[None]
    picture = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0]
    return 0.3 + 0.4 * picture.clamp(0, 1)


def disc(height, width, radius=0.25):
    """A mask in the middle."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return (((y - height / 2) ** 2 + (x - width / 2) ** 2).sqrt() < radius * height).float()


CROP = Crop(40, 100, 160, 120, SIZE)


@pytest.mark.parametrize("channels", [3, 4])
def test_outside_of_the_feathered_mask_not_a_bit_changes(channels):
    picture, result = noise(*SIZE, channels), noise(320, 240, seed=1)
    found, share = paste(picture, result, CROP, disc(320, 240), Seam())
    outside = share == 0
    assert torch.equal(found[:, outside], picture[:, outside])
    assert torch.equal(found[3:], picture[3:]), "transparency stays"
    assert 0.05 < (~outside).float().mean() < 0.14 and share.max() == 1
    where = (~outside).nonzero()
    assert where.min(0).values[0] > 40 and where.max(0).values[0] < 200
    assert where.min(0).values[1] > 100 and where.max(0).values[1] < 220
    assert (found[:3, 120, 160] - picture[:3, 120, 160]).abs().max() > 0.01 and found.isfinite().all()


def test_the_mask_grows_and_fades_by_percents_of_the_crop():
    picture, result, mask = noise(*SIZE), noise(160, 120, seed=1), disc(160, 120, 0.15)
    sizes = []
    for grow, feather in ((0, 0), (5, 0), (0, 10), (5, 10)):
        share = paste(picture, result, CROP, mask, Seam(grow, feather, 0))[1]
        sizes.append((share[120] > 0).sum().item())
    hard, grown, faded, both = sizes
    assert hard == 48 and grown == 48 + 16 and 48 < faded <= 48 + 2 * 2 * 8 and both == faded + 16


def test_a_hard_edge_is_the_mask_itself():
    picture, result, mask = noise(*SIZE), noise(160, 120, seed=1), disc(160, 120)
    found, share = paste(picture, result, CROP, mask, Seam(0, 0, 0))
    assert torch.equal(share[40:200, 100:220], mask) and share.sum() == mask.sum()
    assert torch.equal(found[:, 40:200, 100:220], torch.where(mask > 0, result, picture[:, 40:200, 100:220]))


@pytest.mark.parametrize("seam", [Seam(), Seam(0, 0)])
def test_an_empty_mask_gives_the_picture_itself(seam):
    picture = noise(*SIZE)
    found, share = paste(picture, noise(160, 120), CROP, torch.zeros(160, 120), seam)
    assert torch.equal(found, picture) and not share.any()


def test_a_mask_of_another_size_and_a_result_of_another_size():
    picture, result = smooth(*SIZE), noise(40, 30, seed=1)
    found, share = paste(picture, result, CROP, disc(77, 58), Seam())
    other = paste(picture, result, CROP, disc(160, 120), Seam())[1]
    assert (share - other).abs().mean() < 0.01 and found.shape == picture.shape


def test_without_a_mask_it_fades_at_the_crop_s_sides_other_than_the_picture_s():
    picture = torch.zeros(3, *SIZE)
    whole = Crop(0, 100, 300, 120, SIZE)
    found, share = paste(picture, torch.ones(3, 300, 120), whole, None, Seam(0, 5, 0))
    assert share[0, 160] == share[-1, 160] == 1, "there is nothing beyond the picture to fade into"
    assert share[150, 100] == 0 and share[150, 99] == 0 and share[150, 120] == 1
    assert ((found[0, 150, 100:120].diff() >= 0) & (found[0, 150, 100:120].diff() < 0.2)).all()


def test_a_crop_that_reaches_beyond_the_picture():
    picture, beyond = noise(*SIZE), Crop(-30, -20, 360, 448, SIZE)
    result = noise(360, 448, seed=1)
    found, share = paste(picture, result, beyond, disc(360, 448, 0.3), Seam(0, 0, 0))
    assert torch.equal(found[:, 150, 204], result[:, 180, 224]) and share[150, 204] == 1
    assert torch.equal(found[:, :20], picture[:, :20])
    away, nothing = paste(picture, noise(16, 16), Crop(-40, -40, 16, 16, SIZE), None, Seam())
    assert torch.equal(away, picture) and not nothing.any()


def test_colours_are_matched_at_the_seam():
    """The result has the picture's own surroundings, as a decoder darkened and reddened them, and another middle."""
    picture = smooth(*SIZE)
    cut = picture[:, 40:200, 100:220]
    middle = disc(160, 120, 0.2)
    wanted = torch.where(middle > 0, 1 - cut, cut)
    shifted = (0.85 * wanted + torch.tensor([0.10, 0.0, -0.02])[:, None, None]).clamp(0, 1)
    plain, matched = (
        paste(picture, shifted, CROP, disc(160, 120, 0.3), Seam(match=match))[0][:, 40:200, 100:220] for match in (0, 1)
    )
    ring = (disc(160, 120, 0.3) > 0) & (middle == 0)
    errors = [(each - wanted)[:, ring].abs().mean() for each in (plain, matched)]
    assert errors[1] < 0.35 * errors[0]
    inside = middle > 0
    assert (matched - wanted)[:, inside].abs().mean() < 0.6 * (plain - wanted)[:, inside].abs().mean()


def test_where_the_seam_fits_already_the_result_stays_to_the_bit():
    picture = smooth(*SIZE)
    result = picture[:, 40:200, 100:220].clone()
    result[:, 60:100, 40:80] = noise(40, 40, seed=3)
    found, share = paste(picture, result, CROP, disc(160, 120, 0.3), Seam())
    sure = share[40:200, 100:220] == 1
    assert torch.equal(found[:, 40:200, 100:220][:, sure], result[:, sure])


def test_a_result_that_shows_something_else_keeps_its_colours():
    picture = smooth(*SIZE)
    found, share = paste(picture, torch.zeros(3, 160, 120), CROP, disc(160, 120, 0.3), Seam())
    assert found[:, share == 1].max() == 0


def test_parts_of_a_large_picture_are_done_in_bands(monkeypatch):
    picture, result = smooth(*SIZE), (smooth(160, 120) * 0.8)
    expected = paste(picture, result, CROP, disc(160, 120), Seam())[0]
    monkeypatch.setattr(paste_back, "BAND", 500)
    assert torch.allclose(paste(picture, result, CROP, disc(160, 120), Seam())[0], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (2, 3), (2000, 30)])
def test_pictures_of_any_shape(size):
    for mask in (None, disc(*size)):
        found, _ = paste(noise(*size), noise(64, 48), Crop(0, 0, *size, size), mask, Seam())
        assert found.shape == (3, *size) and found.isfinite().all()


def test_numbers_and_pictures_that_do_not_fit():
    for values, message in (
        ({"grow": -1}, "grow = -1: must be 0 to 50"),
        ({"feather": 51}, "feather = 51"),
        ({"match": 2}, "match = 2"),
    ):
        with pytest.raises(InputError, match=message):
            Seam(**values)
    with pytest.raises(InputError, match="picture: it is 400 × 200 and the crop was made of one of 400 × 300"):
        paste(noise(200, 400), noise(160, 120), CROP, None, Seam())


@pytest.mark.parametrize("place", [(-200, 10), (10, -200), (301, 10), (10, 401)], ids=str)
def test_a_box_beside_the_picture_changes_nothing(place):
    picture = noise(*SIZE)
    found, share = paste(picture, noise(160, 120, seed=1), Crop(*place, 160, 120, SIZE), None, Seam())
    assert torch.equal(found, picture) and not share.any()
