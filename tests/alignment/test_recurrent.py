"""Recurrent pose alignment: shapes, batches, errors, and that it can learn a translation."""

import pytest
import torch

from reposedm_core import InputError
from reposedm_core.alignment import RecurrentPoseAligner
from reposedm_core.alignment.warp import identity_map, warp
from reposedm_core.config import AlignerConfig

TINY = AlignerConfig(kernels=(0, 3), radius=2, channels=8, dim=16, heads=2, height=32, width=24)


@pytest.fixture
def aligner():
    torch.manual_seed(0)
    network = RecurrentPoseAligner(TINY).eval()
    for aggregator in network.aggregators:     # the read-out starts at zero: give the maps something to say
        torch.nn.init.normal_(aggregator.read.weight, std=0.05)
    return network


def test_shapes_at_the_trained_size_and_another(aligner):
    for height, width in ((32, 24), (48, 40)):
        out = aligner(torch.rand(2, 3, height, width) * 2 - 1, torch.rand(2, 3, height, width) * 2 - 1)
        assert [m.shape for m in out.maps] == [(2, 2, height // 4, width // 4)] * 2
        assert [v.shape for v in out.visibility] == [(2, 1, height // 4, width // 4)] * 2
        assert out.image.shape == (2, 3, height, width)
        assert aligner.latent_visibility(out, 8).shape == (2, 1, height // 8, width // 8)


def test_batch_of_two_is_two_of_one(aligner):
    source, pose = torch.rand(2, 3, 32, 24) * 2 - 1, torch.rand(2, 3, 32, 24) * 2 - 1
    both = aligner(source, pose).image
    for i in range(2):
        torch.testing.assert_close(aligner(source[i : i + 1], pose[i : i + 1]).image[0], both[i], rtol=0, atol=1e-4)


def test_picture_is_the_source_warped_by_the_last_map(aligner):
    source, pose = torch.rand(1, 3, 32, 24) * 2 - 1, torch.rand(1, 3, 32, 24) * 2 - 1
    out = aligner(source, pose)
    torch.testing.assert_close(out.image, warp(source, out.maps[-1]))
    assert (out.maps[0] - out.maps[1]).abs().max() > 1e-4, "the second iteration refines"
    assert len(aligner(source, pose, 1).maps) == 1


def test_bad_input_is_named(aligner):
    with pytest.raises(InputError, match="divisible by 8"):
        aligner(torch.rand(1, 3, 30, 24), torch.rand(1, 3, 30, 24))
    with pytest.raises(InputError, match=r"\(1, 3, 32, 32\)"):
        aligner(torch.rand(1, 3, 32, 24), torch.rand(1, 3, 32, 32))
    with pytest.raises(InputError, match="iterations = 3"):
        aligner(torch.rand(1, 3, 32, 24), torch.rand(1, 3, 32, 24), 3)


def test_learns_a_known_translation():
    """Overfit: blobs whose 'pose' picture shows them two cells to the left are found there."""
    torch.manual_seed(0)
    network = RecurrentPoseAligner(TINY)
    source = torch.nn.functional.interpolate(torch.rand(4, 3, 8, 6), size=(32, 24), mode="bilinear") * 2 - 1
    shift = torch.tensor([2 * 4 / 24, 0.0]).view(1, 2, 1, 1)
    truth = (identity_map(8, 6) + shift).expand(4, -1, -1, -1)
    target = warp(source, truth)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    errors = []
    for _ in range(60):
        out = network(source, target)
        loss = sum((m - truth)[..., 1:-2].abs().mean() for m in out.maps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(float((out.maps[-1].detach() - truth)[..., 1:-2].abs().mean()))
    assert errors[-1] < 0.25 * errors[0]
    assert errors[-1] * 12 < 1.0, "less than a pixel"
