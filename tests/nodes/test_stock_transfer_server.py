"""Pose transfer with a stock model of every family in a real server: warped, painted where needed, pasted back."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.nodes import families
from tests.nodes.guided import stock_packs
from workflows.comfy_server import ROOT, ComfyInterrupted, ComfyServer

pytestmark = pytest.mark.processes

NAME = "lime_top"
SOURCE = np.asarray(Image.open(ROOT / "workflows" / "examples" / f"{NAME}.png").convert("RGB"))
SIZES = {family: (128, 96) if family == "Flux 2" else (64, 48) for family in families.FAMILIES}
"""Height and width of the crop: 8 by 6 cells of the latent."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ComfyServer(stock_packs(tmp_path_factory.mktemp("packs"))) as comfy:
        yield comfy


def start(family, amount=1):
    """The graph up to the latent with its noise mask."""
    graph = {}

    def node(name, kind, **inputs):
        graph[name] = {"class_type": kind, "inputs": inputs}

    height, width = SIZES[family]
    node("stock", "StockModel", family=family)
    node("judge", "RePoseDMEstimatorLoader", estimator="reposedm-mini.safetensors", width=0, height=0, udp="auto")
    node("example", "RePoseDMExample", example=NAME)
    node(
        "crop",
        "RePoseDMCropToPerson",
        image=["example", 0],
        pose=["example", 4],
        target_pose=["example", 1],
        margin=0.7,
        width=width,
        height=height,
        crops="each picture",
    )
    node("warp", "RePoseDMSkeletonWarp", source=["crop", 0], source_pose=["crop", 1], pose=["crop", 2])
    masks = {"visibility": ["warp", 1], "person": ["warp", 3], "changed": ["warp", 4]}
    node("reveal", "RePoseDMRevealMask", grow=1.0, blur=1.5, floor=0.3, **masks)
    node("encode", "VAEEncode", pixels=["warp", 0], vae=["stock", 1])
    node("repeat", "RepeatLatentBatch", samples=["encode", 0], amount=amount)
    node("masked", "SetLatentNoiseMask", samples=["repeat", 0], mask=["reveal", 0])
    return graph, node


def sampled(graph, node, name, model, denoise=0.6, steps=4):
    """A sampling, its latent saved, and its picture pasted back."""
    node(
        name,
        "KSampler",
        model=model,
        positive=["stock", 2],
        negative=["stock", 3],
        latent_image=["masked", 0],
        seed=0,
        steps=steps,
        cfg=3.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=denoise,
    )
    keep(node, name, [name, 0])


def keep(node, name, samples):
    node(f"{name} latent", "SaveLatent", samples=samples, filename_prefix="transfer")
    node(f"{name} decode", "VAEDecode", samples=samples, vae=["stock", 1])
    paste = {"grow": 1.0, "feather": 2.0, "match_colours": 1.0, "mask": ["warp", 4], "crop": ["crop", 4]}
    node(f"{name} paste", "RePoseDMPasteBack", picture=["example", 0], result=[f"{name} decode", 0], **paste)
    for kind in ("decode", "paste"):
        node(f"{name} {kind} shown", "PreviewImage", images=[f"{name} {kind}", 0])


def guide(node, name, strength):
    node(
        name,
        "RePoseDMPoseFieldGuidance",
        model=["stock", 0],
        vae=["stock", 1],
        pose_estimator=["judge", 0],
        pose=["crop", 2],
        strength=strength,
        start_percent=0.0,
        end_percent=1.0,
        space="heatmaps",
        limit=0.2,
        normalise=True,
    )


def pictures(server, run, name):
    return np.stack([np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in server.images(run, name)])


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family(server, family):
    graph, node = start(family)
    guide(node, "guided model", 0.5)
    guide(node, "idle model", 0.0)
    sampled(graph, node, "plain", ["stock", 0])
    sampled(graph, node, "guided", ["guided model", 0])
    sampled(graph, node, "idle", ["idle model", 0])
    sampled(graph, node, "kept", ["guided model", 0], denoise=0.0)
    keep(node, "encoded", ["encode", 0])
    node("share", "RePoseDMPasteBack", picture=["example", 0], result=["plain decode", 0], crop=["crop", 4],
         mask=["warp", 4], grow=1.0, feather=2.0, match_colours=1.0)  # fmt: skip
    for name, mask in (("share", ["share", 1]), ("reveal", ["reveal", 0])):
        node(f"{name} picture", "MaskToImage", mask=mask)
        node(f"{name} shown", "PreviewImage", images=[f"{name} picture", 0])
    run = server.queue(graph)
    server.wait(run)
    outputs = server.history(run)["outputs"]
    latents = {}
    for name in ("plain", "guided", "idle", "kept", "encoded"):
        (file,) = outputs[f"{name} latent"]["latents"]
        latents[name] = load_file(server.output / file["subfolder"] / file["filename"])["latent_tensor"]
    assert latents["idle"].equal(latents["plain"]), "strength 0 is the model alone"
    assert not latents["guided"].equal(latents["plain"]) and latents["guided"].isfinite().all()
    assert latents["kept"].equal(latents["encoded"]), "denoise 0 is VAE Encode"
    shown = {name: pictures(server, run, f"{name} decode shown") for name in latents}
    assert np.array_equal(shown["kept"], shown["encoded"]) and shown["plain"].shape == (1, *SIZES[family], 3)
    reveal = torch.from_numpy(pictures(server, run, "reveal shown")[0, ..., 0].copy()).float()
    cell = SIZES[family][0] // latents["plain"].shape[-2]
    dark = torch.nn.functional.max_pool2d(reveal[None, None], 2 * cell, cell, cell // 2)[0, 0] == 0
    moved = (latents["plain"] - latents["encoded"]).abs().amax(1).reshape(dark.shape)
    assert dark.any() and moved[dark].max() < 1e-5 < moved[~dark].max(), "what the mask spares is kept"
    share = torch.from_numpy(pictures(server, run, "share shown")[0, ..., 0].copy()).float()
    # Beside what is grey shares are less than a level.
    away = (torch.nn.functional.max_pool2d(share[None, None], 31, 1, 15)[0, 0] == 0).numpy()
    for name in ("plain", "guided"):
        (pasted,) = pictures(server, run, f"{name} paste shown")
        assert pasted.shape == SOURCE.shape and 0.1 < away.mean() < 0.95
        assert np.array_equal(pasted[away], SOURCE[away]) and (pasted != SOURCE).any()


def test_a_batch_gives_a_picture_each(server):
    graph, node = start("SD 1.5", amount=3)
    guide(node, "guided model", 0.5)
    sampled(graph, node, "guided", ["guided model", 0])
    run = server.queue(graph)
    server.wait(run)
    found = pictures(server, run, "guided paste shown")
    assert found.shape == (3, *SOURCE.shape) and (found[0] != found[1]).any()


def test_it_can_be_cancelled_and_runs_again(server):
    graph, node = start("SDXL")
    sampled(graph, node, "plain", ["stock", 0], denoise=1.0, steps=2000)
    run = server.queue(graph)
    asked = []

    def stop(value, *_):
        if value > 3 and not asked:
            asked.append(server.interrupt())

    with pytest.raises(ComfyInterrupted):
        server.wait(run, stop)
    graph, node = start("SDXL")
    sampled(graph, node, "plain", ["stock", 0])
    run = server.queue(graph)
    server.wait(run)
    assert pictures(server, run, "plain paste shown").shape == (1, *SOURCE.shape)
