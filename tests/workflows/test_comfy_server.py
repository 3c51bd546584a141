"""The real ComfyUI starts with the pack, and its harness tells plainly what went wrong."""

from __future__ import annotations

import io
import json
import random
import urllib.request

import numpy as np
import pytest
from PIL import Image

from tests.fixtures.waiting import CEILING, PAGE
from workflows import comfy_server
from workflows.comfy_server import ComfyError, ComfyServer

pytestmark = pytest.mark.processes


def test_pack_is_imported_without_complaint(comfy):
    log = comfy.log()
    assert "ComfyUI version: " in log
    lines = [line for line in log.splitlines() if "seconds" in line and "custom_nodes" in line]
    assert len(lines) == 1, f"the pack alone should be loaded: {lines}"
    assert "IMPORT FAILED" not in lines[0]
    assert "Traceback" not in log.split("Import times for custom nodes:")[0]


def test_picture_goes_through_the_server_unchanged(comfy, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    name = comfy.upload_image(tmp_path / "picture.png", "unchanged.png")
    prompt = {
        "load": {"class_type": "LoadImage", "inputs": {"image": name}},
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["load", 0]}},
    }
    (png,) = comfy.run(prompt)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")), pixels)


def test_refused_graph_names_node_and_input(comfy):
    prompt = {
        "7": {"class_type": "LoadImage", "inputs": {"image": "missing.png"}},
        "8": {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}},
    }
    with pytest.raises(ComfyError, match=r"node 7 \(LoadImage\).*missing\.png"):
        comfy.queue(prompt)


def test_failed_node_is_named_with_its_message(comfy):
    (comfy.input / "broken.png").write_bytes(b"no picture")
    prompt = {
        "7": {"class_type": "LoadImage", "inputs": {"image": "broken.png"}},
        "8": {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}},
    }
    with pytest.raises(ComfyError, match=r"node 7 \(LoadImage\): .*cannot identify image file"):
        comfy.wait(comfy.queue(prompt))


def test_page_is_served(comfy):
    with urllib.request.urlopen(comfy.url, timeout=CEILING) as page:
        assert b"<title>ComfyUI" in page.read()


def test_server_that_dies_shows_its_log():
    server = ComfyServer(arguments=("--no-such-option",))
    with pytest.raises(ComfyError, match=r"exit status 2(.|\n)*--no-such-option"), server:
        raise AssertionError("it must not become ready")
    assert not server.directory.exists()


def test_processes_with_one_seed_choose_different_ports():
    state = random.getstate()
    ports = set()
    for _ in range(8):
        random.seed(3)
        ports.add(comfy_server.free_port())
    random.setstate(state)
    assert len(ports) > 1


def test_missing_host_says_what_to_run(monkeypatch, tmp_path):
    record = tmp_path / "host.json"
    monkeypatch.setattr(comfy_server, "HOST_RECORD", record)
    with pytest.raises(ComfyError, match="make host"):
        comfy_server.read_host()
    record.write_text(json.dumps({"comfyui": str(tmp_path / "gone"), "pack": "pack"}))
    with pytest.raises(ComfyError, match=r"gone.*make host"):
        comfy_server.read_host()


def test_interrupting_an_idle_server_does_no_harm(comfy):
    comfy.interrupt()
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 2, "color": 255}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    assert len(comfy.run(prompt)) == 2


@pytest.mark.browser
def test_page_opens_in_a_browser(comfy, browser):
    page = browser.new_page()
    try:
        page.set_default_timeout(PAGE)
        page.goto(comfy.url)
        page.wait_for_selector("canvas")
        assert "ComfyUI" in page.title()
    finally:
        page.close()
