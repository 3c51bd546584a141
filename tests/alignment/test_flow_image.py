"""Sampling maps as colours."""

import colorsys
import math

import pytest
import torch

from reposedm_core import InputError
from reposedm_core.alignment.flow_image import flow_colours
from reposedm_core.alignment.warp import identity_map


def shifted(right: float, down: float, height: int = 16, width: int = 12):
    """The map of a cell every pixel that fetches so many pixels away."""
    return identity_map(height, width) + torch.tensor([2 * right / width, 2 * down / height])[:, None, None]


def test_from_here_is_white():
    assert torch.equal(flow_colours(identity_map(4, 3), 16, 12), torch.ones(1, 3, 16, 12))


@pytest.mark.parametrize(
    ("right", "down", "colour"),
    [
        (4, 0, (1, 0, 0)),
        (0, 4, (0.5, 1, 0)),
        (-4, 0, (0, 1, 1)),
        (0, -4, (0.5, 0, 1)),
        (2, 0, (1, 0.5, 0.5)),
        (40, 0, (1, 0, 0)),
    ],
)
def test_directions_and_distances(right, down, colour):
    drawn = flow_colours(shifted(right, down), 16, 12, longest=4)
    torch.testing.assert_close(
        drawn, torch.tensor(colour, dtype=torch.float32)[None, :, None, None].expand_as(drawn), atol=1e-5, rtol=0
    )


def test_every_direction_is_the_hue_of_its_angle():
    for degrees in range(0, 360, 15):
        angle = math.radians(degrees)
        drawn = flow_colours(shifted(3 * math.cos(angle), 3 * math.sin(angle)), 16, 12)[0, :, 5, 5]
        assert drawn.tolist() == pytest.approx(colorsys.hsv_to_rgb(degrees / 360, 1, 1), abs=1e-4)


def test_full_colour_is_the_longest_of_the_batch_and_noise_stays_pale():
    both = torch.cat([shifted(2, 0), shifted(8, 0)])
    assert flow_colours(both, 16, 12)[:, 1, 0, 0].tolist() == pytest.approx([0.75, 0], abs=1e-5)
    assert flow_colours(shifted(0.1, 0), 16, 12)[0, 1, 0, 0] == pytest.approx(0.9, abs=1e-4)


def test_distances_are_in_pixels_of_the_picture_at_any_resolution_of_the_map():
    coarse = identity_map(4, 3) + torch.tensor([2 * 3 / 12, 0])[:, None, None]
    torch.testing.assert_close(flow_colours(coarse, 16, 12, longest=4), flow_colours(shifted(3, 0), 16, 12, longest=4))


def test_what_is_no_map_is_refused():
    with pytest.raises(InputError, match="sampling"):
        flow_colours(torch.zeros(1, 3, 4, 4), 16, 16)
    with pytest.raises(InputError, match="sampling"):
        flow_colours(torch.full((1, 2, 4, 4), float("nan")), 16, 16)
