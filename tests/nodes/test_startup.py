"""What the pack costs when ComfyUI starts: next to no time, and nothing outside the process."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys

import pytest

from workflows.comfy_server import ROOT, read_host

HEAVY = {
    "accelerate",
    "anny",
    "av",
    "controlnet_aux",
    "cv2",
    "diffusers",
    "huggingface_hub",
    "kornia",
    "matplotlib",
    "numba",
    "pandas",
    "scipy",
    "skimage",
    "sklearn",
    "timm",
    "torchvision",
    "transformers",
}
"""Libraries that take long to import, for whom they are imported where they are used."""

LIGHT = {"einops", "numpy", "PIL", "safetensors", "torch"}
"""Libraries that ComfyUI has loaded long before it loads the pack."""

HOST = {
    "aiohttp",
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "nodes",
    "server",
}
"""What `nodes/` may import besides: ComfyUI, and what it is made of."""

BOUND, SHARE = 3.0, 0.25
"""Seconds of the processor that the import may take, of which caches that others fight for make several of the half
second that it must not exceed on a quiet machine; and its share of the time that ComfyUI takes to start, which a busy
machine lengthens as much (a twentieth on a quiet one)."""

CHILD = """
import asyncio, importlib.util, json, sys, time

root, comfyui = sys.argv[1:]
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, comfyui)
import comfy.options
comfy.options.enable_args_parsing()
import nodes                               # ComfyUI's own, as its server has it before it loads any pack
loop = asyncio.new_event_loop()            # ComfyUI has one too
before, touched = set(sys.modules), []
watching = True

def watch(event, arguments):
    if watching and (
        event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.mkdir",
                          "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.putenv",
                          "shutil.", "tempfile.", "urllib.", "ctypes.dlopen"))
        or event == "open" and (set("wax+") & set(str(arguments[1] or "r")) or (arguments[2] or 0) & 0o3)
    ):
        touched.append(f"{event} {arguments}")

sys.addaudithook(watch)
start = time.process_time()
spec = importlib.util.spec_from_file_location("a-pack", root + "/__init__.py")
pack = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = pack
spec.loader.exec_module(pack)

async def load():
    extension = await pack.comfy_entrypoint()
    await extension.on_load()
    return [node.GET_SCHEMA().node_id for node in await extension.get_node_list()]

ids = loop.run_until_complete(load())
seconds = time.process_time() - start
watching = False
new = {name.partition(".")[0] for name in set(sys.modules) - before}
own = {"a-pack"} | set(sys.stdlib_module_names)
print(json.dumps({"ids": ids, "seconds": seconds, "touched": touched, "new": sorted(new - own)}))
"""


def top_level(body):
    """The import statements that run when a module is imported."""
    for statement in body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            yield statement
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from top_level(statement.orelse)
        elif not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for part in ("body", "handlers", "orelse", "finalbody"):
                inner = getattr(statement, part, [])
                yield from top_level(inner if isinstance(inner, list) else [])


@pytest.mark.parametrize(("folder", "allowed"), [("nodes", LIGHT | HOST), ("reposedm_core", LIGHT)])
def test_heavy_libraries_are_imported_where_they_are_used(folder, allowed):
    for path in sorted((ROOT / folder).rglob("*.py")):
        for statement in top_level(ast.parse(path.read_text(encoding="utf-8")).body):
            names = (
                [alias.name for alias in statement.names]
                if isinstance(statement, ast.Import)
                else ([statement.module] if statement.level == 0 else [])
            )
            for name in {name.partition(".")[0] for name in names} - allowed - set(sys.stdlib_module_names):
                pytest.fail(f"{path.relative_to(ROOT)}:{statement.lineno} imports {name} when ComfyUI starts")


@pytest.mark.processes
def test_nothing_heavy_is_imported_before_it_is_used():
    code = f"import sys, reposedm_core; print(*sorted({HEAVY!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


@pytest.fixture(scope="module")
def start():
    """What happened while the pack was imported, beside ComfyUI's own nodes, in a process of its own."""
    command = [sys.executable, "-c", CHILD, str(ROOT), str(read_host()[0])]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # Python's own cache is none of the pack's doing
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_import_loads_no_library_that_comfyui_has_not_loaded(start):
    assert "RePoseDMLoader" in start["ids"]
    assert start["new"] == []


def test_import_writes_nothing_connects_nowhere_and_starts_nothing(start):
    assert start["touched"] == []


def test_import_is_quick(start, comfy):
    """In a process of its own, and as the real server tells it."""
    assert start["seconds"] < BOUND
    (line,) = re.findall(r"([\d.]+) seconds: .*custom_nodes.*", comfy.log())
    assert float(line) < SHARE * comfy.started_in
