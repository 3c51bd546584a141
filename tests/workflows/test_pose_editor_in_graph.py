"""The Pose Editor as a node of a graph: linked sizes, copies, collapsing, removing, subgraphs."""

from __future__ import annotations

import json

import pytest

from tests.fixtures.waiting import eventually, frames
from tests.workflows.pose_page import EDITOR, example, graph, node

pytestmark = pytest.mark.browser

KIND = "node => node.comfyClass === 'RePoseDMPoseEditor'"
VALUES = f"""() => window.app.graph.nodes.filter({KIND})
    .map(node => node.widgets.find(({{ name }}) => name === 'edit').value)"""
COPY = f"""() => {{
    const {{ canvas, graph }} = window.app;
    const node = graph.nodes.find({KIND});
    canvas.selectNode?.(node);
    canvas.copyToClipboard([node]);
    [canvas.graph_mouse[0], canvas.graph_mouse[1]] = [420, 800];
    canvas.pasteFromClipboard();
}}"""
COLLAPSE = f"""() => {{
    window.app.graph.nodes.filter({KIND})[1].collapse();
    window.app.canvas.setDirty(true, true);
}}"""
REMOVE = f"() => window.app.graph.remove(window.app.graph.nodes.filter({KIND})[1])"
INTO_SUBGRAPH = f"""() => {{
    const {{ graph, canvas }} = window.app;
    const node = graph.nodes.find({KIND});
    canvas.selectItems?.([node]);
    graph.convertToSubgraph(new Set([node]));
}}"""
SUBGRAPH = "[...(window.app.rootGraph ?? window.app.graph).subgraphs.values()][0]"
INSIDE = f"""() => {SUBGRAPH}.nodes.filter({KIND})
    .map(node => node.widgets.find(({{ name }}) => name === 'edit').value)"""


def with_linked_width(value: int) -> dict:
    """An editor whose width comes from another node."""
    workflow = graph(size=(60, 80))
    workflow["nodes"][0]["inputs"].append({"name": "width", "type": "INT", "widget": {"name": "width"}, "link": 20})
    workflow["links"].append([20, 7, 0, EDITOR, len(workflow["nodes"][0]["inputs"]) - 1, "INT"])
    outputs = [{"name": "INT", "type": "INT", "links": [20]}]
    workflow["nodes"].append(node(7, "PrimitiveInt", (40, 60, 320, 100), [value, "fixed"], outputs=outputs))
    return {**workflow, "last_link_id": 20, "last_node_id": 7}


def test_a_linked_width_is_known_after_a_run(editor):
    editor.load(with_linked_width(160))
    editor.status("run once to see the connected size")
    assert editor.run()[0]["canvas_width"] == 160
    editor.status("160 × 80")
    assert not editor.errors


def test_a_copy_is_an_editor_of_its_own_and_poses_outlive_collapsing_removing_and_subgraphs(editor):
    editor.load(example())
    page = editor.page
    editor.run()
    editor.status("192 × 256 · as connected")
    editor.press("mirror")
    (first,) = page.evaluate(VALUES)
    assert first

    def hold(values: list[str], where: str = VALUES) -> None:
        assert page.evaluate(where) == values

    def shown() -> None:
        assert page.get_by_test_id("pose-editor-canvas").count() == 1

    page.evaluate(COPY)
    eventually(lambda: hold([first, first]))
    editor.zoom(0.4)
    page.get_by_test_id("pose-editor-mirror").nth(1).click()
    both = page.evaluate(VALUES)
    assert both[0] == first != both[1]

    for _ in range(2):
        page.evaluate(COLLAPSE)
        frames(page)
        hold(both)

    page.evaluate(REMOVE)
    eventually(shown)

    page.evaluate(INTO_SUBGRAPH)
    eventually(lambda: hold([first], INSIDE))
    x = json.loads(first)["people"][0]["pose_keypoints_2d"][0]
    assert editor.run()[0]["people"][0]["pose_keypoints_2d"][0] == pytest.approx(x, abs=0.1)
    page.evaluate(f"() => window.app.canvas.setGraph?.({SUBGRAPH})")
    editor.zoom(1)
    eventually(shown)
    editor.status("edited")
    assert not editor.errors
