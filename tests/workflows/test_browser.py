"""A headless Chromium opens every workflow in the real page's template browser, runs it, and sees its pictures."""

from __future__ import annotations

import itertools
import json
import re
import urllib.request

import numpy as np
import pytest
from PIL import Image, ImageSequence

from reposedm_core import PRESETS
from reposedm_core.presets import SHIPPED_PRESET
from tests.fixtures.waiting import CEILING
from tests.workflows.test_templates import LEAST_ZOOM
from workflows.comfy_server import ROOT, read_host
from workflows.graph import load_workflow, to_api

pytestmark = pytest.mark.browser

MISSING = """() => window.app.graph.nodes
    .filter(node => !(node.type in LiteGraph.registered_node_types) || node.has_errors)
    .map(node => node.type)"""
# Pairs of nodes of which one covers the other, as the page draws them.
COVERED = """() => {
    const boxes = window.app.graph.nodes.map(node => [node.title, ...node.boundingRect]);
    return boxes.flatMap(([one, x, y, w, h], index) => boxes.slice(index + 1)
        .filter(([, left, top, width, height]) => x < left + width && left < x + w && y < top + height && top < y + h)
        .map(([other]) => `${one} and ${other}`));
}"""
# Sizes at which weights of a public model's width are quick.
SMALL = {
    "06 Pose transfer with your own checkpoint": {
        "RePoseDMCropToPerson": {"width": 48, "height": 64},
        "KSampler": {"steps": 3},
    },
    "07 Pose guidance on your own checkpoint": {
        "EmptyLatentImage": {"width": 64, "height": 96},
        "KSampler": {"steps": 3},
    },
    "09 Text and pose to picture (HumanSD)": {
        "RePoseDMSDConditioning": {"width": 64, "height": 96},
        "KSampler": {"steps": 2},
    },
    "05 Animation from two poses": {"RePoseDMInterpolatePoses": {"frames": 4}, "RePoseDMKSampler": {"steps": 2}},
    "12 Photograph that moves": {"RePoseDMInterpolatePoses": {"frames": 4}},
}
NEEDS_WEIGHTS = ("07 Pose guidance on your own checkpoint", "09 Text and pose to picture (HumanSD)")
TOO_LARGE = ("11 Pose transfer with an edit model",)
"""Graphs whose text encoder has one size, of gigabytes: tests/nodes/test_edit_models_server.py runs them."""
EXAMPLE = 256, 192
AT_SOURCE_SIZE = ("06 Pose transfer with your own checkpoint", "12 Photograph that moves")
"""Their results have the size of the source, whatever the model."""
DOCS = ROOT / "nodes" / "web" / "docs"


@pytest.fixture(scope="module")
def opened(tab, workflow_path):
    """The page with a workflow, opened by a click on its card in the template browser."""
    tab.open_template(workflow_path.stem, len(load_workflow(workflow_path)["nodes"]))
    return tab


def test_opens_without_a_complaint(opened, workflow_path):
    types = [node["type"] for node in load_workflow(workflow_path)["nodes"]]
    assert sorted(opened.page.evaluate("() => window.app.graph.nodes.map(node => node.type)")) == sorted(types)
    assert opened.page.evaluate(MISSING) == []
    assert opened.errors == []


def test_text_is_drawn_from_the_start(opened):
    assert opened.page.evaluate("() => window.app.canvas.ds.scale") >= LEAST_ZOOM


def test_page_saves_the_workflow_as_it_is(opened, workflow_path):
    workflow = load_workflow(workflow_path)
    saved = json.loads(opened.page.evaluate("() => JSON.stringify(window.app.graph.serialize())"))
    for key in ("last_node_id", "links", "version"):
        assert saved[key] == workflow[key]
    values = [{node["id"]: node.get("widgets_values") or [] for node in graph["nodes"]} for graph in (saved, workflow)]
    assert values[0] == values[1]
    sizes = [{node["id"]: list(map(round, node["size"])) for node in graph["nodes"]} for graph in (saved, workflow)]
    assert sizes[0] == sizes[1], "a node that the page makes larger may cover its neighbour"


def test_page_sends_the_prompt_that_the_demo_sends(opened, workflow_path, comfy):
    sent = opened.page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert sent == to_api(load_workflow(workflow_path), comfy.object_info())


def test_runs_and_shows_its_pictures(opened, workflow_path, comfy, tmp_path):
    if workflow_path.stem in TOO_LARGE:
        opened.page.screenshot(path=tmp_path / f"{workflow_path.stem}.png")
        pytest.skip("its text encoder is too large for a test")
    for node, values in SMALL.get(workflow_path.stem, {}).items():
        opened.set_widgets(node, **values)
    opened.run()
    titles = opened.page.evaluate("() => window.app.graph.nodes.map(node => node.title)")
    pictures = {title: opened.picture(title) for title in ("Result", "Source", "Pose") if title in titles}
    opened.page.screenshot(path=tmp_path / f"{workflow_path.stem}.png")
    result = pictures["Result"]
    model = PRESETS[SHIPPED_PRESET]
    size = (96, 64) if workflow_path.stem in NEEDS_WEIGHTS else (model.height, model.width)
    size = EXAMPLE if workflow_path.stem in AT_SOURCE_SIZE else size
    assert result.shape == (*size, 3)
    assert result.std() > 5, "the result is one plain colour"
    if "Source" in pictures:
        assert pictures["Source"].shape == (256, 192, 3) and not np.array_equal(result, pictures["Source"])
    if "Pose" in pictures:
        assert pictures["Pose"].max() > 100 and (pictures["Pose"] == 0).mean() > 0.5, "a skeleton on black"
    assert opened.page.evaluate(COVERED) == []
    CHECKS.get(workflow_path.stem, lambda *_: None)(opened, comfy)
    assert opened.errors == []


def check_numbers(tab, _comfy):
    texts = tab.page.evaluate("""() => window.app.graph.nodes.filter(({ type }) => type === "PreviewAny")
        .map(({ id }) => window.app.nodeOutputs[id].text[0])""")
    assert len(texts) == 2 and all(re.match(r"all: PCK@0\.05 (0\.\d{3}|1\.000), ", text) for text in texts)


def check_animation(name, comfy):
    """The animation has a frame per pose, there and back; of three the last two would be one pose."""
    (file,) = comfy.output.glob(f"reposedm/{name}_*.webp")
    with Image.open(file) as animation:
        assert animation.n_frames == 4
        frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(animation)]
    assert all(np.abs(one - other).mean() > 1 for one, other in itertools.pairwise(frames))


def check_edit(tab, _comfy):
    """The editor shows the raised arm that the workflow was saved with, over the picture."""
    tab.page.get_by_test_id("pose-editor-status").first.get_by_text("192 × 256 · edited").wait_for()


CHECKS = {
    "10 How well the result keeps to the pose": check_numbers,
    "05 Animation from two poses": lambda _, comfy: check_animation("pose_animation", comfy),
    "12 Photograph that moves": lambda _, comfy: check_animation("animated_photograph", comfy),
    "03 Pose drawn by hand": check_edit,
}


def test_guidance_of_a_graph_from_before_presets_keeps_its_values(tab):
    """The page gives a widget that a saved graph lacks its default, which would say otherwise."""
    values = [0.3, 0.2, 0.9, "features", 0.05, True, 2, 0.2, "arms", "0", "vae", 0.5]
    node = {"id": 1, "type": "RePoseDMPoseFieldGuidance", "pos": [0, 0], "size": [300, 400], "widgets_values": values}
    loaded = (
        """graph => window.app.loadGraphData(graph).then(() => window.app.graph.nodes[0].serialize().widgets_values)"""
    )
    graph = {"version": 0.4, "last_node_id": 1, "last_link_id": 0, "nodes": [node], "links": []}
    assert tab.page.evaluate(loaded, graph) == [*values, "custom"]
    saved_today = {**node, "widgets_values": [*values, "from the model"]}
    assert tab.page.evaluate(loaded, {**graph, "nodes": [saved_today]}) == [*values, "from the model"]


def test_template_browser_offers_these_workflows_and_no_others(comfy):
    with urllib.request.urlopen(f"{comfy.url}/api/workflow_templates", timeout=CEILING) as answer:
        names = json.load(answer)[read_host()[1]]
    assert sorted(names) == sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))


def test_help_panel_shows_our_pages(tab, tmp_path):
    """A node's help opens with its Info button; then it follows the selection."""
    page = tab.page
    tab.errors.clear()
    page.evaluate("() => { window.app.graph.clear(); window.app.canvas.ds.reset(); }")
    select = """kind => {
        window.app.graph.clear();
        const node = window.app.graph.add(LiteGraph.createNode(kind));
        node.pos = [300, 200];
        window.app.canvas.selectNode(node);
        window.app.canvas.setDirty(true, true);
    }"""
    pictures = 0
    for number, path in enumerate(sorted(DOCS.glob("*.md"))):
        title, _, first = path.read_text("utf-8").partition("\n\n")
        page.evaluate(select, path.stem)
        if not number:
            page.get_by_test_id("info-button").click()
        page.get_by_role("heading", name=title.removeprefix("# "), exact=True).first.wait_for()
        # The first words, as far as they are plain text.
        words = first.split("\n\n")[0].replace("\n", " ").split(".")[0].split("*")[0]
        page.get_by_text(words, exact=False).first.wait_for()
        for words in re.findall(r"!\[([^]]*)\]", first):
            page.wait_for_function(
                "words => [...document.images].some(p => p.alt === words && p.naturalWidth)", arg=words
            )
            pictures += 1
    page.screenshot(path=tmp_path / "help.png")
    assert pictures
    assert tab.errors == []
