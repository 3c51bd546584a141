"""Augmentation: joints stay on what they mark, people stay whole before other backgrounds, examples do not meet."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reposedm_core.pose.skeleton import COCO_FLIP
from training.data import augment
from training.data.augment import paste_background, random_affine, random_backgrounds, random_look

H, W = 128, 96


def rngs(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, n]) for n in range(count)]


@pytest.fixture
def pictures() -> torch.Tensor:
    """Ten pictures with contrast at every size."""
    return torch.nn.functional.avg_pool2d(random_backgrounds(rngs(10, 5), 2 * H, 2 * W), 2)


def test_joints_stay_where_the_picture_shows_them():
    """Each joint is a spot of its own brightness; wherever it is in the frame, the spot is there."""
    joints = np.zeros((40, 17, 3), np.float32)
    joints[..., 0], joints[..., 1], joints[..., 2] = 12 + 24 * (np.arange(17) % 4), 16 + 24 * (np.arange(17) // 4), 2
    images = torch.zeros(40, 1, H, W)
    for n, (x, y, _) in enumerate(joints[0].astype(int)):
        images[:, 0, y - 6 : y + 6, x - 6 : x + 6] = 0.2 + n / 25
    turned, moved = random_affine(rngs(40), images, joints)
    checked = set()
    for picture in range(40):
        for n, (x, y, seen) in enumerate(moved[picture]):
            assert (seen == 0) == (not (0 <= x < W and 0 <= y < H))
            if 1 < x < W - 1 and 1 < y < H - 1:
                found = turned[picture, 0, int(y), int(x)]
                values = {0.2 + n / 25, 0.2 + COCO_FLIP[n] / 25}
                assert min(abs(float(found) - value) for value in values) < 0.02
                checked.add((n, abs(float(found) - 0.2 - n / 25) < 0.02))
    assert len({n for n, _ in checked}) == 17 and {(1, True), (1, False), (0, True)} <= checked, "mirrored and not"


def test_ranges_of_the_geometry_are_arguments():
    joints = np.random.default_rng(0).uniform((20, 10), (76, 118), (200, 17, 2))
    joints = np.concatenate([joints, np.full((200, 17, 1), 2)], -1).astype(np.float32)
    images = torch.zeros(200, 1, H, W)
    _, same = random_affine(rngs(200), images, joints, turn=0, scale=(1, 1), shift=(0, 0), mirror=0)
    assert np.allclose(same, joints, atol=1e-4)
    _, moved = random_affine(rngs(200), images, joints, turn=0, scale=(0.5, 2), shift=(0, 0), mirror=0)
    ratio = np.linalg.norm(moved[:, 0, :2] - moved[:, 1, :2], axis=-1) / np.linalg.norm(
        joints[:, 0, :2] - joints[:, 1, :2], axis=-1
    )
    assert 0.5 <= ratio.min() < 0.55 and 1.9 < ratio.max() <= 2.001 and 0.35 < (ratio < 1).mean() < 0.65
    _, moved = random_affine(rngs(200), images, joints, mirror=0)
    high, low = (np.abs(joints[..., 1] - y) < 12 for y in (28, H - 28))
    assert (moved[..., 2] == 0).any(1).mean() > 0.2, "people are cut off"
    assert (moved[low][:, 2] == 0).mean() > 1.5 * (moved[high][:, 2] == 0).mean(), "at the feet rather than the head"
    _, held = random_affine(rngs(200), images, joints, turn=0, scale=(0.9, 0.9), shift=(0.02, 0.02))
    assert (held[..., 2] == 2).all()


def test_a_background_is_pasted_round_the_person_with_one_soft_pixel():
    masks = torch.zeros(20, 1, H, W)
    masks[:, :, 20:44, 10:30] = 1
    images, backgrounds = torch.full((20, 3, H, W), 0.8), torch.full((20, 3, H, W), -0.6)
    out = paste_background(rngs(20), images, masks, backgrounds)
    assert (out[:, :, 21:43, 11:29] == 0.8).all(), "the person"
    assert (out[masks.expand_as(out) == 0] == -0.6).all(), "all of the background"
    edge = out[:, 0, 20, 10:30]
    assert (edge == edge[:, :1]).all() and edge.min() > -0.05 and edge.max() < 0.8 and edge[:, 0].std() > 0.1
    whole = paste_background(rngs(20), images, torch.ones_like(masks), backgrounds)
    assert torch.equal(whole, images), "a person who fills the picture has no edge at the border"


def test_backgrounds_are_of_several_kinds_and_within_range():
    drawn = random_backgrounds(rngs(60), H, W)
    assert drawn.shape == (60, 3, H, W) and drawn.dtype == torch.float32
    assert drawn.min() >= -1 and drawn.max() <= 1 and (drawn.std((1, 2, 3)) > 0.1).float().mean() > 0.7
    flat = [(np.diff(picture.numpy(), axis=-1) == 0).all(0).mean() for picture in drawn]
    assert 3 < sum(share > 0.2 for share in flat) < 57, "patches of one colour in some, in others none"


def test_strength_says_how_much_happens_to_a_picture(pictures):
    assert torch.equal(random_look(rngs(10), pictures, 0), pictures)
    changes = []
    for strength in (0.1, 0.4, 1.0):
        found = random_look(rngs(10), pictures, strength)
        assert found.shape == pictures.shape and found.dtype == torch.float32
        assert found.min() >= -1 and found.max() <= 1 and torch.isfinite(found).all()
        changes.append(float((found - pictures).abs().mean()))
    assert 0 < changes[0] < 0.4 * changes[1] < 0.4 * changes[2]


@pytest.mark.parametrize("name", ["_blur", "_few_pixels", "_noise", "_jpeg"])
def test_every_change_does_its_own(name: str, pictures: torch.Tensor):
    """Blur and few pixels take fine detail away, noise adds some; none of them moves or tints a picture."""

    def detail(image: torch.Tensor) -> float:
        return float(image.diff(dim=-1).square().mean() + image.diff(dim=-2).square().mean())

    pictures, change = (pictures + 1) / 2, getattr(augment, name)
    ratios = []
    for n, rng in enumerate(rngs(10, 1)):
        image = pictures[n : n + 1]
        out = change(rng, image, 1.0)
        assert out.shape == image.shape and out.dtype == image.dtype and not torch.equal(out, image)
        assert (out.mean((2, 3)) - image.mean((2, 3))).abs().max() < 0.03
        assert (out - image).square().mean() < image.var() + 0.01
        ratios.append(detail(out) / detail(image))
    if name == "_noise":
        assert min(ratios) > 1
    elif name != "_jpeg":  # few pixels shown as squares may have some
        assert np.median(ratios) < 0.7
    if name == "_blur":  # what is in the middle stays in the middle: joints and maps remain true
        spot = torch.zeros(1, 3, 41, 41)
        spot[..., 20, 20] = 1
        for rng in rngs(20, 2):
            weight = change(rng, spot, 1.0)[0, 0]
            place = torch.arange(41.0)
            assert abs(float((weight.sum(0) * place).sum() / weight.sum()) - 20) < 0.02
            assert abs(float((weight.sum(1) * place).sum() / weight.sum()) - 20) < 0.02


def test_what_happens_to_an_example_does_not_depend_on_its_batch(pictures):
    joints = np.random.default_rng(0).uniform(5, 40, (10, 17, 3)).astype(np.float32)
    masks = torch.ones(10, 1, H, W)
    masks[..., :9] = 0

    def all_of_it(chosen: list[int]) -> tuple[torch.Tensor, np.ndarray]:
        own = [rngs(10)[n] for n in chosen]
        turned, moved = random_affine(own, torch.cat([pictures, masks], 1)[chosen], joints[chosen])
        pasted = paste_background(own, turned[:, :3], turned[:, 3:], random_backgrounds(own, H, W))
        return random_look(own, pasted), moved

    together, moved = all_of_it(list(range(10)))
    for n in range(10):
        alone, where = all_of_it([n])
        assert torch.equal(alone[0], together[n]) and np.array_equal(where[0], moved[n])
