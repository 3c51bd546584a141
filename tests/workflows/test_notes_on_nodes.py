"""What nodes say on the page: it is there, and gone when it holds no more."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.workflows.conftest import Tab
from workflows.comfy_server import ROOT

pytestmark = pytest.mark.browser

PERSON = ROOT / "workflows" / "examples" / "blue_shirt.png"
NOTE = """() => (window.app.graph.nodes.find(node => node.type === 'RePoseDMEstimatePose').widgets ?? [])
    .find(widget => widget.name === '$$node-text-preview')?.value"""
CHOOSE = """name => { window.app.graph.nodes.find(node => node.type === 'LoadImage')
    .widgets.find(widget => widget.name === 'image').value = name; }"""


def test_a_note_goes_when_it_holds_no_more(browser, comfy, tmp_path):
    Image.new("RGB", (192, 256)).save(tmp_path / "black.png")
    names = comfy.upload_image(tmp_path / "black.png"), comfy.upload_image(PERSON)
    estimate = {"pose_estimator": ["estimator", 0], "image": ["picture", 0], "threshold": 0.1, "people": 1}
    draw = {"pose": ["estimate", 0], "width": 192, "height": 256, "style": "openpose", "line_width": 1.0}
    nodes = {
        "picture": ("LoadImage", {"image": names[0]}),
        "estimator": ("RePoseDMEstimatorLoader", {"estimator": "reposedm-mini.safetensors"}),
        "estimate": ("RePoseDMEstimatePose", estimate),
        "draw": ("RePoseDMDrawPose", draw),
        "show": ("PreviewImage", {"images": ["draw", 0]}),
    }
    graph = {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}
    tab = Tab(browser, comfy.url)
    try:
        tab.page.evaluate("graph => window.app.loadApiJson(graph, 'notes')", graph)
        tab.run()
        tab.page.wait_for_function(f"() => ({NOTE})() === 'Nobody was found.'")
        tab.page.evaluate(CHOOSE, names[1])
        tab.page.evaluate("() => { window.app.nodeOutputs = {}; }")
        tab.run()
        tab.page.wait_for_function(f"() => ({NOTE})() === undefined")
    finally:
        tab.page.close()
