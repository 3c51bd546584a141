"""What the field refuses, and that it says what is wrong; weights of a host."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from reposedm_core.errors import InputError
from reposedm_core.estimator import HigherHRNet, merge_heatmaps
from reposedm_core.field import PoseInteractionField
from tests.field.conftest import MICRO, SIZE, every_space


def test_errors_name_input_and_remedy(estimator, decoder, latent, joints):
    net = estimator()
    with pytest.raises(InputError, match="space is"):
        PoseInteractionField(net, space="pixels")
    with pytest.raises(InputError, match="mask is"):
        PoseInteractionField(net, mask="inverted")
    field, features = PoseInteractionField(net), PoseInteractionField(net, space="features")
    with pytest.raises(InputError, match="target_from_image"):
        features.target_from_joints(joints(), *SIZE)
    target = field.target_from_joints(joints(), *SIZE)
    with pytest.raises(InputError, match="has no features"):
        features.distance(torch.zeros(2, 3, *SIZE), target)
    for picture in (torch.zeros(3, 3, *SIZE), torch.zeros(2, 3, 64, 48)):
        with pytest.raises(InputError, match="make the target at their size"):
            field.distance(picture, target)
    with pytest.raises(InputError, match="carries no gradient"):
        field.gradient(latent(), torch.no_grad()(decoder()), target)
    with pytest.raises(InputError, match="target is for 2 pictures, the latent has 3"):
        field.gradient(latent(3), decoder(), target)
    with pytest.raises(InputError, match="chunk = 0: must be 1 or more"):
        field.gradient(latent(), decoder(), target, chunk=0)
    with pytest.raises(InputError, match=r"picture has shape \(1, 3, 32, 24\).* B = 2"):
        field.gradient(latent(), lambda z: decoder()(z[:1]), target)


WRONG_PICTURES = [
    (torch.zeros(0, 3, *SIZE), "axis B .* is empty"),
    (torch.zeros(1, 3, 30, 24), "H = 30 must be divisible by 4"),
    (torch.zeros(1, 3, 32, 21), "W = 21 must be divisible by 4"),
    (torch.zeros(1, 4, *SIZE), r"expected \(B, 3, H, W\)"),
    (torch.zeros(1, 3, *SIZE, dtype=torch.uint8), "dtype torch.uint8"),
    (torch.full((1, 3, *SIZE), float("nan")), "not finite"),
    (torch.full((1, 3, *SIZE), float("inf")), "not finite"),
]


@every_space
@pytest.mark.parametrize(("picture", "message"), WRONG_PICTURES)
def test_wrong_pictures(space, picture, message, estimator, make_target):
    field = PoseInteractionField(estimator(), space)
    for ask in (field.target_from_image, lambda p: field.distance(p, make_target(field, 1))):
        with pytest.raises(InputError, match="picture has shape .*" + message):
            ask(picture)


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.zeros(0, 4, 4, 3), "axis B .* is empty"),
        (torch.zeros(4, 4, 3), "expected 4 axes"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.int64), "dtype torch.int64"),
        (torch.full((2, 4, 4, 3), float("nan")), "96 values that are not finite"),
    ],
)
def test_wrong_latents(z, message, estimator, decoder, joints):
    field = PoseInteractionField(estimator())
    with pytest.raises(InputError, match="latent has shape .*" + message):
        field.gradient(z, decoder(), field.target_from_joints(joints(1), *SIZE))


def test_a_decoder_that_overflows_is_named(estimator, decoder, latent, make_target):
    field = PoseInteractionField(estimator())
    with pytest.raises(InputError, match=r"picture has shape .* not finite"):
        field.gradient(latent(), lambda z: decoder()(z) / 0, make_target(field))


@pytest.mark.parametrize(
    ("people", "size", "message"),
    [
        (torch.zeros(2, 18, 3), SIZE, r"joints has shape \(2, 18, 3\); .* K = 17"),
        (torch.zeros(2, 1, 18, 3), SIZE, r"joints has shape \(2, 1, 18, 3\); .* K = 17"),
        (torch.zeros(0, 17, 3), SIZE, "axis B .* is empty"),
        (torch.zeros(1, 0, 17, 3), SIZE, "axis P .* is empty"),
        (torch.zeros(17, 3), SIZE, "expected 3 axes"),
        (torch.zeros(1, 17, 3), (30, 24), "height, width = 30, 24: must be positive multiples of 4"),
        (torch.zeros(1, 17, 3), (0, 24), "height, width = 0, 24"),
        (torch.tensor([float("nan"), 1, 1]).expand(1, 17, 3), SIZE, "joint 0 of person 0 in picture 0 .* no finite x"),
    ],
)
def test_wrong_joints(people, size, message, estimator):
    with pytest.raises(InputError, match=message):
        PoseInteractionField(estimator()).target_from_joints(people, *size)


def test_joints_of_any_number_type(estimator, joints):
    field, whole = PoseInteractionField(estimator()), joints().round()
    expected = field.target_from_joints(whole, *SIZE)
    for dtype in (torch.int64, torch.float16, torch.float64):
        target = field.target_from_joints(whole.to(dtype), *SIZE)
        assert torch.equal(target.heatmaps, expected.heatmaps)
    absent = whole.clone()
    absent[:, 4] = torch.tensor([float("nan"), float("nan"), 0])
    assert field.target_from_joints(absent, *SIZE).heatmaps.isfinite().all()


def test_weights_made_in_inference_mode_are_refused_unless_they_are_folded(estimator, decoder, latent, make_target):
    def ask(dtype: torch.dtype, copied: bool = False):
        with torch.inference_mode():
            net = estimator().to(dtype)
        field = PoseInteractionField(copy.deepcopy(net) if copied else net).folded()
        return field.gradient(latent(), decoder(), make_target(field))

    with pytest.raises(InputError, match="inference_mode"):
        ask(torch.bfloat16)
    assert ask(torch.bfloat16, copied=True)[0].any()
    expected, _ = PoseInteractionField(estimator()).gradient(
        latent(), decoder(), make_target(PoseInteractionField(estimator()))
    )
    torch.testing.assert_close(ask(torch.float32)[0], expected)


@every_space
def test_layers_of_a_host_that_patch_their_weights_when_called(space):
    """Operations like ComfyUI's: what such a layer holds is not what it computes with, so that it is not folded."""

    class Patching:
        class Conv2d(nn.Conv2d):
            def forward(self, x):
                return self._conv_forward(x, 1.1 * self.weight.to(x), None if self.bias is None else self.bias.to(x))

        ConvTranspose2d = nn.ConvTranspose2d

    torch.manual_seed(0)
    net = HigherHRNet(MICRO, operations=Patching).eval()
    field = PoseInteractionField(net, space, mask="predicted", threshold=-1e9)
    target, picture = field.target_from_image(torch.zeros(1, 3, *SIZE)), torch.rand(2, 3, *SIZE)
    seen, wanted = net(picture), net(torch.zeros(1, 3, *SIZE))
    apart = (
        (seen.features - wanted.features)
        if space == "features"
        else merge_heatmaps(*seen.heatmaps) - merge_heatmaps(*wanted.heatmaps)
    )
    torch.testing.assert_close(field.distance(picture, target), (apart**2).sum((1, 2, 3)))
    assert field.gradient(picture, torch.tanh, target)[0].any()
