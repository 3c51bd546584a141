"""A headless Chromium opens the real ComfyUI page, loads every workflow, runs it, and sees the picture."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workflows.host import read_host

pytestmark = pytest.mark.browser

# The page asks, in vain and at any time, for the models of the graph that it opens with itself.
OWN_GRAPH = "missingModelDownload"
READY = "() => window.app?.graph && window.app.extensionManager?.workflow?.activeWorkflow"
MISSING = """() => window.app.graph.nodes
    .filter(node => !(node.type in LiteGraph.registered_node_types) || node.has_errors)
    .map(node => node.type)"""
# The picture that the page holds for a node, as PNG; the page loads it once the node is in view.
PICTURE = """(title) => {
    const picture = window.app.graph.nodes.find(node => node.title === title).imgs?.[0];
    if (!picture?.complete || !picture.naturalWidth) return null;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
    canvas.getContext("2d").drawImage(picture, 0, 0);
    return canvas.toDataURL("image/png").split(",")[1];
}"""


class Tab:
    """A tab with the ComfyUI page, and the complaints that it made since it was ready."""

    def __init__(self, browser, url: str) -> None:
        self.page = browser.new_page(viewport={"width": 1600, "height": 1000})
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        self.page.on("console", self._listen)
        # Without this the page would open its list of templates over the graph of a first visit.
        self.page.request.post(f"{url}/api/settings/Comfy.TutorialCompleted", data="true")
        self.page.goto(url)
        self.page.wait_for_function(READY, timeout=120_000)

    def _listen(self, message) -> None:
        place = message.location.get("url", "")
        if message.type == "error" and OWN_GRAPH not in place:
            self.errors.append(f"{message.text} ({place})")

    def load(self, workflow: dict, name: str) -> None:
        """Put a workflow into the page, as dropping its file there does."""
        self.errors.clear()  # what the page said about its own first graph is not about the pack
        self.page.evaluate("([graph, name]) => window.app.loadGraphData(graph, true, true, name)", [workflow, name])

    def run(self) -> None:
        """Press Run, and wait until every node that shows a picture has got one."""
        self.page.get_by_test_id("queue-button").click()
        self.page.wait_for_function(
            """() => window.app.graph.nodes
                .filter(node => ["SaveImage", "PreviewImage"].includes(node.type))
                .every(node => window.app.nodeOutputs[node.id]?.images?.length)""",
            timeout=180_000,
        )

    def picture(self, title: str) -> np.ndarray:
        """Pixels (H, W, 3) of the picture shown by the node with that title."""
        self.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        data = self.page.wait_for_function(PICTURE, arg=title, timeout=30_000).json_value()
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


@pytest.fixture
def tab(browser, comfy):
    opened = Tab(browser, comfy.url)
    yield opened
    opened.page.close()


def test_workflow_runs_in_the_page(tab, workflow_path, tmp_path):
    workflow = json.loads(workflow_path.read_text("utf-8"))
    tab.load(workflow, workflow_path.stem)
    assert tab.page.evaluate(MISSING) == []
    assert tab.page.evaluate("() => window.app.graph.nodes.length") == len(workflow["nodes"])
    tab.run()
    result, source = tab.picture("Result"), tab.picture("Source")
    tab.page.screenshot(path=tmp_path / f"{workflow_path.stem}.png")
    assert result.shape == source.shape == (128, 96, 3)
    assert result.std() > 5, "the result is one plain colour"
    assert not np.array_equal(result, source)
    assert tab.errors == []


def test_page_saves_the_workflow_as_it_is(tab, workflow_path):
    workflow = json.loads(workflow_path.read_text("utf-8"))
    tab.load(workflow, workflow_path.stem)
    saved = json.loads(tab.page.evaluate("() => JSON.stringify(window.app.graph.serialize())"))
    for key in ("last_node_id", "links", "version"):
        assert saved[key] == workflow[key]
    values = [{node["id"]: node.get("widgets_values") or [] for node in graph["nodes"]} for graph in (saved, workflow)]
    assert values[0] == values[1]


def test_page_sends_the_prompt_that_the_demo_sends(tab, workflow_path, schemas):
    from workflows.graph import load_workflow, to_api

    workflow = load_workflow(workflow_path)
    tab.load(workflow, workflow_path.stem)
    sent = tab.page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert sent == to_api(workflow, schemas)


def test_template_browser_offers_the_workflows(tab, workflow_path, tmp_path):
    page = tab.page
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text(read_host()[1]).first.click()
    card = page.get_by_test_id(f"template-workflow-{workflow_path.stem}")
    card.wait_for(timeout=30_000)
    thumbnail = "(name) => document.querySelector(`img[alt=${name}]`)?.naturalWidth === 512"
    page.wait_for_function(thumbnail, arg=workflow_path.stem, timeout=30_000)
    page.screenshot(path=tmp_path / "templates.png")
    tab.errors.clear()
    card.click()
    page.wait_for_function("() => window.app.graph.nodes.some(node => node.type === 'RePoseDMLoader')", timeout=30_000)
    types = {node["type"] for node in json.loads(Path(workflow_path).read_text("utf-8"))["nodes"]}
    assert set(page.evaluate("() => window.app.graph.nodes.map(node => node.type)")) == types
    assert page.evaluate(MISSING) == []
    assert tab.errors == []
