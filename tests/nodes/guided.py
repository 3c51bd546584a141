"""A pose to guide towards, and what a guided model has in it."""

from __future__ import annotations

import shutil
from pathlib import Path

from reposedm_core.pose import load_pose_file, to_keypoints
from tests.nodes import families
from workflows.comfy_server import ROOT, read_host

POSES = sorted((ROOT / "workflows" / "examples").glob("*_pose.json"))
"""Files of the example people's target poses."""
POSE = to_keypoints(load_pose_file(POSES[0]))
OUTPUTS = "positive", "negative", "latent", "aligned", "visibility", "flow", "person", "changed"
"""Of Recurrent Pose Aligner."""


def stock_packs(folder: Path, *files: str) -> tuple[str, ...]:
    """Arguments of a ComfyUI with the pack, one with a tiny model of every family, and packs of tests/fixtures.

    Args:
        folder: an empty one, where they are put. files: names of the latter.
    """
    fixtures, packs = ROOT / "tests" / "fixtures", folder / "custom_nodes"
    (packs / "stock").mkdir(parents=True)
    shutil.copy(fixtures / "stock.py", packs / "stock" / "__init__.py")
    shutil.copy(families.__file__, packs / "stock")
    for file in files:
        shutil.copy(fixtures / file, packs)
    paths = folder / "paths.yaml"
    paths.write_text(f"tests:\n  base_path: {folder}\n  custom_nodes: custom_nodes\n")
    allowed = ("--whitelist-custom-nodes", read_host()[1], *files, "stock")
    return "--cpu", "--extra-model-paths-config", str(paths), *allowed


def networks(model):
    """The guidance's networks of a model, the last one's first."""
    return [patcher.model for patcher in reversed(model.get_additional_models_with_key("reposedm_field"))]


def count_decodings(model):
    """Shapes of the latents that the guidance decodes, from now on."""
    shapes = []
    network = networks(model)[0].vae
    decode = network.decode
    network.decode = lambda latent: shapes.append(tuple(latent.shape)) or decode(latent)
    return shapes
