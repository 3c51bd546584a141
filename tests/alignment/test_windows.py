"""The tiles that equations 5 and 6 share: what they hold, against a plain gather, and their gradient."""

import pytest
import torch

from reposedm_core.alignment.windows import WIDEST as WIDE
from reposedm_core.alignment.windows import Tiles, dense_mask, window_mask

GRIDS = [
    (2, 9, 7, 2),
    (2, 11, WIDE + 3, 4),
    (1, 3, 5, 9),
    (2, 5, 7, 1),
    (1, 4, WIDE, 2),
    (2, 3, WIDE + 1, 1),
    (1, 6, 4, 5),
    (3, 1, 1, 1),
    (1, 2, 3 * WIDE - 1, 3),
]
"""Batch, height, width, reach: one tile and several, windows larger than the grid."""


@pytest.mark.parametrize("sizes", GRIDS)
def test_join_is_the_inverse_of_queries(sizes):
    tiles = Tiles(*sizes)
    grid = torch.randn(*sizes[:3], 2)
    assert torch.equal(tiles.join(tiles.queries(grid)), grid)


@pytest.mark.parametrize("sizes", GRIDS)
def test_the_mask_picks_the_window_of_every_cell(sizes):
    """Number the cells from 1: what a query's tile holds where its mask is true are the cells around it."""
    batch, height, width, reach = sizes
    tiles = Tiles(*sizes)
    numbers = torch.arange(1, batch * height * width + 1).reshape(batch, height, width, 1).float()
    keys, mask = tiles.keys(numbers)[..., 0], window_mask(tiles, torch.device("cpu"))[:, 0]
    queries = tiles.queries(numbers)[..., 0]
    found = {
        int(queries[s, t]): keys[s][mask[s, t]].int().tolist()
        for s in range(tiles.count)
        for t in range(tiles.high * tiles.wide)
        if queries[s, t]
    }
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                near = numbers[b, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
                assert found[int(numbers[b, y, x])] == near.flatten().int().tolist()
    assert mask.any(-1).all(), "no softmax over nothing"


def test_dense_mask_is_the_same_window():
    mask = dense_mask(4, 5, 3, torch.device("cpu")).reshape(4, 5, 4, 5)
    for y in range(4):
        for x in range(5):
            expected = torch.zeros(4, 5, dtype=torch.bool)
            expected[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = True
            assert torch.equal(mask[y, x], expected)


def test_keys_are_a_view_of_one_padded_copy():
    """Nothing is gathered k² times: the blocks of all tiles overlap in memory."""
    tiles = Tiles(1, 40, 30, 4)
    keys = tiles.keys(torch.randn(1, 40, 30, 6))
    assert keys.untyped_storage().nbytes() < keys.nbytes / 2.5


@pytest.mark.parametrize("gather", ["queries", "keys"])
def test_gradient(gather):
    tiles = Tiles(2, 2, WIDE + 1, 1)
    grid = torch.randn(2, 2, WIDE + 1, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(getattr(tiles, gather), grid)
    if gather == "queries":
        assert torch.autograd.gradcheck(lambda g: tiles.join(tiles.queries(g)), grid)
