"""Equations 10-12, the pose interaction field G: its distance (eq. 11) and mask against plain references, its gradient
with respect to the decoded latent (eq. 10, 12) against finite differences, several people, batches, memory."""

from __future__ import annotations

import copy
import types
import weakref
from collections import Counter

import pytest
import torch
from torch import nn

from reposedm_core.diffusion.guided import FieldGuidance
from reposedm_core.errors import InputError
from reposedm_core.field import (
    ESTIMATORS,
    EstimatorConfig,
    EstimatorOutput,
    HigherHRNet,
    PoseInteractionField,
    PoseTarget,
    heatmap_mask,
    masked_distance,
    merge_heatmaps,
)
from reposedm_core.pose.heatmaps import render_heatmaps

MICRO = EstimatorConfig(stem=4, bottleneck=2, channels=(4, 6), modules=(1,), blocks=1, deconv_channels=4)
SIZE = (32, 24)


def estimator(dtype: torch.dtype = torch.float32) -> HigherHRNet:
    """A random estimator that is above the mask's threshold in about half of every picture."""
    torch.manual_seed(0)
    net = HigherHRNet(MICRO, dtype=dtype).eval()
    with torch.no_grad():
        out = net(decoder(dtype)(latent(dtype=dtype)))
        shift = (0.15 - merge_heatmaps(out.heatmaps_quarter, out.heatmaps_half).sum(1).median()) / 17
        # Through the first head's biases the second sees a shift too: its own is set by what it then says.
        net.final_layers[0].bias[:17] += shift
        out = net(decoder(dtype)(latent(dtype=dtype)))
        left = (0.15 - merge_heatmaps(out.heatmaps_quarter, out.heatmaps_half).sum(1).median()) / 17
        net.final_layers[1].bias += 2 * left
    return net


def decoder(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.ConvTranspose2d(4, 3, 8, stride=8, dtype=dtype), nn.Tanh())


def joints(batch: int = 2) -> torch.Tensor:
    torch.manual_seed(2)
    return torch.cat([torch.rand(batch, 17, 2) * 20 + 2, torch.ones(batch, 17, 1)], -1)


def make_target(field: PoseInteractionField, batch: int = 2) -> PoseTarget:
    if field.space == "heatmaps":
        return field.target_from_joints(joints(batch), *SIZE)
    torch.manual_seed(3)
    return field.target_from_image(torch.rand(batch, 3, *SIZE) * 2 - 1)


def latent(batch: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(4)
    return torch.randn(batch, 4, 4, 3, dtype=dtype)


every_space = pytest.mark.parametrize("space", ["heatmaps", "features"])


def test_mask_is_one_where_joints_are():
    maps = torch.zeros(1, 3, 2, 2)
    maps[0, 0, 0, 0] = 0.9
    maps[0, 1, 0, 1] = maps[0, 2, 0, 1] = 0.06  # together above the threshold
    maps[0, 1, 1, 0] = 0.1  # not above it
    assert heatmap_mask(maps).tolist() == [[[[1, 1], [0, 0]]]]


def test_mask_carries_no_gradient():
    maps = torch.rand(1, 3, 2, 2, requires_grad=True)
    assert not heatmap_mask(maps).requires_grad


@every_space
@pytest.mark.parametrize("mask", ["predicted", "union"])
def test_distance_is_equation_11(space, mask):
    field = PoseInteractionField(estimator(), space, mask=mask)
    target, picture = make_target(field), decoder()(latent()).detach()
    out = field.estimator(picture)
    stride = 2 if space == "heatmaps" else 4
    predicted, wanted = merge_heatmaps(out.heatmaps_quarter, out.heatmaps_half), target.heatmaps
    a, b = predicted, wanted
    if space == "features":
        a, b = out.features, target.features
        predicted, wanted = (nn.functional.avg_pool2d(maps, 2) for maps in (predicted, wanted))
    share = (predicted.sum(1) > 0.1).float().mean()
    assert 0.05 < share < 0.95, f"the mask must be seen at work, and covers {share:.0%}"
    expected = torch.zeros(2)
    for i in range(2):
        for y in range(SIZE[0] // stride):
            for x in range(SIZE[1] // stride):
                seen, called = predicted[i, :, y, x].sum() > 0.1, wanted[i, :, y, x].sum() > 0.1
                if seen or (mask == "union" and called):
                    weight = target.known[i, :, 0, 0] if space == "heatmaps" else 1
                    expected[i] += (weight * (a[i, :, y, x] - b[i, :, y, x]) ** 2).sum()
    torch.testing.assert_close(field.distance(picture, target), expected, rtol=1e-4, atol=1e-5)


@every_space
def test_distance_of_a_picture_to_itself_is_zero(space):
    field, picture = PoseInteractionField(estimator(), space), torch.rand(1, 3, *SIZE)
    assert field.distance(picture, field.target_from_image(picture)).item() == 0


class Quiet(nn.Module):
    """Stands in for an estimator that sees nobody anywhere, with a gradient through one weight."""

    config = MICRO

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor):
        maps = nn.functional.avg_pool2d(x.mean(1, keepdim=True), 2).expand(-1, 17, -1, -1) * 1e-3
        quarter = nn.functional.avg_pool2d(maps, 2)
        return EstimatorOutput(quarter, quarter, maps, quarter)


def test_union_mask_calls_for_a_missing_limb_and_the_papers_does_not():
    picture = torch.zeros(1, 3, *SIZE)
    distances, gradients = {}, {}
    for mask in ("predicted", "union"):
        field = PoseInteractionField(Quiet(), mask=mask)
        target = field.target_from_joints(joints(1), *SIZE)
        gradients[mask], distances[mask] = field.gradient(picture, lambda z: z, target)
    assert distances["predicted"].item() == 0
    assert distances["union"].item() > 1
    assert not gradients["predicted"].any()
    # Going down the gradient brightens the picture, which this estimator reads as joints.
    assert (gradients["union"] <= 0).all()
    assert gradients["union"].any()


def test_unknown_joints_do_not_count():
    field, picture = PoseInteractionField(estimator(), mask="union"), torch.rand(1, 3, *SIZE)
    some = joints(1)
    some[:, 5:] = 0
    target = field.target_from_joints(some, *SIZE)
    assert target.known.flatten().tolist() == [1.0] * 5 + [0.0] * 12
    moved = PoseTarget(torch.cat([target.heatmaps[:, :5], target.heatmaps[:, 5:] + 0.05], 1), target.known)
    mask = heatmap_mask(target.heatmaps)
    assert masked_distance(moved.heatmaps, target.heatmaps, mask * target.known).item() == 0
    nobody = field.target_from_joints(torch.zeros(1, 17, 3), *SIZE)
    assert field.distance(picture, nobody).item() == 0


@every_space
@pytest.mark.parametrize("mask", ["predicted", "union"])
def test_gradient_against_finite_differences(space, mask):
    dtype = torch.float64
    field = PoseInteractionField(estimator(dtype), space, mask=mask)
    decode, z, target = decoder(dtype), latent(dtype=dtype), make_target(field)
    gradient, distance = field.gradient(z, decode, target)
    assert gradient.shape == z.shape and gradient.abs().max() > 1e-3
    torch.testing.assert_close(distance, field.distance(decode(z), target))
    generator = torch.Generator().manual_seed(5)
    for _ in range(4):
        direction, step = torch.randn(z.shape, generator=generator, dtype=dtype), 1e-7
        with torch.no_grad():
            ahead, behind = (field.distance(decode(z + s * direction), target) for s in (step, -step))
        slope = (gradient * direction).sum((1, 2, 3))
        torch.testing.assert_close((ahead - behind) / (2 * step), slope, rtol=1e-4, atol=1e-5)


@every_space
def test_steps_down_the_gradient_reduce_the_distance(space):
    field, decode, z = PoseInteractionField(estimator(), space), decoder(), latent()
    target = make_target(field)
    _, first = field.gradient(z, decode, target)
    for _ in range(20):
        gradient, last = field.gradient(z, decode, target)
        z = z - 0.05 * gradient / gradient.square().mean((1, 2, 3), keepdim=True).sqrt()
    assert (last < 0.95 * first).all()


@every_space
def test_gradient_under_inference_mode_equals_outside(space):
    field, decode = PoseInteractionField(estimator(), space), decoder()
    outside = field.gradient(latent(), decode, make_target(field))
    with torch.inference_mode():
        # Latent and target are inference tensors here, as they are in a host's sampling loop.
        inside = field.gradient(latent(), decode, make_target(field))
    for a, b in zip(outside, inside, strict=True):
        assert torch.equal(a, b)
        assert not b.is_inference() and not b.requires_grad


def test_gradient_under_no_grad_and_in_train_mode():
    field, decode = PoseInteractionField(estimator()), decoder()
    target = make_target(field)
    expected, _ = field.gradient(latent(), decode, target)
    before = copy.deepcopy(field.state_dict())
    with torch.no_grad():
        gradient, _ = field.train().gradient(latent(), decode, target)
    assert torch.equal(gradient, expected)
    assert all(torch.equal(before[key], value) for key, value in field.state_dict().items())


@every_space
def test_weights_get_no_gradient(space):
    field, decode, z = PoseInteractionField(estimator(), space), decoder(), latent().requires_grad_()
    gradient, distance = field.gradient(z, decode, make_target(field))
    assert z.grad is None
    assert all(p.grad is None for module in (field, decode) for p in module.parameters())
    assert not gradient.requires_grad and not distance.requires_grad
    assert not any(p.requires_grad for p in field.parameters())


@every_space
def test_batch_is_pictures_one_by_one(space):
    field, decode, z = PoseInteractionField(estimator(), space), decoder(), latent()
    target = make_target(field)
    gradient, distance = field.gradient(z, decode, target)
    for i in range(2):
        one = field.gradient(z[i : i + 1], decode, target.map(lambda t, i=i: t[i : i + 1]))
        torch.testing.assert_close(gradient[i : i + 1], one[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(distance[i : i + 1], one[1], rtol=1e-4, atol=1e-5)


@every_space
def test_one_target_serves_a_batch(space):
    field, decode, z = PoseInteractionField(estimator(), space), decoder(), latent()
    one = make_target(field, 1)
    single = field.gradient(z, decode, one)
    twice = field.gradient(z, decode, one.map(lambda t: torch.cat([t, t])))
    torch.testing.assert_close(single, twice)


@every_space
@pytest.mark.parametrize("chunk", [1, 2, 3, None])
def test_chunks_change_nothing(space, chunk):
    field, decode, z = PoseInteractionField(estimator(), space), decoder(), latent(5)
    for target in (make_target(field, 5), make_target(field, 1)):
        whole = field.gradient(z, decode, target, chunk=5)
        parts = field.gradient(z, decode, target, chunk=chunk)
        for a, b in zip(whole, parts, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            assert len(b) == 5


class Kept:
    """What autograd holds for backward in place of a tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class Peak:
    """The most bytes that autograd keeps at one time, weights included, each storage once."""

    def __init__(self) -> None:
        self.kept, self.now, self.most = Counter(), 0, 0

    def pack(self, tensor: torch.Tensor) -> Kept:
        key, size = tensor.untyped_storage()._cdata, tensor.untyped_storage().nbytes()
        self.now += size * (self.kept[key] == 0)
        self.kept[key] += 1
        self.most = max(self.most, self.now)
        box = Kept(tensor)
        weakref.finalize(box, self.drop, key, size)
        return box

    def drop(self, key: int, size: int) -> None:
        self.kept[key] -= 1
        self.now -= size * (self.kept[key] == 0)

    @staticmethod
    def unpack(box: Kept) -> torch.Tensor:
        return box.tensor


def peak(config: EstimatorConfig, batch: int, chunk: int | None, height: int = 512, width: int = 352) -> int:
    """Bytes kept by a gradient with respect to pictures; shapes alone are computed with."""
    measured, size = Peak(), (height // 2, width // 2)
    field = PoseInteractionField(HigherHRNet(config, device="meta"))
    target = PoseTarget(torch.zeros(1, 17, *size, device="meta"), torch.ones(1, 17, 1, 1, device="meta"))
    with torch.autograd.graph.saved_tensors_hooks(measured.pack, measured.unpack):
        gradient, _ = field.gradient(torch.zeros(batch, 3, height, width, device="meta"), torch.tanh, target, chunk)
    assert gradient.shape == (batch, 3, height, width)
    return measured.most


def test_memory_is_that_of_one_picture_at_512x352():
    one, four = (peak(EstimatorConfig(), batch, None) for batch in (1, 4))
    assert 50e6 < one < 100e6 and four <= 1.01 * one
    assert peak(EstimatorConfig(), 4, chunk=4) > 3.5 * one, "the measure must see the batch where there are no chunks"


def test_small_pictures_share_a_pass():
    one, eight = (peak(EstimatorConfig(), batch, None, 128, 96) for batch in (1, 8))
    assert 3 * one < eight < 100e6


def test_memory_of_the_papers_estimator():
    """What the docstring of `gradient` says of W32; W48's is measured in the same way."""
    assert 0.7e9 < peak(ESTIMATORS["w32"], 1, None) < 0.8e9


def test_half_precision_latent_gets_a_half_precision_gradient():
    field, decode = PoseInteractionField(estimator()), decoder(torch.bfloat16)
    gradient, _ = field.gradient(latent(dtype=torch.bfloat16), decode, make_target(field))
    assert gradient.dtype == torch.bfloat16
    assert gradient.isfinite().all() and gradient.any()


@every_space
@pytest.mark.parametrize(("dtype", "error", "cosine"), [(torch.float16, 0.01, 0.98), (torch.bfloat16, 0.03, 0.9)])
def test_half_precision_weights(space, dtype, error, cosine):
    """Distances to 1 % (float16) and 3 % (bfloat16) of single precision's, gradients to 12 and 26 degrees."""
    single = PoseInteractionField(estimator(), space)
    half = PoseInteractionField(estimator().to(dtype), space)
    gradient, distance = single.gradient(latent(), decoder(), make_target(single))
    rough, far = half.gradient(latent(), decoder(), make_target(half))
    assert far.dtype == rough.dtype == torch.float32
    torch.testing.assert_close(far, distance, rtol=error, atol=0)
    assert not torch.equal(far, distance)
    assert torch.cosine_similarity(gradient.flatten(), rough.flatten(), 0) > cosine
    target = half.target_from_image(torch.zeros(1, 3, *SIZE))
    assert {target.heatmaps.dtype, target.known.dtype, target.features.dtype} == {torch.float32}


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
    apart = ((seen.features - wanted.features) if space == "features"
             else merge_heatmaps(*seen.heatmaps) - merge_heatmaps(*wanted.heatmaps))
    torch.testing.assert_close(field.distance(picture, target), (apart**2).sum((1, 2, 3)))
    assert field.gradient(picture, torch.tanh, target)[0].any()


def test_strength_zero_leaves_the_estimate_and_asks_nobody():
    def decode(_):
        raise AssertionError("nothing is decoded where guidance is off")

    field, x0 = PoseInteractionField(estimator()), latent()
    off = FieldGuidance(field, make_target(field), decode, strength=0.0)
    assert off(x0, 0.5) is x0 and not off.active(0.5)
    assert FieldGuidance(field, make_target(field), decode)(x0, 0.5, weight=0.0) is x0


def test_errors_name_input_and_remedy():
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
def test_wrong_pictures(space, picture, message):
    field = PoseInteractionField(estimator(), space)
    for ask in (field.target_from_image, lambda p: field.distance(p, make_target(field, 1))):
        with pytest.raises(InputError, match="picture has shape .*" + message):
            ask(picture)


@pytest.mark.parametrize(("z", "message"), [
    (torch.zeros(0, 4, 4, 3), "axis B .* is empty"),
    (torch.zeros(4, 4, 3), "expected 4 axes"),
    (torch.zeros(2, 4, 4, 3, dtype=torch.int64), "dtype torch.int64"),
    (torch.full((2, 4, 4, 3), float("nan")), "96 values that are not finite"),
])
def test_wrong_latents(z, message):
    field = PoseInteractionField(estimator())
    with pytest.raises(InputError, match="latent has shape .*" + message):
        field.gradient(z, decoder(), field.target_from_joints(joints(1), *SIZE))


def test_a_decoder_that_overflows_is_named():
    field = PoseInteractionField(estimator())
    with pytest.raises(InputError, match=r"picture has shape .* not finite"):
        field.gradient(latent(), lambda z: decoder()(z) / 0, make_target(field))


@pytest.mark.parametrize(("people", "size", "message"), [
    (torch.zeros(2, 18, 3), SIZE, r"joints has shape \(2, 18, 3\); .* K = 17"),
    (torch.zeros(2, 1, 18, 3), SIZE, r"joints has shape \(2, 1, 18, 3\); .* K = 17"),
    (torch.zeros(0, 17, 3), SIZE, "axis B .* is empty"),
    (torch.zeros(1, 0, 17, 3), SIZE, "axis P .* is empty"),
    (torch.zeros(17, 3), SIZE, "expected 3 axes"),
    (torch.zeros(1, 17, 3), (30, 24), "height, width = 30, 24: must be positive multiples of 4"),
    (torch.zeros(1, 17, 3), (0, 24), "height, width = 0, 24"),
    (torch.tensor([float("nan"), 1, 1]).expand(1, 17, 3), SIZE, "joint 0 of person 0 in picture 0 .* no finite x"),
])
def test_wrong_joints(people, size, message):
    with pytest.raises(InputError, match=message):
        PoseInteractionField(estimator()).target_from_joints(people, *size)


def test_joints_of_any_number_type():
    field, whole = PoseInteractionField(estimator()), joints().round()
    expected = field.target_from_joints(whole, *SIZE)
    for dtype in (torch.int64, torch.float16, torch.float64):
        target = field.target_from_joints(whole.to(dtype), *SIZE)
        assert torch.equal(target.heatmaps, expected.heatmaps)
    absent = whole.clone()
    absent[:, 4] = torch.tensor([float("nan"), float("nan"), 0])
    assert field.target_from_joints(absent, *SIZE).heatmaps.isfinite().all()


def test_weights_made_in_inference_mode_are_refused_unless_they_are_folded():
    def ask(dtype: torch.dtype, copied: bool = False):
        with torch.inference_mode():
            net = estimator().to(dtype)
        field = PoseInteractionField(copy.deepcopy(net) if copied else net)
        return field.gradient(latent(), decoder(), make_target(field))

    with pytest.raises(InputError, match="inference_mode"):
        ask(torch.bfloat16)
    assert ask(torch.bfloat16, copied=True)[0].any()
    expected, _ = PoseInteractionField(estimator()).gradient(latent(), decoder(), make_target(
        PoseInteractionField(estimator())))
    torch.testing.assert_close(ask(torch.float32)[0], expected)


# -- several people


class Right(nn.Module):
    """An estimator of the protocol, without weights, that sees the target whatever the picture is."""

    def __init__(self, people: torch.Tensor, strides: tuple[int, ...], udp: bool) -> None:
        super().__init__()
        self.people = people
        self.config = types.SimpleNamespace(joints=17, strides=strides, sigma=1.5, udp=udp)

    def forward(self, picture: torch.Tensor) -> types.SimpleNamespace:
        maps = [torch.stack([render_heatmaps(p, *picture.shape[-2:], 1.5, stride, self.config.udp)
                             for p in self.people.unbind(1)]).amax(0) for stride in self.config.strides]
        return types.SimpleNamespace(heatmaps=maps, features=nn.functional.avg_pool2d(picture, 8))


def crowd(batch: int = 2, people: int = 3, missing: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    found = torch.rand(batch, people, 17, 3, generator=generator) * torch.tensor([24.0, 32.0, 0.0])
    found[..., 2] = 1
    for n in range(missing):
        found[n % batch, n % people, 5 * n % 17] = 0
    return found


@pytest.mark.parametrize("udp", [False, True], ids=["plain", "udp"])
@pytest.mark.parametrize("strides", [(4, 2), (4,), (8,)])
def test_any_estimator_that_is_right_is_at_distance_zero(strides, udp):
    people = crowd(missing=4)
    field = PoseInteractionField(Right(people, strides, udp))
    target = field.target_from_joints(people, *SIZE)
    assert target.heatmaps.shape == (2, 17, SIZE[0] // strides[-1], SIZE[1] // strides[-1])
    picture = torch.zeros(2, 3, *SIZE)
    torch.testing.assert_close(field.distance(picture, target), torch.zeros(2))
    moved = field.target_from_joints(people + torch.tensor([3.0, 0, 0]), *SIZE)
    assert (field.distance(picture, moved) > 0.5).all()
    # Features of any resolution: here a single cell at 1/8 differs, and the mask covers it.
    features = PoseInteractionField(Right(people, strides, udp), "features", threshold=-1.0)
    other = picture.clone()
    other[1, :, :8, :8] = 1
    torch.testing.assert_close(features.distance(picture, features.target_from_image(other)), torch.tensor([0.0, 3.0]))


def test_one_person_either_way():
    field, some = PoseInteractionField(estimator()), joints()
    some[0, 3] = 0
    one, several = (field.target_from_joints(j, *SIZE) for j in (some, some[:, None]))
    assert torch.equal(one.heatmaps, several.heatmaps) and torch.equal(one.known, several.known)
    # Rows of zeros are nobody: they fill up a picture that has fewer people.
    padded = field.target_from_joints(torch.cat([some[:, None], torch.zeros(2, 2, 17, 3)], 1), *SIZE)
    assert torch.equal(padded.heatmaps, one.heatmaps)
    assert torch.equal(padded.known, one.known.expand_as(padded.known))


def test_several_people_are_their_maximum():
    field, people = PoseInteractionField(estimator()), crowd(missing=5)
    target = field.target_from_joints(people, *SIZE)
    maps = [torch.stack([render_heatmaps(people[:, p], *SIZE, field.estimator.config.sigma, stride) for p in range(3)])
            for stride in (4, 2)]
    torch.testing.assert_close(target.heatmaps, merge_heatmaps(*(m.amax(0) for m in maps)))
    shuffled = field.target_from_joints(people[:, [2, 0, 1]], *SIZE)
    assert torch.equal(target.heatmaps, shuffled.heatmaps) and torch.equal(target.known, shuffled.known)


def test_a_joint_is_compared_in_the_cells_of_those_who_have_it():
    people = crowd(missing=9)
    people[1, 2] = 0
    known = PoseInteractionField(estimator()).target_from_joints(people, *SIZE).known
    for i in range(2):
        for y in range(16):
            for x in range(12):
                place = torch.tensor([2 * x + 1.0, 2 * y + 1.0])
                nearest = min((torch.dist(place, joint[:2]).item(), p)
                              for p in range(3) for joint in people[i, p] if joint[2] > 0)[1]
                assert known[i, :, y, x].tolist() == people[i, nearest, :, 2].tolist()
    assert 0 < known.mean() < 1


def test_what_one_person_lacks_is_called_for_of_the_other():
    """The left one's wrist is unknown: nothing is said of a wrist on the left, and the right one's must be there."""
    left, right = torch.tensor([6.0, 16.0, 1.0]).repeat(17, 1), torch.tensor([18.0, 16.0, 1.0]).repeat(17, 1)
    left[9] = 0
    field = PoseInteractionField(Quiet())
    target = field.target_from_joints(torch.stack([left, right])[None], *SIZE)
    empty = torch.zeros(1, 17, 16, 12)
    seen = empty.clone()
    seen[0, 9, 8, 2] = 1      # a wrist on the left
    mask = heatmap_mask(target.heatmaps) * target.known
    silent, spoken = (masked_distance(maps, target.heatmaps, mask).item() for maps in (seen, empty))
    assert silent == spoken > 1
    seen[0, 9, 8, 2], seen[0, 9, 8, 9] = 0, 1
    assert masked_distance(seen, target.heatmaps, mask).item() != spoken


@pytest.mark.parametrize("mask", ["predicted", "union"])
def test_gradient_for_several_people_against_finite_differences(mask):
    dtype = torch.float64
    field = PoseInteractionField(estimator(dtype), mask=mask)
    decode, z = decoder(dtype), latent(dtype=dtype)
    target = field.target_from_joints(crowd(missing=5), *SIZE)
    assert target.heatmaps.dtype == dtype
    gradient, _ = field.gradient(z, decode, target, chunk=1)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        direction, step = torch.randn(z.shape, generator=generator, dtype=dtype), 1e-7
        with torch.no_grad():
            ahead, behind = (field.distance(decode(z + s * direction), target) for s in (step, -step))
        slope = (gradient * direction).sum((1, 2, 3))
        torch.testing.assert_close((ahead - behind) / (2 * step), slope, rtol=1e-4, atol=1e-5)
