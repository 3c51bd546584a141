"""A model with cells of 16 pixels, an aligner that reads poses and a reference decoder, in a real ComfyUI."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from reposedm_core import RePoseDMPipeline
from tests.fixtures import graphs
from tests.fixtures.graphs import Run, node
from workflows.comfy_server import ROOT, ComfyError

EXAMPLES = ROOT / "workflows" / "examples"
NAME = sorted(path.name.removesuffix("_pose.json") for path in EXAMPLES.glob("*_pose.json"))[0]
FILE = "tiny-256.safetensors"


@pytest.fixture(scope="module")
def server(comfy, tiny_256):
    (comfy.models / "reposedm").mkdir(exist_ok=True)
    shutil.copy(tiny_256, comfy.models / "reposedm" / FILE)
    yield comfy
    (comfy.models / "reposedm" / FILE).unlink()


def base():
    """The graph up to the aligner; the person stands as the pose says already, so that it is `source_pose`, too."""
    pose = ["person", 1]
    return {
        "load": graphs.shipped(FILE),
        "person": node("RePoseDMExample", example=NAME),
        "align": graphs.align(["person", 2], pose, sources="one picture a result", source_pose=pose),
    }


@pytest.fixture(scope="module")
def pictures(server):
    """What several ways through the graph show, and what the nodes said, by their ids."""
    graph = {
        **base(),
        "stock": graphs.sample(["align", 2], kind="KSampler", seed=5),
        "own": graphs.sample(["align", 2], seed=5),
        "empty": graphs.empty(48, 64),
        "stock from empty": graphs.sample(["empty", 0], kind="KSampler", seed=5),
        "own from empty": graphs.sample(["empty", 0], seed=5),
        "two": node("RepeatLatentBatch", samples=["stock", 0], amount=2),
        "second": node("LatentFromBatch", samples=["two", 0], batch_index=1, length=1),
    }
    decoded = {"vae": ["load", 1], "aligner": ["load", 2]}
    for name, latent in (
        ("decode stock", "stock"),
        ("decode own", "own"),
        ("decode empty", "stock from empty"),
        ("decode own empty", "own from empty"),
        ("decode second", "second"),
    ):
        graph[name] = node("RePoseDMDecode", latent=[latent, 0], **decoded)
    plain = {"samples": ["stock", 0], "vae": ["load", 1]}
    tiles = {"tile_size": 128, "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}
    graph["decode alone"] = node("RePoseDMDecode", latent=["stock", 0], vae=["load", 1])
    graph["vae decode"] = node("VAEDecode", **plain)
    graph["tiled"] = node("VAEDecodeTiled", **plain, **tiles)
    shown = [name for name in graph if name.startswith(("decode", "vae", "tiled"))]
    graph |= {f"show {name}": graphs.show(name) for name in shown}
    graph["show person"] = node("MaskPreview", mask=["align", 6])
    run = Run(server, graph, timeout=120)
    found = {name: run.pictures(f"show {name}")[0] for name in (*shown, "person")}
    return found, {name: run.text(name) for name in shown if name.startswith("decode")}


def test_picture_is_the_pipeline_s_by_either_sampler(pictures, tiny_256):
    found, _ = pictures
    result = RePoseDMPipeline.from_pretrained(tiny_256)(
        EXAMPLES / f"{NAME}_target.png",
        EXAMPLES / f"{NAME}_pose.json",
        seed=5,
        steps=2,
        guidance_scale=1.25,
        field_strength=0.0,
        source_pose=EXAMPLES / f"{NAME}_pose.json",
    )
    expected = np.floor(result.image[0].movedim(0, -1).numpy() * 255)
    assert np.abs(found["decode stock"] - expected).max() <= 1
    assert (found["decode own"] == found["decode stock"]).all()
    assert (found["decode second"] == found["decode stock"]).all(), "repeated, and taken out again"


def test_vae_decode_goes_on_as_before(pictures):
    found, _ = pictures
    for same in ("decode alone", "decode empty", "decode own empty"):
        assert (found[same] == found["vae decode"]).all(), same
    assert np.abs(found["tiled"] - found["vae decode"]).max() <= 1, "one tile"
    assert (found["decode stock"] != found["vae decode"]).mean() > 0.5
    assert all(picture.shape == (64, 48, 3) for picture in found.values())
    assert 0 < found["person"].mean() < 255


def test_the_node_says_what_it_did(server, pictures):
    _, said = pictures
    for name in ("decode stock", "decode own", "decode second"):
        assert said[name].startswith("The reference decoder decoded this")
    assert "no aligner is connected" in said["decode alone"]
    for name in ("decode empty", "decode own empty"):
        assert "the latent carries no reference" in said[name]
    assert f"RePoseDM Decode: {said['decode stock']}" in server.log()


def test_a_size_that_does_not_fit_the_cells_names_the_nearest(server):
    graph = base()
    graph["align"]["inputs"].update(width=56, height=72)
    graph["show"] = graphs.show("align", 3)
    with pytest.raises(ComfyError, match=r"RePoseDMRecurrentPoseAligner\): .*divisible by 16; the nearest is 64 × 64"):
        Run(server, graph, timeout=120)
