"""What the tests of the workflows share."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fixtures.waiting import PAGE
from tests.workflows import checkpoints as files
from tests.workflows.pose_page import READY, Editor
from workflows.comfy_server import read_host

ROOT = Path(__file__).resolve().parent.parent.parent
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))

# The page asks for these in vain and at any time: models of the graph that it opens with itself, settings and files
# that a new user does not have yet, and help in the user's language before the page without one.
OWN_REQUESTS = ("missingModelDownload", "/userdata", "/user.css", "/docs/")
SHOWING = ("SaveImage", "PreviewImage", "MaskPreview", "SaveAnimatedWEBP", "PreviewAny")
# The picture that the page holds for a node, as PNG; the page loads it once the node is in view.
PICTURE = """(title) => {
    const picture = window.app.graph.nodes.find(node => node.title === title).imgs?.[0];
    if (!picture?.complete || !picture.naturalWidth) return null;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
    canvas.getContext("2d").drawImage(picture, 0, 0);
    return canvas.toDataURL("image/png").split(",")[1];
}"""


def pytest_generate_tests(metafunc):
    """A test with a `workflow_path` runs once for every shipped workflow."""
    if "workflow_path" in metafunc.fixturenames:
        assert WORKFLOWS, "there is no workflow in workflows/"
        metafunc.parametrize("workflow_path", WORKFLOWS, ids=lambda path: path.stem, scope="module")


@pytest.fixture(scope="session")
def schemas(comfy):
    """`/object_info` of the running ComfyUI."""
    return comfy.object_info()


@pytest.fixture(scope="module")
def checkpoints(comfy, pack):
    """The model files that workflows ask for and that the pack does not bring, with random weights; then removed."""
    written = files.write(comfy.models)
    yield
    for path in written:
        path.unlink()


class Tab:
    """A tab with the ComfyUI page, and the complaints that it made since the last workflow was opened."""

    def __init__(self, browser, url: str) -> None:
        self.page = browser.new_page(viewport={"width": 1440, "height": 900})
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        self.page.on("console", self._listen)
        self.page.set_default_timeout(PAGE)
        # Without this the page would open its list of templates over the graph of a first visit.
        self.page.request.post(f"{url}/api/settings/Comfy.TutorialCompleted", data="true", timeout=PAGE)
        self.page.goto(url)
        self.page.wait_for_function(READY)

    def _listen(self, message) -> None:
        place = message.location.get("url", "")
        if message.type == "error" and not any(part in place for part in OWN_REQUESTS):
            self.errors.append(f"{message.text} ({place})")

    def open_template(self, name: str, nodes: int) -> None:
        """Click a template of the pack in the template browser, once its thumbnail is there."""
        page = self.page
        self.errors.clear()  # what the page said about its own first graph is not about the pack
        page.evaluate("() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        page.get_by_text(read_host()[1]).first.click()
        card = page.get_by_test_id(f"template-workflow-{name}")
        card.wait_for()
        card.scroll_into_view_if_needed()
        page.wait_for_function("name => document.querySelector(`img[alt='${name}']`)?.naturalWidth === 512", arg=name)
        card.click()
        page.wait_for_function(
            """([name, nodes]) => window.app.graph.nodes.length === nodes
                && window.app.extensionManager.workflow.activeWorkflow.filename.startsWith(name)""",
            arg=[name, nodes],
        )

    def set_widgets(self, node: str, **values: object) -> None:
        """Put values into the widgets of the nodes of a type."""
        self.page.evaluate(
            """([type, values]) => window.app.graph.nodes.filter(node => node.type === type)
            .flatMap(node => node.widgets).filter(({ name }) => name in values)
            .forEach(widget => { widget.value = values[widget.name]; })""",
            [node, values],
        )

    def run(self) -> None:
        """Press Run, wait until every node that shows something has got it, and bring the whole graph into view."""
        self.page.get_by_test_id("queue-button").click()
        self.page.wait_for_function(
            """kinds => window.app.graph.nodes.filter(node => kinds.includes(node.type)).every(node => {
                const { images, text } = window.app.nodeOutputs[node.id] ?? {};
                return (images ?? text)?.length;
            })""",
            arg=SHOWING,
        )
        # Pictures are loaded when they come into view.
        self.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")

    def picture(self, title: str) -> np.ndarray:
        """Pixels (H, W, 3) of the picture shown by the node with that title."""
        data = self.page.wait_for_function(PICTURE, arg=title).json_value()
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


@pytest.fixture(scope="module")
def tab(browser, comfy, checkpoints):
    """One page for all tests of a module; it asks for the lists of files when it is loaded."""
    opened = Tab(browser, comfy.url)
    yield opened
    opened.page.close()


@pytest.fixture(scope="module", params=["classic", "nodes 2.0"])
def renderer(request):
    return request.param


@pytest.fixture(scope="module")
def editor(browser, comfy, renderer):
    """One page for all tests: each loads a graph of its own. No side panel of an earlier test is in the way."""
    context = browser.new_context(
        viewport={"width": 1400, "height": 900}, has_touch=True, permissions=["clipboard-read", "clipboard-write"]
    )
    page = context.new_page()
    settings = {
        "Comfy.TutorialCompleted": True,
        "Comfy.VueNodes.Enabled": renderer == "nodes 2.0",
        "Comfy.RightSidePanel.IsOpen": False,
    }
    for name, value in settings.items():
        page.request.post(f"{comfy.url}/api/settings/{name}", data=json.dumps(value), timeout=PAGE)
    yield Editor(page, comfy.url)
    page.request.post(f"{comfy.url}/api/settings/Comfy.VueNodes.Enabled", data="false", timeout=PAGE)
    context.close()
