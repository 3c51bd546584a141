"""A pose to guide towards, and what a guided model has in it."""

from __future__ import annotations

from reposedm_core.pose import load_pose_file, to_keypoints
from workflows.comfy_server import ROOT

POSES = sorted((ROOT / "workflows" / "examples").glob("*_pose.json"))
"""Files of the example people's target poses."""
POSE = to_keypoints(load_pose_file(POSES[0]))


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
