"""Templates can be read when they open: in two rows under their note, at a zoom at which the page draws text."""

from __future__ import annotations

import itertools
import re

import pytest

from tests.workflows.conftest import WORKFLOWS
from workflows.graph import NOTES, load_workflow

WINDOW = 1440, 900
TITLE = 30
"""Height of a node's title, which lies above its `pos`."""
LEAST_ZOOM = 0.6
"""The page draws no text below 0.57."""
PICTURE = 150
"""Least room for a picture below the sockets, so that the page does not make the node taller."""
NARROWEST = 210
"""Least width of a node with widgets; the page makes narrower ones wider."""
SHOWN = ("PreviewImage", "SaveImage", "MaskPreview", "SaveAnimatedWEBP")


@pytest.fixture
def nodes(workflow_path):
    return load_workflow(workflow_path)["nodes"]


def box(node):
    """Left, top, right, bottom with the title."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, x + width, y + height


def extent(nodes):
    boxes = [box(node) for node in nodes]
    return (*(min(one[k] for one in boxes) for k in (0, 1)), *(max(one[k] for one in boxes) for k in (2, 3)))


def test_opens_where_text_is_drawn(nodes):
    left, top, right, bottom = extent(nodes)
    assert right - left <= 1900
    # the page fits all nodes and 10 pixels around them into three quarters of the window
    zoom = 0.75 * min(WINDOW[0] / (right - left + 20), WINDOW[1] / (bottom - top + 20))
    assert zoom >= LEAST_ZOOM


def test_note_is_on_top(nodes):
    (note,) = (node for node in nodes if node["type"] in NOTES)
    bottom = box(note)[3]
    assert all(box(node)[1] >= bottom for node in nodes if node is not note)


def test_groups_lie_in_two_rows_and_hold_whole_nodes(workflow_path, nodes):
    groups = [group["bounding"] for group in load_workflow(workflow_path)["groups"]]
    assert len({top for _, top, _, _ in groups}) == 2
    for one, other in itertools.combinations(groups, 2):
        assert any(one[k] + one[k + 2] <= other[k] or other[k] + other[k + 2] <= one[k] for k in (0, 1))
    for node in nodes:
        left, top, right, bottom = box(node)
        inside = [x <= left and y <= top and right <= x + w and bottom <= y + h for x, y, w, h in groups]
        assert sum(inside) == (node["type"] not in NOTES), node["type"]


def test_nothing_is_covered_and_pictures_have_room(nodes):
    for one, other in itertools.combinations(nodes, 2):
        a, b = box(one), box(other)
        assert any(a[k + 2] <= b[k] or b[k + 2] <= a[k] for k in (0, 1)), (one["type"], other["type"])
    for node in nodes:
        if any("widget" in slot for slot in node["inputs"]):
            assert node["size"][0] >= NARROWEST, node["type"]
        if node["type"] in SHOWN:
            assert node["size"][1] >= 24 * len(node["inputs"]) + PICTURE, node["title"]


def test_note_says_what_one_gets(nodes):
    (text,) = (node["widgets_values"][0] for node in nodes if node["type"] in NOTES)
    assert all(f"**{word}**" in text for word in ("Takes", "Gives", "Size", "Time"))
    if any(node["type"] == "RePoseDMEstimatePose" for node in nodes):
        assert "*SDPose Keypoint Extractor*" in text, "what finds poses in photographs"


def test_names_are_titles_in_order():
    """The page shows the file's name as the title and, without - and _, as the description, sorted by it."""
    names = [path.stem for path in WORKFLOWS]
    assert names == sorted(names) and "(start here)" in names[0]
    assert len({name[:2] for name in names}) == len(names)
    assert all(re.fullmatch(r"\d\d [A-Z][A-Za-z ,()]+", name) for name in names)
