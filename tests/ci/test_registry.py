"""What the Comfy registry is told and what it would serve; where the repository is published is filled in later."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import PurePosixPath

import numpy as np
import pytest
from PIL import Image

from workflows.comfy_server import ROOT, read_host

ADDRESS = "https://github.com/someone/ComfyUI-RePoseDM"


def script(name):
    spec = importlib.util.spec_from_file_location(f"reposedm_{name}", ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def registry():
    """The script .ci/registry.py as a module."""
    return script("registry")


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
    assert comfy.icon.startswith("https://") or (ROOT / comfy.icon).is_file()


def test_nothing_lacks_but_the_addresses(pyproject, registry):
    """An icon that is too large or a banner of another shape would be told here, too."""
    lines = registry.lacks(pyproject)
    assert [line.partition(":")[0] for line in lines] in ([], ["Repository", "Icon", "Banner"]), lines


def test_addresses_are_filled_in(pyproject, registry, read):
    text = registry.fill(pyproject, ADDRESS, "someone")
    assert registry.lacks(text) == []
    found = read(text)
    assert found.project.urls.repository == ADDRESS and found.project.urls.issues == f"{ADDRESS}/issues"
    assert found.tool_comfy.publisher_id == "someone"
    pages = {"Icon": found.tool_comfy.icon, "Banner": re.search(r'^Banner = "(.*)"$', text, re.MULTILINE)[1]}
    for key, page in pages.items():
        base = "https://raw.githubusercontent.com/someone/ComfyUI-RePoseDM/main/"
        assert page.startswith(base) and (ROOT / page.removeprefix(base)).is_file(), key
    again = registry.fill(text, f"{ADDRESS}-2.git")
    assert registry.lacks(again) == [] and again.count(f'{ADDRESS}-2"') == 1 and again.count('someone"') == 1


@pytest.mark.parametrize(
    ("repository", "publisher", "named"),
    [("https://example.org/a/b", "me", "https://github.com/OWNER/NAME"), (ADDRESS, "no id", "'no id'")],
)
def test_wrong_addresses_are_refused(pyproject, registry, repository, publisher, named):
    with pytest.raises(ValueError, match=named):
        registry.fill(pyproject, repository, publisher)


@pytest.mark.parametrize(("key", "value"), [("version", "0.1"), ("name", "re--pose"), ("PublisherId", "")])
def test_what_the_registry_refuses_is_told(pyproject, registry, key, value):
    (found,) = registry.lacks(registry.replace(registry.fill(pyproject, ADDRESS), key, value))
    assert found.startswith(f"{key}:")


def test_misshapen_pictures_are_told(registry, tmp_path):
    Image.new("RGB", (420, 420)).save(tmp_path / "icon.png")
    assert registry.misshapen("Icon", tmp_path / "icon.png") == ["Icon: icon.png is 420x420 pixels."]
    assert registry.misshapen("Banner", tmp_path / "icon.png") == ["Banner: icon.png is 420x420 pixels."]
    (tmp_path / "icon.png").write_bytes(b"GIF89a")
    assert registry.misshapen("Icon", tmp_path / "icon.png") == ["Icon: icon.png is no PNG file."]


def test_icon_is_what_its_script_draws():
    """Up to the smoothing of edges, which differs a little between versions of Pillow."""
    drawn = script("artwork").icon()
    with Image.open(ROOT / "workflows" / "images" / "icon.png") as shipped:
        difference = np.asarray(drawn).astype(int) - np.asarray(shipped.convert("RGB"))
    assert np.abs(difference).mean() < 2


def test_served_files_are_those_that_users_need(served):
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "README.md", "CHANGELOG.md", "LICENSE"} <= served
    assert "reposedm_core/weights/reposedm-mini.safetensors" in served
    for start in ("nodes/web/docs/", "workflows/examples/", "training/"):
        assert any(name.startswith(start) for name in served), start
    assert not [name for name in served if name.startswith((".", "tests/", "data/", "runs/", "Makefile"))]
    assert sum((ROOT / name).stat().st_size for name in served) < 64 * 2**20


def test_links_between_served_pages_lead_to_served_files(served):
    folders = {str(parent) for name in served for parent in PurePosixPath(name).parents}
    for page in sorted(name for name in served if name.endswith(".md") and "/web/" not in name):
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target:
                path = (ROOT / page).parent.joinpath(target).resolve().relative_to(ROOT).as_posix()
                assert path in served | folders, f"{page} links to {target}"


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
