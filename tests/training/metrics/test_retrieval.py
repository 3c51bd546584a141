"""Market-1501's protocol against a case counted by hand and against a plain, slow reference."""

from __future__ import annotations

import numpy as np
import pytest

from reposedm_core.errors import InputError
from training.metrics.retrieval import retrieve


def plain(distances, query_person, query_camera, gallery_person, gallery_camera):
    """(ap, ap of the toolkit, first place) of each query, picture by picture as the toolkit's code goes."""
    results = []
    for q in range(len(query_person)):
        ranked = sorted(range(len(gallery_person)), key=lambda g: distances[q][g])
        good = [g for g in ranked if gallery_person[g] == query_person[q] and gallery_camera[g] != query_camera[q]]
        junk = [
            g
            for g in ranked
            if gallery_person[g] == -1
            or (gallery_person[g] == query_person[q] and gallery_camera[g] == query_camera[q])
        ]
        place, right, precisions, area, old_recall, old_precision, first = 0, 0, [], 0.0, 0.0, 1.0, None
        for g in ranked:
            if not good or g in junk:
                continue
            place += 1
            if g in good:
                right += 1
                precisions.append(right / place)
                first = first or place
            recall, precision = right / len(good), right / place
            area += (recall - old_recall) * (old_precision + precision) / 2
            old_recall, old_precision = recall, precision
            if right == len(good):
                break
        results.append((sum(precisions) / len(good), area, first) if good else (np.nan,) * 3)
    return np.array(results, float).T


@pytest.mark.parametrize("seed", range(6))
def test_it_agrees_with_the_plain_reference(seed):
    rng = np.random.default_rng(seed)
    q, g = 25, 140
    people = rng.integers(1, 9, q), rng.integers(-1, 9, g)
    cameras = rng.integers(1, 4, q), rng.integers(1, 4, g)
    distances = rng.random((q, g))
    if seed % 2:  # with many ties
        distances = distances.round(1)
    given = distances, people[0], cameras[0], people[1], cameras[1]
    found, expected = retrieve(*given), plain(*given)
    for got, right in zip((found.ap, found.ap_toolkit, found.first), expected, strict=True):
        np.testing.assert_allclose(got, right, rtol=0, atol=1e-12)
    for k in (1, 5, 10):
        np.testing.assert_array_equal(found.cmc(k), np.where(np.isnan(expected[2]), np.nan, expected[2] <= k))


def test_a_case_counted_by_hand():
    """Ranked: own camera (left out), distractor, match, junk (left out), another, match: matches at places 2 and 4."""
    people, cameras = np.array([7, 0, 7, -1, 3, 7]), np.array([1, 2, 2, 2, 1, 3])
    shuffled = np.array([4, 2, 5, 0, 3, 1])
    found = retrieve(np.arange(6.0)[None, shuffled], np.array([7]), np.array([1]), people[shuffled], cameras[shuffled])
    assert found.ap[0] == pytest.approx((1 / 2 + 2 / 4) / 2, abs=1e-15)
    assert found.ap_toolkit[0] == pytest.approx(0.5 * (0 + 1 / 2) / 2 + 0.5 * (1 / 3 + 2 / 4) / 2, abs=1e-15)
    assert found.first[0] == 2 and [float(found.cmc(k)[0]) for k in (1, 2, 10)] == [0, 1, 1]


def test_all_right_is_one_and_nobody_there_is_unknown():
    found = retrieve(
        np.array([[0.1, 0.2, 0.9], [0.5, 0.5, 0.5]]),
        np.array([1, 5]),
        np.array([1, 1]),
        np.array([1, 1, 2]),
        np.array([2, 3, 2]),
    )
    assert found.ap[0] == found.ap_toolkit[0] == found.first[0] == 1
    assert np.isnan([found.ap[1], found.ap_toolkit[1], found.first[1], found.cmc(1)[1]]).all()


def test_features_that_are_no_numbers_are_refused():
    with pytest.raises(InputError, match="not finite"):
        retrieve(np.array([[np.nan]]), *np.ones((4, 1)))
