"""Associative-embedding grouping (Newell et al. 2017): people from heat maps and tags."""

from __future__ import annotations

import itertools
import types

import numpy as np
import pytest
import torch
from torch import nn

from reposedm_core.config import EstimatorConfig
from reposedm_core.errors import InputError
from reposedm_core.estimator import HigherHRNet, predict_people
from reposedm_core.estimator.grouping import find_peaks, group_peaks
from reposedm_core.pose.heatmaps import render_heatmaps
from tests.field.conftest import MICRO

HEIGHT, WIDTH = 128, 96


class Seeing(nn.Module):
    """An estimator of the protocol that sees the people it is told, a list a picture of (17, 3) joints.

    A joint's height in the maps is its score; a cell's tag is that of the person whose joint is nearest.
    """

    def __init__(self, crowd: list[list[torch.Tensor]], spacing: float = 1.5, udp: bool = False) -> None:
        super().__init__()
        self.crowd, self.spacing = crowd, spacing
        self.config = types.SimpleNamespace(joints=17, strides=(4, 2), sigma=1.5, udp=udp)

    def forward(self, images: torch.Tensor) -> types.SimpleNamespace:
        height, width = images.shape[-2:]
        quarter, half = (torch.stack([self.maps(p, height, width, s) for p in self.crowd]) for s in (4, 2))
        tags = torch.stack([self.tags(people, height // 4, width // 4) for people in self.crowd])
        return types.SimpleNamespace(heatmaps=(quarter, half), tags=tags, features=quarter)

    def maps(self, people: list[torch.Tensor], height: int, width: int, stride: int) -> torch.Tensor:
        parts = [
            render_heatmaps(p[None], height, width, 1.5, stride, self.config.udp)[0] * p[:, 2, None, None]
            for p in people
        ]
        return torch.stack(parts).amax(0) if parts else torch.zeros(17, height // stride, width // stride)

    def tags(self, people: list[torch.Tensor], rows: int, columns: int) -> torch.Tensor:
        if not people:
            return torch.zeros(17, rows, columns)
        y, x = 4 * torch.arange(rows)[:, None] + 2, 4 * torch.arange(columns) + 2
        joints = torch.stack(people)
        apart = (x - joints[..., 0, None, None]) ** 2 + (y - joints[..., 1, None, None]) ** 2
        nearest = apart.masked_fill(joints[..., 2, None, None] == 0, torch.inf).argmin(0)
        return self.spacing * (nearest.float() - len(people) / 2)


def person(x: float, y: float, seed: int, score: float = 1.0, size: float = 24) -> torch.Tensor:
    """Seventeen joints at random within `size` pixels about a place."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.tensor([x, y]) + size * (torch.rand(17, 2, generator=generator) - 0.5)
    return torch.cat([place, torch.full((17, 1), score)], -1)


def see(
    *crowd: list[torch.Tensor], height: int = HEIGHT, width: int = WIDTH, udp: bool = False, **options
) -> list[torch.Tensor]:
    return predict_people(Seeing(list(crowd), udp=udp), torch.zeros(len(crowd), 3, height, width), **options)


def check_same(found: torch.Tensor, people: list[torch.Tensor], tolerance: float = 1.0) -> None:
    """`found` are these people in this order: the same joints, within `tolerance` pixels."""
    wanted = torch.stack(people)
    assert found.shape == wanted.shape and found.dtype == torch.float32
    assert torch.equal(found[..., 2] > 0, wanted[..., 2] > 0)
    assert not found[found[..., 2] == 0].any()
    present = wanted[..., 2] > 0
    torch.testing.assert_close(found[present][:, :2], wanted[present][:, :2], atol=tolerance, rtol=0)


@pytest.mark.parametrize("udp", [False, True], ids=["plain", "udp"])
def test_two_and_three_people_best_first(udp):
    a, b, c = person(24, 30, 0, 0.7), person(70, 30, 1, 1.0), person(48, 90, 2, 0.5)
    two, three, one = see([a, b], [c, a, b], [c], udp=udp)
    check_same(two, [b, a])
    check_same(three, [b, a, c])
    check_same(one, [c])
    assert three[:, :, 2].mean(1).diff().lt(0).all()
    assert three[0, :, 2].min() > 0.75 and three[2, :, 2].max() < 0.5


def test_people_that_cross_are_told_apart_by_their_tags():
    a, b = person(48, 64, 3, 1.0), person(48, 64, 4, 0.8)
    # Same joints 14 pixels apart, now to this side and now to that: places alone say nothing of who is who.
    angle = torch.arange(17) * 2.4
    b[:, :2] = a[:, :2] + 14 * torch.stack([angle.cos(), angle.sin()], -1)
    check_same(see([a, b])[0], [a, b], tolerance=1.5)


def test_joints_that_nobody_shows_stay_absent():
    a, b = person(24, 30, 0), person(70, 90, 1, 0.9)
    a[[3, 9, 16]], b[[0, 9]] = 0, 0
    for refine in (True, False):
        check_same(see([a, b], refine=refine)[0], [a, b])


def test_a_person_of_one_joint_and_people_without_the_first_joints():
    a, b = torch.zeros(17, 3), person(70, 90, 1, 0.9)
    a[10] = torch.tensor([20.0, 30.0, 1.0])
    b[:5] = 0
    check_same(see([a, b])[0], [b, a])


def test_a_joint_hidden_in_another_person_s_peak_is_found_by_its_tag():
    a, b = person(24, 64, 3, 1.0), person(70, 64, 4, 0.9)
    a[7, :2], b[7, :2] = torch.tensor([46.5, 64.0]), torch.tensor([49.5, 64.0])  # two elbows, one peak
    plain, refined = see([a, b], refine=False)[0], see([a, b])[0]
    assert (plain[:, 7, 2] > 0).sum() == 1
    check_same(refined, [a, b], tolerance=4)
    assert refined[1, 7, 0] > refined[0, 7, 0]


def test_twenty_people_and_the_best_of_them():
    people = [person(26 + 50 * (i % 5), 30 + 48 * (i // 5), i, 1 - 0.03 * i) for i in range(20)]
    found = see(people, height=224, width=256)[0]
    check_same(found, people)
    best = see(people, height=224, width=256, max_people=20)[0][:6]
    assert torch.equal(best, found[:6])
    assert len(see(people, height=224, width=256, max_people=6)[0]) == 6


def test_nobody():
    empty, one = see([], [person(48, 64, 0)])
    assert empty.shape == (0, 17, 3) and empty.dtype == torch.float32
    assert one.shape == (1, 17, 3)
    faint = person(48, 64, 0, 0.4)
    assert see([faint], threshold=0.5)[0].shape == (0, 17, 3)


def test_pictures_of_a_batch_do_not_meet():
    crowd = [[person(24, 30, 0), person(70, 90, 1)], [], [person(30, 70, 5)]]
    for together, alone in zip(see(*crowd), crowd, strict=True):
        assert torch.equal(together, see(alone)[0])


@pytest.mark.parametrize("tag_threshold", [0.5, 1.0, 2.0])
def test_tag_threshold_says_who_is_another_person(tag_threshold):
    tags, scores = np.array([[0.0], [1.4]]), np.ones((2, 1))
    found = group_peaks(scores, tags, tag_threshold=tag_threshold)
    assert found.tolist() == ([[0, 0]] if tag_threshold == 2 else [[0, -1], [-1, 0]])


def test_assignment_is_the_cheapest_of_all():
    generator = np.random.default_rng(0)
    for count in (2, 3, 4):
        for _ in range(5):
            tags = np.stack([3.0 * np.arange(count), generator.permutation(3 * count)[:count] + 0.3])
            scores = generator.uniform(0.5, 1, (2, count))
            found = group_peaks(scores, tags, tag_threshold=np.inf)
            cost = 100 * np.abs(tags[1][:, None] - tags[0]).round() - scores[1][:, None]
            cheapest = min(
                sum(cost[p, i] for i, p in enumerate(order)) for order in itertools.permutations(range(count))
            )
            assert sum(cost[own[1], own[0]] for own in found) == pytest.approx(cheapest)


def test_greedy_pairs_would_be_dearer():
    # The first peak is nearest to the first person, who is the only one for the second peak.
    found = group_peaks(np.ones((2, 2)), np.array([[0.0, 1.4], [0.6, -0.1]]))
    assert found.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_among_tags_that_round_to_the_same_the_higher_score_wins(order):
    """One person with the tag 0, two peaks of the next joint: 0.4 and high, 0.1 and low. The other is a new person."""
    tags, scores = (np.array(values)[list(order)] for values in ([0.4, 0.1], [0.9, 0.5]))
    found = group_peaks(np.stack([[1.0, 0.0], scores]), np.stack([[0.0, 9.0], tags]))
    assert found.tolist() == [[0, order.index(0)], [-1, order.index(1)]]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_tag_that_rounds_to_less_wins_over_any_score(order):
    tags, scores = (np.array(values)[list(order)] for values in ([0.4, 0.6], [0.1, 1.0]))
    found = group_peaks(np.stack([[1.0, 0.0], scores]), np.stack([[0.0, 9.0], tags]))
    assert found.tolist() == [[0, order.index(0)], [-1, order.index(1)]]


def test_peaks_are_the_highest_of_their_window():
    heat = torch.rand(1, 2, 9, 7, generator=torch.Generator().manual_seed(0))
    height, cell = find_peaks(heat, 30)
    for k in range(2):
        expected = sorted(
            (
                (heat[0, k, i, j].item(), i * 7 + j)
                for i in range(9)
                for j in range(7)
                if heat[0, k, i, j] == heat[0, k, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].max()
            ),
            reverse=True,
        )
        count = len(expected)
        assert [(h.item(), c.item()) for h, c in zip(height[0, k, :count], cell[0, k, :count], strict=True)] == expected
        assert not height[0, k, count:].any()
    assert find_peaks(heat, 4)[0].shape == (1, 2, 4)


def test_a_joint_between_cells_is_one_peak():
    joints = torch.tensor([[[24.0, 32.0, 1.0]]])  # the corner of four cells, all of one height
    height, _ = find_peaks(render_heatmaps(joints, 64, 48, 2.0, 2), 5)
    assert (height > 0.1).sum() == 1


def test_higherhrnet_gives_people():
    torch.manual_seed(0)
    net = HigherHRNet(MICRO).eval()
    with torch.no_grad():
        net.final_layers[1].bias += 0.5
    people = predict_people(net, torch.rand(2, 3, 32, 24) * 2 - 1, max_people=5)
    assert all(0 < len(found) <= 5 and found.shape[1:] == (17, 3) and found.isfinite().all() for found in people)


def test_errors_name_input_and_remedy():
    with pytest.raises(InputError, match="max_people = 0: must be 1 or more"):
        see([], max_people=0)
    for threshold in (0, -1.0, float("nan")):
        with pytest.raises(InputError, match=f"threshold = {threshold}: must be above 0"):
            see([], threshold=threshold)
    net = HigherHRNet(EstimatorConfig()).eval()
    with pytest.raises(InputError, match=r"picture has shape \(0, 3, 32, 32\)"):
        predict_people(net, torch.zeros(0, 3, 32, 32))
