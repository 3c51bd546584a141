"""The page with a Pose Editor, for the tests: graphs to open in it, and what a person with a mouse does there."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from reposedm_core import Pose
from reposedm_core.pose import load_pose_file, to_keypoints
from reposedm_core.pose.skeleton import OPENPOSE18
from tests.fixtures.waiting import PAGE, eventually, frames
from workflows.comfy_server import ROOT

READY = "() => window.app?.graph && window.app.extensionManager?.workflow?.activeWorkflow"
EXAMPLE = sorted((ROOT / "workflows" / "examples").glob("*_pose.json"))[0]
R_WRIST, L_WRIST, NOSE, R_ANKLE = (
    OPENPOSE18.index(name) for name in ("right_wrist", "left_wrist", "nose", "right_ankle")
)
EDITOR, SHOW, SOURCE = 2, 3, 1
SIZE = 192, 256  # of the examples: width and height
MARGIN = 12  # around the canvas in the widget


def node(number: int, kind: str, box: tuple[int, int, int, int], widgets: Sequence = (), **sockets: list) -> dict:
    """A node as a workflow has it; `box` is left, top, width and height, `sockets` its inputs and outputs."""
    place = {"id": number, "type": kind, "pos": list(box[:2]), "size": list(box[2:]), "mode": 0, "order": number - 1}
    sockets = {"inputs": [], "outputs": [], **sockets}
    return {**place, "flags": {}, "properties": {}, "widgets_values": list(widgets), **sockets}


def graph(source: dict | None = None, links: dict[str, int] | None = None, edit: str = "", size=(60, 80)) -> dict:
    """Source → Pose Editor → Preview as Text; `links` names inputs of the editor and the source's outputs for them."""
    kinds = {"image": "IMAGE", "pose": "POSE_KEYPOINT"}
    links = links or {}
    wires = [
        [i, SOURCE, slot, EDITOR, list(kinds).index(name), kinds[name]]
        for i, (name, slot) in enumerate(links.items(), 1)
    ]
    numbers = {wire[5]: wire[0] for wire in wires}
    editor = node(
        EDITOR,
        "RePoseDMPoseEditor",
        (420, 60, 400, 680),
        [*size, edit],
        inputs=[{"name": name, "type": kind, "link": numbers.get(kind)} for name, kind in kinds.items()],
        outputs=[{"name": "pose", "type": "POSE_KEYPOINT", "links": [9]}],
    )
    show = node(SHOW, "PreviewAny", (900, 60, 300, 300), inputs=[{"name": "source", "type": "*", "link": 9}])
    nodes = [editor, show]
    if source:
        outputs = [
            {**out, "links": [wire[0] for wire in wires if wire[2] == slot]}
            for slot, out in enumerate(source["outputs"])
        ]
        nodes.append({**node(SOURCE, "", (40, 60, 320, 320)), **source, "outputs": outputs})
    return {
        "last_node_id": 3,
        "last_link_id": 9,
        "nodes": nodes,
        "groups": [],
        "config": {},
        "extra": {},
        "links": [*wires, [9, EDITOR, 0, SHOW, 0, "POSE_KEYPOINT"]],
        "version": 0.4,
    }


def example() -> dict:
    """A picture and a pose for it, both of `SIZE`."""
    source = {
        "type": "RePoseDMExample",
        "widgets_values": [EXAMPLE.name.removesuffix("_pose.json")],
        "outputs": [
            {"name": "source", "type": "IMAGE"},
            {"name": "pose", "type": "POSE_KEYPOINT"},
            {"name": "target", "type": "IMAGE"},
        ],
    }
    return graph(source, {"pose": 1, "image": 2})


def two_people() -> dict:
    (left,) = load_pose_file(EXAMPLE)
    left = left.resized(128, 96)
    joints = np.concatenate([left.joints, left.joints + np.float32([90, 0, 0])])
    hand = np.zeros((2, 21, 3))
    hand[1] = joints[1, L_WRIST] + np.random.default_rng(0).uniform(-3, 3, (21, 3)) * (1, 1, 0)
    text = json.dumps(to_keypoints(Pose(joints, 128, 192, left_hand=hand)))
    return graph(
        {
            "type": "RePoseDMLoadPose",
            "widgets_values": ["none", text],
            "outputs": [{"name": "pose", "type": "POSE_KEYPOINT"}],
        },
        {"pose": 0},
    )


class Editor:
    """The page with one Pose Editor, as a person with a mouse sees it."""

    def __init__(self, page, url: str) -> None:
        self.page, self.errors = page, []
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        page.set_default_timeout(PAGE)
        page.goto(url)
        page.wait_for_function(READY)

    def load(self, workflow: dict, zoom: float = 1) -> None:
        self.errors.clear()
        self.page.evaluate("graph => window.app.loadGraphData(graph, true, true, 'pose')", workflow)
        self.zoom(zoom)

    def zoom(self, zoom: float) -> None:
        self.page.evaluate(
            """zoom => {
            const { ds } = window.app.canvas;
            ds.scale = zoom;
            [ds.offset[0], ds.offset[1]] = [80, 40];
            window.app.canvas.setDirty(true, true);
        }""",
            zoom,
        )
        self.canvas.wait_for()
        self.settle()

    def settle(self) -> None:
        """The widget's element follows the graph a frame or two later; until it stays where it is."""
        frames(self.page)
        places = [None, self.canvas.bounding_box()]
        while places[-1] != places[-2]:
            frames(self.page)
            places.append(self.canvas.bounding_box())

    @property
    def canvas(self):
        return self.page.get_by_test_id("pose-editor-canvas").first

    def press(self, name: str) -> None:
        self.page.get_by_test_id(f"pose-editor-{name}").first.click()

    def enabled(self, name: str) -> bool:
        return self.page.get_by_test_id(f"pose-editor-{name}").first.is_enabled()

    def status(self, text: str) -> None:
        self.page.get_by_test_id("pose-editor-status").first.get_by_text(text).wait_for()

    def note(self, text: str) -> None:
        self.page.get_by_test_id("pose-editor-note").first.get_by_text(text).wait_for()

    def choose(self, panel: str, name: str) -> None:
        """A button of a panel."""
        self.press(panel)
        self.page.get_by_test_id("pose-editor-panel").first.get_by_test_id(f"pose-editor-{name}").click()

    def key(self, *keys: str) -> None:
        """Keys for the editor, which gets the focus."""
        self.canvas.focus()
        for key in keys:
            self.page.keyboard.press(key)

    def run(self) -> list[dict]:
        """Press Run; the frames that come out of the node."""
        self.page.evaluate("id => { delete window.app.nodeOutputs[id]; }", SHOW)
        self.page.get_by_test_id("queue-button").click()
        self.page.wait_for_function("id => window.app.nodeOutputs[id]?.text", arg=SHOW)
        return json.loads(self.page.evaluate("id => window.app.nodeOutputs[id].text[0]", SHOW))

    @property
    def value(self) -> str:
        return self.page.evaluate(
            "id => window.app.graph.getNodeById(id).widgets.find(({ name }) => name === 'edit').value", EDITOR
        )

    def holds(self, value: str) -> None:
        """Wait until the widget holds `value`."""

        def check() -> None:
            assert self.value == value

        eventually(check)

    def joints(self) -> np.ndarray:
        """(people, 18, 3) as the widget holds them for the workflow."""
        return joints_of(json.loads(self.value))

    def part(self, name: str, person: int = 0) -> np.ndarray:
        """(points, 3) of a part of a person as the widget holds it; none where that person has no such part."""
        return np.reshape(json.loads(self.value)["people"][person].get(f"{name}_keypoints_2d", []), (-1, 3))

    def at(self, x: float, y: float, width: int = 96, height: int = 128) -> tuple[float, float]:
        """Where a pixel of the pose's canvas is on the page."""
        box = self.canvas.bounding_box()
        graph_zoom = self.page.evaluate("() => window.app.canvas.ds.scale")
        scale = min(box["width"] - 2 * MARGIN * graph_zoom, (box["height"] - 2 * MARGIN * graph_zoom) / height * width)
        scale /= width
        return (
            float(box["x"] + box["width"] / 2 + (x - width / 2) * scale),
            float(box["y"] + box["height"] / 2 + (y - height / 2) * scale),
        )

    def drag(self, start, end, size=(96, 128), hold: str | None = None) -> None:
        mouse = self.page.mouse
        mouse.move(*self.at(*start, *size))
        if hold:
            self.page.keyboard.down(hold)
        mouse.down()
        mouse.move(*self.at(*end, *size), steps=4)
        mouse.up()
        if hold:
            self.page.keyboard.up(hold)


def joints_of(frame: dict) -> np.ndarray:
    return np.array([person["pose_keypoints_2d"] for person in frame["people"]]).reshape(-1, 18, 3)
