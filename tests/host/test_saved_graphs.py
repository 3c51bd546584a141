"""Graphs that were saved with version 0.1.0 still run, and give the pictures that they would give if saved today."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.fixtures.graphs import Run
from workflows.comfy_server import ROOT

SAVED = ROOT / "tests" / "fixtures" / "0.1.0"
NODES = json.loads((SAVED / "nodes.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def schemas(comfy):
    return comfy.object_info()


@pytest.mark.parametrize("node", NODES)
def test_sockets_and_widgets_are_where_they_were(schemas, node):
    """A saved workflow names sockets and lists widgets by their order; a saved prompt has what was required then."""
    then, now = NODES[node], schemas[node]["input_order"]
    inputs = [name for section in ("required", "optional") for name in now.get(section, [])]
    before = then["required"] + then["optional"]
    assert inputs[: len(before)] == before, "new inputs go behind the old ones"
    assert set(now.get("required", [])) <= set(then["required"]), "new inputs are optional"
    assert schemas[node]["output"][: len(then["output"])] == then["output"]


@pytest.mark.parametrize("name", ["pose_transfer", "pose_guidance"])
def test_prompt_gives_the_picture_of_the_present_one(comfy, name):
    """What a saved prompt does not say is what it was then: the value that the present workflow has there.

    Example and seed are the saved one's in both. The bare weights of its guidance are the preset of the model now.
    """
    then, now = (
        json.loads((folder / f"{name}.api.json").read_text(encoding="utf-8")) for folder in (SAVED, SAVED.parent)
    )
    for node in now.values():
        if node["class_type"] == "RePoseDMDecode":
            samples, vae = (node["inputs"][socket] for socket in ("latent", "vae"))
            node.update(class_type="VAEDecode", inputs={"samples": samples, "vae": vae})
    assert {key: node["class_type"] for key, node in then.items()} == {
        key: node["class_type"] for key, node in now.items()
    }
    for key, node in then.items():
        if node["class_type"] != "RePoseDMPoseFieldGuidance":
            now[key]["inputs"].update(node["inputs"])
    (result,) = (key for key, node in then.items() if node["class_type"] == "SaveImage")
    before, after = (Run(comfy, prompt).pictures(result) for prompt in (then, now))
    assert np.array_equal(before, after) and len(before)
