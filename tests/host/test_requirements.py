"""What `pip install -r requirements.txt` would change in an environment that runs ComfyUI; pip itself answers, offline.

The environment has the metadata of what ComfyUI requires and no code; the index has that of everything installed
here. Pip only resolves (`--dry-run`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from workflows.comfy_server import ROOT, read_host

INDIRECT = {
    "importlib-metadata",
    "imageio",
    "lazy-importer",
    "lazy-loader",
    "networkx",
    "opencv-python-headless",
    "scikit-image",
    "tifffile",
    "zipp",
}
"""What the listed dependencies bring along, and ComfyUI has not already."""


def required(lines) -> dict[str, Distribution]:
    """The installed distributions that requirement lines ask for, directly or not, by canonical name."""
    found: dict[str, Distribution] = {}
    waiting = [(Requirement(line), "") for line in lines]
    seen = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in {"", *requirement.extras} - {wanted for known, wanted in seen if known == name}:
            seen.add((name, wanted))
            found[name] = distribution(requirement.name)
            waiting += [(Requirement(line), wanted) for line in found[name].requires or []]
    return found


def lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8").splitlines()
    return [line for line in map(str.strip, text) if line and not line.startswith("#")]


def files(name: str, dist: Distribution) -> dict[str, str]:
    """What pip must see of a distribution: path and text."""
    folder = f"{name.replace('-', '_')}-{dist.version}.dist-info"
    wheel = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    return {f"{folder}/METADATA": dist.read_text("METADATA"), f"{folder}/WHEEL": wheel, f"{folder}/RECORD": ""}


@pytest.fixture(scope="module")
def host() -> dict[str, Distribution]:
    """What ComfyUI requires."""
    return required(lines(read_host()[0] / "requirements.txt"))


@pytest.fixture(scope="module")
def resolve(host, tmp_path_factory):
    """Requirement lines → names of what pip would install beside ComfyUI, with what is in the index."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root / "venv", with_pip=False)
    (packages,) = (root / "venv" / "lib").glob("python*/site-packages")
    for name, dist in host.items():
        for path, text in files(name, dist).items():
            (packages / path).parent.mkdir(exist_ok=True)
            (packages / path).write_text(text, encoding="utf-8")
    (root / "index").mkdir()
    for name, dist in (host | required(lines(ROOT / "requirements.txt"))).items():
        wheel = root / "index" / f"{name.replace('-', '_')}-{dist.version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in files(name, dist).items():
                archive.writestr(path, text)

    def run(wanted: list[str]) -> set[str]:
        python = root / "venv" / "bin" / "python"
        command = [sys.executable, "-m", "pip", "--isolated", "--python", str(python), "install", "--quiet"]
        command += ["--dry-run", "--report", str(root / "report.json"), "--no-index", "--find-links"]
        done = subprocess.run([*command, str(root / "index"), *wanted], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        report = json.loads((root / "report.json").read_text(encoding="utf-8"))
        return {canonicalize_name(item["metadata"]["name"]) for item in report["install"]}

    return run


def test_installation_adds_what_is_listed_and_replaces_nothing(resolve, host):
    added = resolve(["--requirement", str(ROOT / "requirements.txt")])
    assert {"diffusers", "timm"} <= added, "pip was not asked the right question"
    assert not added & host.keys(), "something that ComfyUI brought would be replaced"
    listed = {canonicalize_name(Requirement(line).name) for line in lines(ROOT / "requirements.txt")}
    assert added - listed <= INDIRECT


def test_replacing_something_of_comfyui_would_be_seen(resolve, host):
    """The same question, with an upgrade asked for: the version in the index is installed anew."""
    assert "safetensors" in host
    assert "safetensors" in resolve(["--force-reinstall", "--no-deps", "safetensors"])
