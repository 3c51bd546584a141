"""Parts of batches, latents and VAEs of other models, and stock nodes that save, through ComfyUI's own validation."""

from __future__ import annotations

import json
import math
import shutil

import pytest
from safetensors.torch import load_file

from reposedm_core import PRESETS
from reposedm_core.presets import SHIPPED_PRESET
from workflows.comfy_server import ROOT, ComfyError

EXAMPLES = ROOT / "workflows" / "examples"
POSES = json.dumps([json.loads(path.read_text())[0] for path in sorted(EXAMPLES.glob("*_pose.json"))[:2]])
MODEL = PRESETS[SHIPPED_PRESET]
SIZE = {"width": MODEL.width, "height": MODEL.height}
SAMPLING = {"seed": 1, "steps": 1, "cfg": 1.25, "sampler_name": "ddim", "scheduler": "simple", "denoise": 1.0}


@pytest.fixture(scope="module")
def small(comfy, reposesd_file):
    """Name of a RePoseSD checkpoint, for its VAE of 4 channels."""
    (comfy.models / "checkpoints").mkdir(exist_ok=True)
    shutil.copy(reposesd_file, comfy.models / "checkpoints" / "four_channels.safetensors")
    return "four_channels.safetensors"


def base():
    """The shipped model, one source in two poses, and their latent."""
    return {
        "load": {"class_type": "RePoseDMLoader", "inputs": {"checkpoint": "reposedm-mini.safetensors"}},
        "example": {"class_type": "RePoseDMExample", "inputs": {"example": "red_trousers"}},
        "poses": {"class_type": "RePoseDMLoadPose", "inputs": {"file": "none", "text": POSES}},
        "align": {
            "class_type": "RePoseDMRecurrentPoseAligner",
            "inputs": {
                "aligner": ["load", 2],
                "vae": ["load", 1],
                "source": ["example", 0],
                "pose": ["poses", 0],
                "width": 0,
                "height": 0,
            },
        },
    }


def sampler(latent, model="load", kind="RePoseDMKSampler", **changed):
    name = "latent" if kind == "RePoseDMKSampler" else "latent_image"
    return {
        "class_type": kind,
        "inputs": {
            "model": [model, 0],
            "positive": ["align", 0],
            "negative": ["align", 1],
            name: latent,
            **SAMPLING,
            **changed,
        },
    }


def guidance(vae=("load", 1), model="load", **changed):
    return {
        "class_type": "RePoseDMPoseFieldGuidance",
        "inputs": {
            "model": [model, 0],
            "vae": list(vae),
            "pose_estimator": ["load", 3],
            "pose": ["poses", 0],
            "strength": 0.2,
            "start_percent": 0.0,
            "end_percent": 1.0,
            "space": "heatmaps",
            "limit": 0.3,
            **changed,
        },
    }


def test_parts_of_a_batch_get_their_own_poses(comfy):
    graph = base()
    graph["guide"] = guidance()
    graph["second"] = {
        "class_type": "LatentFromBatch",
        "inputs": {"samples": ["align", 2], "batch_index": 1, "length": 1},
    }
    graph["each"] = {"class_type": "RebatchLatents", "inputs": {"latents": ["align", 2], "batch_size": 1}}
    for name, latent in (("whole", ["align", 2]), ("part", ["second", 0]), ("list", ["each", 0])):
        for kind, model in (("plain", "load"), ("guided", "guide")):
            graph[f"{name} {kind}"] = sampler(latent, model)
            graph[f"save {name} {kind}"] = {
                "class_type": "SaveLatent",
                "inputs": {"samples": [f"{name} {kind}", 0], "filename_prefix": f"parts/{name}_{kind}"},
            }
    prompt_id = comfy.queue(graph)
    comfy.wait(prompt_id)
    outputs = comfy.history(prompt_id)["outputs"]

    def saved(name):
        return [
            load_file(comfy.output / file["subfolder"] / file["filename"])["latent_tensor"]
            for file in outputs[f"save {name}"]["latents"]
        ]

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
        "small": {"class_type": "RePoseDMSDLoader", "inputs": {"checkpoint": small}},
        "encode": {"class_type": "VAEEncode", "inputs": {"pixels": ["example", 0], "vae": ["small", 2]}},
        "sample": sampler(["encode", 0], **changed),
    }


def video(small, node="EmptyHunyuanLatentVideo", **changed):
    return {
        "video": {"class_type": node, "inputs": {**SIZE, "length": 5, "batch_size": 2}},
        "sample": sampler(["video", 0], **changed),
    }


def cut(small):
    return {
        "second": {"class_type": "LatentFromBatch", "inputs": {"samples": ["align", 2], "batch_index": 1, "length": 1}},
        "sample": sampler(["second", 0], kind="KSampler"),
    }


def too_many(small):
    return {
        "empty": {"class_type": "EmptyLatentImage", "inputs": {**SIZE, "batch_size": 3}},
        "sample": sampler(["empty", 0]),
    }


def other_vae(small):
    return {**four_channels(small), "guide": guidance(vae=("small", 2)), "sample": sampler(["align", 2], "guide")}


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
    graph["save"] = {"class_type": "SaveLatent", "inputs": {"samples": ["sample", 0], "filename_prefix": "bad"}}
    prompt_id = comfy.queue(graph)
    with pytest.raises(ComfyError) as error:
        comfy.wait(prompt_id, timeout=300)
    comfy.forget(prompt_id)  # a history with NaN in it is no JSON to the page, which other tests open
    message = str(error.value)
    assert message.count(problem) == 1 and remedy in message and "Traceback" not in message, message


def test_empty_latents_of_other_models(comfy):
    """Stable Diffusion's and that of Stable Diffusion 3, which say for which stride they are: the same picture."""
    graph, size = base(), {**SIZE, "batch_size": 2}
    graph["sd"] = {"class_type": "EmptyLatentImage", "inputs": size}
    graph["sd3"] = {"class_type": "EmptySD3LatentImage", "inputs": size}
    for name, latent in (("own", ["align", 2]), ("four", ["sd", 0]), ("sixteen", ["sd3", 0])):
        graph[name] = sampler(latent)
        graph[f"save {name}"] = {
            "class_type": "SaveLatent",
            "inputs": {"samples": [name, 0], "filename_prefix": f"empty/{name}"},
        }
    prompt_id = comfy.queue(graph)
    comfy.wait(prompt_id)
    outputs = comfy.history(prompt_id)["outputs"]
    own, *others = (
        load_file(comfy.output / "empty" / outputs[f"save {name}"]["latents"][0]["filename"])["latent_tensor"]
        for name in ("own", "four", "sixteen")
    )
    for other in others:
        assert other.equal(own)


def test_models_are_saved(comfy, small):
    """What the loaders give; ModelSave's RePoseSD is in the list of its loader afterwards, and loads."""
    graph = {
        "load": base()["load"],
        "small": four_channels(small)["small"],
        "vae": {"class_type": "VAESave", "inputs": {"vae": ["load", 1], "filename_prefix": "saved/vae"}},
        "model": {"class_type": "ModelSave", "inputs": {"model": ["load", 0], "filename_prefix": "saved/model"}},
        "small vae": {"class_type": "VAESave", "inputs": {"vae": ["small", 2], "filename_prefix": "saved/small_vae"}},
        "small model": {"class_type": "ModelSave", "inputs": {"model": ["small", 0], "filename_prefix": "saved/small"}},
    }
    prompt_id = comfy.queue(graph)
    comfy.wait(prompt_id)
    found = {path.name.split("_0")[0]: load_file(path) for path in (comfy.output / "saved").iterdir()}
    assert set(found) == {"vae", "model", "small_vae", "small"}
    from reposedm_core import load_networks
    from reposedm_core.pipeline import SHIPPED

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
        "small": {"class_type": "RePoseDMSDLoader", "inputs": {"checkpoint": "saved_again.safetensors"}},
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 2}},
        "sample": sampler(["empty", 0], "small", "KSampler"),
        "save": {"class_type": "SaveLatent", "inputs": {"samples": ["sample", 0], "filename_prefix": "again"}},
    }
    comfy.wait(comfy.queue(again))
