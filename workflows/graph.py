"""Workflows as Python data: UI format to API format, and a person and pose of one's own in place of the example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Prompt = dict[str, dict[str, Any]]

EXAMPLE = "RePoseDMExample"
NOTES = ("Note", "MarkdownNote")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def load_workflow(path: str | Path) -> dict[str, Any]:
    """A workflow file in UI format."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def widget_names(schema: dict[str, Any]) -> list[str | None]:
    """Names of a node's widgets in the order of `widgets_values`.

    Args:
        schema: the node's entry in `/object_info`.

    Returns:
        the inputs' names; None for a widget of the page alone: a seed's "control after generate", an upload button.
    """
    names: list[str | None] = []
    for section, order in schema["input_order"].items():
        for name in order if section != "hidden" else ():
            kind, *rest = schema["input"][section][name]
            options = rest[0] if rest else {}
            if not (isinstance(kind, list) or kind in WIDGETS) or options.get("forceInput"):
                continue
            names.append(name)
            if options.get("control_after_generate") or options.get("image_upload"):
                names.append(None)
    return names


def to_api(workflow: dict[str, Any], schemas: dict[str, Any]) -> Prompt:
    """What the page sends to `/prompt` for a workflow.

    Args:
        workflow: UI format, every node active, without subgraphs, reroutes and primitives.
        schemas: the answer of `/object_info`.

    Raises:
        ValueError: a node that is not installed or not active, or widgets that do not fit its schema.
    """
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt: Prompt = {}
    for node in workflow["nodes"]:
        kind = node["type"]
        if kind in NOTES:
            continue
        label = f"node {node['id']} ({kind})"
        if kind not in schemas:
            raise ValueError(f"{label}: this ComfyUI has no such node; install the pack that brings it.")
        if node.get("mode", 0) != 0:
            raise ValueError(f"{label} is muted or bypassed: make it active.")
        names, values = widget_names(schemas[kind]), node.get("widgets_values") or []
        if len(names) != len(values):
            raise ValueError(f"{label} has {len(values)} widget values, its schema {len(names)}: save it anew.")
        inputs = {name: value for name, value in zip(names, values, strict=True) if name is not None}
        for socket in node.get("inputs", ()):
            if socket.get("link") is not None:
                inputs[socket["name"]] = links[socket["link"]]
        title = node.get("title") or schemas[kind]["display_name"]
        prompt[str(node["id"])] = {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}
    return prompt


def find(prompt: Prompt, kind: str, title: str | None = None) -> str | None:
    """Id of the first node of a type, and with a title where one is given; None if there is none."""
    for key, node in prompt.items():
        if node["class_type"] == kind and title in (None, node["_meta"]["title"]):
            return key
    return None


def part(prompt: Prompt, key: str) -> Prompt:
    """The node `key` and all that it needs."""
    needed, open_ = set(), [key]
    while open_:
        needed.add(key := open_.pop())
        open_ += [value[0] for value in prompt[key]["inputs"].values() if isinstance(value, list)]
    return {key: node for key, node in prompt.items() if key in needed}


def replace_example(prompt: Prompt, picture: str, pose: str) -> Prompt:
    """The same graph on a picture and a pose of one's own.

    Args:
        prompt: API format, with one RePoseDM Example.
        picture: name of a file in ComfyUI's input folder.
        pose: OpenPose JSON.

    Returns:
        a copy in which Load Image and Load Pose stand for the example. What shows its third output, the true
        picture, is left out: there is none.
    """
    example = find(prompt, EXAMPLE)
    ours = {0: ["source", 0], 1: ["pose", 0]}
    result: Prompt = {
        "source": {"class_type": "LoadImage", "inputs": {"image": picture}, "_meta": {"title": "Load Image"}},
        "pose": {
            "class_type": "RePoseDMLoadPose",
            "inputs": {"file": "none", "text": pose},
            "_meta": {"title": "Load Pose"},
        },
    }
    for key, node in prompt.items():
        if key == example or [example, 2] in node["inputs"].values():
            continue
        inputs = {
            name: ours[value[1]] if isinstance(value, list) and value[0] == example else value
            for name, value in node["inputs"].items()
        }
        result[key] = {**node, "inputs": inputs}
    return result
