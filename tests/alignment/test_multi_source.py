"""Several sources of one person as one aligned picture."""

import pytest
import torch

from reposedm_core import InputError
from reposedm_core.alignment import Alignment
from reposedm_core.alignment.multi_source import combine


def alignment(images, logits):
    """Of pictures (N, 3, H, W) and logits (N, 1, h, w)."""
    return Alignment([torch.zeros(len(images), 2, *logits.shape[-2:])], [torch.zeros_like(logits), logits], images)


def test_where_one_source_sees_the_body_it_alone_counts():
    red, blue = torch.zeros(2, 1, 3, 16, 16)
    red[:, 0], blue[:, 2] = 1, 1
    logits = torch.full((2, 1, 4, 4), -20.0)
    logits[0, ..., :2], logits[1, ..., 2:] = 20, 20  # the left half in the first, the right half in the second
    seen = combine(alignment(torch.cat([red, blue]), logits), 2)
    assert seen.image.shape == (1, 3, 16, 16) and seen.visibility.shape == (1, 1, 4, 4)
    torch.testing.assert_close(seen.image[..., :6], red[..., :6])
    torch.testing.assert_close(seen.image[..., 10:], blue[..., 10:])
    assert (seen.image[0, [0, 2], :, 8] > 0.01).all(), "no hard seam between the cells"
    torch.testing.assert_close(seen.visibility, torch.ones(1, 1, 4, 4))
    assert torch.equal(seen.latent_visibility(8), torch.ones(1, 1, 2, 2))


def test_results_are_kept_apart_and_shares_are_those_of_a_softmax():
    generator = torch.Generator().manual_seed(0)
    images, logits = (torch.randn(6, count, 8, 8, generator=generator, dtype=torch.float64) for count in (3, 1))
    seen = combine(alignment(images, logits), 3)
    for result in range(2):
        mine = slice(3 * result, 3 * result + 3)
        odds = logits[mine].exp()
        share = odds / odds.sum(0)
        torch.testing.assert_close(seen.weights[result], share)
        torch.testing.assert_close(seen.image[result], (share * images[mine]).sum(0))
        torch.testing.assert_close(seen.visibility[result], (share * logits[mine].sigmoid()).sum(0))
        alone = combine(alignment(images[mine], logits[mine]), 3)
        torch.testing.assert_close(alone.image[0], seen.image[result])


def test_the_order_of_the_sources_does_not_matter_and_the_same_one_twice_is_one():
    generator = torch.Generator().manual_seed(0)
    images, logits = (torch.randn(2, count, 8, 8, generator=generator) for count in (3, 1))
    torch.testing.assert_close(
        combine(alignment(images.flip(0), logits.flip(0)), 2).image, combine(alignment(images, logits), 2).image
    )
    twice = combine(alignment(images[:1].expand(2, -1, -1, -1), logits[:1].expand(2, -1, -1, -1)), 2)
    torch.testing.assert_close(twice.image, images[:1])
    torch.testing.assert_close(twice.visibility, logits[:1].sigmoid())


@pytest.mark.parametrize("sources", [0, -1, 2])
def test_a_number_of_sources_that_does_not_fit(sources):
    with pytest.raises(InputError, match=f"sources = {sources}: .* the 3 aligned pictures"):
        combine(alignment(torch.zeros(3, 3, 8, 8), torch.zeros(3, 1, 4, 4)), sources)
