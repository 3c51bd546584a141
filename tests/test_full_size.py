"""Results at other sizes than the networks': maps have no resolution, colours are the source's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reposedm_core import InputError, RePoseDMPipeline, full_size
from reposedm_core.alignment.mipmaps import Mipmaps, stretch
from reposedm_core.alignment.warp import identity_map, sample
from reposedm_core.diffusion.reference_decoder import Reference
from reposedm_core.full_size import Detail, View, aligned, footprint, painted, pasted, view
from reposedm_core.letterbox import Letterbox

FRAME = 64, 48


def noise(height, width, channels=3, seed=0):
    """A picture (H, W, C) in 0..1 with detail in every pixel."""
    return torch.rand(height, width, channels, generator=torch.Generator().manual_seed(seed))


def detail(picture, shown, sampling=None, background=None):
    sampling = identity_map(16, 12, dtype=torch.float32) if sampling is None else sampling
    weights = torch.ones(1, 1, 1, *sampling.shape[-2:])
    return Detail(shown, [picture], [[0]], sampling[None], weights, background)


def masks(person, size=FRAME):
    """What the decoder is shown of a person in the frame, (1, 1, H, W)."""
    picture = torch.zeros(1, 3, *size)
    return Reference(picture, picture - 0.5, (person > 0).float(), person, person, picture, picture)


@pytest.mark.parametrize("size", [(64, 48), (128, 96), (100, 41), (41, 100), (16, 16), (301, 200)])
def test_where_nothing_moves_the_source_comes_out_as_it_is(size):
    """Whatever part of the frame its letterbox takes up: half a pixel off would blur the noise to grey."""
    picture = noise(*size)
    found = aligned(detail(picture, view("source", size, FRAME)), None)
    assert found.shape == (1, *size, 3)
    assert (found[0] - picture).abs().max() < 1e-3


def test_a_map_of_few_cells_keeps_every_pixel_of_the_source():
    """Moved by a whole number of the source's pixels: the small frame's pixels are eight of them."""
    picture = noise(512, 384)
    sampling = identity_map(16, 12, dtype=torch.float32)
    sampling[:, 0] += 2 * 24 / 384
    found = aligned(detail(picture, view("source", (512, 384), FRAME), sampling), None)[0]
    assert (found[:, :360] - picture[:, 24:]).abs().max() < 0.02


def test_sizes_by_height_show_the_same_part(monkeypatch):
    picture = torch.nn.functional.interpolate(noise(10, 8).movedim(-1, 0)[None], (200, 160), mode="bicubic")
    picture = picture.clamp(0, 1)[0].movedim(0, -1)
    large, small = (aligned(detail(picture, view(height, (200, 160), FRAME)), None) for height in (400, 100))
    assert large.shape == (1, 400, 320, 3) and small.shape == (1, 100, 80, 3)
    reduced = torch.nn.functional.interpolate(large.movedim(-1, 1), (100, 80), mode="area").movedim(1, -1)
    assert (reduced - small).abs().max() < 0.03
    monkeypatch.setattr(full_size, "BAND", 700)
    assert torch.allclose(aligned(detail(picture, view(100, (200, 160), FRAME)), None), small, atol=1e-6)
    assert view(333, (1000, 411), FRAME).size == (333, 136), "the width to it is divisible by 8"


def test_what_a_map_shrinks_is_averaged():
    """A chessboard of single pixels, four times as small, is grey."""
    board = ((torch.arange(256)[:, None] + torch.arange(192)) % 2).float()[..., None].expand(-1, -1, 3)
    found = aligned(detail(board, view(64, (256, 192), FRAME)), None)
    assert found.sub(0.5).abs().max() < 0.02
    whole = identity_map(64, 48, dtype=torch.float32)
    assert sample(board.movedim(-1, 0)[None], whole + 1 / 192).sub(0.5).abs().max() > 0.3, "plain"
    shrunk = 4 * identity_map(16, 12, dtype=torch.float32)
    found = aligned(detail(board, view("source", (256, 192), FRAME), shrunk), None)[0]
    assert found[110:146, 80:112].sub(0.5).abs().max() < 0.02, "by the map, too"


def test_the_footprint_is_what_neighbouring_pixels_are_apart():
    generator = torch.Generator().manual_seed(0)
    turn = torch.eye(2) + 0.3 * torch.randn(2, 2, generator=generator)
    sampling = torch.einsum("ij,bjhw->bihw", turn, identity_map(16, 12, dtype=torch.float32))
    source, picture, size = (300, 100), (90, 120), (180, 240)
    shown, box = View(picture, FRAME, size), Letterbox(source, FRAME)
    places = shown.places(0, size[0])[0]
    there = torch.einsum("ij,jhw->ihw", turn, places)
    pixels = torch.stack([(there[0] + 1) * FRAME[1] / 2 - box.corner[1], (there[1] + 1) * FRAME[0] / 2 - box.corner[0]])
    pixels /= torch.tensor([box.inner[1] / source[1], box.inner[0] / source[0]])[:, None, None]
    along, down = (pixels.diff(dim=dim).norm(dim=0).mean() for dim in (2, 1))
    found = footprint(sampling, source, shown)
    assert torch.allclose(found, torch.maximum(along, down).expand_as(found), rtol=1e-3)
    assert torch.allclose(stretch(identity_map(5, 1)), torch.tensor([1.0, 0, 0, 1])[None, :, None, None], atol=1e-5)


def test_halves_end_and_keep_their_place():
    picture = torch.linspace(0, 1, 33).expand(1, 1, 21, 33)
    halves = Mipmaps(picture)
    assert [tuple(halves.level(n).shape[-2:]) for n in (0, 1, 2, 9)] == [(21, 33), (11, 17), (6, 9), (6, 9)]
    middle = torch.zeros(1, 2, 1, 1)
    for width in (1.0, 3.0, 1e6):
        assert (halves.sample(middle, torch.full((1, 1, 1, 1), width)) - 0.5).abs().max() < 0.02


def test_several_sources_share_by_their_weights():
    pictures = [torch.full((32, 24, 3), value) for value in (0.2, 0.8)]
    weights = torch.zeros(1, 2, 1, 16, 12)
    weights[:, 0, ..., :6], weights[:, 1, ..., 6:] = 1, 1
    sampling = identity_map(16, 12, dtype=torch.float32).expand(1, 2, -1, -1, -1)
    both = Detail(view(96, (32, 24), FRAME), pictures, [[0, 1]], sampling, weights)
    found = aligned(both, None)[0]
    assert (found[:, :30] - 0.2).abs().max() < 1e-5 and (found[:, -30:] - 0.8).abs().max() < 1e-5
    assert 0.4 < found[:, 35:37].mean() < 0.6


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("size", [(256, 192), (400, 150)])
def test_away_from_both_persons_the_source_stays_to_the_bit(size, channels):
    picture = noise(*size, channels)
    person = torch.zeros(1, 1, *FRAME)
    person[..., 24:36, 20:28] = 1
    reference, decoded = masks(person), torch.full((1, 3, *FRAME), 0.4)
    shares, own = painted(None, decoded, torch.zeros(1, 16, 8, 6), reference)
    source = detail(picture, view("source", size, FRAME))
    found = pasted(source, reference, shares, own)[0]
    kept = (found == picture[..., :3]).all(-1)
    height, width = size
    assert kept[: height // 4].all() and kept[-height // 4 :].all() and not kept.all()
    assert (found[height // 2 - 8, width // 2] - 0.7).abs().max() < 1e-5, "what the decoder paints"
    nobody = masks(torch.zeros(1, 1, *FRAME))
    assert torch.equal(pasted(source, nobody, shares, own)[0], picture[..., :3])


def test_where_the_decoder_copies_the_source_s_detail_comes_back():
    picture = noise(512, 384)
    reference = masks(torch.ones(1, 1, *FRAME))
    warp = torch.cat([torch.ones(1, 1, *FRAME), torch.zeros(1, 2, *FRAME)], 1)
    found = pasted(detail(picture, view("source", (512, 384), FRAME)), reference, warp, torch.zeros(1, 3, *FRAME))
    assert (found[0] - picture).abs().max() < 0.02


def test_the_plate_shows_the_source_where_nobody_stood():
    picture, person = noise(256, 192), torch.zeros(1, 1, *FRAME)
    person[..., :, :20] = 1
    reference = masks(person)
    reference.person = torch.zeros_like(person)
    found = aligned(detail(picture, view("source", (256, 192), FRAME)), reference)[0]
    assert torch.equal(found[:, 96:], picture[:, 96:])
    assert (found[:, :70] - 0.25).abs().max() < 1e-5, "the plate's own colour where it is filled in"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("full", "output_size = 'full': use 'model', 'source' or a height"),
        (0, "output_size = 0"),
        (10**6, "output_size = 1000000"),
        (1.5, "output_size = 1.5"),
    ],
)
def test_sizes_that_are_none(output, message):
    with pytest.raises(InputError, match=message):
        view(output, (100, 100), FRAME)


def test_it_can_be_stopped_between_two_bands(monkeypatch):
    monkeypatch.setattr(full_size, "BAND", 96)
    asked = []

    def stop():
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        aligned(detail(noise(64, 48), view("source", (64, 48), FRAME)), None, stop)
    assert len(asked) == 3


def test_a_size_that_was_not_trained_is_warned_of(shaken, second_config, caplog):
    pipeline = RePoseDMPipeline(shaken(second_config))
    pose = Path(__file__).parents[1] / "workflows" / "examples" / "lime_top_pose.json"
    for size in ({}, {"height": 64, "width": 48}, {"output_size": "source"}):
        pipeline(noise(96, 80), pose, steps=1, field_strength=0.0, **size)
        assert not caplog.records, size
    pipeline(noise(96, 80), pose, steps=1, field_strength=0.0, height=128, width=96)
    assert "tiny-256 was trained at 48 × 64 and is to work at 96 × 128" in caplog.text
