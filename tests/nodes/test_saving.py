"""Stock nodes that save models, on what the pack's loaders give."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from reposedm_core.networks import SHIPPED
from tests.nodes.test_reposesd_full_size import random_weights


@pytest.fixture
def save(output):
    """A stock node of that name saves; the path of its file."""
    from comfy_extras import nodes_model_merging

    def run(node, *what):
        with torch.inference_mode():
            getattr(nodes_model_merging, node)().save(*what, "saved")
        (path,) = output.glob("saved*.safetensors")
        return path

    return run


def same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_reposedm(pack, save):
    """The shipped weights, whose autoencoder is laid out by channels."""
    model, vae, _, _ = pack.nodes.loaders.load_checkpoint(SHIPPED)
    weights = vae.first_stage_model.state_dict()
    assert not all(weight.is_contiguous() for weight in weights.values()), "else nothing is tested"
    path = save("VAESave", vae)
    same(load_file(path), weights)
    path.unlink()
    network = {f"model.diffusion_model.{key}": value for key, value in model.model.diffusion_model.state_dict().items()}
    path = save("ModelSave", model)
    found = load_file(path)
    assert found.pop("v_pred").numel() == 0
    same(found, network)
    path.unlink()
    found = load_file(save("CheckpointSave", model, None, vae))
    assert found.keys() > network.keys() and len(found) == len(network) + len(weights) + 1
    assert not all(weight.is_contiguous() for weight in vae.first_stage_model.state_dict().values()), "it stays quick"


def test_reposesd(pack, save, reposesd_file, tiny_vae):
    """What ModelSave wrote goes back into RePoseSD Loader."""
    model, _, vae = pack.nodes.reposesd.load_checkpoint(reposesd_file)
    path = save("VAESave", vae)
    same(load_file(path), tiny_vae)
    path.unlink()
    again = pack.nodes.reposesd.load_checkpoint(save("ModelSave", model))[0]
    assert again.model.model_type == model.model.model_type
    same(again.model.diffusion_model.state_dict(), model.model.diffusion_model.state_dict())


@pytest.mark.slow
def test_text_encoder_of_reposesd(pack, save):
    """HumanSD's layout: 354 million parameters; Load CLIP reads what CLIPSave wrote."""
    import comfy.sd
    import comfy.utils

    prefix = pack.nodes.reposesd.TEXT
    text = comfy.utils.state_dict_prefix_replace(random_weights(), {prefix: ""}, filter_keys=True)
    with torch.inference_mode():
        clip = comfy.sd.load_text_encoder_state_dicts([text], embedding_directory=[])
    path = save("CLIPSave", clip)
    with torch.inference_mode():
        again = comfy.sd.load_clip([str(path)], clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION)
    path.unlink()
    saved, found = (one.cond_stage_model.state_dict() for one in (clip, again))
    same({key: value for key, value in found.items() if key in saved}, saved)
