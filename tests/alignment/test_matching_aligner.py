"""The aligner that matches anew in every iteration: what each is given, starts, sizes, precision, bad input."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from reposedm_core import InputError
from reposedm_core.alignment import MatchingPoseAligner, RecurrentPoseAligner, Start, build_aligner, start_from
from reposedm_core.alignment.limb_choice import coarse_map
from reposedm_core.alignment.skeleton_map import limb_maps, skeleton_map
from reposedm_core.alignment.warp import identity_map, resize_map, warp
from reposedm_core.config import AlignerConfig
from reposedm_core.pose import draw_joints
from tests.alignment.conftest import pictures, spied

TINY = AlignerConfig(kind="matching", kernels=(0, 3, 3), channels=8, dim=16, heads=2, height=32, width=24)


def build(**changes):
    """Frozen, with random weights where a fresh one has zeros."""
    torch.manual_seed(0)
    network = build_aligner(replace(TINY, **changes)).eval().requires_grad_(False)
    for match in network.matches:
        for layer in (match.trust, match.read, match.detail):
            layer.weight.add_(0.05 * torch.randn_like(layer.weight))
    for choice in network.choices:
        for layer in (*choice.third, choice.read):
            layer.weight.add_(0.05 * torch.randn_like(layer.weight))
    return network


def people(height=32, width=24, batch=1):
    """Joints of source and target in such pictures."""
    generator = torch.Generator().manual_seed(2)
    places = torch.rand(2, batch, 18, 2, generator=generator) * torch.tensor([width, height])
    return torch.cat([places, torch.ones(2, batch, 18, 1)], -1).unbind()


def start(height=32, width=24, batch=1, shrink=1):
    return start_from(*people(height, width, batch), pictures(height, width, batch)[0], shrink)


def test_the_kind_of_a_configuration_says_which_aligner():
    assert type(build_aligner(TINY)) is MatchingPoseAligner and build_aligner(TINY).reads_pose
    other = build_aligner(replace(TINY, kind="recurrent"))
    assert type(other) is RecurrentPoseAligner and not other.reads_pose


@pytest.mark.parametrize(("height", "width"), [(32, 24), (48, 40), (8, 8), (24, 72)])
@pytest.mark.parametrize("shrink", [1, 2])
def test_shapes_at_the_trained_size_and_others(height, width, shrink):
    """h × w is half of the pictures that the networks see."""
    aligner = build(shrink=shrink)
    large = height * shrink, width * shrink
    encoded = []
    out = aligner(*pictures(*large, 2), start=start(*large, 2, shrink), encode=lambda x: (encoded.append(x), x)[1])
    for values, count in ((out.maps, 2), (out.visibility, 1), ([out.person], 1), ([out.source_person], 1)):
        assert {v.shape for v in values} == {(2, count, height // 2, width // 2)}
    assert len(out.maps) == len(out.visibility) == 3 and out.image.shape == (2, 3, *large)
    assert out.features is encoded[0] is out.image
    assert out.latent_visibility(8 * shrink).shape == (2, 1, height // 8, width // 8)


def test_every_iteration_starts_from_the_last_and_sees_the_pictures_warped_by_it():
    """Source and its skeleton are warped; what is matched with is the source itself, the logits go on."""
    aligner, seen, given, found, asked, chosen = build(), [], [], [], [], []
    spied([aligner.source_encoder], lambda arguments, _: seen.append(arguments[0]))
    spied(aligner.matches, lambda arguments, _: given.append(arguments))
    spied(aligner.matches, lambda _, result: found.append(result))
    spied(aligner.choices, lambda arguments, _: asked.append(arguments))
    spied(aligner.choices, lambda _, result: chosen.append(result))
    source, pose = pictures()
    begin = start()
    out = aligner(source, pose, start=begin)
    both = torch.cat([source, begin.skeleton], 1)
    assert torch.equal(given[0][2], begin.map) and torch.equal(given[0][3], begin.share) and not given[0][4].any()
    for n, (_, key, phi, known, logits, aspect) in enumerate(given):
        before = chosen[n - 1][0] if n else resize_map(begin.map, 16, 12)
        assert aspect == 24 / 32 and torch.equal(key, given[0][1])
        if n:
            assert torch.equal(phi, coarse_map(before)) and (known == 1).all()
            assert torch.equal(logits, found[n - 1][1])
        assert torch.equal(seen[n], warp(both, before) if n else both), "eq. 9"
        expected = (*found[n][2:4], found[n][5], before, begin.limbs, begin.near, both, pose)
        assert all(torch.equal(a, b) for a, b in zip(asked[n], expected, strict=True))
        assert torch.equal(out.maps[n], chosen[n][0]) and torch.equal(out.visibility[n], chosen[n][1][:, :1])
    assert torch.equal(out.person, chosen[-1][1][:, 1:]) and torch.equal(out.image, warp(source, out.maps[-1]))
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(out.maps, out.maps[1:], strict=False)), "each refines"


def test_fewer_iterations_are_the_first_of_all():
    aligner = build()
    source, pose = pictures()
    every = aligner(source, pose, start=start())
    for count in (1, 2, 3):
        out = aligner(source, pose, count, start=start())
        assert len(out.maps) == len(out.visibility) == count
        assert all(torch.equal(a, b) for a, b in zip(out.maps, every.maps[:count], strict=True))
        assert torch.equal(out.image, warp(source, every.maps[count - 1]))
        assert torch.equal(out.source_person, every.source_person)


def test_a_batch_is_its_pictures_alone():
    aligner = build(dim=200)
    source, pose = pictures(96, 64, batch=3)
    begin = start(96, 64, batch=3)
    together = aligner(source, pose, start=begin)
    for i in range(3):
        own = Start(*(value[i : i + 1] for value in vars(begin).values()))
        alone = aligner(source[i : i + 1], pose[i : i + 1], start=own)
        for one, many in (
            (alone.image, together.image),
            (alone.maps[-1], together.maps[-1]),
            (alone.visibility[-1], together.visibility[-1]),
            (alone.person, together.person),
            (alone.source_person, together.source_person),
        ):
            torch.testing.assert_close(one[0], many[i], rtol=0, atol=1e-4)


def test_a_start_holds_the_skeleton_map_and_the_drawing_of_the_source():
    source, target = people(48, 40, batch=2)
    source[1, :, 2] = 0  # nobody knows the second one's pose
    begin = start_from(source, target, pictures(48, 40, 2)[0])
    sampling, share = skeleton_map(source, target, (48, 40), (48, 40), (12, 10))
    assert torch.equal(begin.map[0], sampling[0]) and torch.equal(begin.share[0], share[0]) and share[0].any()
    limbs, near = limb_maps(source, target, (48, 40), (48, 40), (24, 20))
    assert torch.equal(begin.limbs, limbs) and torch.equal(begin.near, near) and near[0].any()
    assert not begin.near[1].any() and torch.equal(begin.limbs[1], identity_map(24, 20).expand(19, -1, -1, -1))
    assert torch.equal(begin.skeleton, draw_joints(source.numpy(), 48, 40).float() / 127.5 - 1)
    torch.testing.assert_close(begin.map[1:], identity_map(12, 10))
    assert not begin.share[1].any() and (begin.skeleton[1] == -1).all() and begin.skeleton[0].max() > 0


def test_no_start_is_one_of_unknown_joints():
    aligner, (source, pose), (_, target) = build(), pictures(batch=2), people(batch=2)
    unknown = start_from(torch.zeros(2, 18, 3), target, source)
    nothing = start_from(None, target, source)
    for name, value in vars(unknown).items():
        torch.testing.assert_close(value, getattr(nothing, name))
    blind, also = aligner(source, pose), aligner(source, pose, start=unknown)
    assert torch.equal(blind.maps[-1], also.maps[-1]) and torch.equal(blind.source_person, also.source_person)
    told = aligner(source, pose, start=start(batch=2))
    assert not torch.isclose(told.maps[0], blind.maps[0], atol=1e-4).all(), "a pose that is known has a say"
    without_target = start_from(target, None, source)
    assert not without_target.share.any() and (without_target.skeleton == -1).all()


def test_shrinking_aligns_the_smaller_pictures_and_warps_the_larger():
    small, large = build(), build(shrink=2)
    source, pose = pictures(64, 48, batch=2)
    little = [F.avg_pool2d(picture, 2) for picture in (source, pose)]
    joints = people(64, 48, batch=2)
    begin = start_from(*joints, source, 2)
    halves = start_from(*(j * torch.tensor([0.5, 0.5, 1.0]) for j in joints), little[0])
    for name, value in vars(halves).items():
        assert torch.equal(value, getattr(begin, name)), name
    out, expected = large(source, pose, start=begin), small(*little, start=halves)
    for a, b in zip(
        [*out.maps, *out.visibility, out.person, out.source_person],
        [*expected.maps, *expected.visibility, expected.person, expected.source_person],
        strict=True,
    ):
        assert torch.equal(a, b)
    assert out.image.shape == source.shape and torch.equal(out.image, warp(source, out.maps[-1]))


def test_the_sources_mask_is_the_sources_alone():
    """Another target pose, and another target's joints, change the person's mask but not the source's."""
    aligner, (source, pose) = build(), pictures()
    before, after = (aligner(source, skeleton, start=start()) for skeleton in (pose, pose.flip(-1)))
    assert torch.equal(before.source_person, after.source_person) and not torch.equal(before.person, after.person)
    other = aligner(source.flip(-1), pose, start=start())
    assert (other.source_person - before.source_person).abs().max() > 1e-3


def test_an_iteration_alone_on_the_map_before_it_is_that_iteration():
    """`refine` with what the first iteration found; with another map it starts from that."""
    aligner = build(kernels=(0, 3))
    source, pose = pictures(batch=2)
    begin = start(batch=2)
    out = aligner(source, pose, start=begin)
    again = aligner.refine(1, source, pose, begin, out.maps[0])
    torch.testing.assert_close(again.fine, out.maps[1])
    torch.testing.assert_close(again.fine_logits[:, :1], out.visibility[1])
    assert again.match.shape == (2, 48, 48) and again.target.shape == (2, 8, 8, 6)
    elsewhere = aligner.refine(1, source, pose, begin, out.maps[0] + 0.2)
    assert (elsewhere.fine - again.fine).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, "autocast"])
def test_half_precision(dtype):
    """Against float32 with the same weights and pictures: maps of float32, to a fifth or half a cell."""
    aligner = build()
    source, pose = pictures(48, 40)
    begin = start(48, 40)
    if dtype == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            out = aligner(source, pose, start=begin)
    else:
        aligner, source, pose = aligner.to(dtype), source.to(dtype), pose.to(dtype)
        out = aligner(source, pose, start=begin)
    exact = aligner.float()(source.float(), pose.float(), start=begin)
    cells = torch.tensor([20.0, 24.0]).view(1, 2, 1, 1) / 2
    for found, expected in zip(out.maps, exact.maps, strict=True):
        assert found.dtype == torch.float32
        assert ((found - expected) * cells).abs().max() < (0.2 if dtype == torch.float16 else 0.5)
    assert out.image.dtype == source.dtype
    assert (out.visibility[-1].float() - exact.visibility[-1]).abs().max() < 0.1


def test_the_gradient_reaches_every_weight_that_is_read():
    """All but how later iterations would merge the warped source's features: they match with the source itself."""
    aligner = build().requires_grad_(True)
    out = aligner(*pictures(batch=2), start=start(batch=2))
    sum(value.square().mean() for value in [*out.maps, *out.visibility, out.person, out.source_person]).backward()
    without = {name for name, p in aligner.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {f"mapformers.{n}.merge_source.{kind}" for n in (1, 2) for kind in ("weight", "bias")}
    assert all(p.grad.isfinite().all() for name, p in aligner.named_parameters() if name not in without)


def test_nothing_waits_for_the_device_but_the_check_of_the_pictures():
    """A number read back stops an accelerator; more iterations must not read more of them."""

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
            return func(*args, **(kwargs or {}))

    aligner, (source, pose), begin = build(), pictures(), start()
    for iterations in (1, 3):
        with Reads() as reads:
            aligner(source, pose, iterations, start=begin)
        assert reads.count == 2, "source and skeleton are finite"


PICTURE = torch.rand(1, 3, 32, 24)


@pytest.mark.parametrize(
    ("source", "pose", "words"),
    [
        (torch.rand(1, 3, 36, 24), PICTURE, r"source has shape \(1, 3, 36, 24\): H = 36 must be divisible by 8"),
        (torch.rand(1, 4, 32, 24), PICTURE, r"source has shape \(1, 4, 32, 24\); expected \(B, 3, H, W\)"),
        (
            PICTURE.index_fill(2, torch.tensor(3), torch.nan),
            PICTURE,
            "source has shape .* 72 values that are not finite",
        ),
        (PICTURE, torch.rand(1, 3, 32, 32), r"pose_image has shape \(1, 3, 32, 32\).* W = 24"),
        (PICTURE, torch.rand(2, 3, 32, 24), r"pose_image has shape \(2, 3, 32, 24\).* B = 1"),
        (PICTURE, PICTURE.double(), r"pose_image has shape .*float64 .*expected torch.float32"),
    ],
)
def test_bad_pictures_are_named(source, pose, words):
    with pytest.raises(InputError, match=words):
        build()(source, pose)


def test_other_bad_arguments_are_named():
    for count in (0, 4):
        with pytest.raises(InputError, match=f"iterations = {count}; this network has 1 to 3"):
            build()(PICTURE, PICTURE, count)
    with pytest.raises(InputError, match="H = 40 must be divisible by 16"):
        build(shrink=2)(torch.rand(1, 3, 40, 32), torch.rand(1, 3, 40, 32))
    with pytest.raises(InputError, match=r"start\.skeleton has shape \(1, 3, 64, 48\).* H = 32"):
        build(shrink=2)(torch.rand(1, 3, 64, 48), torch.rand(1, 3, 64, 48), start=start(64, 48, shrink=1))
    with pytest.raises(InputError, match=r"start\.skeleton has shape \(2, .* B = 1"):
        build()(PICTURE, PICTURE, start=start(batch=2))
    with pytest.raises(InputError, match=r"start\.map has shape \(1, 2, 16, 12\).* h = 8"):
        build()(PICTURE, PICTURE, start=replace(start(), map=identity_map(16, 12)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "other"}, "kind = 'other': known are recurrent, matching"),
        ({"shrink": 0}, "shrink = 0: must be 1 to"),
        ({"dim": 20}, "dim = 20: must be divisible by 8"),
        ({"channels": 12}, "channels = 12: must be divisible by 8"),
        ({"kernels": (0, 4)}, r"kernels = \(0, 4\): .* odd"),
    ],
)
def test_bad_configurations_are_named(changes, words):
    with pytest.raises(InputError, match=words):
        replace(TINY, **changes)
