"""The layout: imports lead one way, between files, between rooms and between the three packages."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

BELOW = {
    "data": set(),
    "metrics": {"data"},
    "engine": {"data", "metrics"},
    "stages": {"data", "metrics", "engine"},
    "evaluation": {"data", "metrics", "engine", "stages"},
    "synthetic": {"data"},
    "preparation": {"data"},
    "adapters": {"data", "preparation"},
    "perception": {"metrics", "preparation"},
    "reid": {"data", "metrics", "engine", "stages", "evaluation", "preparation", "adapters"},
}
"""Room of the training → rooms that it may import from; the commands, on top of all, may import any."""

COMMANDS = {
    "dress",
    "evaluate",
    "evaluate_captioned",
    "figures",
    "generate",
    "measure_clip",
    "prepare",
    "report",
    "study_denoisers",
    "study_fidelity",
    "study_guidance",
    "study_inner",
    "study_perception",
    "study_reid",
    "study_sources",
    "train",
    "train_tiny",
}

MOVED = {
    "training/tiny.py": "training/train_tiny.py",
    "training/guidance_study.py": "training/study_guidance.py",
    "training/data/synthetic.py": "training/generate.py",
    "training/data/prepare.py": "training/prepare.py",
    "training/data/checks.py": "training/synthetic/checks.py",
    "tests/bench/bench.py": "benchmarks/bench.py",
}
"""Commands by their old names, and by those that they tell."""

SCRIPTS = ("benchmarks", "workflows", ".ci")
"""Folders whose files import each other by their plain names."""


def sources(folder: str) -> list[str]:
    """Paths of a folder's Python files from the root."""
    found = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py"))
    return [path for path in found if path not in MOVED]


FILES = [path for folder in ("reposedm_core", "nodes", "training", *SCRIPTS) for path in sources(folder)]


@cache
def imports(path: str) -> list[tuple[int, str, tuple[str, ...], bool]]:
    """(level, module, names, at the top level) of every import in a file; level 0 is absolute."""
    tree, found = ast.parse((ROOT / path).read_text(encoding="utf-8")), []
    inner = {
        child
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, (), node not in inner) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            found.append((node.level, node.module or "", names, node not in inner))
    return found


def roots(path: str) -> set[str]:
    """The top-level names that a file imports absolutely."""
    return {module.partition(".")[0] for level, module, _, _ in imports(path) if level == 0}


def imported(path: str) -> set[str]:
    """The files of ours that a file imports, anywhere in it and for whatever purpose."""
    folder, found = path.split("/")[:-1], set()
    for level, module, names, _ in imports(path):
        parts = module.split(".") if module else []
        if level:
            base = folder[: len(folder) - level + 1] + parts
        elif folder and folder[0] in SCRIPTS:
            base = [*folder, *parts] if (ROOT.joinpath(*folder, *parts).with_suffix(".py")).is_file() else parts
        elif parts[0] == "nodes":  # ComfyUI's own
            continue
        else:
            base = parts
        for name in names or ("",):
            places = [[*base, name], base] if name else [base]
            files = ["/".join(place) + end for place in places if place for end in (".py", "/__init__.py")]
            found |= set([file for file in files if (ROOT / file).is_file()][:1])
    return found - {path}


def circle(edges: dict[str, set[str]]) -> list[str]:
    """One circle of a graph, or nothing."""
    done: set[str] = set()

    def follow(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        for after in sorted(edges.get(node, ())):
            found = follow(after, [*way, node])
            if found:
                return found
        done.add(node)
        return []

    return next(filter(None, (follow(node, []) for node in sorted(edges))), [])


def room(path: str) -> str:
    """The folder of a file: two levels deep in a package; a file right in a package or of the scripts is alone."""
    parts = path.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 else path


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_imports_are_seen():
    assert "reposedm_core/estimator/hrnet.py" in imported("reposedm_core/estimator/__init__.py")
    assert "reposedm_core/config.py" in imported("reposedm_core/estimator/hrnet.py")
    assert "training/engine/run.py" in imported("training/train.py")
    assert "nodes/host/patchers.py" in imported("nodes/guidance.py")
    assert "benchmarks/timing.py" in imported("benchmarks/bench.py")
    assert ".ci/comfyui.py" in imported(".ci/install.py")


def test_no_circle_of_files():
    assert circle({path: imported(path) for path in FILES}) == []


def test_no_circle_of_rooms():
    edges: dict[str, set[str]] = {}
    for path in FILES:
        for other in imported(path):
            if room(other) != room(path):
                edges.setdefault(room(path), set()).add(room(other))
    assert circle(edges) == []


@pytest.mark.parametrize("path", sources("training"))
def test_rooms_of_the_training_import_what_is_below(path):
    """The engine trains whatever stage it is given: it finds them by name, when it is asked to."""
    parts = path.split("/")
    if len(parts) == 2:
        assert parts[1].removesuffix(".py") in COMMANDS, "only commands lie right in training/"
        assert 'if __name__ == "__main__":' in (ROOT / path).read_text(encoding="utf-8")
        return
    assert parts[1] in BELOW, f"{parts[1]}/ is no room"
    rooms = {other.split("/")[1] for other in imported(path) if other.startswith("training/")}
    assert rooms <= BELOW[parts[1]] | {parts[1]}


@pytest.mark.parametrize("path", sources("reposedm_core"))
def test_core_imports_neither_comfy_nor_its_users(path):
    forbidden = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "server", "nodes", "training", "workflows"}
    assert not roots(path) & (forbidden | {"reposedm_core"}), "core imports itself relatively, and no user of it"
    depth = len(path.split("/")) - 1
    assert all(level <= depth for level, *_ in imports(path)), "a relative import leaves the package"


@pytest.mark.parametrize("path", sources("nodes"))
def test_nodes_import_core_relatively_and_never_training(path):
    assert not roots(path) & {"reposedm_core", "training", "tests", "workflows"}
    depth = len(path.split("/"))
    for level, module, *_ in imports(path):
        assert level <= depth
        assert not module.startswith("nodes.") or level, "the name `nodes` is that of ComfyUI's own module"
        if level == depth:
            assert module.partition(".")[0] == "reposedm_core", f"nodes use core only, not {module}"
    if path.startswith("nodes/host/"):
        others = {other for other in imported(path) if other.startswith("nodes/")}
        assert all(other.startswith("nodes/host/") for other in others), "the host's side knows no node"


@pytest.mark.parametrize("path", sources("training"))
def test_training_imports_core_and_never_nodes(path):
    assert not roots(path) & {"comfy", "comfy_api", "folder_paths", "nodes", "tests", "workflows"}


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_commands_of_old_names_tell_the_new(old, new):
    done = subprocess.run([sys.executable, ROOT / old, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == f"error: this command is now: python {new}\n"
    assert re.search(r'if __name__ == "__main__":', (ROOT / new).read_text(encoding="utf-8"))
