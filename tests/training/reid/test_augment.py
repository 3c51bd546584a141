"""Shares of the real pictures, and what fills them up."""

from __future__ import annotations

import numpy as np
import pytest

from reposedm_core.errors import InputError
from training.reid.augment import copies, folder_pictures, keep_share, pair_name, planned_pairs

PEOPLE = np.repeat(np.arange(20), [1, 2, 3, 4, 10] * 4)


@pytest.mark.parametrize("percent", [20, 40, 60, 80, 100])
def test_a_share_has_its_size_and_everybody(percent):
    share = keep_share(PEOPLE, percent, 3)
    assert len(share.kept) == max(round(len(PEOPLE) * percent / 100), 20) == len(PEOPLE) - share.lacking
    assert len(np.unique(share.kept)) == len(share.kept) and set(PEOPLE[share.kept]) == set(PEOPLE)


def test_a_smaller_share_is_part_of_a_larger_one_and_the_seed_decides():
    kept = {percent: keep_share(PEOPLE, percent, 3).kept for percent in (20, 40, 60, 80)}
    assert set(kept[20]) < set(kept[40]) < set(kept[60]) < set(kept[80])
    assert np.array_equal(keep_share(PEOPLE, 40, 3).kept, kept[40])
    assert not np.array_equal(keep_share(PEOPLE, 40, 4).kept, kept[40])


def test_a_tiny_share_still_has_everybody():
    assert sorted(PEOPLE[keep_share(PEOPLE, 1, 0).kept]) == list(range(20))
    with pytest.raises(InputError, match="from 1 to 100"):
        keep_share(PEOPLE, 0, 0)


def test_pairs_are_of_kept_pictures_with_poses_and_none_comes_twice():
    share, posed = keep_share(PEOPLE, 40, 0), np.arange(len(PEOPLE)) % 5 != 0
    pairs = planned_pairs(share, posed)
    assert pairs.shape == (share.lacking, 2) and len({tuple(pair) for pair in pairs}) == share.lacking
    assert set(pairs.ravel()) <= set(share.kept[posed[share.kept]]) and (pairs[:, 0] != pairs[:, 1]).all()
    assert len(set(pairs[:, 0])) > 10 and (PEOPLE[pairs[:, 0]] != PEOPLE[pairs[:, 1]]).mean() > 0.5
    assert np.array_equal(planned_pairs(share, posed), pairs)


def test_every_pair_there_is_can_be_drawn():
    share = keep_share(np.array([0, 0, 0, 1, 1, 1, 1, 1, 1]), 34, 0)
    assert share.lacking == 6 == len({tuple(pair) for pair in planned_pairs(share, np.ones(9, bool))})


def test_too_few_poses_are_told():
    posed = np.zeros(len(PEOPLE), bool)
    posed[:2] = True
    with pytest.raises(InputError, match="too few for 60 pairs"):
        planned_pairs(keep_share(PEOPLE, 20, 0), posed)


def test_copies_are_spread_evenly():
    share = keep_share(PEOPLE, 30, 0)
    times = np.bincount(copies(share), minlength=len(PEOPLE))
    assert times.sum() == share.lacking and not times[np.setdiff1d(np.arange(len(PEOPLE)), share.kept)].any()
    assert np.ptp(times[share.kept]) <= 1
    assert len(copies(keep_share(PEOPLE, 100, 0))) == 0


def test_another_methods_pictures_are_those_of_kept_sources(tmp_path):
    names = [f"{n:04d}_c1s1_000001_00" for n in range(4)]
    share = keep_share(np.array([0, 0, 1, 1]), 50, 1)
    for name in names:
        for n in range(3):
            (tmp_path / f"{name}.jpg___{names[n]}.jpg_vis.jpg").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "0009_c1s1_000001_00__a.png").touch()
    files, source = folder_pictures(tmp_path, share, names)
    assert len(set(files)) == share.lacking == 2 and set(source) <= set(share.kept)
    assert all(file.name.startswith(names[n]) for file, n in zip(files, source, strict=True))
    own = tmp_path / share.name
    own.mkdir()
    with pytest.raises(InputError, match="0 pictures there begin with"):
        folder_pictures(tmp_path, share, names)
    for target in names:
        (own / pair_name(names[share.kept[0]], target)).touch()
    assert {file.parent for file in folder_pictures(tmp_path, share, names)[0]} == {own}
    with pytest.raises(InputError, match="no such folder"):
        folder_pictures(tmp_path / "nowhere", share, names)
