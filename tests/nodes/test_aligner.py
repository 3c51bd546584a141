"""Recurrent Pose Aligner: several sources, the flow, long batches, and input of odd sizes."""

from __future__ import annotations

import pytest
import torch

from reposedm_core import RePoseDMPipeline
from tests.nodes.guided import OUTPUTS, POSES


@pytest.fixture(scope="module")
def host(pack, tiny):
    return pack.nodes.loaders.load_checkpoint(tiny)


def together(pack):
    return {"sources": pack.nodes.aligner.TOGETHER}


def test_all_of_one_person_is_the_pipeline_s_result(pack, tiny, host, align, sources, frames):
    found = align(sources, frames[:1], **together(pack))
    with torch.inference_mode():
        latent = pack.nodes.sampler.RePoseDMKSampler.execute(
            host[0], found["positive"], found["negative"], found["latent"], 3, 3, 1.5, "ddim", "simple", 1.0
        ).args[0]["samples"]
    expected = RePoseDMPipeline.from_pretrained(tiny)(
        sources[:1],
        POSES[0],
        seed=3,
        steps=3,
        guidance_scale=1.5,
        field_strength=0.0,
        more_sources=[sources[1:2], sources[2:]],
    )
    assert (found["aligned"] - expected.aligned.movedim(1, -1)).abs().max() < 1e-5
    assert (latent - expected.latent).abs().max() < 1e-5 * expected.latent.abs().max()
    alone = align(sources[:1], frames[:1], **together(pack))
    assert (alone["aligned"] - found["aligned"]).abs().max() > 0.01


def test_all_of_one_person_in_several_poses(pack, align, sources, frames):
    found = align(sources, frames[:2], **together(pack))
    assert found["latent"]["samples"].shape == (2, 16, 8, 6)
    assert found["aligned"].shape == (2, 64, 48, 3) and found["visibility"].shape == (2, 64, 48)
    assert found["flow"].shape == (6, 64, 48, 3), "a picture for every source and pose"
    assert found["positive"][0][0].shape == found["negative"][0][0].shape
    second = align(sources, frames[1:2], **together(pack))
    assert torch.allclose(found["aligned"][1], second["aligned"][0], atol=1e-5)
    assert torch.allclose(found["positive"][0][0][1], second["positive"][0][0][0], atol=1e-4)


def test_one_picture_all_the_same_whatever_the_batch_means(pack, align, sources, frames):
    one, all_of_one = align(sources[:1], frames[:2]), align(sources[:1], frames[:2], **together(pack))
    for name in ("aligned", "visibility", "flow"):
        assert torch.equal(one[name], all_of_one[name]), name


def test_a_long_batch_is_aligned_a_few_at_a_time_with_the_same_result(pack, host, align, sources, frames, monkeypatch):
    import comfy.utils

    counts = []
    network = host[2].patcher.model.aligner
    handle = network.register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))
    shown = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: shown.append((value, total)))
    long = align(sources[:1], frames * 2)
    assert counts == [8, 4] and shown[0] == (1, 2) and shown[-1] == (2, 2)
    monkeypatch.setattr(pack.nodes.aligning, "AT_ONCE", 100)
    whole = align(sources[:1], frames * 2)
    handle.remove()
    for name in ("aligned", "visibility", "flow"):
        assert torch.allclose(long[name], whole[name], atol=1e-5), name
    assert torch.allclose(long["positive"][0][0], whole["positive"][0][0], atol=1e-4)


def test_flow_is_the_map_in_colours(pack, tiny, align, sources, frames):
    from reposedm_core.alignment.flow_image import flow_colours

    found = align(sources[:1], frames[:1])
    expected = RePoseDMPipeline.from_pretrained(tiny).align(sources[:1], POSES[0]).alignment.maps[-1]
    assert torch.allclose(found["flow"].movedim(-1, 1), flow_colours(expected, 64, 48), atol=1e-4)
    assert found["flow"].min() < 0.2 and found["flow"].amax() <= 1


def test_what_a_saved_workflow_has_comes_first(pack):
    """Widgets are saved by their order."""
    schema = pack.nodes.aligner.RecurrentPoseAlignerNode.define_schema()
    assert [item.id for item in schema.inputs][:6] == ["aligner", "vae", "source", "pose", "width", "height"]
    assert [item.id or item.display_name for item in schema.outputs] == list(OUTPUTS)
    assert all(item.optional for item in schema.inputs[6:])


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (3, 2)])
def test_sources_of_odd_sizes(align, frames, size):
    found = align(torch.rand(1, *size, 3), frames[:1])
    assert found["aligned"].shape == (1, 64, 48, 3)
    for name in ("aligned", "visibility", "flow"):
        assert found[name].isfinite().all(), name


def test_enormous_mismatch_is_told_before_anything_is_made(pack, align, frames, monkeypatch):
    def no(*_):
        raise AssertionError("too late")

    monkeypatch.setattr(pack.nodes.aligner, "fitted", no)
    monkeypatch.setattr(pack.nodes.aligner, "condition_image", no)
    source = torch.zeros(1, 8, 8, 3).expand(5000, -1, -1, -1)
    with pytest.raises(pack.reposedm_core.InputError, match="2 frames and source 5000 pictures"):
        align(source, frames[:2])
    with pytest.raises(pack.reposedm_core.InputError, match="source: 5000 pictures of one person; choose 32"):
        align(source, frames[:2], **together(pack))


def test_an_aligner_that_reads_latents(pack, tiny, sources, frames, tmp_path):
    """As those of the presets named after the paper's data do."""
    from dataclasses import replace

    from reposedm_core.checkpoint import save_model
    from reposedm_core.config import to_dict
    from reposedm_core.networks import NETWORKS, load_networks

    networks = load_networks(tiny)
    config = replace(networks.config, aligner=replace(networks.config.aligner, encoder="latent", latent_channels=16))
    networks.aligner = pack.reposedm_core.alignment.RecurrentPoseAligner(config.aligner)
    path = tmp_path / "latent.safetensors"
    save_model(path, {part: getattr(networks, part) for part in NETWORKS}, to_dict(config), dtype=torch.float32)
    host = pack.nodes.loaders.load_checkpoint(path)
    with torch.inference_mode():
        found = pack.nodes.aligner.RecurrentPoseAlignerNode.execute(
            host[2], host[1], sources[:2], frames[:1], 0, 0, **together(pack)
        ).args
    expected = RePoseDMPipeline.from_pretrained(path).align(sources[:2], POSES[0]).alignment
    assert found[5].shape == (2, 64, 48, 3) and len(expected.maps[-1]) == 2
    assert found[3].isfinite().all() and found[4].shape == (1, 64, 48)


def test_pose_larger_than_its_canvas(pack, align, sources, frames):
    """Joints beyond the edge are cut off; a person outside of it altogether is told."""
    person = frames[0]["people"][0]["pose_keypoints_2d"]
    large = [{**frames[0], "canvas_width": 80, "canvas_height": 140}]
    assert align(sources[:1], large)["aligned"].isfinite().all()
    far = [value + 1000 * (index % 3 < 2) for index, value in enumerate(person)]
    outside = [{**frames[0], "people": [{"pose_keypoints_2d": far}]}]
    with pytest.raises(pack.reposedm_core.InputError, match="lies inside its canvas of 192 × 256"):
        align(sources[:1], outside)


def test_of_twenty_people_the_first_counts_and_empty_frames_are_named(pack, align, sources, frames):
    crowd = [{**frames[0], "people": [frame["people"][0] for frame in frames * 4][:20]}]
    assert len(crowd[0]["people"]) == 20
    assert torch.equal(align(sources[:1], crowd)["aligned"], align(sources[:1], frames[:1])["aligned"])
    with pytest.raises(pack.reposedm_core.InputError, match="nobody is in frame 1"):
        align(sources, [frames[0], {**frames[0], "people": []}], **together(pack))


def test_an_interruption_takes_effect_within_the_alignment(pack, host, align, sources, frames):
    import comfy.model_management as management

    network, passed = host[2].patcher.model.aligner, []
    layers = [layer for layer in network.modules() if not list(layer.children())]
    handles = [layer.register_forward_hook(lambda *_: passed.append(1)) for layer in layers]
    handles.append(layers[0].register_forward_hook(lambda *_: management.interrupt_current_processing()))
    try:
        with pytest.raises(management.InterruptProcessingException):
            align(sources[:1], frames[:1])
        stopped = len(passed)
        for handle in handles[-1:]:
            handle.remove()
        management.interrupt_current_processing(False)
        passed.clear()
        align(sources[:1], frames[:1])
    finally:
        management.interrupt_current_processing(False)
        for handle in handles:
            handle.remove()
    assert 0 < stopped < len(passed) / 4


def test_nothing_is_kept_between_runs(pack, align, sources, frames):
    """Masks and grids of the aligner are freed with the run, whether it ends well or not."""
    alignment = pack.reposedm_core.alignment
    caches = alignment.warp._identity, alignment.windows.window_mask, alignment.windows.dense_mask
    align(sources[:1], frames[:1])
    assert [cache.cache_info().currsize for cache in caches[1:]] == [0, 0]
