"""Memory, order and cancelling of long batches in the nodes that draw poses and look for them."""

from __future__ import annotations

import gc

import pytest
import torch

from reposedm_core.pose import draw_pose, load_pose_file, parse_keypoints, to_keypoints
from tests.nodes.test_reposesd_full_size import GIB, Peak
from workflows.comfy_server import ROOT

FRAMES, HEIGHT, WIDTH = 48, 640, 512
(POSE,) = load_pose_file(sorted((ROOT / "workflows" / "examples").glob("*_pose.json"))[0])
POSES = to_keypoints([POSE.resized(HEIGHT, WIDTH)] * FRAMES)


@pytest.fixture(scope="module")
def estimator(pack):
    return pack.nodes.loaders.load_checkpoint(pack.reposedm_core.pipeline.SHIPPED)[3]


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(FRAMES, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def run(pack, estimator, pictures):
    """A node by its name, on 48 frames unless other pictures are given."""
    nodes = pack.nodes

    def call(name, image=pictures):
        with torch.inference_mode():
            if name == "draw":
                return nodes.pose_io.DrawPose.execute(POSES, 0, 0).args[0]
            if name == "find":
                return nodes.estimators.EstimatePose.execute(estimator, image, 0.1).args[0]
            poses = POSES[: max(1, len(image))]
            return nodes.accuracy.PoseAccuracyNode.execute(poses, poses, image).args[-1]

    return call


@pytest.fixture(scope="module")
def results():
    """What the first test made, by the node."""
    return {}


@pytest.mark.parametrize(("name", "share"), [("draw", 1), ("judge", 1), ("find", 0)])
def test_no_more_memory_than_the_result_and_a_few_frames(run, pictures, results, name, share):
    """In units of the pictures themselves; one is left for what a frame takes, and for an allocator that has seen a
    whole suite. Before frames were streamed it was 2 to 4."""
    run(name, pictures[:2])
    gc.collect()
    peak = Peak()
    peak.start()
    results[name] = run(name)
    peak.done.set()
    peak.join()
    assert len(results[name]) == FRAMES
    taken = (max(peak.most, peak.process.memory_info().rss / GIB) - peak.before) * GIB / (pictures.numel() * 4)
    assert taken < share + 1, taken


def test_each_frame_is_its_own(run, pictures, results):
    drawn, judged, found = (results[name] if name in results else run(name) for name in ("draw", "judge", "find"))
    assert torch.equal(drawn[5].movedim(-1, 0), draw_pose(parse_keypoints(POSES)[5]))
    assert torch.equal(judged[7:8], run("judge", pictures[7:8])) and not torch.equal(judged[7], judged[8])
    for frame in (0, 33, 47):
        (alone,) = run("find", pictures[frame : frame + 1])
        assert len(found[frame]["people"]) == len(alone["people"])
        for one, other in zip(found[frame]["people"], alone["people"], strict=True):
            assert torch.allclose(*(torch.tensor(person["pose_keypoints_2d"]) for person in (one, other)), atol=0.05)


def test_an_estimator_sees_so_many_pictures_at_once(pack, run, estimator, monkeypatch):
    height, width = estimator.height, estimator.width
    monkeypatch.setattr(pack.nodes.estimators, "PIXELS_AT_ONCE", 20 * height * width)
    seen = []
    handle = estimator.patcher.model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        run("find")
    finally:
        handle.remove()
    assert seen == [20, 20, 20, 20, 8, 8], "each as it is and mirrored"


@pytest.mark.parametrize("name", ["draw", "judge", "find"])
def test_cancelling_takes_effect_before_the_next_frames(pack, run, pictures, name, monkeypatch):
    import comfy.model_management as management

    done = []
    for module, function in (
        (pack.nodes.pose_io, "draw_pose"),
        (pack.nodes.accuracy, "draw_comparison"),
        (pack.nodes.estimators, "predict_pose"),
    ):
        real = getattr(module, function)

        def watched(*args, real=real, **options):
            done.append(1)
            if len(done) == 2:
                management.interrupt_current_processing()
            return real(*args, **options)

        monkeypatch.setattr(module, function, watched)
    monkeypatch.setattr(pack.nodes.estimators, "PIXELS_AT_ONCE", 1)
    try:
        with pytest.raises(management.InterruptProcessingException):
            run(name, pictures)
    finally:
        management.interrupt_current_processing(False)
    assert len(done) == 2


@pytest.mark.parametrize("name", ["judge", "find"])
def test_a_frame_that_is_no_picture_is_named_by_its_input(pack, run, pictures, name):
    for wrong in (pictures[:3] * float("nan"), pictures[:3, :0], pictures[:0], pictures[:3, ..., :2]):
        with pytest.raises(pack.reposedm_core.InputError, match=r"^image: "):
            run(name, wrong)
