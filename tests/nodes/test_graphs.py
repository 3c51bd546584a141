"""Both example graphs, and what must hold between runs, through the HTTP interface of a real ComfyUI."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image

from reposedm_core import PRESETS, RePoseDMPipeline
from reposedm_core.field import pose_target
from reposedm_core.images import fit_image
from reposedm_core.pose import draw_pose, load_pose_file, parse_keypoints
from reposedm_core.presets import SHIPPED_PRESET
from tests.fixtures import graphs
from tests.fixtures.graphs import Run, node
from workflows.comfy_server import ROOT, ComfyInterrupted
from workflows.graph import load_workflow, to_api

EXAMPLES = ROOT / "workflows" / "examples"
NAMES = sorted(path.name.removesuffix("_pose.json") for path in EXAMPLES.glob("*_pose.json"))


def read_graph(name):
    return json.loads((ROOT / "tests" / "fixtures" / f"{name}.api.json").read_text(encoding="utf-8"))


def find(graph, kind):
    """Id of the first node of a type."""
    return next(key for key, node in graph.items() if node["class_type"] == kind)


SIZE = PRESETS[SHIPPED_PRESET].height, PRESETS[SHIPPED_PRESET].width
"""Of the shipped model's pictures."""


@pytest.mark.parametrize(
    ("name", "title"),
    [("pose_transfer", "01 Pose transfer (start here)"), ("pose_guidance", "08 Pose guidance, with and without")],
)
def test_graph_is_the_workflow_that_users_open(comfy, name, title):
    assert to_api(load_workflow(ROOT / "workflows" / f"{title}.json"), comfy.object_info()) == read_graph(name)


@pytest.fixture(scope="module")
def transfer(comfy):
    """The pose-transfer graph, its progress messages, and its pictures by title: run once, with a seed of its own, so
    that no other test can have left the result in ComfyUI's cache."""
    graph, steps = read_graph("pose_transfer"), []
    graph[find(graph, "RePoseDMKSampler")]["inputs"]["seed"] = 271828
    run = Run(comfy, graph, on_progress=lambda *progress: steps.append(progress))
    shown = {key: each for key, each in graph.items() if each["class_type"] in ("SaveImage", "PreviewImage")}
    return graph, steps, {each["_meta"]["title"]: run.pictures(key)[0] for key, each in shown.items()}


def test_pose_transfer_is_the_pipeline_s_picture(transfer):
    graph, _, pictures = transfer
    sampler = graph[find(graph, "RePoseDMKSampler")]["inputs"]
    name = graph[find(graph, "RePoseDMExample")]["inputs"]["example"]
    pipeline = RePoseDMPipeline.from_pretrained()
    result = pipeline(
        EXAMPLES / f"{name}.png",
        EXAMPLES / f"{name}_pose.json",
        seed=sampler["seed"],
        steps=sampler["steps"],
        guidance_scale=sampler["cfg"],
        field_strength=0.0,
        output_size=graph[find(graph, "RePoseDMRecurrentPoseAligner")]["inputs"]["output_size"],
    )
    # Save Image and Preview Image cut off fractions of 1/255.
    for shown, expected in (("Result", result.image), ("Aligned source", result.aligned)):
        expected = expected[0].movedim(0, -1).numpy() * 255
        assert np.abs(pictures[shown] - np.floor(expected)).max() <= 1, shown
        assert (pictures[shown] != np.floor(expected)).mean() < 0.01, shown


def test_pose_transfer_shows_its_progress(transfer):
    graph, steps, _ = transfer
    key = find(graph, "RePoseDMKSampler")
    count = graph[key]["inputs"]["steps"]
    shown = [value for value, maximum, node in steps if (maximum, node) == (count, key)]
    # ComfyUI leaves out messages that follow one another too quickly.
    assert shown == sorted(set(shown)) and shown[0] < count and shown[-1] == count


def test_pose_guidance_brings_the_picture_nearer_to_the_pose(comfy):
    graph = read_graph("pose_guidance")
    run = Run(comfy, graph)
    keys = {each["_meta"]["title"]: key for key, each in graph.items()}
    guided, unguided = (run.pictures(keys[title])[0] for title in ("Result", "Without guidance"))
    assert guided.shape == unguided.shape == (*SIZE, 3)
    pipeline = RePoseDMPipeline.from_pretrained()
    field, native = pipeline.field, pipeline.config.network_size
    poses = load_pose_file(EXAMPLES / f"{graph[find(graph, 'RePoseDMExample')]['inputs']['example']}_pose.json")
    target = pose_target(field, poses, SIZE, native)
    pictures = [
        fit_image(torch.tensor(picture / 127.5 - 1, dtype=torch.float32).movedim(-1, 0)[None], *native)
        for picture in (guided, unguided)
    ]
    with torch.no_grad():
        near, far = (float(field.distance(picture, target)) for picture in pictures)
    assert near < far, (near, far)


@pytest.fixture(scope="module")
def latents(comfy):
    """Latents of variations of one graph, in one run, two steps each."""
    graph = {
        key: node
        for key, node in read_graph("pose_transfer").items()
        if node["class_type"]
        in ("RePoseDMLoader", "RePoseDMExample", "RePoseDMRecurrentPoseAligner", "RePoseDMKSampler")
    }
    base, loader, example = (find(graph, f"RePoseDM{kind}") for kind in ("KSampler", "Loader", "Example"))
    graph[base]["inputs"].update(seed=5, steps=2)
    # Without it ComfyUI would answer the second node with the first one's result.
    graph["again"] = node("RepeatLatentBatch", samples=graph[base]["inputs"]["latent"], amount=1)

    def variation(name, **inputs):
        graph[name] = copy.deepcopy(graph[base])
        graph[name]["inputs"].update(inputs)

    def guidance(name, **inputs):
        settings = {"strength": 0.01, **inputs}
        graph[f"guidance {name}"] = graphs.guide(loader, [loader, 1], [loader, 3], [example, 1], **settings)
        variation(name, model=[f"guidance {name}", 0])

    names = ["first", "again_latent", "other seed", "stock", "strength 0", "empty range", "heatmaps", "features"]
    variation("first")
    variation("again_latent", latent=["again", 0])
    variation("other seed", seed=6)
    stock = {("latent_image" if name == "latent" else name): value for name, value in graph[base]["inputs"].items()}
    graph["stock"] = node("KSampler", **stock)
    guidance("strength 0", strength=0.0)
    guidance("empty range", start_percent=0.5, end_percent=0.5)
    guidance("heatmaps")
    guidance("features", space="features")
    run = Run(comfy, graph | {f"save {name}": graphs.save(name) for name in names})
    return {name: run.latent(f"save {name}") for name in names}


@pytest.mark.parametrize("same", ["again_latent", "stock", "strength 0", "empty range"])
def test_bit_identical_to_the_first(latents, same):
    """The same seed again, stock KSampler in place of ours, guidance of strength 0, guidance that never acts."""
    assert latents["first"].shape[1] == 16 and latents["first"].abs().max() > 0
    assert latents[same].equal(latents["first"])


@pytest.mark.parametrize("other", ["other seed", "heatmaps", "features"])
def test_different_from_the_first(latents, other):
    assert latents[other].isfinite().all()
    assert (latents[other] - latents["first"]).abs().max() > 1e-3


def test_interrupted_run_leaves_the_server_able_to_run(comfy, transfer):
    graph, _, _ = transfer
    long = copy.deepcopy(graph)
    long[find(long, "RePoseDMKSampler")]["inputs"].update(steps=500, seed=7)
    prompt_id = comfy.queue(long)
    with pytest.raises(ComfyInterrupted, match="RePoseDMKSampler"):
        comfy.wait(prompt_id, lambda value, maximum, node: comfy.interrupt() if maximum == 500 else None)
    short = copy.deepcopy(graph)
    short[find(short, "RePoseDMKSampler")]["inputs"].update(steps=1, seed=8)
    assert comfy.run(short)


def test_own_picture_and_pose_of_any_size(comfy, tmp_path):
    """Load Image and Load Pose in place of the example; a batch of two frames gives two pictures of that size."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (150, 200, 3), dtype=np.uint8)).save(tmp_path / "noise.png")
    frames = [json.loads((EXAMPLES / f"{name}_pose.json").read_text()) for name in NAMES[:2]]
    (comfy.input / "poses").mkdir(exist_ok=True)
    (comfy.input / "poses" / "two.json").write_text(json.dumps(frames))
    graph = read_graph("pose_transfer")
    example, aligner = find(graph, "RePoseDMExample"), find(graph, "RePoseDMRecurrentPoseAligner")
    graph = {key: node for key, node in graph.items() if [example, 2] not in node["inputs"].values()}
    graph[example] = node("LoadImage", image=comfy.upload_image(tmp_path / "noise.png"))
    graph["pose"] = node("RePoseDMLoadPose", file="poses/two.json", text="")
    graph["mask"] = node("MaskPreview", mask=[aligner, 4])
    for each in graph.values():
        for name, value in each["inputs"].items():
            if value == [example, 1]:
                each["inputs"][name] = ["pose", 0]
    graph[aligner]["inputs"].update(width=80, height=112, output_size="model")
    graph[find(graph, "RePoseDMKSampler")]["inputs"].update(steps=1)
    run = Run(comfy, graph)
    for key in (find(graph, "SaveImage"), "mask"):
        pictures = run.pictures(key)
        assert pictures.shape == (2, 112, 80, 3), key
        assert (pictures[0] != pictures[1]).any()


def true_joints(name):
    """Joints (18, 3) of an example's pose in pixels of its picture, and that picture's height."""
    (pose,) = load_pose_file(EXAMPLES / f"{name}_pose.json")
    return pose.joints[0], pose.height


def test_pose_goes_round(comfy):
    """Estimate Pose → Draw Pose: the estimator finds the true joints, and they are drawn where they are."""
    graph = {"load": graphs.shipped()}
    for name in NAMES:
        example, found = f"example {name}", f"find {name}"
        graph |= {
            example: node("RePoseDMExample", example=name),
            found: node("RePoseDMEstimatePose", pose_estimator=["load", 3], image=[example, 2], threshold=0.1),
            f"draw {name}": node("RePoseDMDrawPose", pose=[found, 0], width=0, height=0),
            f"show {name}": graphs.show(f"draw {name}"),
            f"text {name}": node("PreviewAny", source=[found, 0]),
        }
    run, right = Run(comfy, graph), []
    for name in NAMES:
        (pose,) = parse_keypoints(json.loads(run.text(f"text {name}")))
        drawn = np.floor(draw_pose(pose).movedim(0, -1).numpy() * 255)
        shown = run.pictures(f"show {name}")[0]
        assert shown.shape == (pose.height, pose.width, 3) == (256, 192, 3) and np.abs(shown - drawn).max() <= 1
        found, (truth, height) = pose.joints[0], true_joints(name)
        near = np.linalg.norm(found[:, :2] - truth[:, :2], axis=1) < 0.05 * height
        right += list((near & (found[:, 2] > 0))[truth[:, 2] > 0])
    assert np.mean(right) >= 0.8, f"{sum(right)} of {len(right)} joints are found"
