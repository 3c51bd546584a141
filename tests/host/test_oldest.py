"""The pack on the oldest ComfyUI that it supports: every node is there, and a pose transfer gives the same picture."""

from __future__ import annotations

import importlib.util
import json
import re
import sys

import numpy as np
import pytest

from tests.fixtures.graphs import Run
from workflows.comfy_server import ROOT, ComfyServer, read_host
from workflows.graph import load_workflow, to_api

pytestmark = pytest.mark.processes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(scope="module")
def setup():
    """The script .ci/comfyui.py as a module."""
    spec = importlib.util.spec_from_file_location("reposedm_host_setup", ROOT / ".ci" / "comfyui.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def oldest(setup):
    """The oldest supported ComfyUI, running with the pack."""
    try:
        comfyui = setup.obtain_oldest()
    except setup.SetupError as error:
        pytest.skip(f"the pack was not seen on ComfyUI {setup.OLDEST}: {error}")
    with ComfyServer(comfyui=comfyui) as server:
        yield server


def nodes(comfy):
    """(title, names of the inputs, types of the outputs) of each node of the pack, by its id."""
    module = f"custom_nodes.{read_host()[1]}"
    return {
        node: (info["display_name"], info["input_order"], info["output"])
        for node, info in comfy.object_info().items()
        if info["python_module"] == module
    }


def test_requirement_is_the_version_that_is_tested(setup):
    comfy = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["comfy"]
    assert comfy["requires-comfyui"] == f">={setup.OLDEST}"


def test_pack_is_imported_without_complaint(oldest, setup):
    log = oldest.log()
    assert f"ComfyUI version: {setup.OLDEST}" in log
    (line,) = re.findall(r".* seconds.*custom_nodes.*", log)
    assert line.endswith(read_host()[1]) and "IMPORT FAILED" not in line


def test_every_node_is_there_as_in_the_present_comfyui(oldest, comfy):
    assert nodes(oldest) == nodes(comfy) != {}


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_templates_have_their_nodes_and_widgets(oldest, comfy, path):
    """The nodes of ComfyUI's own that templates use are there too, and take the same values."""
    workflow = load_workflow(path)
    assert to_api(workflow, oldest.object_info()) == to_api(workflow, comfy.object_info())


@pytest.mark.parametrize("name", ["pose_transfer", "pose_guidance"])
def test_graph_gives_the_picture_of_the_present_comfyui(oldest, comfy, name):
    """Attention may be computed in another order of summation there: two levels of 255 are allowed for."""
    graph = json.loads((ROOT / "tests" / "fixtures" / f"{name}.api.json").read_text(encoding="utf-8"))
    (result,) = (key for key, node in graph.items() if node["class_type"] == "SaveImage")
    pictures = []
    for server in (oldest, comfy):
        pictures += list(Run(server, graph).pictures(result))
    assert np.ptp(pictures[0]) > 50
    assert np.abs(pictures[0] - pictures[1]).max() <= 2
