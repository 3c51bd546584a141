"""Making .venv and installing: what is made anew, what is left alone, and what is not tried again at once."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(name, module_name):
    spec = importlib.util.spec_from_file_location(module_name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def installer(monkeypatch, tmp_path):
    """The script .ci/install.py as a module whose environment is in a temporary folder."""
    monkeypatch.setitem(sys.modules, "comfyui", load("comfyui", "reposedm_host_setup"))
    module = load("install", "reposedm_install")
    monkeypatch.setattr(module, "ENVIRONMENT", tmp_path / "venv")
    monkeypatch.setattr(module, "STAMP", tmp_path / "venv" / "installed.sha256")
    return module


def test_installs_again_only_when_something_changed(installer, tmp_path):
    """The interpreter is a script that notes what it was called with: nothing is downloaded."""
    calls, broken = tmp_path / "calls", tmp_path / "broken"
    python = str(command(tmp_path / "python", f'echo "$@" >> {calls}; test ! -e {broken}'))
    installer.ENVIRONMENT.mkdir()
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("numpy\n")

    def count():
        return len(calls.read_text().splitlines())

    installer.install(python, tmp_path)
    (call,) = calls.read_text().splitlines()
    assert call.startswith("-m pip install ") and call.endswith(f"--editable {ROOT}[train,test]")
    assert f"--constraint {installer.CONSTRAINTS}" in call and f"--requirement {requirements}" in call
    installer.install(python, tmp_path)
    assert count() == 1
    requirements.write_text("numpy>=2\n")
    broken.touch()
    for expected in (2, 3):
        with pytest.raises(installer.host.SetupError, match="pip could not install everything"):
            installer.install(python, tmp_path)
        assert count() == expected, "what failed is tried again"
    broken.unlink()
    for _ in range(2):
        installer.install(python, tmp_path)
        assert count() == 4


@pytest.mark.slow
def test_half_made_environment_is_made_anew(installer, capsys):
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    half = [sys.executable, "-m", "venv", "--without-pip", str(installer.ENVIRONMENT)]
    subprocess.run(half, check=True)
    assert (installer.ENVIRONMENT / "lib" / version).is_dir()
    python = installer.make_environment()
    assert "Creating .venv" in capsys.readouterr().out
    subprocess.run([python, "-m", "pip", "--version"], check=True, capture_output=True)
    assert installer.make_environment() == python
    assert capsys.readouterr().out == "", "a whole one is kept"


@pytest.fixture
def packages(tmp_path):
    """Runs .ci/system-packages.sh where apt-get fails and Chromium is missing: (its output, calls of apt-get)."""
    tools, calls = tmp_path / "bin", tmp_path / "calls"
    for folder in (tools, tmp_path / ".ci"):
        folder.mkdir()
    script = shutil.copy(ROOT / ".ci" / "system-packages.sh", tmp_path / ".ci")
    for tool in ("bash", "dirname", "env", "find", "id", "mkdir", "mktemp", "rm", "sh", "touch"):
        (tools / tool).symlink_to(shutil.which(tool))
    command(tools / "apt-get", f'echo "$@" >> {calls}; exit 1')

    def run(*wanted):
        calls.write_text("")
        done = subprocess.run(
            [str(script), *wanted], env={**os.environ, "PATH": str(tools)}, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        return done.stdout, calls.read_text()

    return run


def test_failed_packages_are_said_and_not_tried_again_at_once(packages, tmp_path):
    said, tried = packages("video")
    assert "download -qq opencv-doc" in tried and "chromium" not in tried
    assert "Without a video of real people" in said and "CHROMIUM" not in said
    said, tried = packages("video", "chromium")
    assert "opencv-doc" not in tried and "Without a video" in said and "NO CHROMIUM HERE" in said
    said, tried = packages("video", "chromium")
    assert tried == "" and "Without a video" in said and "NO CHROMIUM HERE" in said
    stamp = tmp_path / ".host" / "no-video"
    os.utime(stamp, (stamp.stat().st_mtime - 3700,) * 2)
    assert "opencv-doc" in packages("video")[1], "after an hour it is"
