"""The template for edit models in a real server, on a tiny model of every family that takes reference pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.fixtures import graphs
from tests.fixtures.graphs import Run, node
from tests.nodes.guided import stock_packs
from workflows.comfy_server import ROOT, ComfyInterrupted, ComfyServer
from workflows.graph import find, load_workflow, to_api

pytestmark = pytest.mark.processes

TEMPLATE = ROOT / "workflows" / "11 Pose transfer with an edit model.json"
EDITORS = {"Flux": (64, 48), "Flux 2": (128, 96), "Qwen Image": (64, 48)}
"""Kontext's, Klein's and Qwen-Image-Edit's networks, and a crop's height and width of 8 by 6 cells."""
SOURCE = np.asarray(Image.open(ROOT / "workflows" / "examples" / "lime_top.png").convert("RGB"))
REFERENCES = ("The person", "The drawn pose", "The warped person")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ComfyServer(stock_packs(tmp_path_factory.mktemp("packs"))) as comfy:
        yield comfy


def template(server, family, **sampling):
    """The template as the page sends it, with a tiny model for its files, and its latents saved."""
    prompt = to_api(load_workflow(TEMPLATE), server.object_info())
    height, width = EDITORS[family]
    prompt[find(prompt, "RePoseDMCropToPerson")]["inputs"].update(width=width, height=height, margin=0.7)
    prompt[find(prompt, "KSampler")]["inputs"].update(sampling)
    prompt["stock"] = node("StockModel", family=family)
    outputs = {"UNETLoader": 0, "VAELoader": 1, "CLIPTextEncode": 2}
    files = {find(prompt, kind): number for kind, number in outputs.items()}
    for each in prompt.values():
        for name, value in each["inputs"].items():
            if isinstance(value, list) and value[0] in files:
                each["inputs"][name] = ["stock", files[value[0]]]
    for key in (*files, find(prompt, "CLIPLoader")):
        del prompt[key]
    prompt["latent"] = graphs.save(find(prompt, "KSampler"))
    prompt["mask"] = node("MaskToImage", mask=[find(prompt, "RePoseDMPasteBack"), 1])
    prompt["mask shown"] = graphs.show("mask")
    return prompt


def run(server, prompt):
    """The latent, and the result and the mask that was pasted as arrays."""
    done = Run(server, prompt)
    return done.latent("latent"), *(done.pictures(key)[0] for key in (find(prompt, "SaveImage"), "mask shown"))


def without(prompt, title):
    """The graph without the reference of that title."""
    latent = find(prompt, "VAEEncode", title)
    key = next(key for key, node in prompt.items() if node["inputs"].get("latent") == [latent, 0])
    del prompt[key]["inputs"]["latent"]
    return prompt


@pytest.mark.parametrize("family", EDITORS)
def test_every_family(server, family):
    """Every reference counts, guidance acts, and what is pasted back leaves the rest of the picture as it is."""
    latent, result, mask = run(server, template(server, family))
    assert latent.shape[-2:] == (8, 6) and latent.isfinite().all()
    for title in REFERENCES:
        assert not run(server, without(template(server, family), title))[0].equal(latent), title
    idle = template(server, family)
    idle[find(idle, "RePoseDMPoseFieldGuidance")]["inputs"]["strength"] = 0.0
    bare = template(server, family)
    guide = find(bare, "RePoseDMPoseFieldGuidance")
    bare[find(bare, "KSampler")]["inputs"]["model"] = bare.pop(guide)["inputs"]["model"]
    unguided = run(server, idle)[0]
    assert unguided.equal(run(server, bare)[0]) and not unguided.equal(latent)
    away = torch.nn.functional.max_pool2d(torch.from_numpy(mask[None, ..., 0]).float(), 31, 1, 15)[0] == 0
    away = away.numpy()
    assert result.shape == SOURCE.shape and 0.1 < away.mean() < 0.95
    assert np.array_equal(result[away], SOURCE[away]) and (result != SOURCE).any()


def test_cfg_above_one_gives_the_negative_the_same_references(server):
    """Without text and with all references: else the difference would be that of pictures, not of words."""
    prompt = template(server, "Qwen Image", cfg=4.0)
    latent = run(server, prompt)[0]
    assert latent.isfinite().all() and not latent.equal(run(server, template(server, "Qwen Image"))[0])
    negative = prompt[find(prompt, "ConditioningZeroOut")]["inputs"]["conditioning"]
    assert negative == prompt[find(prompt, "KSampler")]["inputs"]["positive"]


def test_less_denoise_keeps_more_of_the_warped_picture(server):
    """Below 1 the sampling begins with it, at 0 it is that."""
    prompt = template(server, "Flux 2", denoise=0.0)
    prompt["kept"] = graphs.save(find(prompt, "VAEEncode", "The warped person"))
    done = Run(server, prompt)
    assert done.latent("latent").equal(done.latent("kept"))


def test_it_can_be_cancelled_and_runs_again(server):
    with pytest.raises(ComfyInterrupted):
        Run(server, template(server, "Flux", steps=2000), on_progress=graphs.stop(server))
    assert run(server, template(server, "Flux"))[1].shape == SOURCE.shape
