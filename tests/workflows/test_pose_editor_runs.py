"""What the Pose Editor asks of the server: people found by a click, connected inputs seen without a whole run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from reposedm_core.pose import load_pose_file
from tests.fixtures.waiting import eventually
from tests.workflows.pose_page import EDITOR, EXAMPLE, SHOW, example, graph
from workflows.comfy_server import ROOT

pytestmark = pytest.mark.browser

LOAD_IMAGE = [{"name": "IMAGE", "type": "IMAGE"}, {"name": "MASK", "type": "MASK"}]
PICTURE = ROOT / "workflows" / "examples" / EXAMPLE.name.replace("_pose.json", "_target.png")
INTO_SUBGRAPH = """ids => {
    const { graph, canvas } = window.app;
    const nodes = ids.map((id) => graph.getNodeById(id));
    canvas.selectItems?.(nodes);
    graph.convertToSubgraph(new Set(nodes));
}"""
SUBGRAPH = "[...(window.app.rootGraph ?? window.app.graph).subgraphs.values()][0]"


def with_picture(comfy, path) -> dict:
    name = comfy.upload_image(path)
    return graph({"type": "LoadImage", "widgets_values": [name, "image"], "outputs": LOAD_IMAGE}, {"image": 0})


def test_people_are_found_by_a_click(editor, comfy, tmp_path):
    (truth,) = load_pose_file(EXAMPLE)
    editor.load(with_picture(comfy, PICTURE))
    editor.status("192 × 256")
    editor.press("detect")
    editor.note("1 person found.")
    found = editor.joints()
    seen = (found[0, :, 2] > 0) & (truth.joints[0, :, 2] > 0)
    assert seen.sum() >= 12
    far = np.hypot(*(found[0, seen, :2] - truth.joints[0, seen, :2]).T)
    assert np.median(far) < 8, "in pixels of 192 × 256"
    assert editor.page.evaluate("id => window.app.nodeOutputs[id]", SHOW) is None, "nothing else ran"
    editor.press("undo")
    assert editor.value == ""
    assert editor.errors == []


def test_detecting_says_what_is_missing(editor, comfy, tmp_path):
    editor.load(graph(size=(96, 128)))
    editor.press("mirror")
    before = editor.value
    editor.press("detect")
    editor.note("Connect a picture to the input image first.")
    Image.fromarray(np.zeros((128, 96, 3), np.uint8)).save(tmp_path / "gone.png")
    workflow = with_picture(comfy, tmp_path / "gone.png")
    workflow["nodes"][-1]["widgets_values"][0] = "no such file.png"
    editor.load(workflow)
    editor.press("mirror")
    before = editor.value
    editor.press("detect")
    editor.note("no such file.png")
    assert editor.value == before
    editor.choose("view", "show")  # the page says what it says about such a node in any run
    assert editor.errors == []


@pytest.mark.parametrize("inside", [False, True])
def test_connected_inputs_are_seen_without_a_whole_run(editor, inside):
    """Also in a subgraph, whose inputs come from outside."""
    editor.load(example())
    editor.status("run once to see the connected pose and picture (I)")
    if inside:
        editor.page.evaluate(INTO_SUBGRAPH, [EDITOR])
        editor.page.evaluate(f"() => window.app.canvas.setGraph?.({SUBGRAPH})")
        editor.zoom(1)
        editor.status("run once to see the connected pose and picture (I)")
    editor.key("i")
    editor.status("192 × 256 · as connected")
    assert editor.page.evaluate("id => window.app.nodeOutputs[id]", SHOW) is None, "nothing else ran"
    if inside:
        editor.press("detect")
        editor.note("1 person found.")
        editor.status("edited")
    assert editor.errors == []


def test_a_loaded_picture_is_seen_through_subgraphs_and_reroutes(editor, comfy):
    workflow = with_picture(comfy, PICTURE)
    reroute = {"id": 8, "type": "Reroute", "pos": [360, 500], "size": [75, 26], "mode": 0, "order": 1, "flags": {},
               "properties": {}, "inputs": [{"name": "", "type": "*", "link": 1}],
               "outputs": [{"name": "", "type": "IMAGE", "links": [20]}]}  # fmt: skip
    workflow["nodes"].append(reroute)
    workflow["nodes"][0]["inputs"][0]["link"] = 20
    workflow["links"] = [[1, 1, 0, 8, 0, "IMAGE"], [20, 8, 0, EDITOR, 0, "IMAGE"], *workflow["links"][1:]]
    workflow.update(last_node_id=8, last_link_id=20)
    editor.load(workflow)
    editor.status("192 × 256")
    editor.page.evaluate(INTO_SUBGRAPH, [EDITOR])
    editor.page.evaluate(f"() => window.app.canvas.setGraph?.({SUBGRAPH})")
    editor.zoom(1)
    editor.status("192 × 256")
    saved = json.loads(editor.page.evaluate("() => JSON.stringify((app.rootGraph ?? app.graph).serialize())"))
    editor.page.evaluate("graph => window.app.loadGraphData(graph, true, true, 'pose')", saved)
    editor.page.evaluate(f"() => window.app.canvas.setGraph?.({SUBGRAPH})")
    editor.zoom(1)
    eventually(lambda: editor.status("192 × 256"))
    assert editor.errors == []
