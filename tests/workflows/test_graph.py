"""Every shipped workflow is whole and fits the nodes that ComfyUI has; two are the graphs of API fixtures."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from workflows.comfy_server import ROOT
from workflows.graph import EXAMPLE, NOTES, find, load_workflow, part, replace_example, to_api, widget_names

DISPLAYS = {"PreviewImage"}
FILES = {
    "CheckpointLoaderSimple": ("ckpt_name", "checkpoints"),
    "ReposeSDLoader": ("checkpoint", "checkpoints"),
    "UNETLoader": ("unet_name", "diffusion_models"),
    "CLIPLoader": ("clip_name", "text_encoders"),
    "VAELoader": ("vae_name", "vae"),
}
"""Loaders of files that are not in the pack: the widget, and the folder below models."""


def missing_files(workflow):
    """(name, folder) of the files that a workflow needs and that are not in the pack."""
    return [(node["widgets_values"][0], FILES[node["type"]][1]) for node in workflow["nodes"] if node["type"] in FILES]


@pytest.fixture
def workflow(workflow_path):
    return load_workflow(workflow_path)


@pytest.fixture
def transfer():
    return load_workflow(ROOT / "workflows" / "01 Pose transfer (start here).json")


def test_links_are_consistent(workflow):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"])
    assert workflow["last_node_id"] == max(nodes)
    assert workflow["last_link_id"] >= max(link[0] for link in workflow["links"])
    assert len({link[0] for link in workflow["links"]}) == len(workflow["links"])
    for link, origin, output, target, slot, kind in workflow["links"]:
        leaving, arriving = nodes[origin]["outputs"][output], nodes[target]["inputs"][slot]
        assert link in leaving["links"]
        assert arriving["link"] == link
        assert leaving["type"] == kind and arriving["type"] in (kind, "*")
    ends = {link[0] for link in workflow["links"]}
    for node in nodes.values():
        assert all(slot.get("link") in ends | {None} for slot in node["inputs"])
        assert all(set(slot["links"] or ()) <= ends for slot in node["outputs"])


def test_explains_itself(workflow):
    notes = [node for node in workflow["nodes"] if node["type"] in NOTES]
    assert len(notes) == 1
    text = notes[0]["widgets_values"][0]
    assert text.startswith("## ") and len(text) > 300
    kinds = {node["type"] for node in workflow["nodes"]}
    assert "synthetic people" in text or not kinds & {"RePoseDMLoader", "RePoseDMEstimatorLoader"}
    for file, place in missing_files(workflow):
        assert f"`{file}`" in text and f"ComfyUI/models/{place}`" in text, "where to get it, and where it goes"


def test_thumbnail(workflow_path):
    with Image.open(workflow_path.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG"
        assert picture.size == (512, 512)


def test_node_types_and_sockets_exist(workflow, schemas):
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        schema = schemas[node["type"]]
        assert [output["name"] for output in node["outputs"]] == schema["output_name"]
        assert [output["type"] for output in node["outputs"]] == schema["output"]
        known = {**schema["input"].get("required", {}), **schema["input"].get("optional", {})}
        assert {slot["name"] for slot in node["inputs"]} == {
            name for name, (_, *rest) in known.items() if not (rest and rest[0].get("socketless"))
        }
        linked = {slot["name"] for slot in node["inputs"] if slot["link"] is not None}
        widgets = {name for name in widget_names(schema) if name}
        assert set(schema["input"]["required"]) <= linked | widgets


def test_widget_values_fit(workflow, schemas):
    for key, node in to_api(workflow, schemas).items():
        schema = schemas[node["class_type"]]
        known = {**schema["input"].get("required", {}), **schema["input"].get("optional", {})}
        for name, value in node["inputs"].items():
            kind, *rest = known[name]
            options = rest[0] if rest else {}
            choices = kind if isinstance(kind, list) else options.get("options") if kind == "COMBO" else None
            if isinstance(value, list):
                continue
            if name == FILES.get(node["class_type"], (None,))[0]:
                continue
            if choices is not None:
                assert value in choices, f"node {key}: {name}"
            elif kind in ("INT", "FLOAT"):
                assert options["min"] <= value <= options["max"], f"node {key}: {name}"


def same_graph(prompt: dict) -> set[str]:
    """A graph as one text a node that does not depend on ids, titles and order."""
    known: dict[str, str] = {}

    def number(value):  # the page writes 1 for 1.0
        return float(value) if type(value) is int else value

    def text(key: str) -> str:
        if key not in known:
            inputs = {
                name: [text(value[0]), value[1]] if isinstance(value, list) else number(value)
                for name, value in prompt[key]["inputs"].items()
            }
            known[key] = json.dumps([prompt[key]["class_type"], inputs], sort_keys=True)
        return known[key]

    return {text(key) for key in prompt}


@pytest.mark.parametrize(
    ("fixture", "template"),
    [("pose_transfer", "01 Pose transfer (start here)"), ("pose_guidance", "08 Pose guidance, with and without")],
)
def test_is_the_graph_of_the_api_fixture(fixture, template, schemas):
    fixture = json.loads((ROOT / "tests" / "fixtures" / f"{fixture}.api.json").read_text("utf-8"))
    workflow = load_workflow(ROOT / "workflows" / f"{template}.json")
    ours, theirs = same_graph(to_api(workflow, schemas)), same_graph(fixture)
    assert theirs <= ours, "the fixture has nodes that the workflow has not"
    assert {json.loads(node)[0] for node in ours - theirs} <= DISPLAYS, "the workflow does more than show more"


def test_unknown_node_and_stale_widgets_are_named(transfer, schemas):
    workflow = transfer
    with pytest.raises(ValueError, match=r"RePoseDMLoader.*no such node"):
        to_api(workflow, {kind: schema for kind, schema in schemas.items() if kind != "RePoseDMLoader"})
    loader = next(node for node in workflow["nodes"] if node["type"] == "RePoseDMLoader")
    loader["mode"] = 4
    with pytest.raises(ValueError, match="bypassed"):
        to_api(workflow, schemas)
    loader.update(mode=0, widgets_values=[])
    with pytest.raises(ValueError, match="0 widget values, its schema 1"):
        to_api(workflow, schemas)


def test_part_is_what_a_node_needs(transfer, schemas):
    prompt = to_api(transfer, schemas)
    pose = part(prompt, find(prompt, "PreviewImage", "Pose"))
    assert sorted(node["class_type"] for node in pose.values()) == ["PreviewImage", "RePoseDMDrawPose", EXAMPLE]


def test_example_gives_way_to_files(transfer, schemas):
    prompt = to_api(transfer, schemas)
    mine = replace_example(prompt, "me.png", "[]")
    assert find(mine, "RePoseDMExample") is None
    assert find(mine, "PreviewImage", "True target") is None
    source, pose = find(mine, "LoadImage"), find(mine, "RePoseDMLoadPose")
    aligner = mine[find(mine, "RePoseDMRecurrentPoseAligner")]["inputs"]
    assert aligner["source"] == [source, 0]
    assert aligner["pose"] == [pose, 0]
    assert mine[source]["inputs"] == {"image": "me.png"}
    assert {value[0] for node in mine.values() for value in node["inputs"].values() if isinstance(value, list)} <= set(
        mine
    )
    assert find(prompt, "RePoseDMExample") is not None, "the original must stay as it is"
