"""What the repository promises about itself: dependencies, licence, packaging, style."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_requirements_equal_the_dependencies():
    assert lines(ROOT / "requirements.txt") == PROJECT["project"]["dependencies"]


def test_nothing_is_named_twice():
    extras = PROJECT["project"]["optional-dependencies"].values()
    requirements = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]
    names = [re.match(r"[\w-]+", line).group().lower() for line in requirements]
    assert len(names) == len(set(names))


def test_torch_is_named_without_a_version():
    assert "torch" in PROJECT["project"]["dependencies"]
    named = [re.match(r"[\w-]+", line).group() for line in PROJECT["project"]["dependencies"]]
    assert not {"torchvision", "torchaudio"} & set(named)


def test_licence_is_apache():
    assert PROJECT["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_registry_metadata():
    comfy = PROJECT["tool"]["comfy"]
    assert comfy["PublisherId"] and comfy["DisplayName"]
    least = tuple(map(int, re.fullmatch(r">=(\d+)\.(\d+)\.(\d+)", comfy["requires-comfyui"]).groups()))
    assert least >= (0, 11, 0), "search_aliases need 0.11"


def test_only_core_is_packaged():
    assert distribution(PROJECT["project"]["name"]).read_text("top_level.txt").split() == ["reposedm_core"]


@pytest.mark.parametrize("folder", ["nodes", "reposedm_core", "workflows", "tests"])
def test_search_path_is_left_alone(folder):
    """A second copy of core, found through another path, would break isinstance."""
    for path in sources(folder):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            touched = isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"
            assert not touched, f"{path.relative_to(ROOT)}:{node.lineno} touches sys.path"


def test_root_module_exports_the_extension_and_nothing_else():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    names = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == {"WEB_DIRECTORY", "comfy_entrypoint"}
    assert all(isinstance(node, (ast.Expr, ast.ImportFrom, ast.Assign)) for node in tree.body)


@pytest.mark.parametrize("folder", ["tests", "workflows"])
def test_no_package_files_outside_the_packages(folder):
    assert not list((ROOT / folder).rglob("__init__.py"))


def test_templates_have_one_folder():
    for name in ("example_workflows", "example", "examples", "workflow"):
        assert not (ROOT / name).exists(), f"ComfyUI would serve templates from {name}/ too"


@pytest.mark.parametrize("command", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff_is_content(command):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
