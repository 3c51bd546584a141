"""Pose transfer with a stock model of every family in a real server: warped, painted where needed, pasted back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.fixtures import graphs
from tests.fixtures.graphs import EULER, Run, node
from tests.nodes import families
from tests.nodes.guided import stock_packs
from workflows.comfy_server import ROOT, ComfyInterrupted, ComfyServer

pytestmark = pytest.mark.processes

NAME = "lime_top"
SOURCE = np.asarray(Image.open(ROOT / "workflows" / "examples" / f"{NAME}.png").convert("RGB"))
SIZES = {family: (128, 96) if family == "Flux 2" else (64, 48) for family in families.FAMILIES}
"""Height and width of the crop: 8 by 6 cells of the latent."""
PASTE = {"grow": 1.0, "feather": 2.0, "match_colours": 1.0, "mask": ["warp", 4], "crop": ["crop", 4]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ComfyServer(stock_packs(tmp_path_factory.mktemp("packs"))) as comfy:
        yield comfy


def start(family, amount=1):
    """The graph up to the latent with its noise mask."""
    height, width = SIZES[family]
    size = {"margin": 0.7, "width": width, "height": height, "crops": "each picture"}
    masks = {"visibility": ["warp", 1], "person": ["warp", 3], "changed": ["warp", 4]}
    return {
        "stock": node("StockModel", family=family),
        "judge": node("RePoseDMEstimatorLoader", estimator="reposedm-mini.safetensors", width=0, height=0, udp="auto"),
        "example": node("RePoseDMExample", example=NAME),
        "crop": node(
            "RePoseDMCropToPerson", image=["example", 0], pose=["example", 4], target_pose=["example", 1], **size
        ),
        "warp": node("RePoseDMSkeletonWarp", source=["crop", 0], source_pose=["crop", 1], pose=["crop", 2]),
        "reveal": node("RePoseDMRevealMask", grow=1.0, blur=1.5, floor=0.3, **masks),
        "encode": node("VAEEncode", pixels=["warp", 0], vae=["stock", 1]),
        "repeat": node("RepeatLatentBatch", samples=["encode", 0], amount=amount),
        "masked": node("SetLatentNoiseMask", samples=["repeat", 0], mask=["reveal", 0]),
    }


def sampled(name, model="stock", denoise=0.6, steps=4):
    """A sampling, its latent saved, and its picture pasted back."""
    settings = EULER | {"steps": steps, "denoise": denoise}
    sampler = graphs.sample(["masked", 0], model, "KSampler", **settings)
    sampler["inputs"].update(positive=["stock", 2], negative=["stock", 3])
    return {name: sampler, **kept(name, name)}


def kept(name, samples):
    decode, paste = f"{name} decode", f"{name} paste"
    return {
        f"{name} latent": graphs.save(samples),
        decode: node("VAEDecode", samples=[samples, 0], vae=["stock", 1]),
        paste: node("RePoseDMPasteBack", picture=["example", 0], result=[decode, 0], **PASTE),
        f"{decode} shown": graphs.show(decode),
        f"{paste} shown": graphs.show(paste),
    }


def guide(strength):
    settings = {"strength": strength, "limit": 0.2, "normalise": True}
    return graphs.guide("stock", ["stock", 1], ["judge", 0], ["crop", 2], **settings)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family(server, family):
    graph = {
        **start(family),
        "guided model": guide(0.5),
        "idle model": guide(0.0),
        **sampled("plain"),
        **sampled("guided", "guided model"),
        **sampled("idle", "idle model"),
        **sampled("kept", "guided model", denoise=0.0),
        **kept("encoded", "encode"),
    }
    for name, mask in (("share", ["plain paste", 1]), ("reveal", ["reveal", 0])):
        graph[f"{name} picture"] = node("MaskToImage", mask=mask)
        graph[f"{name} shown"] = graphs.show(f"{name} picture")
    run = Run(server, graph)
    latents = {name: run.latent(f"{name} latent") for name in ("plain", "guided", "idle", "kept", "encoded")}
    assert latents["idle"].equal(latents["plain"]), "strength 0 is the model alone"
    assert not latents["guided"].equal(latents["plain"]) and latents["guided"].isfinite().all()
    assert latents["kept"].equal(latents["encoded"]), "denoise 0 is VAE Encode"
    shown = {name: run.pictures(f"{name} decode shown") for name in latents}
    assert np.array_equal(shown["kept"], shown["encoded"]) and shown["plain"].shape == (1, *SIZES[family], 3)
    reveal = torch.from_numpy(run.pictures("reveal shown")[0, ..., 0]).float()
    cell = SIZES[family][0] // latents["plain"].shape[-2]
    dark = torch.nn.functional.max_pool2d(reveal[None, None], 2 * cell, cell, cell // 2)[0, 0] == 0
    moved = (latents["plain"] - latents["encoded"]).abs().amax(1).reshape(dark.shape)
    assert dark.any() and moved[dark].max() < 1e-5 < moved[~dark].max(), "what the mask spares is kept"
    share = torch.from_numpy(run.pictures("share shown")[0, ..., 0]).float()
    # Beside what is grey shares are less than a level.
    away = (torch.nn.functional.max_pool2d(share[None, None], 31, 1, 15)[0, 0] == 0).numpy()
    for name in ("plain", "guided"):
        (pasted,) = run.pictures(f"{name} paste shown")
        assert pasted.shape == SOURCE.shape and 0.1 < away.mean() < 0.95
        assert np.array_equal(pasted[away], SOURCE[away]) and (pasted != SOURCE).any()


def test_a_batch_gives_a_picture_each(server):
    graph = {**start("SD 1.5", amount=3), "guided model": guide(0.5), **sampled("guided", "guided model")}
    found = Run(server, graph).pictures("guided paste shown")
    assert found.shape == (3, *SOURCE.shape) and (found[0] != found[1]).any()


def test_it_can_be_cancelled_and_runs_again(server):
    with pytest.raises(ComfyInterrupted):
        Run(server, {**start("SDXL"), **sampled("plain", denoise=1.0, steps=2000)}, on_progress=graphs.stop(server))
    run = Run(server, {**start("SDXL"), **sampled("plain")})
    assert run.pictures("plain paste shown").shape == (1, *SOURCE.shape)
