"""Bad input: one clear message that names the input and the remedy, and a server that goes on."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.fixtures import graphs
from tests.fixtures.graphs import Run, node
from workflows.comfy_server import ROOT, ComfyError

BODY = {"people": [{"pose_keypoints_2d": [10.0, 10.0, 1.0] * 18}], "canvas_width": 96, "canvas_height": 128}
EXAMPLE = sorted((ROOT / "workflows" / "examples").glob("*_pose.json"))[0].name.removesuffix("_pose.json")
UNET = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture(scope="module", autouse=True)
def files(comfy):
    """Files that are not what they seem, in the server's folders."""
    for folder in ("reposedm", "checkpoints"):
        (comfy.models / folder).mkdir(exist_ok=True)
    save_file({UNET: torch.zeros(8, 8, 3, 3)}, comfy.models / "reposedm" / "humansd.safetensors")
    (comfy.models / "reposedm" / "torn.safetensors").write_bytes(b"\0" * 100)
    (comfy.models / "reposedm" / "deep").mkdir(exist_ok=True)
    save_file({"weight": torch.zeros(2)}, comfy.models / "reposedm" / "deep" / "model.safetensors")
    (comfy.models / "reposedm" / "deep" / "config.json").write_text("[" * 100_000)
    save_file(
        {"weight": torch.full((2,), torch.nan)},
        comfy.models / "reposedm" / "header.safetensors",
        {"reposedm": "[" * 100_000},
    )
    save_file({UNET: torch.zeros(8, 4, 3, 3)}, comfy.models / "checkpoints" / "sd15.safetensors")
    save_file({UNET: torch.zeros(8, 8, 3, 3)}, comfy.models / "checkpoints" / "half.safetensors")
    save_file({"weight": torch.zeros(2)}, comfy.models / "checkpoints" / "lora.safetensors")
    (comfy.models / "checkpoints" / "torn.ckpt").write_bytes(b"no checkpoint")
    save_file({UNET: torch.zeros(8, 8, 3, 3)}, comfy.models / "outside.safetensors")
    (comfy.input / "broken.png").write_bytes(b"no picture")
    (comfy.input / "picture.json").write_bytes(b"\x89PNG\r\n\xff")
    (comfy.input.parent / "outside.json").write_text(json.dumps(BODY))


def load_pose(text="", file="none"):
    return {
        "pose": node("RePoseDMLoadPose", file=file, text=text),
        "draw": node("RePoseDMDrawPose", pose=["pose", 0], width=0, height=0),
        "show": graphs.show("draw"),
    }


def load_model(checkpoint, loader="RePoseDMLoader", vae=1):
    return {
        "load": node(loader, checkpoint=checkpoint),
        "empty": graphs.empty(96, 128),
        "decode": node("VAEDecode", samples=["empty", 0], vae=["load", vae]),
        "show": graphs.show("decode"),
    }


def estimate(estimator):
    return {
        "load": node("RePoseDMEstimatorLoader", estimator=estimator, width=0, height=0, udp="auto"),
        "example": node("RePoseDMExample", example=EXAMPLE),
        "estimate": node("RePoseDMEstimatePose", pose_estimator=["load", 0], image=["example", 0], threshold=0.1),
        "save": node("RePoseDMSavePose", pose=["estimate", 0], filename_prefix="bad"),
    }


def load_sd(checkpoint):
    return load_model(checkpoint, "RePoseDMSDLoader", 2)


def align(width=0, height=0, source=None):
    return {
        "load": graphs.shipped(),
        "example": node("RePoseDMExample", example=EXAMPLE),
        "picture": node("LoadImage", image="broken.png"),
        "align": graphs.align(source or ["example", 0], ["example", 1], width=width, height=height),
        "show": graphs.show("align", 3),
    }


def sample(width, height):
    return {
        **align(),
        "empty": graphs.empty(width, height),
        "sample": graphs.sample(["empty", 0], steps=1),
        "save": graphs.save("sample"),
    }


ANIMAL = json.dumps([{"version": "ap10k", "animals": [[[1, 1, 1]] * 17], "canvas_width": 96, "canvas_height": 128}])
CASES = {
    "RePoseDMLoadPose": {
        "no JSON": (load_pose("not a pose"), "text: this is no pose: it is no JSON", "give a pose"),
        "JSON that is no pose": (
            load_pose('{"a": 1}'),
            "text: this is no pose, its JSON has no 'people' list",
            "give a pose",
        ),
        "empty text, no file": (load_pose(), "text: it is empty", "choose a file or paste"),
        "nobody": (load_pose(json.dumps({**BODY, "people": []})), "text: there is nobody", "give one"),
        "animal": (load_pose(ANIMAL), "text: this is an animal pose", "only people"),
        "file that is no text": (
            load_pose(file="picture.json"),
            "picture.json: this is no pose, it is no text file",
            "saved as JSON",
        ),
        "pose outside": (load_pose(file="../outside.json"), "file - there is no", "copy the JSON file there"),
        "missing pose": (load_pose(file="gone.json"), "file - there is no", "copy the JSON file there"),
    },
    "RePoseDMRecurrentPoseAligner": {
        "size": (align(100, 128), "width × height = 100 × 128", "nearest is 96 × 128"),
    },
    "RePoseDMKSampler": {
        "latent of another size": (
            sample(width=64, height=64),
            "latent: it is for 64 × 64",
            "connect the latent output",
        ),
    },
    "RePoseDMLoader": {
        "checkpoint of another kind": (load_model("humansd.safetensors"), "not a RePoseDM model", "RePoseSD Loader"),
        "torn checkpoint": (load_model("torn.safetensors"), "torn.safetensors: not a readable", "Download it again"),
        "checkpoint outside": (
            load_model("../outside.safetensors"),
            "checkpoint - there is no file",
            "models/reposedm",
        ),
        "missing checkpoint": (load_model("gone.safetensors"), "checkpoint - there is no file", "models/reposedm"),
        "header nested without end": (
            load_model("header.safetensors"),
            "its RePoseDM header is damaged",
            "Download it again",
        ),
    },
    "RePoseDMSDLoader": {
        "RePoseDM file for RePoseSD": (
            load_sd("reposedm-mini.safetensors"),
            "is a RePoseDM model",
            "use RePoseDM Loader",
        ),
        "4 channels for RePoseSD": (load_sd("sd15.safetensors"), "has 4 input channels", "use Load Checkpoint"),
        "no checkpoint for RePoseSD": (load_sd("lora.safetensors"), "lora.safetensors is no Stable", "HumanSD"),
        "torn checkpoint for RePoseSD": (load_sd("torn.ckpt"), "torn.ckpt: not a readable", "Download it again"),
        "outside for RePoseSD": (
            load_sd("../outside.safetensors"),
            "checkpoint - there is no file",
            "models/checkpoints or models/reposedm",
        ),
        "incomplete for RePoseSD": (load_sd("half.safetensors"), "half.safetensors lacks weights", "download it again"),
    },
    "RePoseDMEstimatorLoader": {
        "settings nested without end": (estimate("deep"), "deep: its config.json cannot be read", "download it again"),
        "header nested without end, estimator": (
            estimate("header.safetensors"),
            "its RePoseDM header is damaged",
            "Download it again",
        ),
    },
}
"""By the node that fails: a graph, what is wrong, and what to do."""


@pytest.mark.parametrize(("kind", "case"), [(kind, case) for kind, cases in CASES.items() for case in cases])
def test_one_message_names_input_and_remedy(comfy, kind, case):
    graph, problem, remedy = CASES[kind][case]
    with pytest.raises(ComfyError) as error:
        Run(comfy, graph)
    message = str(error.value)
    assert f"({kind})" in message and problem in message and remedy in message, message
    assert message.count(problem) == 1, message
    assert "Traceback" not in message and len(message.split(kind)[-1].splitlines()) <= 1, message


def test_page_begins_with_the_error_and_no_path(comfy):
    """It writes type: message."""
    prompt_id = comfy.queue(load_pose("not a pose"))
    with pytest.raises(ComfyError):
        comfy.wait(prompt_id)
    (told,) = (data for kind, data in comfy.history(prompt_id)["status"]["messages"] if kind == "execution_error")
    assert told["exception_type"] == "InputError"
    assert told["exception_message"].startswith("text: this is no pose")


def test_typo_in_one_input_blames_no_other(comfy):
    graph = {
        "load": graphs.shipped(),
        **load_pose(json.dumps(BODY)),
        "guide": graphs.guide("load", ["load", 1], ["load", 3], ["pose", 0], joints="elbo", people="0"),
        "save": node("ModelSave", model=["guide", 0], filename_prefix="bad"),
    }
    with pytest.raises(ComfyError) as error:
        comfy.queue(graph)
    assert "joints - 'elbo' is no joint" in str(error.value) and "people" not in str(error.value)


def test_broken_picture_is_named(comfy):
    """Load Image is the host's: it names the file, and no node of the pack runs after it."""
    with pytest.raises(ComfyError, match=r"\(LoadImage\): .*cannot identify image file.*broken\.png"):
        Run(comfy, align(source=["picture", 0]))


def test_server_goes_on(comfy):
    assert comfy.run(load_pose(json.dumps(BODY)))
    assert comfy.run(align())
