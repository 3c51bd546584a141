"""A second person in the picture: who hides whom, in joints, masks and correspondence."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("anny", reason="the synthetic people need anny")

from scipy.ndimage import binary_dilation

from training.synthetic.body import load_body
from training.synthetic.render import render_identity

SEED, IDENTITIES, POSES = 4, 8, 3


@pytest.fixture(scope="module")
def crowd() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The same people alone and in company, all pictures of all identities in one row (I·K, …)."""
    sets = []
    for share in (0.0, 1.0):
        found = [render_identity(load_body(), SEED, i, POSES, 128, 96, True, share, 2) for i in range(IDENTITIES)]
        sets.append({name: np.concatenate([rows[name] for rows in found]) for name in found[0]})
    return sets[0], sets[1]


def _at(maps: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Value of a map (n, H, W) at each joint (n, J, 3): (n, J)."""
    x, y = joints[..., 0].astype(int).clip(0, maps.shape[2] - 1), joints[..., 1].astype(int).clip(0, maps.shape[1] - 1)
    return maps[np.arange(len(maps))[:, None], y, x]


def test_the_first_person_is_the_same_alone_and_in_company(crowd) -> None:
    alone, together = crowd
    assert "others" not in alone
    assert np.array_equal(alone["joints"][..., :2], together["joints"][..., :2])
    assert (together["joints"][..., 2] <= alone["joints"][..., 2]).all()
    far = ~binary_dilation(together["masks"] == 2, np.ones((1, 3, 3), bool), iterations=2)
    # Less than half a pixel of a hair or a finger is in no mask.
    assert (alone["pictures"][far] == together["pictures"][far]).mean() > 0.9995
    assert (together["masks"] == 2).any((1, 2)).mean() > 0.9


def test_whoever_stands_in_front_hides_the_joints_behind(crowd) -> None:
    alone, together = crowd
    for name, own, other in (("joints", 1, 2), ("others", 2, 1)):
        joints = together[name]
        covered = binary_dilation(together["masks"] == own, np.ones((1, 3, 3), bool)) == 0
        covered &= together["masks"] == other
        behind = (_at(covered, joints) > 0) & (joints[..., 2] > 0)
        assert behind.sum() > 2, f"no {name} behind somebody else in this sample"
        assert (joints[..., 2][behind] == 1).all()
        near = binary_dilation(together["masks"] == own, np.ones((1, 3, 3), bool))
        assert (_at(near, joints) | (joints[..., 2] != 2)).mean() > 0.99
    lost = (alone["joints"][..., 2] == 2) & (together["joints"][..., 2] == 1)
    assert (_at(together["masks"], together["joints"])[lost] == 2).mean() > 0.9


def test_correspondence_leaves_out_what_somebody_else_covers(crowd) -> None:
    alone, together = crowd
    taken = other_source = 0
    led = []
    for source, target in np.ndindex(IDENTITIES * POSES, POSES):
        before, after = alone["visibility"][source, target], together["visibility"][source, target]
        assert (after <= before).all()
        cells = together["masks"][POSES * (source // POSES) + target].reshape(64, 2, 48, 2)
        assert (after[(cells == 2).all((1, 3))] == 0).mean() > 0.98  # but for hair and fingers between cell centres
        rest = alone["surface"][POSES * (source // POSES) + target] * (after > 0)[..., None]
        assert np.array_equal(together["surface"][POSES * (source // POSES) + target], rest)
        assert np.array_equal(together["flow"][source, target][after > 0], alone["flow"][source, target][after > 0])
        x, y = (((together["flow"][source, target].astype(np.float32) + 1) / 2) * [96, 128])[after == 2].astype(int).T
        own = binary_dilation(together["masks"][source] == 1)
        led.append(own[y.clip(0, 127), x.clip(0, 95)])
        taken += int(((before > 0) & (after == 0)).sum())
        other_source += int(((before == 2) & (after == 1)).sum())
    assert np.concatenate(led).mean() > 0.99
    assert taken > 100 and other_source > 100, "nobody stood in front of anybody in this sample"


def test_light_differs_between_pictures_and_colours_do_not(crowd) -> None:
    """Without light, a garment's pixels have few colours, the same in every picture; with it they have many."""
    alone, _ = crowd
    flat = render_identity(load_body(), SEED, 1, POSES, 128, 96, lit=False)
    torso = [flat["pictures"][k][(flat["garments"][k] > 0)] for k in range(POSES)]
    plain = [{tuple(pixel) for pixel in pixels} for pixels in torso]
    shared = set.intersection(*plain)
    inside = np.mean([np.mean([tuple(pixel) in shared for pixel in pixels]) for pixels in torso])
    assert inside > 0.6, "most pixels lie inside a garment, away from its edges"
    lit = [{tuple(p) for p in alone["pictures"][POSES + k][alone["garments"][POSES + k] > 0]} for k in range(POSES)]
    assert min(len(colours) for colours in lit) > 3 * max(len(colours) for colours in plain) / 2
