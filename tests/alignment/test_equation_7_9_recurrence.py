"""Equations 7-9, the recurrence: what every iteration is given, precision, batches, memory, options, bad input."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from reposedm_core import InputError
from reposedm_core.alignment import RecurrentPoseAligner
from reposedm_core.alignment.warp import compose, warp
from reposedm_core.config import AlignerConfig
from tests.alignment.conftest import pictures, spied

TINY = AlignerConfig(kernels=(0, 3), radius=2, channels=8, dim=16, heads=2, height=32, width=24)
HALVES = (torch.float16, torch.bfloat16)


def encode(pictures):
    """A stand-in for E: pictures (B, 3, H, W) → latents (B, 16, H/8, W/8)."""
    return F.pixel_unshuffle(F.avg_pool2d(pictures, 2), 4)[:, ::3]


def build(**changes):
    torch.manual_seed(0)
    network = RecurrentPoseAligner(replace(TINY, **changes)).eval().requires_grad_(False)
    for aggregator in network.aggregators:  # the read-out starts at zero: give the maps something to say
        torch.nn.init.normal_(aggregator.read.weight, std=0.05)
    return network


@pytest.mark.parametrize(("height", "width"), [(32, 24), (48, 40), (8, 8), (24, 72)])
@pytest.mark.parametrize(("encoder", "stride"), [("picture", 4), ("latent", 8)])
def test_shapes_at_the_trained_size_and_others(height, width, encoder, stride):
    aligner = build(encoder=encoder)
    out = aligner(*pictures(height, width, 2), encode=encode)
    assert [m.shape for m in out.maps] == [(2, 2, height // stride, width // stride)] * 2
    assert [v.shape for v in out.visibility] == [(2, 1, height // stride, width // stride)] * 2
    assert out.image.shape == (2, 3, height, width) and out.features.shape == (2, 16, height // 8, width // 8)
    assert out.latent_visibility(8).shape == (2, 1, height // 8, width // 8)


def test_every_iteration_composes_on_the_last_and_sees_the_picture_warped_by_it():
    aligner, seen, answers = build(kernels=(0, 3, 3)), [], []
    source, pose = pictures()
    spied([aligner.source_encoder], lambda given, _: seen.append(given[0]))
    spied(aligner.aggregators, lambda given, result: answers.append((given[2], *result)))
    out = aligner(source, pose)
    for n, (before, base, offset, visibility) in enumerate(answers):
        assert torch.equal(out.maps[n], compose(base, offset)), "eq. 7-8"
        assert torch.equal(out.visibility[n], visibility)
        assert torch.equal(seen[n], warp(source, out.maps[n - 1]) if n else source), "eq. 9"
        if n:
            assert torch.equal(before, out.maps[n - 1]) and torch.equal(base, before)
    assert torch.equal(out.image, warp(source, out.maps[-1]))
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(out.maps, out.maps[1:], strict=False)), "each refines"
    assert all(torch.equal(a, warp(source, b)) for a, b in zip(out.images(source), out.maps, strict=True))
    assert torch.equal(aligner(source, pose, 1).maps[0], out.maps[0]) and len(aligner(source, pose, 1).maps) == 1


@pytest.mark.parametrize("changes", [{}, {"kernels": (3, 3), "first_radius": 2}, {"encoder": "latent"}])
def test_a_batch_is_its_pictures_alone(changes):
    """96 × 64 with 200 channels: a single picture takes the way of small convolutions, a batch does not."""
    aligner = build(dim=200, **changes)
    source, pose = pictures(96, 64, batch=3)
    together = aligner(source, pose, encode=encode)
    for i in range(3):
        alone = aligner(source[i : i + 1], pose[i : i + 1], encode=encode)
        for one, many in (
            (alone.image, together.image),
            (alone.maps[-1], together.maps[-1]),
            (alone.visibility[-1], together.visibility[-1]),
            (alone.features, together.features),
        ):
            torch.testing.assert_close(one[0], many[i], rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("changes", [{}, {"kernels": (3, 3), "first_radius": 2}, {"encoder": "latent"}])
def test_half_precision(dtype, changes):
    """Against float32 with the same rounded weights and pictures: maps to a tenth (fp16) or half a cell (bf16)."""
    aligner = build(**changes).to(dtype)
    source, pose = (picture.to(dtype) for picture in pictures(48, 40))
    out = aligner(source, pose, encode=encode)
    exact = aligner.float()(source.float(), pose.float(), encode=encode)
    cells = torch.tensor(out.maps[-1].shape[:1:-1]).view(1, 2, 1, 1) / 2
    for found, expected in zip(out.maps, exact.maps, strict=True):
        assert found.dtype == torch.float32
        assert ((found - expected) * cells).abs().max() < {torch.float16: 0.02, torch.bfloat16: 0.15}[dtype]
    assert out.image.dtype == out.visibility[-1].dtype == dtype
    tolerance = {torch.float16: 0.01, torch.bfloat16: 0.08}[dtype]
    assert (out.image.float() - exact.image).abs().max() < tolerance
    assert (out.visibility[-1].float() - exact.visibility[-1]).abs().max() < tolerance


def test_memory_of_windowed_scales_is_linear_in_the_cells(memory):
    used = []
    for height, width in ((96, 64), (192, 128)):
        aligner = build(kernels=(3, 5), first_radius=2).requires_grad_(True)
        used.append(memory(lambda aligner=aligner, size=(height, width): aligner(*pictures(*size)).image))
    for small, large in zip(*used, strict=True):
        assert 3 < large / small < 4.5, "four times the cells: 4 is O(h·w), 16 is O((h·w)²)"


@pytest.mark.parametrize(("kernel", "cells"), [(0, 36), (5, 25), (3, 16)])
def test_kernels_are_the_windows_of_attention(kernel, cells):
    """A source token in the corner of 9 × 4 reaches kernel // 2 cells by either attention."""
    mapformer = build(kernels=(kernel,), blocks=1).mapformers[0]
    position, source, pose = torch.zeros(1, 16, 9, 4), *torch.randn(2, 1, 16, 9, 4)
    fine = torch.zeros(1, 8, 18, 8)
    before = mapformer((fine, pose), (fine, source), position)[2]
    source[..., 0, 0] += 10 * torch.randn(16)
    changed = (mapformer((fine, pose), (fine, source), position)[2] != before).any(1)[0]
    far = 2 * (kernel // 2) if kernel else 9
    expected = torch.zeros(9, 4, dtype=torch.bool)
    expected[: far + 1, : far + 1] = True
    assert torch.equal(changed, expected)


def test_options_change_what_they_say():
    source, pose = pictures()
    for kernels in ((0,), (0, 3), (0, 5, 3, 3)):
        assert len(build(kernels=kernels)(source, pose).maps) == len(kernels)
    for radius in (1, 3):
        for changes, first in (({"first_radius": 0}, 1), ({"first_radius": 4}, 81)):
            widths = [a.first.weight.shape[1] for a in build(radius=radius, **changes).aggregators]
            assert widths == [first + 2 * 8 + 3, (2 * radius + 1) ** 2 + 2 * 8 + 3]
    assert build(radius=3, first_radius=4).aggregators[0].radius == 4
    for dim in (16, 32):
        aligner, widths = build(dim=dim), set()
        spied(aligner.mapformers, lambda _, result, widths=widths: widths.add(result[2].shape[1]))
        aligner(source, pose)
        assert widths == {dim} and aligner.position.shape == (1, dim, 4, 3)
    for channels in (8, 16):
        aligner, widths = build(channels=channels), set()
        spied(aligner.mapformers, lambda _, result, widths=widths: widths.add(result[0].shape[1]))
        aligner(source, pose)
        assert widths == {channels}
    assert [[len(m.self_attention), len(m.cross_attention)] for m in build(blocks=3).mapformers] == [[3, 3], [1, 1]]
    assert build(height=64, width=40).position.shape[-2:] == (8, 5)
    same = build(heads=4)
    same.load_state_dict(build(heads=2).state_dict())
    assert not torch.equal(same(source, pose).maps[-1], build(heads=2)(source, pose).maps[-1])


@pytest.mark.parametrize(
    ("encoder", "option", "calls"),
    [("picture", "image", 3), ("picture", "latent", 1), ("latent", "image", 3), ("latent", "latent", 1)],
)
def test_warping_the_picture_encodes_it_anew_and_warping_the_latent_does_not(encoder, option, calls):
    aligner = build(kernels=(0, 3, 3), encoder=encoder, warp=option)
    source, pose = pictures()
    encoded, read = [], []
    spied([aligner.source_encoder], lambda given, _: read.append(given[0]))

    def counting(picture):
        encoded.append(picture)
        return encode(picture)

    out = aligner(source, pose, encode=counting)
    assert len(encoded) == (2 + calls if encoder == "latent" else 1), "the skeleton, what is read, and the result"
    assert torch.equal(encoded[-1], out.image)
    if encoder == "picture":
        assert len(read) == calls
    other = build(kernels=(0, 3, 3), encoder=encoder, warp={"image": "latent", "latent": "image"}[option])
    other = other(source, pose, encode=encode)
    assert torch.equal(out.maps[0], other.maps[0]) and not torch.equal(out.maps[1], other.maps[1])


PICTURE = torch.rand(1, 3, 32, 24)


@pytest.mark.parametrize(
    ("source", "pose", "words"),
    [
        (torch.rand(1, 3, 30, 24), PICTURE, r"source has shape \(1, 3, 30, 24\): H = 30 must be divisible by 8"),
        (torch.rand(1, 3, 32, 25), PICTURE, r"source has shape \(1, 3, 32, 25\): W = 25 must be divisible by 8"),
        (torch.rand(0, 3, 32, 24), PICTURE, r"source has shape \(0, 3, 32, 24\): axis B .* is empty"),
        (torch.rand(1, 3, 0, 24), PICTURE, r"source has shape \(1, 3, 0, 24\): axis H .* is empty"),
        (torch.rand(1, 4, 32, 24), PICTURE, r"source has shape \(1, 4, 32, 24\); expected \(B, 3, H, W\)"),
        (PICTURE[0], PICTURE, r"source has shape \(3, 32, 24\); expected 4 axes"),
        (PICTURE.numpy(), PICTURE, "source is a ndarray; expected a tensor"),
        (PICTURE.mul(255).byte(), PICTURE, r"source has shape .* dtype torch.uint8; expected one of float16"),
        (
            PICTURE.index_fill(2, torch.tensor(3), torch.nan),
            PICTURE,
            "source has shape .* 72 values that are not finite",
        ),
        (PICTURE, PICTURE / 0, r"pose_image has shape \(1, 3, 32, 24\) and 2304 values that are not finite"),
        (PICTURE, torch.rand(1, 3, 32, 32), r"pose_image has shape \(1, 3, 32, 32\).* W = 24"),
        (PICTURE, torch.rand(2, 3, 32, 24), r"pose_image has shape \(2, 3, 32, 24\).* B = 1"),
        (PICTURE, PICTURE.half(), r"pose_image has shape .*float16 .*expected torch.float32"),
        (PICTURE, PICTURE.long(), r"pose_image has shape .* dtype torch.int64"),
    ],
)
def test_bad_pictures_are_named(source, pose, words):
    with pytest.raises(InputError, match=words):
        build()(source, pose)


def test_other_bad_arguments_are_named():
    for count in (0, 3):
        with pytest.raises(InputError, match=f"iterations = {count}; this network has 1 to 2"):
            build()(PICTURE, PICTURE, count)
    with pytest.raises(InputError, match="encode is missing"):
        build(encoder="latent")(PICTURE, PICTURE)
    with pytest.raises(InputError, match=r"latent that encode gives has shape \(1, 8, 4, 3\); expected \(1, 16, h, w"):
        build(encoder="latent")(PICTURE, PICTURE, encode=lambda picture: encode(picture)[:, :8])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kernels": ()}, r"kernels = \(\): must be 1 to"),
        ({"kernels": (0, 4)}, r"kernels = \(0, 4\): .* odd"),
        ({"kernels": (-3,)}, r"kernels = \(-3,\)"),
        ({"radius": 0}, "radius = 0: must be 1 to"),
        ({"first_radius": -1}, "first_radius = -1"),
        ({"blocks": 0}, "blocks = 0"),
        ({"heads": 0}, "heads = 0"),
        ({"encoder": "none"}, "encoder = 'none': known are picture, latent"),
        ({"warp": "both"}, "warp = 'both'"),
        ({"dim": 20}, "dim = 20: must be divisible by 8"),
        ({"channels": 12}, "channels = 12: must be divisible by 8"),
        ({"height": 30}, "height = 30: must be divisible by 8"),
        ({"width": 0}, "width = 0: must be 1 to"),
    ],
)
def test_bad_configurations_are_named(changes, words):
    with pytest.raises(InputError, match=words):
        RecurrentPoseAligner(replace(TINY, **changes))
