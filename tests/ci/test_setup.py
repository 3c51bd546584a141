"""Obtaining ComfyUI and linking the pack: what is taken, and one clear line where it cannot be done."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def setup(monkeypatch, tmp_path):
    """The script .ci/comfyui.py as a module that keeps its downloads in a temporary folder."""
    spec = importlib.util.spec_from_file_location("reposedm_host_setup", ROOT / ".ci" / "comfyui.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HOST", tmp_path / "host")
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    return module


@pytest.fixture
def comfyui(tmp_path):
    """A folder that has what tells a ComfyUI from another folder."""
    folder = tmp_path / "ComfyUI"
    (folder / "custom_nodes").mkdir(parents=True)
    (folder / "main.py").write_text("")
    (folder / "comfyui_version.py").write_text('# comment\n__version__ = "0.31.2"\n')
    return folder


def test_only_comfyui_is_unpacked(setup, tmp_path):
    names = ["main.py", "comfy/ops.py"]
    inside = [f"carrier-1.0/vendor/ComfyUI/{name}" for name in names]
    outside = [
        "carrier-1.0/setup.py",
        "carrier-1.0/vendor/other/main.py",
        "carrier-1.0/vendor/ComfyUI/../../evil",
    ]
    with tarfile.open(tmp_path / "carrier.tar.gz", "w:gz") as tar:
        for name in inside + outside:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    setup.unpack(tmp_path / "carrier.tar.gz", tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert found == set(names)
    assert (tmp_path / "out" / "main.py").read_text() == inside[0]
    assert not list(tmp_path.rglob("evil"))


def test_own_comfyui_is_used_and_linked_once(setup, comfyui, monkeypatch, tmp_path):
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    assert setup.prepare() == comfyui
    entry = comfyui / "custom_nodes" / "ComfyUI-RePoseDM"
    assert entry.is_symlink() and entry.resolve() == ROOT
    assert setup.prepare() == comfyui
    assert list((comfyui / "custom_nodes").iterdir()) == [entry]
    assert not (tmp_path / "host" / "ComfyUI").exists()


def test_link_under_another_name_is_kept(setup, comfyui):
    (comfyui / "custom_nodes" / "mine").symlink_to(ROOT)
    assert setup.link(comfyui) == "mine"
    assert len(list((comfyui / "custom_nodes").iterdir())) == 1


def test_link_to_a_checkout_that_is_gone_is_renewed(setup, comfyui, tmp_path):
    entry = comfyui / "custom_nodes" / "ComfyUI-RePoseDM"
    entry.symlink_to(tmp_path / "gone")
    assert setup.link(comfyui) == entry.name
    assert entry.resolve() == ROOT


def test_another_copy_of_the_pack_is_not_touched(setup, comfyui):
    other = comfyui / "custom_nodes" / "ComfyUI-RePoseDM"
    other.mkdir()
    with pytest.raises(setup.SetupError, match=r"another copy of the pack: move it away"):
        setup.link(comfyui)
    assert other.is_dir() and not other.is_symlink()


def test_wrong_path_is_named(setup, monkeypatch, tmp_path):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(setup.SetupError, match=rf"COMFYUI_PATH={tmp_path} is no ComfyUI"):
        setup.obtain()


def test_failed_download_is_one_line_that_says_what_to_do(setup, monkeypatch):
    """pip itself runs, on an index that nobody serves."""
    for name, value in {"INDEX_URL": "http://127.0.0.1:9", "EXTRA_INDEX_URL": "", "RETRIES": "0"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    with pytest.raises(setup.SetupError) as failure:
        setup.obtain()
    message = str(failure.value)
    assert "\n" not in message
    assert "could not be downloaded" in message and "COMFYUI_PATH" in message
    assert not list(setup.HOST.iterdir()), "nothing half-done may stay"


@pytest.mark.processes
def test_unfit_python_is_named_with_the_remedy():
    code = "import runpy, sys; sys.version_info = (3, 9, 2); sys.path.insert(0, '.ci'); "
    code += "runpy.run_path('.ci/install.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "from 3.10 to 3.13" in done.stderr and "PYTHON=" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.processes
def test_missing_python_is_named_by_make():
    done = subprocess.run(["make", "host", "PYTHON=python0"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "there is no python0 here" in done.stderr
