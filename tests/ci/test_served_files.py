"""What the Comfy registry is told and what it would serve."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import PurePosixPath

import pytest
from PIL import Image

from workflows.comfy_server import ROOT, read_host


@pytest.fixture
def pyproject():
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.fixture
def read(monkeypatch, tmp_path):
    """Reads the text of a pyproject.toml as ComfyUI does, with its own model of the file."""
    monkeypatch.syspath_prepend(read_host()[0])
    from comfy_config.config_parser import extract_node_configuration

    def parse(text):
        (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
        return extract_node_configuration(str(tmp_path))

    return parse


@pytest.fixture(scope="module")
def served():
    """Paths of the files that the registry would serve: those that git tracks, less .comfyignore."""

    def tracked(*arguments):
        done = subprocess.run(["git", "ls-files", "-z", *arguments], cwd=ROOT, capture_output=True, check=False)
        if done.returncode:
            pytest.skip("this is no git repository: what the registry would serve was not looked at")
        return {name for name in done.stdout.decode().split("\0") if name}

    return tracked() - tracked("--cached", "--ignored", "--exclude-from=.comfyignore")


def test_comfyui_reads_the_metadata(pyproject, read):
    found = read(pyproject)
    project, comfy = found.project, found.tool_comfy
    assert re.fullmatch(r"[a-z][a-z0-9]*([._-][a-z0-9]+)*", project.name) and "comfy" not in project.name
    assert re.fullmatch(r"\d+\.\d+\.\d+", project.version)
    assert 50 < len(project.description) < 250 and project.license.text == "Apache-2.0"
    assert project.supported_os == ["OS Independent"] and project.supported_comfyui_version.startswith(">=0.")
    assert "torch" in project.dependencies
    assert comfy.publisher_id and comfy.display_name == "RePoseDM"
    for name, fits in {"icon": lambda w, h: w == h <= 400, "banner": lambda w, h: 9 * w == 21 * h}.items():
        with Image.open(ROOT / "workflows" / "images" / f"{name}.png") as picture:
            assert picture.format == "PNG" and fits(*picture.size), name
    assert comfy.icon.endswith("workflows/images/icon.png")


def test_served_files_are_those_that_users_need(served):
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "README.md", "CHANGELOG.md", "LICENSE"} <= served
    assert "reposedm_core/weights/reposedm-mini.safetensors" in served
    for start in ("nodes/web/docs/", "workflows/examples/", "training/"):
        assert any(name.startswith(start) for name in served), start
    assert not [name for name in served if name.startswith((".", "tests/", "data/", "runs/", "Makefile"))]
    assert sum((ROOT / name).stat().st_size for name in served) < 64 * 2**20


def anchors(page):
    """What GitHub makes of the headings of a page, for links to them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_served_pages_lead_to_served_files(served):
    folders = {str(parent) for name in served for parent in PurePosixPath(name).parents}
    for page in sorted(name for name in served if name.endswith(".md") and "/web/" not in name):
        text = (ROOT / page).read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
            if "://" not in target:
                path = (ROOT / page).parent.joinpath(target).resolve() if target else ROOT / page
                assert path.relative_to(ROOT).as_posix() in served | folders, f"{page} links to {target}"
                assert not anchor or anchor in anchors(path), f"{page} links to {target}#{anchor}"


def test_the_front_page_is_read_to_its_end():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_standards_of_the_registry(served):
    """No eval, no exec (ruff's S102, S307), and the nodes start no process, install nothing and download nothing."""
    sources = [name for name in served if name.endswith(".py")]
    check = [sys.executable, "-m", "ruff", "check", "--isolated", "--quiet", "--select", "S102,S307,E702"]
    done = subprocess.run([*check, *sources], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    forbidden = re.compile(
        r"^\s*(?:import|from) (?:subprocess|socket|urllib|http|requests|httpx|pip|ensurepip|huggingface_hub)\b"
        r"|\bos\.(?:system|popen|exec|spawn)|hf_hub_download|snapshot_download|load_state_dict_from_url",
        re.MULTILINE,
    )
    for name in sources:
        if name.startswith(("nodes/", "reposedm_core/")) or name == "__init__.py":
            found = forbidden.search((ROOT / name).read_text(encoding="utf-8"))
            assert found is None, f"{name}: {found[0].strip()}"
