"""What the denoiser is told: one source or several, with an aligner or without."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reposedm_core import PRESETS, InputError, Pose
from reposedm_core.alignment import clear_caches, warp, windows
from reposedm_core.conditioning import condition_image, make_condition
from reposedm_core.networks import build_networks

SIZE = 64, 48


@pytest.fixture(scope="module")
def networks():
    """`mini` and its B1, with random weights."""
    found = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name in ("mini", "mini-b1"):
            built = build_networks(PRESETS[name], aligner=name == "mini")
            if name == "mini":  # its last layers start at zero: everything would stay where it is
                for weight in built.aligner.parameters():
                    weight.add_(0.02 * torch.randn_like(weight))
            found[name] = built
    return found


def condition(networks, image, sources=1):
    skeleton = torch.linspace(-1, 1, len(image) // sources)[:, None, None, None].expand(-1, 3, *SIZE)
    found = make_condition(
        networks.aligner,
        networks.denoiser,
        networks.autoencoder.encode,
        image,
        skeleton.repeat_interleave(sources, 0).contiguous(),
        8,
        sources,
    )
    assert found.source is image and found.start is None
    return found.condition, found.alignment, found.seen


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(4, 3, *SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", ["mini", "mini-b1"])
def test_two_sources_make_one_result_a_pose(networks, pictures, name):
    told, alignment, seen = condition(networks[name], pictures, 2)
    assert len(told.pose) == len(told.tokens) == len(told.aligned) == len(told.visibility) == len(seen.image) == 2
    assert alignment.maps[-1].shape[0] == 4
    assert not torch.equal(told.tokens[0], told.tokens[1])
    denoiser = networks[name].denoiser
    z = torch.zeros_like(told.pose)
    out = denoiser(
        z, torch.full((2,), 500), told.pose, told.tokens, told.aligned, told.visibility, torch.full((2, 1, 1, 1), 0.5)
    )[0]
    assert out.shape == z.shape and out.isfinite().all()


def test_the_tokens_are_of_the_mixed_picture(networks, pictures):
    told, _, seen = condition(networks["mini"], pictures, 2)
    latent = networks["mini"].autoencoder.encode(seen.image)
    assert torch.equal(told.aligned, latent)
    assert torch.equal(told.visibility, seen.latent_visibility(8))
    assert torch.equal(told.tokens, networks["mini"].denoiser.context(latent, told.visibility))


def test_b1_reads_every_source(networks, pictures):
    """Its tokens are those of each source, one after another."""
    told, _, _ = condition(networks["mini-b1"], pictures, 2)
    each, _, _ = condition(networks["mini-b1"], pictures)
    assert told.tokens.shape[1] == 2 * each.tokens.shape[1]
    torch.testing.assert_close(told.tokens, each.tokens.unflatten(0, (2, 2)).flatten(1, 2))


def test_one_source_of_one_is_what_it_is_alone(networks, pictures):
    told, alignment, seen = condition(networks["mini"], pictures)
    assert torch.equal(seen.image, alignment.image)
    assert torch.equal(seen.visibility, alignment.visibility[-1].sigmoid())
    assert torch.equal(told.aligned, alignment.features)
    twice = pictures[:1].expand(2, -1, -1, -1).contiguous()
    both, _, _ = condition(networks["mini"], twice, 2)
    one, _, _ = condition(networks["mini"], pictures[:1])
    torch.testing.assert_close(both.aligned, one.aligned, atol=1e-4, rtol=0)
    torch.testing.assert_close(both.tokens, one.tokens, atol=1e-3, rtol=0)


def test_a_person_outside_the_canvas_is_refused_and_one_partly_inside_is_drawn():
    joints = np.ones((1, 18, 3), np.float32)
    joints[..., 0], joints[..., 1] = np.linspace(200, 900, 18), np.linspace(200, 900, 18)
    with pytest.raises(InputError, match="pose: no joint of its first person lies inside its canvas of 96 × 128"):
        condition_image(Pose(joints, 128, 96), *SIZE)
    pose = Pose(joints, 512, 512)
    assert condition_image(pose, *SIZE).amax() > 0
    assert condition_image(replace(pose, height=900, width=900), *SIZE).amax() > 0


def test_nothing_is_kept_after_forgetting(networks, pictures):
    condition(networks["mini"], pictures)
    kept = warp._identity, windows.window_mask, windows.dense_mask
    assert sum(cache.cache_info().currsize for cache in kept) > 0
    clear_caches()
    assert sum(cache.cache_info().currsize for cache in kept) == 0
    condition(networks["mini"], pictures[:1])
