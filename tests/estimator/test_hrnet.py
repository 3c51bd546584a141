"""HigherHRNet: shapes, sizes, normalisation, injected operations, reading joints."""

from __future__ import annotations

import types
from dataclasses import replace

import pytest
import torch
from torch import nn

from reposedm_core.config import EstimatorConfig
from reposedm_core.errors import InputError
from reposedm_core.estimator import HigherHRNet, merge_heatmaps, predict_pose
from reposedm_core.estimator.hrnet import normalise_imagenet
from reposedm_core.pose.heatmaps import render_heatmaps
from reposedm_core.presets import ESTIMATORS
from tests.field.conftest import MICRO


def estimator(config: EstimatorConfig = MICRO, **kwargs) -> HigherHRNet:
    torch.manual_seed(0)
    return HigherHRNet(config, **kwargs).eval()


@pytest.mark.parametrize(
    "config",
    [MICRO, ESTIMATORS["mini"], replace(MICRO, channels=(4, 6, 8, 10), modules=(1, 2, 1), deconv_blocks=1)],
    ids=["two branches", "mini", "four branches"],
)
@pytest.mark.parametrize("size", [(64, 48), (36, 52)])
def test_shapes(config, size):
    height, width = size
    output = estimator(config)(torch.zeros(2, 3, height, width))
    for maps in (output.heatmaps_quarter, output.tags_quarter):
        assert maps.shape == (2, 17, height // 4, width // 4)
    assert output.heatmaps_half.shape == (2, 17, height // 2, width // 2)
    assert output.features.shape == (2, config.channels[0], height // 4, width // 4)


def test_mini_is_small():
    assert sum(p.numel() for p in HigherHRNet(device="meta").parameters()) <= 700_000


def test_batch_is_pictures_one_by_one():
    net, pictures = estimator(), torch.rand(2, 3, 32, 32) * 2 - 1
    both, single = net(pictures), [net(p[None]) for p in pictures]
    for maps, first, second in zip(both, *single, strict=True):
        torch.testing.assert_close(maps, torch.cat([first, second]))


def test_odd_size_equals_the_picture_padded_with_the_mean_colour():
    net = estimator(ESTIMATORS["mini"])
    picture = torch.rand(1, 3, 40, 36) * 2 - 1
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1) * 2 - 1
    padded = mean.expand(1, 3, 48, 48).clone()
    padded[..., :40, :36] = picture
    torch.testing.assert_close(net(picture).heatmaps_half, net(padded).heatmaps_half[..., :20, :18])


def test_dtype_follows_the_weights():
    output = estimator(dtype=torch.float64)(torch.zeros(1, 3, 32, 32, dtype=torch.float64))
    assert {maps.dtype for maps in output} == {torch.float64}


def test_normalisation():
    extremes = torch.stack([torch.full((3, 1, 1), -1.0), torch.ones(3, 1, 1)])
    expected = torch.tensor([[-2.117904, -2.035714, -1.804444], [2.248908, 2.428571, 2.640000]])
    torch.testing.assert_close(normalise_imagenet(extremes).flatten(1), expected)
    raw, picture = estimator(replace(MICRO, normalise="none")), torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(raw(normalise_imagenet(picture)).features, estimator()(picture).features)


def test_operations_make_every_convolution():
    class Convolution(nn.Conv2d):
        pass

    class Transposed(nn.ConvTranspose2d):
        pass

    net = estimator(operations=types.SimpleNamespace(Conv2d=Convolution, ConvTranspose2d=Transposed))
    kinds = {type(m) for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)}
    assert kinds == {Convolution, Transposed}
    plain = estimator()
    plain.load_state_dict(net.state_dict())
    picture = torch.rand(1, 3, 32, 32)
    assert torch.equal(plain(picture).heatmaps_half, net(picture).heatmaps_half)


def test_learns_on_every_output():
    net, picture = HigherHRNet(MICRO).train(), torch.rand(2, 3, 32, 32)
    sum(maps.square().mean() for maps in net(picture)).backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_merge_keeps_cell_centres():
    joints = torch.tensor([[[21.3, 28.0, 1.0]]])
    quarter, half = render_heatmaps(joints, 64, 48, 1.0, 4), render_heatmaps(joints, 64, 48, 1.0, 2)
    merged = merge_heatmaps(quarter, half)[0, 0]
    x = (merged.sum(0) * (2 * torch.arange(24) + 1)).sum() / merged.sum()
    y = (merged.sum(1) * (2 * torch.arange(32) + 1)).sum() / merged.sum()
    torch.testing.assert_close(torch.stack([x, y]), joints[0, 0, :2], atol=0.05, rtol=0)
    assert torch.equal(merge_heatmaps(torch.zeros_like(quarter), half), half / 2)


class Rendered(nn.Module):
    """An estimator of the protocol that is always right: it renders the joints it is told, at any resolutions."""

    def __init__(self, joints: torch.Tensor, strides: tuple[int, ...] = (4, 2), udp: bool = False) -> None:
        super().__init__()
        self.joints, self.udp = joints, udp
        self.config = types.SimpleNamespace(joints=17, strides=strides, sigma=1.5, udp=udp)

    def forward(self, images: torch.Tensor) -> types.SimpleNamespace:
        maps = [
            render_heatmaps(self.joints, *images.shape[-2:], 1.5, stride, self.udp) for stride in self.config.strides
        ]
        return types.SimpleNamespace(heatmaps=maps, features=maps[0])


@pytest.mark.parametrize("udp", [False, True], ids=["plain", "udp"])
@pytest.mark.parametrize("strides", [(4, 2), (4,)], ids=["two resolutions", "one"])
def test_predict_pose_reads_the_heatmaps_back(strides, udp):
    joints = torch.cat([10 + 30 * torch.rand(2, 17, 2), torch.ones(2, 17, 1)], -1)
    joints[0, 3] = 0
    found = predict_pose(Rendered(joints, strides, udp), torch.zeros(2, 3, 64, 48), flip=False)
    assert found.shape == (2, 17, 3)
    # Blurring by the enlargement biases the two-resolution mean a little; one resolution is read exactly.
    torch.testing.assert_close(found[..., :2], joints[..., :2], atol=0.6 if len(strides) > 1 else 1e-2, rtol=0)
    assert torch.equal(found[0, 3], torch.zeros(3))
    assert (found[1, :, 2] > 0.7).all()
    assert not predict_pose(Rendered(joints, strides, udp), torch.zeros(2, 3, 64, 48), 1.1, flip=False).any()


class Sided(nn.Module):
    """Takes a bright spot for the left hip, and less surely for the right one, mirrored or not."""

    config = types.SimpleNamespace(joints=17, strides=(2,), sigma=1.5, udp=False)
    LEFT, RIGHT = 11, 12

    def __init__(self, right: float) -> None:
        super().__init__()
        self.right = right

    def forward(self, images: torch.Tensor) -> types.SimpleNamespace:
        spot = nn.functional.avg_pool2d(images[:, :1], 2)
        maps = torch.zeros(len(images), 17, *spot.shape[-2:])
        maps[:, self.LEFT], maps[:, self.RIGHT] = spot[:, 0], self.right * spot[:, 0]
        return types.SimpleNamespace(heatmaps=(maps,), features=maps)


def test_the_mirrored_picture_has_half_a_say():
    """A spot in the left half: mirrored, its left hip is the right one of the picture, in the same place."""
    picture = torch.zeros(1, 3, 32, 24)
    picture[..., 8:10, 4:6] = 1
    for right in (0.0, 0.4):
        once = predict_pose(Sided(right), picture, flip=False)[0]
        both = predict_pose(Sided(right), picture)[0]
        assert once[Sided.LEFT, 2] == pytest.approx(1) and once[Sided.RIGHT, 2] == pytest.approx(right)
        assert both[Sided.LEFT, 2] == both[Sided.RIGHT, 2] == pytest.approx((1 + right) / 2)
        assert torch.equal(both[Sided.LEFT, :2], once[Sided.LEFT, :2]), "mirrored back"


def test_udp_moves_what_is_read_towards_the_borders():
    joints = torch.tensor([[[10.0, 54.0, 1.0]]]).expand(1, 17, 3)
    told, plain = Rendered(joints, (4,), udp=True), Rendered(joints, (4,), udp=True)
    plain.config.udp = False
    right, wrong = (predict_pose(net, torch.zeros(1, 3, 64, 48), flip=False)[0, 0, :2] for net in (told, plain))
    assert (right - joints[0, 0, :2]).abs().max() < 1e-2
    assert (wrong - joints[0, 0, :2]).abs().max() > 0.5


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, 4, 32, 32), torch.float32, r"expected \(B, 3, H, W\)"),
        ((3, 32, 32), torch.float32, "expected 4 axes"),
        ((1, 3, 30, 32), torch.float32, "H = 30 must be divisible by 4; .* resize it to 32"),
        ((1, 3, 32, 33), torch.float32, "W = 33 must be divisible by 4; .* resize it to 32"),
        ((1, 3, 32, 0), torch.float32, "axis W .* is empty"),
        ((0, 3, 32, 32), torch.float32, "axis B .* is empty"),
        ((1, 3, 32, 32), torch.uint8, "dtype torch.uint8; expected one of float16"),
    ],
)
def test_refuses_pictures_it_cannot_read(shape, dtype, message):
    with pytest.raises(InputError, match=r"picture has shape \(.*" + message):
        estimator()(torch.zeros(shape, dtype=dtype))


def test_pictures_of_another_precision_than_the_weights():
    picture = torch.zeros(1, 3, 32, 32)
    with pytest.raises(InputError, match=r"picture .*dtype torch.float64 .*expected torch.float32 .*\.to\(\)"):
        estimator()(picture.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert estimator()(picture.bfloat16()).features.dtype == torch.bfloat16

    class Casting(nn.Conv2d):
        """A host's layer, whose weights follow the picture."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self._conv_forward(x, self.weight.to(x), None if self.bias is None else self.bias.to(x))

    net = estimator(operations=types.SimpleNamespace(Conv2d=Casting, ConvTranspose2d=nn.ConvTranspose2d))
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.ConvTranspose2d):
            layer.double()
    assert net(picture.double()).features.dtype == torch.float64


@pytest.mark.parametrize(
    "change",
    [{"modules": (1, 1)}, {"channels": (4,), "modules": ()}, {"normalise": "coco"}, {"modules": (0,)}],
)
def test_refuses_impossible_configurations(change):
    with pytest.raises(InputError, match=rf"EstimatorConfig\.{next(iter(change))} = "):
        replace(MICRO, **change)
