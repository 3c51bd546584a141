"""A model with cells of 16 pixels, an aligner that reads poses and a reference decoder, in a real ComfyUI."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from reposedm_core import RePoseDMPipeline
from workflows.comfy_server import ROOT, ComfyError

EXAMPLES = ROOT / "workflows" / "examples"
NAME = sorted(path.name.removesuffix("_pose.json") for path in EXAMPLES.glob("*_pose.json"))[0]
FILE = "tiny-256.safetensors"
SAMPLING = {"seed": 5, "steps": 2, "cfg": 1.25, "sampler_name": "ddim", "scheduler": "simple", "denoise": 1.0}


@pytest.fixture(scope="module")
def server(comfy, tiny_256):
    (comfy.models / "reposedm").mkdir(exist_ok=True)
    shutil.copy(tiny_256, comfy.models / "reposedm" / FILE)
    yield comfy
    (comfy.models / "reposedm" / FILE).unlink()


def base():
    """The graph up to the aligner; the person stands as the pose says already, so that it is `source_pose`, too."""
    return {
        "load": {"class_type": "RePoseDMLoader", "inputs": {"checkpoint": FILE}},
        "person": {"class_type": "RePoseDMExample", "inputs": {"example": NAME}},
        "align": {
            "class_type": "RePoseDMRecurrentPoseAligner",
            "inputs": {
                "aligner": ["load", 2],
                "vae": ["load", 1],
                "source": ["person", 2],
                "pose": ["person", 1],
                "width": 0,
                "height": 0,
                "sources": "one picture a result",
                "source_pose": ["person", 1],
            },
        },
    }


@pytest.fixture(scope="module")
def pictures(server):
    """What several ways through the graph show, and what the nodes said, by their ids."""
    graph = base()

    def sampler(name, kind, latent):
        key = "latent_image" if kind == "KSampler" else "latent"
        graph[name] = {
            "class_type": kind,
            "inputs": {
                "model": ["load", 0],
                "positive": ["align", 0],
                "negative": ["align", 1],
                key: latent,
                **SAMPLING,
            },
        }

    def decode(name, latent, **inputs):
        graph[name] = {"class_type": "RePoseDMDecode", "inputs": {"latent": latent, "vae": ["load", 1], **inputs}}

    sampler("stock", "KSampler", ["align", 2])
    sampler("own", "RePoseDMKSampler", ["align", 2])
    graph["empty"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 48, "height": 64, "batch_size": 1}}
    sampler("stock from empty", "KSampler", ["empty", 0])
    sampler("own from empty", "RePoseDMKSampler", ["empty", 0])
    graph["two"] = {"class_type": "RepeatLatentBatch", "inputs": {"samples": ["stock", 0], "amount": 2}}
    graph["second"] = {
        "class_type": "LatentFromBatch",
        "inputs": {"samples": ["two", 0], "batch_index": 1, "length": 1},
    }
    for name, latent in (
        ("decode stock", "stock"),
        ("decode own", "own"),
        ("decode empty", "stock from empty"),
        ("decode own empty", "own from empty"),
        ("decode second", "second"),
    ):
        decode(name, [latent, 0], aligner=["load", 2])
    decode("decode alone", ["stock", 0])
    graph["vae decode"] = {"class_type": "VAEDecode", "inputs": {"samples": ["stock", 0], "vae": ["load", 1]}}
    graph["tiled"] = {
        "class_type": "VAEDecodeTiled",
        "inputs": {
            "samples": ["stock", 0],
            "vae": ["load", 1],
            "tile_size": 128,
            "overlap": 32,
            "temporal_size": 64,
            "temporal_overlap": 8,
        },
    }
    shown = [name for name in graph if name.startswith(("decode", "vae", "tiled"))]
    for name in shown:
        graph[f"show {name}"] = {"class_type": "PreviewImage", "inputs": {"images": [name, 0]}}
    graph["show person"] = {"class_type": "MaskPreview", "inputs": {"mask": ["align", 6]}}
    prompt_id = server.queue(graph)
    server.wait(prompt_id, timeout=120)
    outputs = server.history(prompt_id)["outputs"]
    found = {
        name: np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
        for name in (*shown, "person")
        for png in server.images(prompt_id, f"show {name}")
    }
    return found, {name: outputs[name]["text"][0] for name in shown if name.startswith("decode")}


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
    graph["show"] = {"class_type": "PreviewImage", "inputs": {"images": ["align", 3]}}
    with pytest.raises(ComfyError, match=r"RePoseDMRecurrentPoseAligner\): .*divisible by 16; the nearest is 64 × 64"):
        server.wait(server.queue(graph), timeout=120)
