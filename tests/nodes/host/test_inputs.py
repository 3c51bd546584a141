"""What links of any type send into texts, choices and numbers is refused by name, in every node."""

from __future__ import annotations

import math

import pytest
import torch

from tests.nodes.people import CANVAS, PERSON, run

POSE = {"people": [PERSON], **CANVAS}
STRANGE = {
    "nothing": None,
    "half a number": 2.5,
    "a list": [["x" * 10**6]],
    "bytes": b"none",
    "a tensor": torch.zeros(3),
    "an object": {"file": "none"},
    "not a number": math.nan,
}
LONG = "x" * 10_000


def refused(pack, node, item, value):
    """The message about a value; every other widget has its default, and the sockets are empty."""
    values = {each.id: getattr(each, "default", None) for each in node.define_schema().inputs}
    with pytest.raises(pack.reposedm_core.InputError) as error:
        node.execute(**values | {item.id: value})
    message = str(error.value)
    assert message.startswith(f"{item.display_name or item.id} = ") and len(message) < 600, message
    return message


@pytest.mark.parametrize("value", STRANGE)
@pytest.mark.parametrize("kind", ["STRING", "COMBO", "INT", "FLOAT"])
def test_values_of_other_types_are_named(pack, kind, value):
    found = [(node, item) for node in pack.nodes.NODES for item in node.define_schema().inputs if item.io_type == kind]
    assert len(found) >= 5
    for node, item in found:
        if kind == "FLOAT" and value == "half a number":
            continue
        message = refused(pack, node, item, STRANGE[value])
        assert {"INT": "a whole number", "FLOAT": "a finite number"}.get(kind, "a text") in message


@pytest.mark.parametrize("value", ["", "nonsense", "\ud800", LONG], ids=lambda value: ascii(value)[:9])
def test_choices_that_are_none_are_named(pack, value):
    found = [
        (node, item)
        for node in pack.nodes.NODES
        for item in node.define_schema().inputs
        if item.io_type == "COMBO" and item.id not in ("checkpoint", "estimator", "example", "file")
    ]
    assert len(found) > 15
    for node, item in found:
        assert "must be one of" in refused(pack, node, item, value) and refused(pack, node, item, value).encode()


@pytest.mark.parametrize("value", [3, None, LONG, "\ud800", {"a": 1}, ["x"]], ids=lambda value: ascii(value)[:9])
def test_names_of_files_that_are_none_are_refused(pack, value):
    nodes = [
        node
        for node in pack.nodes.NODES
        for item in node.define_schema().inputs
        if item.id in ("checkpoint", "estimator", "example", "file")
    ]
    assert len(nodes) == 6
    for node in nodes:
        (item, *_) = node.define_schema().inputs
        if value is not None:  # that stands for a link
            problem = node.validate_inputs(**{item.id: value})
            assert isinstance(problem, str) and len(problem) < 500 and problem.encode()
        values = {each.id: getattr(each, "default", None) for each in node.define_schema().inputs} | {item.id: value}
        with pytest.raises(pack.reposedm_core.InputError) as error:
            node.execute(**values)
        assert len(str(error.value)) < 500 and str(error.value).encode()


@pytest.mark.parametrize("text", ["\ud800", "[\ud800]", '{"people": "\udcff"}', LONG], ids=ascii)
def test_halves_of_characters_and_long_texts_are_told(pack, text):
    loader = pack.nodes.pose_io.LoadPose
    assert loader.validate_inputs("none", text) is True
    assert loader.fingerprint_inputs("none", text) != loader.fingerprint_inputs("none", text + " ")
    with pytest.raises(pack.reposedm_core.InputError, match=r"^text: ") as error:
        run(pack, "RePoseDMLoadPose", "none", text)
    assert len(str(error.value)) < 500 and str(error.value).encode()


@pytest.mark.parametrize(
    "prefix",
    [LONG, "a" * 300, "\ud800", "\0", "../out", "", "a/" * 3000 + "b"],
    ids=["long", "name", "half", "zero", "outside", "empty", "deep"],
)
def test_names_that_no_file_can_have_are_told(pack, output, prefix):
    with pytest.raises(pack.reposedm_core.InputError, match=r"^filename_prefix: ") as error:
        run(pack, "RePoseDMSavePose", POSE, prefix)
    assert len(str(error.value)) < 700 and str(error.value).encode()
