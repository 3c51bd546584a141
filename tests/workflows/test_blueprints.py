"""Subgraph blueprints: whole, served by ComfyUI, found in the page, and running there on an example."""

from __future__ import annotations

import json
import urllib.request

import pytest

from tests.fixtures.waiting import CEILING, frames
from workflows.comfy_server import ROOT, read_host
from workflows.graph import widget_names

BLUEPRINTS = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((ROOT / "subgraphs").glob("*.json"))}
INPUT, OUTPUT = -10, -20
"""Ids of the ends of a subgraph."""
FROM_EXAMPLE = {
    "Pose Transfer (RePoseDM)": {"image": 0, "pose": 1},
    "Pose Animation (RePoseDM)": {"image": 0, "pose": 1},
    "Garment Transfer (RePoseDM)": {"person": 0, "garment": 2, "mask": 3},
}
"""Which output of RePoseDM Example feeds which input; the others may be left out."""
NEW, EXAMPLE, SHOW = 1, 2, 3


@pytest.fixture(params=BLUEPRINTS)
def name(request):
    return request.param


@pytest.fixture
def subgraph(name):
    (node,), (inner,) = BLUEPRINTS[name]["nodes"], BLUEPRINTS[name]["definitions"]["subgraphs"]
    assert node["type"] == inner["id"] and node["title"] == inner["name"] == name
    for side in ("inputs", "outputs"):
        assert [(slot["name"], slot["type"]) for slot in node[side]] == [(s["name"], s["type"]) for s in inner[side]]
    return inner


def test_links_lead_where_slots_say(subgraph):
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    assert len({link["id"] for link in subgraph["links"]}) == len(subgraph["links"]) == subgraph["state"]["lastLinkId"]
    for link in subgraph["links"]:
        out, into = link["origin_slot"], link["target_slot"]
        if link["origin_id"] == INPUT:
            assert link["id"] in subgraph["inputs"][out]["linkIds"]
        else:
            assert link["id"] in nodes[link["origin_id"]]["outputs"][out]["links"]
        if link["target_id"] == OUTPUT:
            assert link["id"] in subgraph["outputs"][into]["linkIds"]
        else:
            assert nodes[link["target_id"]]["inputs"][into]["link"] == link["id"]
    ends = {link["id"] for link in subgraph["links"]}
    for node in nodes.values():
        assert {slot["link"] for slot in node["inputs"]} - {None} <= ends
        assert {link for slot in node["outputs"] for link in slot["links"]} <= ends


def test_nodes_fit_their_schemas(name, subgraph, schemas):
    nodes = {str(node["id"]): node for node in subgraph["nodes"]}
    for node in nodes.values():
        schema = schemas[node["type"]]
        known = {**schema["input"].get("required", {}), **schema["input"].get("optional", {})}
        widgets = dict(zip(widget_names(schema), node.get("widgets_values") or [], strict=True))
        assert widgets.get("output_size") in (None, "source"), "not the networks' frame with its continued borders"
        assert {slot["name"] for slot in node["inputs"]} == set(known)
        assert [slot["type"] for slot in node["outputs"]] == schema["output"]
    for key, widget in BLUEPRINTS[name]["nodes"][0]["properties"]["proxyWidgets"]:
        assert widget in widget_names(schemas[nodes[key]["type"]])


def test_served_with_the_pack(comfy):
    with urllib.request.urlopen(f"{comfy.url}/api/global_subgraphs", timeout=CEILING) as answer:
        entries = json.load(answer).values()
    ours = [entry["name"] for entry in entries if entry["info"]["node_pack"] == f"custom_nodes.{read_host()[1]}"]
    assert sorted(ours) == list(BLUEPRINTS) == sorted(FROM_EXAMPLE)


def graph_with(name):
    """RePoseDM Example → blueprint → Preview Image, as the page saves it."""
    blueprint = json.loads(json.dumps(BLUEPRINTS[name]))
    (node,) = blueprint["nodes"]
    example = {"id": EXAMPLE, "type": "RePoseDMExample", "pos": [-400, 0], "size": [300, 160], "inputs": []}
    kinds = ("IMAGE", "POSE_KEYPOINT", "IMAGE", "MASK", "POSE_KEYPOINT")
    names = ("source", "pose", "target", "mask", "source_pose")
    example["outputs"] = [{"name": n, "type": kind, "links": []} for n, kind in zip(names, kinds, strict=True)]
    example["widgets_values"] = ["lime_top"]
    links = []
    for number, (slot, output) in enumerate(FROM_EXAMPLE[name].items(), 2):
        (index,) = (k for k, item in enumerate(node["inputs"]) if item["name"] == slot)
        node["inputs"][index]["link"] = number
        example["outputs"][output]["links"].append(number)
        links.append([number, EXAMPLE, output, NEW, index, kinds[output]])
    node["outputs"][0]["links"] = [1]
    links.append([1, NEW, 0, SHOW, 0, "IMAGE"])
    show = {"id": SHOW, "type": "PreviewImage", "title": "Result", "pos": [400, 0], "size": [300, 300], "outputs": []}
    show["inputs"] = [{"name": "images", "type": "IMAGE", "link": 1}]
    last = {"last_node_id": SHOW, "last_link_id": len(links)}
    return {**blueprint, **last, "nodes": [node, example, show], "links": links}


@pytest.mark.browser
def test_runs_in_the_page(tab, name):
    tab.errors.clear()
    tab.page.evaluate("graph => window.app.loadGraphData(graph)", graph_with(name))
    sent = tab.page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert len(sent) == len(BLUEPRINTS[name]["definitions"]["subgraphs"][0]["nodes"]) + 2
    tab.run()
    assert tab.picture("Result").std() > 5
    assert tab.errors == []


@pytest.mark.browser
def test_found_by_the_search(tab, name):
    tab.page.evaluate("() => window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    tab.page.locator("input[aria-controls=results-list]").fill(name)
    frames(tab.page)
    assert name in tab.page.get_by_test_id("result-item").first.text_content()
    tab.page.keyboard.press("Escape")
