"""Parts of batches, latents and VAEs of other models, and stock nodes that save, through ComfyUI's own validation."""

from __future__ import annotations

import json
import math
import shutil

import pytest
from safetensors.torch import load_file

from reposedm_core import PRESETS
from reposedm_core.presets import SHIPPED_PRESET
from tests.fixtures import graphs
from tests.fixtures.graphs import Run, node
from workflows.comfy_server import ROOT, ComfyError

EXAMPLES = ROOT / "workflows" / "examples"
POSES = json.dumps([json.loads(path.read_text())[0] for path in sorted(EXAMPLES.glob("*_pose.json"))[:2]])
MODEL = PRESETS[SHIPPED_PRESET]
SIZE = {"width": MODEL.width, "height": MODEL.height}


@pytest.fixture(scope="module")
def small(comfy, reposesd_file):
    """Name of a RePoseSD checkpoint, for its VAE of 4 channels."""
    (comfy.models / "checkpoints").mkdir(exist_ok=True)
    shutil.copy(reposesd_file, comfy.models / "checkpoints" / "four_channels.safetensors")
    return "four_channels.safetensors"


def base():
    """The shipped model, one source in two poses, and their latent."""
    return {
        "load": graphs.shipped(),
        "example": node("RePoseDMExample", example="red_trousers"),
        "poses": node("RePoseDMLoadPose", file="none", text=POSES),
        "align": graphs.align(["example", 0], ["poses", 0]),
    }


def sampler(*latent, **changed):
    return graphs.sample(*latent, **{"steps": 1, **changed})


def guidance(vae="load", output=1, model="load", **changed):
    return graphs.guide(model, [vae, output], ["load", 3], ["poses", 0], **{"limit": 0.3, **changed})


SECOND = node("LatentFromBatch", samples=["align", 2], batch_index=1, length=1)


def test_parts_of_a_batch_get_their_own_poses(comfy):
    graph = base()
    graph["guide"] = guidance()
    graph["second"] = SECOND
    graph["each"] = node("RebatchLatents", latents=["align", 2], batch_size=1)
    for name, latent in (("whole", ["align", 2]), ("part", ["second", 0]), ("list", ["each", 0])):
        for kind, model in (("plain", "load"), ("guided", "guide")):
            graph[f"{name} {kind}"] = sampler(latent, model)
            graph[f"save {name} {kind}"] = graphs.save(f"{name} {kind}")
    run = Run(comfy, graph)

    def saved(name):
        return run.latents(f"save {name}")

    guided = (saved("whole plain")[0] - saved("whole guided")[0]).abs().mean()
    assert guided > 1e-3
    for kind in ("plain", "guided"):
        (whole,), (part,), (first, second) = (saved(f"{name} {kind}") for name in ("whole", "part", "list"))
        assert whole.shape[0] == 2 and (whole[0] - whole[1]).abs().mean() > 0.1
        for found, expected in ((part, whole[1:]), (second, whole[1:]), (first, whole[:1])):
            assert found.shape == expected.shape
            if kind == "plain":
                assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
            else:  # its mask lets single cells differ by rounding alone; of another pose all would
                assert (found - expected).abs().mean() < 0.02 * guided


def four_channels(small, **changed):
    """The picture as Stable Diffusion's VAE encodes it, in RePoseDM's sampler."""
    return {
        "small": node("RePoseDMSDLoader", checkpoint=small),
        "encode": node("VAEEncode", pixels=["example", 0], vae=["small", 2]),
        "sample": sampler(["encode", 0], **changed),
    }


def video(small, empty="EmptyHunyuanLatentVideo", **changed):
    return {"video": node(empty, **SIZE, length=5, batch_size=2), "sample": sampler(["video", 0], **changed)}


def cut(small):
    return {"second": SECOND, "sample": sampler(["second", 0], kind="KSampler")}


def too_many(small):
    return {"empty": graphs.empty(**SIZE, batch_size=3), "sample": sampler(["empty", 0])}


def other_vae(small):
    return {**four_channels(small), "guide": guidance("small", 2), "sample": sampler(["align", 2], "guide")}


def our_vae(small):
    return {**four_channels(small), "guide": guidance(model="small"), "sample": sampler(["encode", 0], "guide")}


CASES = {
    "four channels": (four_channels, "latent: it has 4 channels and RePoseDM 16", "with the VAE of RePoseDM Loader"),
    "four channels, stock sampler": (
        lambda small: four_channels(small, kind="KSampler"),
        "latent: it has 4 channels and RePoseDM 16",
        "with the VAE of RePoseDM Loader",
    ),
    "five axes": (video, "latent: it has shape (2, 16, 2, 16, 12), such as videos", "Connect the latent output"),
    "five axes, stock sampler": (lambda small: video(small, kind="KSampler"), "such as videos", "latent output"),
    "five axes, another stride": (lambda small: video(small, "EmptyHunyuanVideo15Latent"), "such as videos", "output"),
    "a part for stock KSampler": (
        cut,
        "latent: it has 1 pictures and positive / negative 2 poses",
        "RePoseDM KSampler finds",
    ),
    "three pictures, two poses": (
        too_many,
        "latent: it has 3 pictures and positive / negative 2 poses",
        "give as many of both",
    ),
    "VAE of another model": (other_vae, "vae: the guided model is RePoseDM and this is no VAE of it", "of RePoseDM L"),
    "RePoseDM's VAE": (our_vae, "vae: this is RePoseDM's and the guided model another", "connect the VAE of that"),
    "schedule": (
        lambda small: {"sample": sampler(["align", 2], scheduler="kl_optimal")},
        "scheduler: kl_optimal gives noise levels that are no numbers at steps = 1",
        "choose more steps",
    ),
    "NaN": (lambda small: {"sample": sampler(["align", 2], cfg=math.nan)}, "cfg = nan", "must be a finite number"),
    "NaN of strength": (
        lambda small: {"guide": guidance(limit=math.nan), "sample": sampler(["align", 2], "guide")},
        "limit = nan",
        "must be a finite number",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_message_names_input_and_remedy(comfy, small, case):
    build, problem, remedy = CASES[case]
    graph = {**base(), **build(small)}
    graph["save"] = graphs.save("sample")
    prompt_id = comfy.queue(graph)
    with pytest.raises(ComfyError) as error:
        comfy.wait(prompt_id, timeout=300)
    comfy.forget(prompt_id)  # a history with NaN in it is no JSON to the page, which other tests open
    message = str(error.value)
    assert message.count(problem) == 1 and remedy in message and "Traceback" not in message, message


def test_empty_latents_of_other_models(comfy):
    """Stable Diffusion's and that of Stable Diffusion 3, which say for which stride they are: the same picture."""
    graph = base()
    graph["sd"] = graphs.empty(**SIZE, batch_size=2)
    graph["sd3"] = graphs.empty(**SIZE, batch_size=2, kind="EmptySD3LatentImage")
    for name, latent in (("own", ["align", 2]), ("four", ["sd", 0]), ("sixteen", ["sd3", 0])):
        graph[name] = sampler(latent)
        graph[f"save {name}"] = graphs.save(name)
    run = Run(comfy, graph)
    own, *others = (run.latent(f"save {name}") for name in ("own", "four", "sixteen"))
    for other in others:
        assert other.equal(own)


def test_models_are_saved(comfy, small):
    """What the loaders give; ModelSave's RePoseSD is in the list of its loader afterwards, and loads."""
    graph = {
        "load": base()["load"],
        "small": four_channels(small)["small"],
        "vae": node("VAESave", vae=["load", 1], filename_prefix="saved/vae"),
        "model": node("ModelSave", model=["load", 0], filename_prefix="saved/model"),
        "small vae": node("VAESave", vae=["small", 2], filename_prefix="saved/small_vae"),
        "small model": node("ModelSave", model=["small", 0], filename_prefix="saved/small"),
    }
    Run(comfy, graph)
    found = {path.name.split("_0")[0]: load_file(path) for path in (comfy.output / "saved").iterdir()}
    assert set(found) == {"vae", "model", "small_vae", "small"}
    from reposedm_core import load_networks
    from reposedm_core.networks import SHIPPED

    networks = load_networks(SHIPPED)
    for name, prefix, network in (
        ("vae", "", networks.autoencoder),
        ("model", "model.diffusion_model.denoiser.", networks.denoiser),
    ):
        state = {prefix + key: value for key, value in network.state_dict().items()}
        assert all(found[name][key].equal(value) for key, value in state.items())
    (path,) = (comfy.output / "saved").glob("small_0*.safetensors")
    shutil.copy(path, comfy.models / "checkpoints" / "saved_again.safetensors")
    again = {
        **base(),
        "small": node("RePoseDMSDLoader", checkpoint="saved_again.safetensors"),
        "empty": graphs.empty(64, 64, 2),
        "sample": sampler(["empty", 0], "small", "KSampler"),
        "save": graphs.save("sample"),
    }
    assert Run(comfy, again).latent("save").isfinite().all()
