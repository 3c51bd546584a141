"""Guidance of stock models in a real server, every family of them, and all that can go wrong in a guided step."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.nodes import families
from tests.nodes.guided import stock_packs
from workflows.comfy_server import ROOT, ComfyError, ComfyInterrupted, ComfyServer

pytestmark = pytest.mark.processes

EXAMPLE = sorted((ROOT / "workflows" / "examples").glob("*_pose.json"))[0].name.removesuffix("_pose.json")


@pytest.fixture(scope="module")
def server(reposesd_file, tiny_vae, tmp_path_factory):
    """A ComfyUI with the pack, a pack whose VAEs fail, one with a tiny model of every family, and tiny checkpoints."""
    with ComfyServer(stock_packs(tmp_path_factory.mktemp("packs"), "mishaps.py")) as comfy:
        for folder in ("checkpoints", "vae_approx"):
            (comfy.models / folder).mkdir(exist_ok=True)
        shutil.copy(reposesd_file, comfy.models / "checkpoints" / "small8.safetensors")
        save_file(
            {
                key.removeprefix("taesd_decoder."): value
                for key, value in tiny_vae.items()
                if key.startswith("taesd_decoder.")
            },
            comfy.models / "vae_approx" / "taesd_decoder.safetensors",
        )
        yield comfy


def graph(mishap=None, steps=3, seed=1, **options):
    """A small RePoseSD, RePoseDM's tokens standing for its text; `guided=False` samples the model as it is."""
    guided = options.pop("guided", True)
    nodes = {
        "load": {"class_type": "RePoseDMSDLoader", "inputs": {"checkpoint": "small8.safetensors"}},
        "mini": {"class_type": "RePoseDMLoader", "inputs": {"checkpoint": "reposedm-mini.safetensors"}},
        "judge": {
            "class_type": "RePoseDMEstimatorLoader",
            "inputs": {"estimator": "reposedm-mini.safetensors", "width": 0, "height": 0, "udp": "auto"},
        },
        "example": {"class_type": "RePoseDMExample", "inputs": {"example": EXAMPLE}},
        "align": {
            "class_type": "RePoseDMRecurrentPoseAligner",
            "inputs": {
                "aligner": ["mini", 2],
                "vae": ["mini", 1],
                "source": ["example", 0],
                "pose": ["example", 1],
                "width": 0,
                "height": 0,
            },
        },
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 48, "height": 64, "batch_size": 1}},
        "guide": {
            "class_type": "RePoseDMPoseFieldGuidance",
            "inputs": {
                "model": ["load", 0],
                "vae": ["load", 2],
                "pose_estimator": ["judge", 0],
                "pose": ["example", 1],
                "strength": 0.2,
                "start_percent": 0.0,
                "end_percent": 1.0,
                "space": "heatmaps",
                "limit": 0.1,
                **options,
            },
        },
        "sample": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["guide" if guided else "load", 0],
                "positive": ["align", 0],
                "negative": ["align", 1],
                "latent_image": ["empty", 0],
                "seed": seed,
                "steps": steps,
                "cfg": 3.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "save": {"class_type": "SaveLatent", "inputs": {"samples": ["sample", 0], "filename_prefix": "guided"}},
    }
    if mishap:
        nodes["mishap"] = {"class_type": "MishapVAE", "inputs": {"vae": ["load", 2], "kind": mishap}}
        nodes["guide"]["inputs"]["vae"] = ["mishap", 0]
    return nodes


def run(server, **options) -> torch.Tensor:
    prompt_id = server.queue(graph(**options))
    server.wait(prompt_id)
    (file,) = server.history(prompt_id)["outputs"]["save"]["latents"]
    return load_file(server.output / file["subfolder"] / file["filename"])["latent_tensor"]


def test_every_way_to_decode_guides_a_stock_unet(server):
    plain = run(server, guided=False)
    assert run(server, strength=0.0, steps=3).equal(plain)
    results = [
        run(server),
        run(server, decode_size=0.5),
        run(server, decoder="taesd"),
        run(server, normalise=True),
        run(server, every_nth_step=2),
        run(server, joints="arms", people="all", mask_threshold=0.0),
    ]
    for index, latent in enumerate(results):
        assert latent.isfinite().all() and not latent.equal(plain), index
        assert not any(latent.equal(other) for other in results[index + 1 :]), index


def stock(server, family, **options):
    """Latent and picture that the stock nodes make with a family's model, guided if there are `options`; the probe."""
    source = ["guide" if options else "stock", 0]
    prompt_id = server.queue(
        {
            "stock": {"class_type": "StockModel", "inputs": {"family": family}},
            "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 48, "height": 64, "batch_size": 1}},
            "sample": {
                "class_type": "KSampler",
                "inputs": {
                    "model": source,
                    "positive": ["stock", 2],
                    "negative": ["stock", 3],
                    "latent_image": ["empty", 0],
                    "seed": 0,
                    "steps": 3,
                    "cfg": 3.0,
                    "sampler_name": "euler",
                    "scheduler": "normal",
                    "denoise": 1.0,
                },
            },
            "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["stock", 1]}},
            "preview": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
            "save": {"class_type": "SaveLatent", "inputs": {"samples": ["sample", 0], "filename_prefix": "stock"}},
            "probe": {"class_type": "MemoryProbe", "inputs": {"image": ["decode", 0]}},
            **({name: node for name, node in graph().items() if name in ("judge", "example")} if options else {}),
            **(
                {
                    "guide": {
                        "class_type": "RePoseDMPoseFieldGuidance",
                        "inputs": {
                            "model": ["stock", 0],
                            "vae": ["stock", 1],
                            "pose_estimator": ["judge", 0],
                            "pose": ["example", 1],
                            "start_percent": 0.0,
                            "end_percent": 1.0,
                            "space": "heatmaps",
                            "limit": 0.2,
                            "normalise": True,
                            **options,
                        },
                    }
                }
                if options
                else {}
            ),
        }
    )
    server.wait(prompt_id)
    outputs = server.history(prompt_id)["outputs"]
    (file,) = outputs["save"]["latents"]
    latent = load_file(server.output / file["subfolder"] / file["filename"])["latent_tensor"]
    (png,) = server.images(prompt_id, "preview")
    return latent, np.asarray(Image.open(io.BytesIO(png))), outputs["probe"]


@pytest.mark.parametrize("family", families.FAMILIES)
def test_stock_model_of_every_family(server, family):
    """Guided it gives another picture; by strength 0 the very same latent, and then memory is what it was."""
    plain, picture, before = stock(server, family)
    latent, guided, during = stock(server, family, strength=0.5)
    assert latent.shape == plain.shape and latent.isfinite().all() and not latent.equal(plain)
    assert picture.shape == guided.shape == (64, 48, 3) and (picture != guided).any()
    assert during["guidances"] == [1] and during["graphs"] == [0] and "FieldNetworks" in during["loaded"]
    again, _, after = stock(server, family, strength=0.0)
    assert again.equal(plain)
    assert after["loaded"] == before["loaded"] and after["guidances"] == after["graphs"] == [0]
    assert after["megabytes"][0] - during["megabytes"][0] < 30


def test_out_of_memory_is_one_message_and_the_next_prompt_runs(server):
    expected = run(server, seed=7)
    with pytest.raises(
        ComfyError,
        match=r"\(KSampler\): Pose Interaction Field Guidance ran out of memory at a "
        r"picture of 48 × 64 pixels\. Choose the decoder taesd, lower decode_size",
    ):
        server.wait(server.queue(graph("memory", seed=7)))
    assert "unloading all loaded models" in server.log()
    assert run(server, seed=7, decoder="vae").equal(expected), "and gives what it gave before"
    assert run(server, seed=8).isfinite().all()


def test_cancelled_in_a_guided_step_and_the_next_prompt_runs(server):
    prompt_id = server.queue(graph("slow", steps=900))
    with pytest.raises(ComfyInterrupted, match="KSampler"):
        server.wait(prompt_id, lambda value, maximum, node: server.interrupt() if maximum == 900 else None)
    assert run(server, seed=9).isfinite().all()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"joints": "tail"}, "joints - 'tail' is no joint; name some of"),
        ({"people": "the left one"}, "people: 'the left one' is no person; give numbers"),
        ({"people": "3"}, "people: frame 0 of the pose .* has 1 people and none of those chosen"),
        ({"decoder": "taehv"}, "Value not in list: decoder"),
        ({"every_nth_step": 0}, "every_nth_step"),
    ],
)
def test_wrong_inputs(server, options, problem):
    with pytest.raises(ComfyError, match=problem):
        server.wait(server.queue(graph(**options)))
    assert run(server, seed=10).isfinite().all()
