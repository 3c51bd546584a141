"""Parts of a batch, repeated batches and what does not match in number: which pose each picture gets."""

from __future__ import annotations

import importlib

import pytest
import torch

from reposedm_core.pose import load_pose_file, to_keypoints
from workflows.comfy_server import ROOT

POSES = [
    to_keypoints(load_pose_file(path))[0] for path in sorted((ROOT / "workflows" / "examples").glob("*_pose.json"))[:2]
]
SETTINGS = {"seed": 3, "steps": 2, "cfg": 1.5, "sampler_name": "ddim", "scheduler": "simple", "denoise": 1.0}


@pytest.fixture(scope="module")
def host(pack, tiny):
    return pack.nodes.loaders.load_checkpoint(tiny)


@pytest.fixture(scope="module")
def aligned(pack, host):
    """positive, negative and latent of one source in two poses."""
    source = torch.rand(1, 80, 64, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return pack.nodes.aligner.RecurrentPoseAlignerNode.execute(host[2], host[1], source, POSES, 0, 0).args[:3]


@pytest.fixture(scope="module")
def sample(pack, host, aligned):
    def run(latent, model=host[0], conditioning=aligned[:2], **changed):
        with torch.inference_mode():
            return pack.nodes.sampler.RePoseDMKSampler.execute(
                model, *conditioning, latent, **{**SETTINGS, **changed}
            ).args[0]["samples"]

    return run


@pytest.fixture(scope="module")
def whole(sample, aligned):
    found = sample(aligned[2])
    assert (found[0] - found[1]).abs().mean() > 0.1
    return found


def part(latent, first, count=1):
    """Stock LatentFromBatch."""
    import nodes

    return nodes.LatentFromBatch().frombatch(latent, first, count)[0]


def stock(latent, model, positive, negative):
    """Stock KSampler, of the same settings."""
    import nodes

    with torch.inference_mode():
        return nodes.common_ksampler(model, 3, 2, 1.5, "ddim", "simple", positive, negative, latent)[0]["samples"]


def close(found, expected):
    return found.shape == expected.shape and (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    ("poses", "pictures", "index", "expected"),
    [
        (1, 3, None, [0, 0, 0]),
        (1, 1, [7], [0]),
        (2, 2, None, [0, 1]),
        (3, 1, [2], [2]),
        (4, 2, [1, 3], [1, 3]),
        (2, 2, [1, 0], [1, 0]),  # put together again in another order
        (2, 2, [0, 0], [0, 1]),  # one seed for all: Latent Batch Seed Behavior
        (2, 2, [4, 5], [0, 1]),
        (2, 2, [1, 2], [0, 1]),  # of a larger batch than the poses were made for
        (2, 4, None, [0, 1, 0, 1]),
        (2, 4, [0, 1, 2, 3], [0, 1, 0, 1]),
        (2, 2, [2, 3], [0, 1]),  # repeated
        (2, 3, None, None),
        (2, 1, None, None),
        (2, 1, [2], None),
        (3, 2, [0, 0], None),
        (3, 2, [0], None),
    ],
)
def test_which_pose_each_picture_has(pack, poses, pictures, index, expected):
    assert pack.nodes.host.poses.poses_in_turn(poses, pictures, index) == expected


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("learned", [False, True])
def test_a_picture_out_of_a_batch_is_that_picture(pack, sample, aligned, place, learned):
    """With its own pose and its own noise."""
    options = {"sampler_name": pack.nodes.sampler.LEARNED, "steps": 1} if learned else {}
    assert close(sample(part(aligned[2], place), **options), sample(aligned[2], **options)[place : place + 1])


@pytest.fixture
def latent_nodes(pack):
    """Stock nodes that work on LATENTs; of two modules that import each other, the right one must come first."""
    importlib.import_module("comfy_extras.nodes_post_processing")
    return importlib.import_module("comfy_extras.nodes_latent")


@pytest.fixture(scope="module")
def second(aligned):
    """The conditionings of the second picture alone."""
    return [
        [[tokens[1:], {key: value[1:] for key, value in extra.items()}] for tokens, extra in conditioning]
        for conditioning in aligned[:2]
    ]


def test_batches_that_are_taken_apart_and_put_together(latent_nodes, sample, aligned, whole, second):
    from comfy_extras.nodes_rebatch import LatentRebatch

    import nodes

    for place, single in enumerate(LatentRebatch.execute([aligned[2]], [1]).args[0]):
        assert close(sample(single), whole[place : place + 1])
    turned = latent_nodes.LatentBatch.execute(part(aligned[2], 1), part(aligned[2], 0)).args[0]
    assert close(sample(turned), whole.flip(0))
    (repeated,) = nodes.RepeatLatentBatch().repeat(aligned[2], 2)
    four = sample(repeated)
    assert close(four[:2], whole) and close(sample(part(repeated, 2, 2)), four[2:])
    assert close(sample(part(repeated, 3), conditioning=second), four[3:]) and not close(four[3:], whole[1:])


def test_one_seed_for_all_keeps_every_pose(latent_nodes, sample, aligned, whole, second):
    """Latent Batch Seed Behavior, fixed: the noise of the first picture, the poses of all."""
    fixed = sample(latent_nodes.LatentBatchSeedBehavior.execute(aligned[2], "fixed").args[0])
    assert close(fixed[:1], whole[:1])
    assert close(fixed[1:], sample({"samples": torch.zeros(1, 16, 8, 6)}, conditioning=second))


def test_several_conditionings_are_cut_each_by_its_own_number(sample, aligned, whole):
    positive, negative, latent = aligned
    one = [[tokens[:1], {key: value[:1] for key, value in extra.items()}] for tokens, extra in positive]
    found = sample(part(latent, 1), conditioning=(positive + one, negative))
    assert close(found, sample(latent, conditioning=(positive + one, negative))[1:])


def test_poses_and_latents_that_do_not_match_in_number(pack, host, sample, aligned):
    message = r"latent: it has {} pictures and positive / negative 2 poses; give as many of both"
    for run, pictures, latent in (
        (sample, 3, {"samples": torch.zeros(3, 16, 8, 6)}),
        (sample, 1, {"samples": torch.zeros(1, 16, 8, 6)}),
        (sample, 1, {"samples": torch.zeros(1, 16, 8, 6), "batch_index": [2]}),
        (lambda latent: stock(latent, host[0], *aligned[:2]), 1, part(aligned[2], 1)),
    ):
        with pytest.raises(pack.reposedm_core.InputError, match=message.format(pictures)):
            run(latent)


def test_the_guidance_follows_the_poses_of_the_part(pack, host, sample, aligned, whole, second):
    with torch.inference_mode():
        bent = pack.nodes.guidance.PoseInteractionFieldGuidance.execute(
            host[0], host[1], host[3], POSES, 0.2, 0.0, 1.0, "heatmaps", 0.3
        ).args[0]
    together = sample(aligned[2], model=bent)
    assert (together - whole).abs().max() > 1e-3 * whole.abs().max()
    for place in (1, 0, 1):  # the same model, part after part
        assert close(sample(part(aligned[2], place), model=bent), together[place : place + 1])
    assert "reposedm_batch_index" not in bent.model_options["transformer_options"]
    with pytest.raises(pack.reposedm_core.InputError, match="pose: it has 2 frames and the latent 1 pictures; give"):
        stock(part(aligned[2], 1), bent, *second)


def test_pose_latents_of_reposesd_are_cut_too(pack):
    key = pack.nodes.host.reposesd_model.POSE_LATENT
    tokens, latents = torch.rand(1, 7, 5), torch.rand(3, 4, 8, 8)
    ((kept, extra),) = pack.nodes.sampler.of_batch([[tokens, {key: latents, "strength": 0.5}]], 2, [2, 0])
    assert kept is tokens and torch.equal(extra[key], latents[[2, 0]]) and extra["strength"] == 0.5


@pytest.mark.parametrize(
    "empty",
    [
        {"samples": torch.zeros(2, 128, 4, 3), "downscale_ratio_spacial": 16},
        {"samples": torch.zeros(2, 4, 8, 6), "downscale_ratio_spacial": 8},
        {"samples": torch.zeros(2, 4, 8, 6)},
    ],
)
def test_empty_latents_of_other_models_are_as_in_stock_ksampler(pack, host, sample, aligned, whole, empty):
    expected = stock(empty, host[0], *aligned[:2])
    assert torch.equal(sample(empty), expected) and torch.equal(expected, whole)
    with torch.inference_mode():
        out = pack.nodes.sampler.RePoseDMKSampler.execute(host[0], *aligned[:2], empty, **SETTINGS).args[0]
    assert set(out) == {"samples"}, "what is sampled is of this model's stride"


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        (torch.ones(2, 4, 8, 6), r"latent: it has 4 channels and RePoseDM 16: .* encode the picture with the VAE of"),
        (
            torch.ones(2, 16, 1, 8, 6),
            r"latent: it has shape \(2, 16, 1, 8, 6\), such as videos have; .*Connect the latent",
        ),
        (torch.zeros(2, 16, 3, 8, 6), r"latent: it has shape \(2, 16, 3, 8, 6\), such as videos"),
        (torch.zeros(2, 4, 1, 8, 6), r"latent: it has shape \(2, 16, 1, 8, 6\), such as videos"),
    ],
)
def test_latents_of_other_models_are_named(pack, host, sample, aligned, latent, message):
    from comfy.nested_tensor import NestedTensor

    for run in (sample, lambda latent: stock(latent, host[0], *aligned[:2])):
        with pytest.raises(pack.reposedm_core.InputError, match=message):
            run({"samples": latent})
    with pytest.raises(pack.reposedm_core.InputError, match="latent: it is of a video with sound; connect the latent"):
        sample({"samples": NestedTensor([latent, latent])})


def test_conditionings_of_another_reposedm_are_named(pack, sample, aligned):
    other = [
        [[tokens, {**extra, "reposedm_pose": extra["reposedm_pose"][:, :4]}] for tokens, extra in conditioning]
        for conditioning in aligned[:2]
    ]
    with pytest.raises(pack.reposedm_core.InputError, match="positive / negative: it is for latents of 4 channels"):
        sample(aligned[2], conditioning=other)


def test_a_schedule_without_numbers_is_named(pack, sample, aligned):
    for name in ("ddim", pack.nodes.sampler.LEARNED):
        with pytest.raises(
            pack.reposedm_core.InputError,
            match=r"scheduler: kl_optimal gives .* no numbers at steps = 1; choose more steps, or",
        ):
            sample(aligned[2], steps=1, scheduler="kl_optimal", sampler_name=name)
    assert sample(aligned[2], steps=2, scheduler="kl_optimal").isfinite().all()
    assert sample(aligned[2], steps=1, scheduler="kl_optimal", denoise=0.5).isfinite().all()
