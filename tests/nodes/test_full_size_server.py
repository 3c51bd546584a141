"""A photograph's size through the real server: what comes back has it, and around the mask it is the photograph."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from workflows.comfy_server import ROOT

EXAMPLES = ROOT / "workflows" / "examples"
FILE = "tiny-256.safetensors"
SIZE = 1024, 1536
"""Width and height of a photograph; the person is in the middle of it."""
LEFT, TOP, WIDTH, HEIGHT = 400, 600, 384, 512
SAMPLING = {"seed": 5, "steps": 2, "cfg": 1.25, "sampler_name": "ddim", "scheduler": "simple"}


@pytest.fixture(scope="module")
def photograph():
    """A person in the middle of noise: detail in every pixel."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    person = Image.open(EXAMPLES / "lime_top.png").convert("RGB").resize((WIDTH, HEIGHT))
    pixels[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH] = np.asarray(person)
    return pixels


def pose(name):
    """A pose of the examples, as it lies in the photograph."""
    from reposedm_core.pose import load_pose_file, to_keypoints

    placed = load_pose_file(EXAMPLES / name)[0].resized(HEIGHT, WIDTH)._moved(1, LEFT, TOP, SIZE[1], SIZE[0])
    return to_keypoints([placed])


@pytest.fixture(scope="module")
def pictures(comfy, tiny_256, photograph, tmp_path_factory):
    """What the nodes of three graphs show, (B, H, W, 3) by their ids."""
    import json

    (comfy.models / "reposedm").mkdir(exist_ok=True)
    shutil.copy(tiny_256, comfy.models / "reposedm" / FILE)
    path = tmp_path_factory.mktemp("pictures") / "photograph.png"
    Image.fromarray(photograph).save(path)
    graph = {
        "load": {"class_type": "RePoseDMLoader", "inputs": {"checkpoint": FILE}},
        "photograph": {"class_type": "LoadImage", "inputs": {"image": comfy.upload_image(path)}},
    }

    def node(name, kind, **inputs):
        graph[name] = {"class_type": kind, "inputs": inputs}

    for name, file in (("own", "lime_top_source.json"), ("wanted", "lime_top_pose.json")):
        node(name, "RePoseDMLoadPose", file="none", text=json.dumps(pose(file)))
    node(
        "crop",
        "RePoseDMCropToPerson",
        image=["photograph", 0],
        pose=["own", 0],
        target_pose=["wanted", 0],
        aligner=["load", 2],
        margin=0.1,
        width=0,
        height=0,
        crops="each picture",
    )

    def transfer(name, source, own, wanted):
        node(
            f"{name} align",
            "RePoseDMRecurrentPoseAligner",
            aligner=["load", 2],
            vae=["load", 1],
            source=source,
            pose=wanted,
            source_pose=own,
            width=0,
            height=0,
            output_size="source",
        )
        node(
            f"{name} sample",
            "RePoseDMKSampler",
            model=["load", 0],
            positive=[f"{name} align", 0],
            negative=[f"{name} align", 1],
            latent=[f"{name} align", 2],
            denoise=1.0,
            **SAMPLING,
        )
        node(name, "RePoseDMDecode", latent=[f"{name} sample", 0], vae=["load", 1], aligner=["load", 2])

    transfer("cropped", ["crop", 0], ["crop", 1], ["crop", 2])
    transfer("whole", ["photograph", 0], ["own", 0], ["wanted", 0])
    paste = {"grow": 1.0, "feather": 2.0, "match_colours": 1.0}
    node(
        "pasted",
        "RePoseDMPasteBack",
        picture=["photograph", 0],
        result=["cropped", 0],
        crop=["crop", 4],
        mask=["cropped align", 7],
        **paste,
    )
    node("white", "SolidMask", value=1.0, width=64, height=64)
    node("black", "SolidMask", value=0.0, width=64, height=64)
    node(
        "cover",
        "MaskComposite",
        destination=["black", 0],
        source=["white", 0],
        x=24,
        y=28,
        operation="add",
    )
    dress = {"model": ["load", 0], "vae": ["load", 1], "aligner": ["load", 2], **SAMPLING, "feather": 3}
    node(
        "dressed",
        "RePoseDMGarmentTransfer",
        reference=["photograph", 0],
        garment=["crop", 0],
        mask=["cover", 0],
        pose=["own", 0],
        garment_pose=["crop", 1],
        width=0,
        height=0,
        output_size="source",
        **dress,
    )
    node("nothing", "RePoseDMPasteBack", picture=["photograph", 0], result=["cropped", 0], crop=["crop", 4],
         mask=["black", 0], **paste)  # fmt: skip
    shown = {"crop": 0, "cropped": 0, "whole": 0, "pasted": 0, "dressed": 0, "nothing": 0, "cropped align": 3}
    for name, place in shown.items():
        node(f"show {name}", "PreviewImage", images=[name, place])
    for name, place in (("pasted", 1), ("dressed", 2)):
        node(f"{name} as picture", "MaskToImage", mask=[name, place])
        node(f"show {name} share", "PreviewImage", images=[f"{name} as picture", 0])
    run = comfy.queue(graph)
    comfy.wait(run)
    found = {}
    for name in graph:
        if name.startswith("show "):
            files = comfy.images(run, name)
            found[name.removeprefix("show ")] = np.stack(
                [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
            )
    yield found
    (comfy.models / "reposedm" / FILE).unlink()


def test_pose_transfer_gives_the_photograph_s_size(pictures, photograph):
    assert pictures["pasted"].shape == pictures["whole"].shape == (1, *photograph.shape)
    assert pictures["cropped"].shape == pictures["crop"].shape == pictures["cropped align"].shape
    height, width = pictures["crop"].shape[1:3]
    assert 400 < height < 1000 and abs(width / height - 0.75) < 0.05


@pytest.mark.parametrize("name", ["pasted", "dressed"])
def test_outside_of_the_feathered_mask_it_is_the_photograph(pictures, photograph, name):
    share = pictures[f"{name} share"][0, ..., 0]
    # The fade is 2 % of the crop wide, 3 pixels of the model in Garment Transfer; in its last pixels shares are less
    # than a level.
    near = torch.from_numpy(share.copy())[None].float()
    for along in ((49, 1), (1, 49)):
        near = torch.nn.functional.max_pool2d(near, along, 1, [side // 2 for side in along])
    far = (near[0] == 0).numpy()
    assert 0.2 < far.mean() < 0.98
    assert np.array_equal(pictures[name][0][far], photograph[far])
    assert not np.array_equal(pictures[name][0][share == 255], photograph[share == 255])


def test_nothing_pasted_back_is_the_photograph(pictures, photograph):
    assert np.array_equal(pictures["nothing"][0], photograph)
