"""Make .venv and install the pack, its extras and the requirements of ComfyUI; quick when nothing changed.

    python3.11 .ci/install.py

Whichever Python runs this becomes the environment's. Standard library only.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import comfyui as host

ROOT = host.ROOT
ENVIRONMENT = ROOT / ".venv"
STAMP = ENVIRONMENT / "installed.sha256"
CONSTRAINTS = ROOT / ".ci" / "host-constraints.txt"


def make_environment() -> str:
    """Create .venv unless it is there for this version of Python; returns its interpreter."""
    python = ENVIRONMENT / "bin" / "python"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if (ENVIRONMENT / "lib" / f"python{version}").is_dir() and has_pip(python):
        return str(python)
    print(f"Creating .venv with Python {version} ...", flush=True)
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    done = subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        raise host.SetupError(
            f"{sys.executable} cannot make a virtual environment (Debian: apt install python{version}-venv)."
        )
    return str(python)


def has_pip(python: Path) -> bool:
    """Does this interpreter run, with pip? Both lack while a virtual environment is only half made."""
    try:
        done = subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def fingerprint(python: str, requirements: Path) -> str:
    """Changes with everything that decides what gets installed."""
    digest = hashlib.sha256(python.encode())
    for path in (ROOT / "pyproject.toml", CONSTRAINTS, requirements, Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def install(python: str, comfyui: Path) -> None:
    """Install everything, unless the stamp tells that it is."""
    requirements = comfyui / "requirements.txt"
    wanted = fingerprint(python, requirements)
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    STAMP.unlink(missing_ok=True)
    print("Installing (several minutes the first time) ...", flush=True)
    pip = [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    if not sys.stdout.isatty():
        pip.append("--quiet")
    pip += ["--constraint", str(CONSTRAINTS), "--requirement", str(requirements)]
    if subprocess.run([*pip, "--editable", f"{ROOT}[train,test]"], check=False).returncode != 0:
        raise host.SetupError("pip could not install everything (its reason stands above): fix that and run again.")
    STAMP.write_text(wanted)


def main() -> None:
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        raise host.SetupError(
            f"Python {sys.version.split()[0]} ({sys.executable}) does not fit: choose one from 3.10 to 3.13, "
            "e.g. `make PYTHON=python3.12 test`."
        )
    python = make_environment()
    install(python, host.prepare(python))


if __name__ == "__main__":
    try:
        main()
    except (host.SetupError, OSError) as error:
        sys.exit(f"error: {error}")
