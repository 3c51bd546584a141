"""Recurrent Pose Aligner of models whose aligner reads the source's pose: given, estimated, or unknown."""

from __future__ import annotations

import pytest
import torch

from reposedm_core import RePoseDMPipeline
from reposedm_core.images import fit_image, to_image
from reposedm_core.networks import SHIPPED
from reposedm_core.pose import load_pose_file, to_keypoints
from tests.nodes.guided import OUTPUTS, POSES

NOBODY = [{"people": [], "canvas_width": 96, "canvas_height": 128}]


@pytest.fixture(scope="module")
def sources():
    """Example people, 48 × 64, as IMAGE; each stands as one of the frames says."""
    pictures = [to_image(path.with_name(path.name.replace("_pose.json", "_target.png"))) for path in POSES[:3]]
    return (fit_image(torch.cat(pictures), 64, 48) / 2 + 0.5).movedim(1, -1)


@pytest.fixture(scope="module")
def shipped(pack):
    return pack.nodes.loaders.load_checkpoint(SHIPPED)


def same(found, other, within=0.0):
    names = "aligned", "visibility", "flow", "person"
    return all((found[name] - other[name]).abs().max() <= within for name in names)


@pytest.mark.parametrize("given", [True, False], ids=["given", "estimated"])
def test_what_it_finds_is_the_pipeline_s(tiny_256, align, sources, frames, given):
    source_pose = frames[:1] if given else None
    found = align(sources[:1], frames[1:2], source_pose=source_pose)
    pipeline = RePoseDMPipeline.from_pretrained(tiny_256)
    expected = pipeline.align(sources[:1], POSES[1], None, None, source_pose=source_pose)
    condition, alignment, seen = expected.condition, expected.alignment, expected.seen
    assert torch.equal(found["aligned"].movedim(-1, 1), ((seen.image + 1) / 2).clamp(0, 1))
    assert torch.equal(found["person"], seen.reference.person[:, 0])
    assert torch.equal(found["positive"][0][0], condition.tokens)
    assert torch.equal(found["positive"][0][1]["reposedm_aligned"], condition.aligned)
    assert len(alignment.maps) == len(pipeline.config.aligner.kernels)
    assert found["person"].min() < 0.25 < 0.75 < found["person"].max()


def test_the_pose_of_the_source_counts(align, sources, frames):
    given, other, unknown = (
        align(sources[:1], frames[1:2], source_pose=pose) for pose in (frames[:1], frames[2:3], NOBODY)
    )
    for pair in ((given, other), (given, unknown), (other, unknown)):
        assert (pair[0]["flow"] - pair[1]["flow"]).abs().max() > 0.01


def test_the_connected_estimator_is_asked_and_else_the_checkpoint_s_own(pack, host, shipped, align, sources, frames):
    def estimated(estimator):
        with torch.inference_mode():
            return pack.nodes.estimators.EstimatePose.execute(estimator, sources[:1], 0.1).args[0]

    own, connected = (align(sources[:1], frames[1:2], **options) for options in ({}, {"pose_estimator": shipped[3]}))
    assert same(own, align(sources[:1], frames[1:2], source_pose=estimated(host[3])), 1e-3)
    assert same(connected, align(sources[:1], frames[1:2], source_pose=estimated(shipped[3])), 1e-3)
    assert not same(own, connected, 0.01)
    asked = []
    handle = shipped[3].patcher.model.register_forward_pre_hook(lambda *_: asked.append(1))
    align(sources[:1], frames[1:2], source_pose=frames[:1], pose_estimator=shipped[3])
    handle.remove()
    assert not asked, "a pose that is given is not estimated"


def test_where_nobody_is_found_it_works_without(pack, tiny_256, align, sources, frames):
    blind = pack.nodes.loaders.load_checkpoint(tiny_256)[3]
    for weight in blind.patcher.model.parameters():
        weight.zero_()
    with torch.inference_mode():
        (nobody,) = pack.nodes.estimators.EstimatePose.execute(blind, sources[:1], 0.1).args[0]
    assert not nobody["people"]
    found = align(sources[:1], frames[:1], pose_estimator=blind)
    assert same(found, align(sources[:1], frames[:1], source_pose=NOBODY))
    assert all(found[name].isfinite().all() for name in ("aligned", "visibility", "flow", "person"))


def test_a_pose_is_in_the_sources_own_pixels(align, sources, frames):
    """Twice as large a source, and one in another frame: the pose moves with the picture."""
    (pose,) = load_pose_file(POSES[0])
    expected = align(sources[:1], frames[1:2], source_pose=to_keypoints([pose.resized(64, 48)]))
    large = torch.nn.functional.interpolate(sources[:1].movedim(-1, 1), scale_factor=2).movedim(1, -1)
    told = to_keypoints([pose.resized(128, 96)])
    found = align(large, frames[1:2], source_pose=told)
    elsewhere = align(large, frames[1:2], source_pose=to_keypoints([pose.resized(128, 96)._moved(1, 20, 0, 128, 96)]))
    moved, same_place = ((each["flow"] - expected["flow"]).abs().mean() for each in (elsewhere, found))
    assert moved > 0.005 and same_place < 0.05 * moved
    untold = [{"people": told[0]["people"]}]  # no canvas: the picture's size counts
    assert same(align(large, frames[1:2], source_pose=untold), found)


def test_a_frame_for_every_picture_or_one_for_all(pack, align, sources, frames, monkeypatch):
    """Also where they are aligned one at a time."""
    for at_once in (8, 1):
        monkeypatch.setattr(pack.nodes.aligning, "AT_ONCE", at_once)
        found = align(sources, frames[1:2], source_pose=frames[:3])
        for index in range(3):
            alone = align(sources[index : index + 1], frames[1:2], source_pose=frames[index : index + 1])
            for name in ("aligned", "visibility", "person"):
                assert torch.allclose(found[name][index], alone[name][0], atol=1e-4), name
        one = align(sources, frames[1:2], source_pose=frames[:1])
        assert torch.allclose(one["aligned"][0], found["aligned"][0], atol=1e-4)
        assert not torch.allclose(one["aligned"][1], found["aligned"][1], atol=1e-3)
        several = align(sources[:1], frames[:3], source_pose=frames[:1])
        assert torch.allclose(several["aligned"][1], found["aligned"][0], atol=1e-4)
    with pytest.raises(
        pack.reposedm_core.InputError,
        match="source_pose: it has 2 frames and there are 3 pictures; give one frame for all",
    ):
        align(sources, frames[1:2], source_pose=frames[:2])


def test_all_of_one_person_is_the_pipeline_s_result(pack, tiny_256, host, align, sources, frames):
    together = {"sources": pack.nodes.aligner.TOGETHER}
    found = align(sources, frames[:1], **together)
    expected = RePoseDMPipeline.from_pretrained(tiny_256)(
        sources[:1], POSES[0], seed=3, steps=1, field_strength=0.0, more_sources=[sources[1:2], sources[2:]]
    )
    assert (found["aligned"].movedim(-1, 1) - expected.aligned).abs().max() < 1e-5
    assert (found["visibility"].shape, found["flow"].shape) == ((1, 64, 48), (3, 64, 48, 3))
    both = align(sources, frames[:2], source_pose=frames[:3], **together)
    second = align(sources, frames[1:2], source_pose=frames[:3], **together)
    assert torch.allclose(both["aligned"][1], second["aligned"][0], atol=1e-4)
    assert not torch.allclose(both["aligned"][0], found["aligned"][0], atol=1e-3), "the poses count here, too"


def test_aligners_that_read_no_pose_take_no_notice(pack, tiny, sources, frames, align):
    host = pack.nodes.loaders.load_checkpoint(tiny)
    asked = []
    host[3].patcher.model.register_forward_pre_hook(lambda *_: asked.append(1))
    plain = align(sources[:1], frames[:1], host=host)
    assert same(plain, align(sources[:1], frames[:1], host=host, source_pose=frames[:2], pose_estimator=host[3]))
    assert not asked and not plain["person"].any() and set(plain["latent"]) == {"samples"}


def test_an_interruption_takes_effect_between_two_pictures(host, align, sources, frames):
    import comfy.model_management as management

    passed = []
    handle = host[3].patcher.model.register_forward_hook(
        lambda *_: passed.append(1) or management.interrupt_current_processing()
    )
    try:
        with pytest.raises(management.InterruptProcessingException):
            align(sources, frames[:1])
    finally:
        management.interrupt_current_processing(False)
        handle.remove()
    assert len(sources) > 1 and len(passed) == 2, "the first picture, as it is and mirrored"


def test_what_a_saved_workflow_has_comes_first(pack):
    schema = pack.nodes.aligner.RecurrentPoseAlignerNode.define_schema()
    assert [item.id for item in schema.inputs] == [
        "aligner",
        "vae",
        "source",
        "pose",
        "width",
        "height",
        "sources",
        "source_pose",
        "pose_estimator",
        "output_size",
        "output_height",
    ]
    assert [item.id or item.display_name for item in schema.outputs] == list(OUTPUTS)
