"""Groups of moved pictures: the correspondence of a pair moves with both of its pictures, joints with each."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reposedm_core.alignment.warp import identity_map, sample
from reposedm_core.errors import InputError
from reposedm_core.pose.skeleton import OPENPOSE_FLIP
from training.data.groups import (
    FAR,
    Moves,
    draw_moves,
    group_correspondence,
    moved_flow,
    moved_joints,
    moved_pictures,
    pairs_of,
    random_groups,
    rows_of,
)
from training.data.people_set import Pairs, People

H, W = 64, 48
N = 6


def rngs(count: int = N, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, n]) for n in range(count)]


def moves(seed: int = 0, flip: bool | None = None, scale: float = 0.2) -> Moves:
    """N moves; every other one mirrors, unless `flip` says."""
    mirrored = np.arange(N) % 2 == 1 if flip is None else np.full(N, flip)
    return draw_moves(rngs(seed=seed), mirrored, W / H, scale, 12.0, 0.1)


def still(count: int = N) -> Moves:
    return Moves(
        np.tile(np.eye(2, dtype=np.float32), (count, 1, 1)), np.zeros((count, 2), np.float32), np.zeros(count, bool)
    )


def texture(at: torch.Tensor) -> torch.Tensor:
    """A smooth picture in closed form at places (n, 2, h, w), (n, 3, h, w)."""
    x, y = at[:, :1], at[:, 1:]
    return torch.cat([torch.sin(4 * x + y), torch.cos(3 * y - 2 * x), torch.sin(5 * x * y + 1)], 1)


def bent(at: torch.Tensor) -> torch.Tensor:
    """Where the source shows what the target shows at `at`."""
    return 0.8 * at + 0.1 * torch.stack([torch.sin(2 * at[:, 1]), torch.cos(2 * at[:, 0])], 1)


def test_a_move_is_a_similarity_in_pixels_within_its_ranges():
    many = draw_moves(rngs(200), np.arange(200) % 3 == 0, W / H, 0.3, 12.0, 0.1)
    unit = np.array([W / 2, H / 2])
    matrix = many.matrix * unit[:, None] / unit  # pixels → pixels
    size = np.sqrt(np.abs(np.linalg.det(matrix)))
    np.testing.assert_allclose(matrix.transpose(0, 2, 1) @ matrix, size[:, None, None] ** 2 * np.eye(2), atol=1e-5)
    assert np.array_equal(np.linalg.det(matrix) < 0, many.flip)
    assert np.exp(-0.3) <= size.min() < 0.77 and 1.3 < size.max() <= np.exp(0.3)
    angle = np.rad2deg(np.arctan2(matrix[:, 0, 1], matrix[:, 1, 1]))
    assert 10 < angle.max() <= 12.001 and -12.001 <= angle.min() < -10
    assert 0.18 < np.abs(many.offset).max() <= 0.2, "a tenth of a side is 0.2 of a unit"
    again = draw_moves(rngs(200)[5:6], np.array([False]), W / H, 0.3, 12.0, 0.1)
    assert np.array_equal(again.matrix[0], many.matrix[5]), "an example's move is its own"


def test_the_inverse_undoes_a_move():
    there = moves()
    grid = there.grid(9, 7)
    back = torch.from_numpy(there.inverse().matrix)
    undone = torch.einsum("nij,njhw->nihw", back, grid) + torch.from_numpy(there.inverse().offset)[..., None, None]
    torch.testing.assert_close(undone, identity_map(9, 7).expand(N, -1, -1, -1), rtol=0, atol=1e-5)
    assert np.array_equal(there.inverse().flip, there.flip)
    torch.testing.assert_close(still().grid(9, 7), identity_map(9, 7).expand(N, -1, -1, -1))


@pytest.mark.parametrize("factor", [1, 2])
def test_joints_follow_their_pictures_and_a_mirror_exchanges_left_and_right(factor: int):
    """Each joint is a spot of its own brightness, of a picture of the moved one's size or of twice that."""
    joints = np.zeros((N, 18, 3), np.float32)
    joints[..., 0], joints[..., 1] = 6 + 9 * (np.arange(18) % 4), 6 + 11 * (np.arange(18) // 4)
    joints[..., 2] = 2
    joints[:, 17] = 0
    large = joints * np.float32([factor, factor, 1])
    pictures = torch.zeros(N, 1, H * factor, W * factor)
    for n, (x, y, _) in enumerate(large[0, :17].astype(int)):
        r = 3 * factor
        pictures[:, 0, y - r : y + r, x - r : x + r] = 0.2 + n / 25
    there = moves(scale=0.1)
    shown = moved_pictures(pictures, there, (H, W))
    moved = moved_joints(large, there, (H * factor, W * factor), (H, W))
    assert shown.shape == (N, 1, H, W) and moved.dtype == np.float32
    checked = 0
    for picture in range(N):
        for n, (x, y, score) in enumerate(moved[picture]):
            name = OPENPOSE_FLIP[n] if there.flip[picture] else n
            assert score in (0, 2) and (score == 0 or (0 <= x <= W and 0 <= y <= H))
            if score and 1 < x < W - 1 and 1 < y < H - 1:
                assert float(shown[picture, 0, int(y), int(x)]) == pytest.approx(0.2 + name / 25, abs=0.03)
                checked += name != 17
    assert checked > 0.8 * N * 17 and not moved[~there.flip, 17].any() and not moved[there.flip, 16].any()


def test_a_joint_that_leaves_the_frame_is_unknown():
    aside = Moves(still(1).matrix, np.array([[0.5, 0.0]], np.float32), np.zeros(1, bool))
    joints = np.array([[(x, 20.0, 1.0) for x in np.linspace(1, 47, 18)]], np.float32)
    moved = moved_joints(joints, aside, (H, W), (H, W))[0]
    inside = joints[0, :, 0] + W / 4 <= W
    np.testing.assert_allclose(moved[inside], joints[0, inside] + [W / 4, 0, 0], atol=1e-4)
    assert not moved[~inside].any() and 0 < inside.sum() < 18


def test_a_picture_that_does_not_move_is_the_picture_or_its_average():
    pictures = torch.rand(2, 3, 2 * H, 2 * W)
    torch.testing.assert_close(moved_pictures(pictures, still(2), (2 * H, 2 * W)), pictures, rtol=0, atol=1e-5)
    torch.testing.assert_close(moved_pictures(pictures, still(2), (H, W)), F.avg_pool2d(pictures, 2), rtol=0, atol=1e-5)


def test_the_moved_correspondence_warps_the_moved_source_onto_the_moved_target():
    """Exact in closed form but for interpolation; both pictures of a pair are mirrored, or neither."""
    here = identity_map(H, W).expand(N, -1, -1, -1)
    source, target = texture(here), texture(bent(here))
    at, to = moves(1), moves(2)
    flow, label = moved_flow(
        bent(identity_map(H // 2, W // 2)).expand(N, -1, -1, -1), torch.full((N, 1, H // 2, W // 2), 2), at, to
    )
    shown = sample(moved_pictures(source, at, (H, W)), flow)
    truth = F.avg_pool2d(moved_pictures(target, to, (H, W)), 2)
    inside = ((label == 2) & (flow.abs().amax(1, keepdim=True) < 0.95)).expand_as(shown)
    assert inside.float().mean() > 0.5
    off, without = (
        (value - truth).abs()[inside] for value in (shown, F.avg_pool2d(moved_pictures(source, at, (H, W)), 2))
    )
    assert off.mean() < 0.02 and off.quantile(0.99) < 0.1 < 0.3 < without.mean()


def test_what_either_frame_cuts_off():
    """Outside of the target's frame there is nobody; what the source's frame cuts off is hidden."""
    here, visible = identity_map(8, 8), torch.full((1, 1, 8, 8), 2)
    aside = Moves(still(1).matrix, np.array([[0.5, 0.0]], np.float32), np.zeros(1, bool))
    flow, label = moved_flow(here, visible, still(1), aside)  # the target moves right by two cells
    assert (label[..., :2] == 0).all() and (label[..., 2:] == 2).all()
    torch.testing.assert_close(flow[..., 2:], here[..., :-2])
    flow, label = moved_flow(here, visible, aside, still(1))  # the source moves right: its right is cut off
    assert (label[..., -2:] == 1).all() and (label[..., :-2] == 2).all()
    torch.testing.assert_close(flow, here + torch.tensor([0.5, 0.0]).view(1, 2, 1, 1))
    assert (moved_flow(here, 0 * visible, aside, still(1))[1] == 0).all(), "background stays background"


def test_between_two_limbs_no_place_lies_in_the_middle():
    """Two halves that show places far apart: interpolated within each, the nearest between them."""
    flow = 0.1 * identity_map(16, 12) + torch.tensor([-0.7, 0.0]).view(1, 2, 1, 1)
    flow[..., 6:] += torch.tensor([1.4, 0.0]).view(1, 2, 1, 1)
    assert FAR < 1.4
    turned = Moves(*(value[:1] for value in vars(moves(3, flip=False)).values()))
    found, label = moved_flow(flow, torch.full((1, 1, 16, 12), 2), still(1), turned)
    on = (label == 2)[:, 0]
    x = found[:, 0][on]
    assert ((x.abs() > 0.55) & (x.abs() < 0.85)).all() and (x < 0).any() and (x > 0).any()
    steps = found[0, 1, :, 3].diff()[on[0, :-1, 3] & on[0, 1:, 3]]
    assert (steps > 0).float().mean() > 0.9, "within a half it goes on smoothly, not in cells"


def test_pairs_and_rows_are_all_ordered_pairs():
    for count in (2, 3, 4):
        assert list(zip(*pairs_of(count), strict=True)) == list(permutations(range(count), 2))
    source, target = rows_of(2, 3)
    assert list(zip(source, target, strict=True)) == [*permutations((0, 1, 2), 2), *permutations((3, 4, 5), 2)]


def test_groups_are_different_pictures_of_one_person(figures):
    people = People(figures, "train")
    identity, index = random_groups(people, np.random.default_rng(0), 50, 3)
    assert set(identity) == set(people.identities) and all(sorted(row) == [0, 1, 2] for row in index.tolist())
    assert len({tuple(row) for row in index.tolist()}) == 6, "in any order"
    pair = random_groups(people, np.random.default_rng(0), 50, 2)[1]
    assert all(a != b for a, b in pair.tolist())
    with pytest.raises(InputError, match=r"nobody in the split 'train' has 4 pictures, but 3 .*aligner\.group"):
        random_groups(people, np.random.default_rng(0), 5, 4)


def test_the_correspondence_of_groups_is_that_of_their_pairs(data):
    people = People(data, "test")
    identity, index = random_groups(people, np.random.default_rng(0), 2, 3)
    flow, visible = group_correspondence(people, identity, index)
    row = 0
    for label, chosen in zip(identity, index, strict=True):
        for source, target in permutations(chosen, 2):
            own = people.correspondence(Pairs(*(np.array([n]) for n in (label, source, target))))
            assert torch.equal(flow[row : row + 1], own[0]) and torch.equal(visible[row : row + 1], own[1])
            row += 1
    assert row == len(flow) == 12
