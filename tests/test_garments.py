"""Masks of garments: what the network takes, where its masks lie in the picture, files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reposedm_core.checkpoint import save_model
from reposedm_core.config import to_dict
from reposedm_core.errors import InputError
from reposedm_core.garments import CLOTHES, LABELS, PERSON, GarmentParser, ParserConfig, load_parser, parse, shaped
from reposedm_core.networks import SHIPPED
from reposedm_core.pose import Pose

MICRO = ParserConfig(widths=(4, 8, 8), height=64, width=48)
PAINT = {"hair": (-1.0, -1.0, -1.0), "top": (1.0, -1.0, -1.0), "bottom": (-1.0, -1.0, 1.0)}
"""Colours of what the pictures of these tests show, on green."""


def micro(seed: int = 0) -> GarmentParser:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GarmentParser(MICRO).eval()


class ByColour(GarmentParser):
    """Labels that are right of pictures painted in `PAINT`; skeletons are kept in `seen`."""

    def forward(self, images, skeletons=None):
        self.seen = skeletons
        colours = torch.tensor([PAINT.get(label, (9.0, 9.0, 9.0)) for label in LABELS])
        colours[0] = torch.tensor([-1.0, 1.0, -1.0])
        return -20 * (images[:, None] - colours[None, :, :, None, None]).square().sum(2)


@pytest.fixture
def painter():
    return ByColour(ParserConfig()).eval()


def painted(height: int, width: int, top: int, left: int, size: int):
    """A picture of somebody `size` pixels high, the true masks, and a pose from head to feet."""
    picture = torch.tensor([-1.0, 1.0, -1.0])[:, None, None].repeat(1, height, width)
    parts = {"hair": (0.0, 0.15), "top": (0.15, 0.55), "bottom": (0.55, 1.0)}
    masks = {label: torch.zeros(height, width) for label in LABELS}
    columns = slice(max(0, left), left + size // 3)
    for label, (first, last) in parts.items():
        rows = slice(max(0, top + round(first * size)), top + round(last * size))
        picture[:, rows, columns] = torch.tensor(PAINT[label])[:, None, None]
        masks[label][rows, columns] = 1
    joints = np.zeros((1, 18, 3), np.float32)
    joints[0, 0], joints[0, 10] = (left + size / 6, top + 0.05 * size, 1), (left + size / 6, top + 0.95 * size, 1)
    return picture, masks, Pose(joints, height, width)


def overlap(found, truth):
    both = torch.minimum(found, truth).sum()
    return float(both / torch.maximum(found, truth).sum())


def test_the_network_labels_every_pixel_and_no_skeleton_is_a_black_one():
    network, images = micro(), torch.rand(2, 3, 64, 48) * 2 - 1
    with torch.no_grad():
        logits = network(images)
        assert logits.shape == (2, len(LABELS), 64, 48)
        assert torch.equal(logits, network(images, torch.full_like(images, -1)))
        assert not torch.equal(logits, network(images, torch.rand_like(images)))
    with pytest.raises(InputError, match="W = 44 must be divisible by 8"):
        network(images[..., :44])
    with pytest.raises(InputError, match=r"skeletons has shape \(1, 3, 64, 48\)"):
        network(images, images[:1])


def test_the_default_is_small():
    assert sum(weight.numel() for weight in GarmentParser(ParserConfig()).parameters()) < 1e6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("skin", "top")}, "the first must be background"),
        ({"labels": ("background", "top", "top")}, "none may occur twice"),
        ({"widths": (8,)}, "widths"),
        ({"height": 44}, "no multiple of 8"),
    ],
)
def test_configurations_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=message):
        ParserConfig(**{"widths": (4, 8, 8), "height": 64, "width": 48, **changes})


def test_a_file_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "parser.safetensors"
    save_model(path, {"parser": micro()}, to_dict(MICRO), dtype=torch.float32)
    found, images = load_parser(path), torch.rand(1, 3, 64, 48) * 2 - 1
    assert found.config == MICRO and not found.training
    with torch.no_grad():
        assert torch.equal(found(images), micro()(images))
    with pytest.raises(InputError, match=r"reposedm-mini\.safetensors holds .* and no garment parser"):
        load_parser(SHIPPED)
    save_model(path, {"parser": micro()}, {**to_dict(MICRO), "widths": (4, 8, 16)})
    with pytest.raises(InputError, match="parser does not fit its network"):
        load_parser(path)


@pytest.mark.parametrize("posed", [False, True], ids=["first look", "pose"])
@pytest.mark.parametrize(
    "place",
    [(500, 400, 40, 130, 400), (300, 900, 60, 600, 200), (900, 300, 30, -20, 300), (64, 48, 2, 16, 60)],
    ids=["upright", "small and aside", "over the edge", "tiny picture"],
)
def test_masks_lie_where_the_garments_do(painter, place, posed):
    picture, masks, pose = painted(*place)
    found = parse(painter, picture, pose if posed else None)
    assert set(found.found()) == {"hair", "top", "bottom"} and found.found()[0] in CLOTHES
    assert torch.allclose(found.shares.sum(0), torch.ones(256, 192), atol=1e-5)
    assert (painter.seen is None) != posed and (not posed or (painter.seen > 0).any())
    least = 0.75 if place[0] == 64 else 0.95
    for kinds in (("top",), ("bottom",), CLOTHES, PERSON):
        truth = sum(masks[kind] for kind in kinds)
        assert overlap(found.mask(kinds, picture), truth) > least, kinds
    assert found.mask(("dress",)).max() < 1e-3 and not found.mask(()).any()
    with pytest.raises(InputError, match=r"kinds = .*trousers.* known are background, skin"):
        found.mask(["trousers"])


class Coarse(ByColour):
    """The same in blocks of 8 × 8 pixels."""

    def forward(self, images, skeletons=None):
        logits = super().forward(images, skeletons)
        return F.interpolate(F.avg_pool2d(logits, 8), scale_factor=8, mode="nearest")


def test_an_enlarged_mask_follows_the_picture_s_borders():
    """One that is not, or hardly, stays as it is: fine patterns would lead it astray."""
    network = Coarse(ParserConfig()).eval()
    for place, enlarged in (((1536, 1200, 200, 300, 1100), True), ((256, 192, 20, 60, 200), False)):
        picture, masks, _ = painted(*place)
        found = parse(network, picture)
        smooth, sharp = found.mask(["top"]), found.mask(["top"], picture)
        if enlarged:
            assert overlap((sharp > 0.5).float(), masks["top"]) > overlap((smooth > 0.5).float(), masks["top"]) + 0.02
            assert sharp.min() >= 0 and sharp.max() <= 1
        else:
            assert torch.equal(smooth, sharp)


def test_the_second_look_is_the_finer_one(painter):
    """Somebody of a tenth of the picture's height is seen as large as everybody."""
    picture, masks, _ = painted(1000, 1000, 700, 100, 100)
    found = parse(painter, picture)
    assert found.crop.height < 200 and overlap(found.mask(["top"], picture), masks["top"]) > 0.9


def test_specks_are_nobody_and_somebody_smaller_is(painter):
    picture, _, _ = painted(600, 600, 100, 100, 300)
    alone = parse(painter, picture).crop
    picture[:, 560:572, 560:572] = torch.tensor(PAINT["top"])[:, None, None]
    assert parse(painter, picture).crop == alone
    picture[:, 480:580, 520:560] = torch.tensor(PAINT["top"])[:, None, None]
    crop = parse(painter, picture).crop
    assert crop.top + crop.height >= 580 and crop.left + crop.width >= 560 and crop.left <= 100


def test_nobody_is_found_where_nobody_is(painter):
    picture = painted(200, 150, 0, 0, 0)[0]
    assert parse(painter, picture) is None
    nobody = Pose(np.zeros((0, 18, 3), np.float32), 200, 150)
    assert parse(painter, picture, nobody) is None
    picture, _, pose = painted(500, 400, 40, 130, 400)
    away = Pose(pose.joints + np.float32([5000, 0, 0]), 500, 400)
    with pytest.raises(InputError, match="no joint of its person lies inside"):
        parse(painter, picture, away)


@pytest.mark.parametrize("size", [(100, 80), (3000, 2400)])
def test_masks_are_cut_grown_and_faded(size):
    """By percents of the height, at any size alike."""
    height, width = size
    mask = torch.zeros(size)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 0.6
    assert torch.equal(shaped(mask, 0), mask) and not shaped(mask, 0.7).any()
    plain = shaped(mask, 0.5)
    assert torch.equal(plain, (mask > 0).float())
    grown = shaped(mask, 0.5, grow=5)
    rows = (grown > 0.5).any(1).nonzero()[:, 0]
    assert abs(height // 4 - 0.05 * height - int(rows[0])) <= 0.005 * height + 1
    assert abs(height // 2 + 0.05 * height - int(rows[-1]) - 1) <= 0.005 * height + 1
    faded = shaped(mask, 0.5, feather=10)
    assert faded.shape == size and ((faded > 0.05) & (faded < 0.95)).float().mean() > 0.02
    assert faded[int(0.37 * height), int(0.37 * width)] > 0.9 and faded[0, 0] == 0
    for name in ("threshold", "grow", "feather"):
        with pytest.raises(InputError, match=f"{name} = -1: must be 0 to"):
            shaped(mask, **{name: -1})
