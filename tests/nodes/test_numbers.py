"""Numbers that are none: every float input of every node names itself, whatever sent NaN or infinity there."""

from __future__ import annotations

import math

import pytest
import torch

from tests.nodes.guided import POSE

FLOATS = {
    "RePoseDMEstimatePose": ["threshold"],
    "RePoseDMDrawPose": ["line_width"],
    "RePoseDMSmoothPoses": ["smoothing", "fast_moves"],
    "RePoseDMEditPose": ["scale", "rotate", "move_x", "move_y", "joint_x", "joint_y"],
    "RePoseDMPoseFieldGuidance": ["strength", "start_percent", "end_percent", "limit", "mask_threshold", "decode_size"],
    "RePoseDMKSampler": ["cfg", "denoise", "field_strength"],
    "RePoseDMGarmentTransfer": ["cfg", "field_strength"],
    "RePoseDMGarmentMask": ["threshold", "grow", "feather"],
    "RePoseDMCropToPerson": ["margin"],
    "RePoseDMPasteBack": ["grow", "feather", "match_colours"],
    "RePoseDMKeepFace": ["feather", "match_colours"],
    "RePoseDMRevealMask": ["grow", "blur", "floor"],
    "RePoseDMSDConditioning": ["strength", "start_percent", "end_percent"],
}
"""Float inputs of all nodes, by the node's id; the others have none."""


@pytest.fixture(scope="module")
def nodes(pack):
    return {node.define_schema().node_id: node for node in pack.nodes.NODES}


@pytest.fixture(scope="module")
def arguments(pack, nodes, tiny, made):
    """Real arguments for a node, by the names of its inputs: what the schema has by default, and small networks."""
    model, vae, aligner, estimator = pack.nodes.loaders.load_checkpoint(tiny)
    picture = torch.rand(1, 80, 64, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        positive, negative, latent = pack.nodes.aligner.RecurrentPoseAlignerNode.execute(
            aligner, vae, picture, POSE, 0, 0
        ).args[:3]
    known = {
        "model": model,
        "vae": vae,
        "aligner": aligner,
        "pose_estimator": estimator,
        "pose": POSE,
        "positive": positive,
        "negative": negative,
        "latent": latent,
        "image": picture,
        "picture": picture,
        "result": picture,
        "source": picture,
        "source_pose": POSE,
        "visibility": torch.ones(1, 80, 64),
        "person": torch.ones(1, 80, 64),
        "reference": picture,
        "garment": picture,
        "mask": torch.ones(1, 80, 64),
    }

    def of(node):
        found = {"RePoseDMSDConditioning": {"vae": made("SD 1.5")[1]}}.get(node, {})
        for item in nodes[node].define_schema().inputs:
            default = getattr(item, "default", None)
            found.setdefault(item.id, known.get(item.id) if default is None else default)
        return found

    return of


def test_all_float_inputs_are_here(nodes):
    found = {
        name: [item.id for item in node.define_schema().inputs if item.io_type == "FLOAT"]
        for name, node in nodes.items()
    }
    assert {name: floats for name, floats in found.items() if floats} == FLOATS


@pytest.mark.parametrize("node", FLOATS)
def test_with_its_defaults_each_node_runs(nodes, arguments, node):
    """Else it would not be the number that the next test is about."""
    with torch.inference_mode():
        assert nodes[node].execute(**arguments(node)).args


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("node", "name"), [(node, name) for node, names in FLOATS.items() for name in names])
def test_no_number_is_named(pack, nodes, arguments, node, name, value):
    (item,) = (item for item in nodes[node].define_schema().inputs if item.id == name)
    shown = item.display_name or name
    with torch.inference_mode(), pytest.raises(pack.reposedm_core.InputError) as error:
        nodes[node].execute(**{**arguments(node), name: value})
    assert str(error.value) == f"{shown} = {value}: must be a finite number."
