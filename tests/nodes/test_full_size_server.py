"""A photograph's size through the real server: what comes back has it, and around the mask it is the photograph."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.fixtures import graphs
from tests.fixtures.graphs import Run, node
from workflows.comfy_server import ROOT

EXAMPLES = ROOT / "workflows" / "examples"
FILE = "tiny-256.safetensors"
SIZE = 1024, 1536
"""Width and height of a photograph; the person is in the middle of it."""
LEFT, TOP, WIDTH, HEIGHT = 400, 600, 384, 512


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
    (comfy.models / "reposedm").mkdir(exist_ok=True)
    shutil.copy(tiny_256, comfy.models / "reposedm" / FILE)
    path = tmp_path_factory.mktemp("pictures") / "photograph.png"
    Image.fromarray(photograph).save(path)
    settings = {"margin": 0.1, "width": 0, "height": 0, "crops": "each picture"}
    wanted = {"pose": ["own", 0], "target_pose": ["wanted", 0], "aligner": ["load", 2]}
    graph = {
        "load": graphs.shipped(FILE),
        "photograph": node("LoadImage", image=comfy.upload_image(path)),
        "own": node("RePoseDMLoadPose", file="none", text=json.dumps(pose("lime_top_source.json"))),
        "wanted": node("RePoseDMLoadPose", file="none", text=json.dumps(pose("lime_top_pose.json"))),
        "crop": node("RePoseDMCropToPerson", image=["photograph", 0], **wanted, **settings),
        "white": node("SolidMask", value=1.0, width=64, height=64),
        "black": node("SolidMask", value=0.0, width=64, height=64),
        "cover": node("MaskComposite", destination=["black", 0], source=["white", 0], x=24, y=28, operation="add"),
    }

    def transfer(name, source, own, pose):
        aligner = f"{name} align"
        graph[aligner] = graphs.align(source, pose, source_pose=own, output_size="source")
        graph[f"{name} sample"] = graphs.sample([aligner, 2], text=aligner, seed=5)
        graph[name] = node("RePoseDMDecode", latent=[f"{name} sample", 0], vae=["load", 1], aligner=["load", 2])

    transfer("cropped", ["crop", 0], ["crop", 1], ["crop", 2])
    transfer("whole", ["photograph", 0], ["own", 0], ["wanted", 0])
    paste = {"picture": ["photograph", 0], "result": ["cropped", 0], "crop": ["crop", 4]}
    paste |= {"grow": 1.0, "feather": 2.0, "match_colours": 1.0}
    graph["pasted"] = node("RePoseDMPasteBack", mask=["cropped align", 7], **paste)
    graph["nothing"] = node("RePoseDMPasteBack", mask=["black", 0], **paste)
    graph["dressed"] = graphs.dress(
        ["photograph", 0],
        ["crop", 0],
        ["cover", 0],
        pose=["own", 0],
        garment_pose=["crop", 1],
        output_size="source",
        seed=5,
        feather=3,
    )
    shown = {"crop": 0, "cropped": 0, "whole": 0, "pasted": 0, "dressed": 0, "nothing": 0, "cropped align": 3}
    for name, place in (("pasted", 1), ("dressed", 2)):
        graph[f"{name} share"] = node("MaskToImage", mask=[name, place])
        shown[f"{name} share"] = 0
    run = Run(comfy, graph | {f"show {name}": graphs.show(name, place) for name, place in shown.items()})
    yield {name: run.pictures(f"show {name}") for name in shown}
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
    near = torch.from_numpy(share)[None].float()
    for along in ((49, 1), (1, 49)):
        near = torch.nn.functional.max_pool2d(near, along, 1, [side // 2 for side in along])
    far = (near[0] == 0).numpy()
    assert 0.2 < far.mean() < 0.98
    assert np.array_equal(pictures[name][0][far], photograph[far])
    assert not np.array_equal(pictures[name][0][share == 255], photograph[share == 255])


def test_nothing_pasted_back_is_the_photograph(pictures, photograph):
    assert np.array_equal(pictures["nothing"][0], photograph)
