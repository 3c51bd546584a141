"""OKS-AP, AP(m), CAP and PCE on cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from reposedm_core.metrics import object_keypoint_similarity, pose_cosine
from training.metrics.people import people_count_errors, people_measures

HALF = 51 / 101
"""AP where half of the people are found before any mistake: 51 of COCO's 101 recall levels lie at .5 or below."""
NOBODY = np.zeros((0, 17, 3))


def person(seed: int, side: float = 60.0, state: int = 2) -> np.ndarray:
    """A pose (1, 17, 3) in a box of exactly that side."""
    points = np.random.default_rng(seed).uniform(0, 1, (17, 2))
    points = (points - points.min(0)) / np.ptp(points, 0) * side + 10
    return np.concatenate([points, np.full((17, 1), state)], -1)[None]


def detected(pose: np.ndarray, score: float, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    found = pose.copy()
    found[..., :2] += shift
    found[..., 2] = score
    return found


def test_all_found_or_none():
    truth = [person(1), person(2)]
    all_found = people_measures([detected(pose, 0.9) for pose in truth], truth)
    assert [all_found[name] for name in ("ap", "ap_m", "cap")] == pytest.approx([1, 1, 1])
    none = people_measures([NOBODY, NOBODY], truth)
    assert none == {"ap": 0, "ap_m": 0, "cap_published": 0, "cap": 0}
    assert all(np.isnan(value) for value in people_measures([NOBODY], [NOBODY]).values())


def test_ap_by_hand():
    truth = [person(1), person(2)]
    right, wrong = detected(truth[0], 0.8), detected(truth[1], 0.5, (500, 0))
    assert people_measures([right, NOBODY], truth)["ap"] == pytest.approx(HALF)
    assert people_measures([right, wrong], truth)["ap"] == pytest.approx(HALF), "the mistake comes after"
    surer = detected(truth[1], 0.9, (500, 0))
    assert people_measures([right, surer], truth)["ap"] == pytest.approx(HALF / 2), "a surer mistake halves precision"
    twice = np.concatenate([right, detected(truth[0], 0.85)])
    assert people_measures([twice, NOBODY], truth)["ap"] == pytest.approx(HALF), "the second find of one comes late"


def test_ap_is_the_share_of_thresholds_below_oks():
    truth = person(3)
    shift = next(
        d for d in np.linspace(0, 20, 400) if object_keypoint_similarity(truth[0] + (d, 0, 0), truth[0], 3600) < 0.72
    )
    assert people_measures([detected(truth, 0.9, (shift, 0))], [truth])["ap"] == pytest.approx(0.5)  # .50 to .70


def test_ap_m_is_of_people_of_32_to_96_pixels():
    small, medium, large = person(1, 31), person(2, 50), person(3, 97)
    found = [detected(small, 0.9), NOBODY, detected(large, 0.9)]
    truth = [small, medium, large]
    assert people_measures(found, truth)["ap_m"] == 0
    found = [NOBODY, detected(medium, 0.9), NOBODY]
    measures = people_measures(found, truth)
    assert measures["ap_m"] == pytest.approx(1) and measures["ap"] == pytest.approx(34 / 101)  # recall 1/3
    assert np.isnan(people_measures([detected(small, 0.9)], [small])["ap_m"])


def test_cap_sees_shape_and_the_published_one_its_slip():
    truth = person(5)
    stretched = detected(truth * (1.5, 0.7, 1), 0.9, (200, 40))
    found = people_measures([stretched], [truth])
    assert found["ap"] == 0 and found["cap"] == pytest.approx(1)
    cosine = pose_cosine(truth[0], truth[0], published=True)
    share = np.mean(np.linspace(0.5, 0.95, 10) <= cosine)
    assert 0 < share < 1, "the true pose itself fails some thresholds"
    assert people_measures([detected(truth, 0.9)], [truth])["cap_published"] == pytest.approx(share)


def test_unlabelled_joints_do_not_count_and_absent_ones_do():
    truth = person(6)
    truth[0, :8, 2] = 0
    found = detected(truth, 0.9)
    found[0, :8, :2] = 1000
    assert people_measures([found], [truth])["ap"] == pytest.approx(1)
    found[0, 8:] = 0
    assert people_measures([found], [truth])["ap"] == 0


def test_no_more_than_twenty_detections():
    truth = person(7)
    crowd = np.concatenate([detected(person(100 + n), 0.9, (300, 300)) for n in range(20)])
    assert people_measures([np.concatenate([crowd, detected(truth, 0.5)])], [truth])["ap"] == 0
    assert people_measures([np.concatenate([crowd[:19], detected(truth, 0.5)])], [truth])["ap"] == pytest.approx(1 / 20)


def test_people_count():
    two, none = np.concatenate([person(1), person(2)]), person(3, state=0)
    errors = people_count_errors([NOBODY, person(1), person(1), two, two], [person(1), person(1), two, none, person(1)])
    assert errors.tolist() == [1, 0, 1, 2, 1]
