"""The noise mask of a warped picture: what was hidden, what was left, what is copied, and what is neither."""

from __future__ import annotations

import pytest
import torch

from reposedm_core import InputError
from reposedm_core import reveal_mask as module
from reposedm_core.reveal_mask import reveal_mask


def block(top, bottom, left, right, size=(200, 100)):
    mask = torch.zeros(1, *size)
    mask[:, top:bottom, left:right] = 1
    return mask


PERSON, SEEN = block(40, 160, 50, 80), block(40, 100, 50, 80)
CHANGED = torch.maximum(PERSON, block(40, 160, 10, 40))


def test_every_kind_of_place_has_its_value():
    mask = reveal_mask(SEEN, PERSON, CHANGED, 0, 0, 0.25)[0]
    assert (mask[110:160, 50:80] == 1).all(), "of the person, and hidden in the source"
    assert (mask[40:160, 10:40] == 1).all(), "where the person stood"
    assert (mask[40:100, 50:80] == 0.25).all(), "copied"
    assert mask[:40].max() == 0 == mask[:, 85:].max(), "neither"
    assert reveal_mask(SEEN, PERSON, None, 0, 0, 0)[0][:, :50].max() == 0, "without `changed` the person alone"
    assert (reveal_mask(SEEN, PERSON, CHANGED, 0, 0, 1)[0] == CHANGED[0]).all()


def test_it_grows_and_fades_by_percents_of_the_height():
    hard, grown, faded = (reveal_mask(SEEN, PERSON, None, *sizes, 1)[0, 80] for sizes in ((0, 0), (2, 0), (0, 5)))
    assert (hard > 0).sum() == 30 and (grown > 0).sum() == 30 + 8
    assert 30 < (faded > 0).sum() <= 30 + 4 * 10 and faded.max() <= 1 and faded[65] > 0.9
    assert (faded[:65].diff() >= -1e-6).all(), "it only rises towards the middle"
    assert reveal_mask(SEEN, PERSON, None, 2, 5, 1)[0, :, :10].max() == 0


def test_nobody_reveals_nothing():
    nothing = torch.zeros(1, 50, 40)
    assert not reveal_mask(nothing, nothing, nothing).any()


def test_batches_and_sizes():
    several = reveal_mask(SEEN, torch.cat([PERSON, CHANGED]), torch.cat([CHANGED] * 3))
    assert several.shape == (3, 200, 100)
    assert torch.allclose(several[1], reveal_mask(SEEN, CHANGED, CHANGED)[0], atol=1e-6)
    small = torch.nn.functional.avg_pool2d(PERSON, 2)
    assert (reveal_mask(SEEN, small, CHANGED) - reveal_mask(SEEN, PERSON, CHANGED)).abs().mean() < 0.01
    assert reveal_mask(torch.ones(1, 1, 1), torch.ones(1, 16, 16)).shape == (1, 1, 1)


def test_a_large_mask_is_made_small_and_enlarged(monkeypatch):
    expected = reveal_mask(SEEN, PERSON, CHANGED)
    monkeypatch.setattr(module, "ROWS", 100)
    found = reveal_mask(SEEN, PERSON, CHANGED)
    assert found.shape == expected.shape and (found - expected).abs().mean() < 0.02
    assert torch.equal(reveal_mask(SEEN, PERSON, CHANGED, 0, 0)[0, 40:160, 10:40], torch.ones(120, 30))


@pytest.mark.parametrize("values", [{"grow": -1}, {"blur": 51}, {"floor": 1.5}])
def test_numbers_out_of_range(values):
    with pytest.raises(InputError, match=f"{next(iter(values))} = "):
        reveal_mask(SEEN, PERSON, **values)
