"""Guidance of stock models in a real server, every family of them, and all that can go wrong in a guided step."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import save_file

from tests.fixtures import graphs
from tests.fixtures.graphs import EULER, Run, node
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
    model = "guide" if options.pop("guided", True) else "load"
    nodes = {
        "load": node("RePoseDMSDLoader", checkpoint="small8.safetensors"),
        "mini": graphs.shipped(),
        "judge": node("RePoseDMEstimatorLoader", estimator="reposedm-mini.safetensors", width=0, height=0, udp="auto"),
        "example": node("RePoseDMExample", example=EXAMPLE),
        "align": graphs.align(["example", 0], ["example", 1], "mini"),
        "empty": graphs.empty(48, 64),
        "guide": graphs.guide("load", ["load", 2], ["judge", 0], ["example", 1], **options),
        "sample": graphs.sample(["empty", 0], model, "KSampler", **EULER | {"seed": seed, "steps": steps}),
        "save": graphs.save("sample"),
    }
    if mishap:
        nodes["mishap"] = node("MishapVAE", vae=["load", 2], kind=mishap)
        nodes["guide"]["inputs"]["vae"] = ["mishap", 0]
    return nodes


def run(server, **options) -> torch.Tensor:
    return Run(server, graph(**options)).latent("save")


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
    nodes = {
        "stock": node("StockModel", family=family),
        "empty": graphs.empty(48, 64),
        "sample": graphs.sample(["empty", 0], "guide" if options else "stock", "KSampler", **EULER),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["stock", 1]),
        "preview": graphs.show("decode"),
        "save": graphs.save("sample"),
        "probe": node("MemoryProbe", image=["decode", 0]),
    }
    nodes["sample"]["inputs"].update(positive=["stock", 2], negative=["stock", 3])
    if options:
        nodes |= {name: each for name, each in graph().items() if name in ("judge", "example")}
        options = {"limit": 0.2, "normalise": True, **options}
        nodes["guide"] = graphs.guide("stock", ["stock", 1], ["judge", 0], ["example", 1], **options)
    done = Run(server, nodes)
    return done.latent("save"), done.pictures("preview")[0], done.outputs["probe"]


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
