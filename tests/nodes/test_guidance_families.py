"""Pose field guidance on stock models: neutral when off, and its gradient and strength on every family."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from tests.nodes import families
from tests.nodes.guided import count_decodings, networks


@pytest.mark.parametrize("family", families.FAMILIES)
def test_neutral_bit_for_bit(made, guide, family):
    model, vae = made(family)
    plain = families.sample(model)
    assert guide(model, vae, strength=0.0) is model and guide(model, vae, start=0.5, end=0.5) is model
    # Between two of the three steps, so that the function is called and never acts.
    idle = guide(model, vae, strength=50.0, start=0.6, end=0.61)
    shapes = count_decodings(idle)
    assert families.sample(idle).equal(plain) and not shapes
    assert not families.sample(guide(model, vae)).equal(plain)
    assert families.sample(model).equal(plain), "and the model itself is as it was"


@pytest.mark.parametrize("space", ["heatmaps", "features"])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_gradient_reaches_the_latent_alone(made, guide, estimator, family, space):
    model, vae = made(family)
    weights = [
        weight
        for network in (model.model, vae.first_stage_model, estimator.patcher.model)
        for weight in network.parameters()
    ]
    before = [weight.detach().clone() for weight in weights]
    bent = guide(model, vae, space=space)
    seen, pictures = [], []
    (own,) = networks(bent)
    own.vae.decoder.register_forward_hook(
        lambda _, inputs, output: pictures.append(weakref.ref(output[0] if isinstance(output, list) else output))
    )
    hook = model.model.diffusion_model.register_forward_hook(
        lambda *_: seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
    )
    try:
        latent = families.sample(bent, steps=4)
    finally:
        hook.remove()
    assert latent.isfinite().all() and not latent.requires_grad and latent.grad_fn is None
    assert set(seen) == {(False, True)}, "the denoiser runs as the host runs it"
    assert len(pictures) == 4
    gc.collect()
    assert not any(picture() is not None for picture in pictures), "no graph is kept"
    for weight in [*weights, *own.parameters()]:
        assert weight.grad is None
    assert not any(weight.requires_grad for weight in own.parameters())
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


@pytest.mark.parametrize("family", families.FAMILIES)
def test_normalised_strength_takes_about_the_same_share_off_the_distance(made, guide, family, monkeypatch):
    """Of one step alone, measured where the gradient acts, for models whose bare gradients differ by five orders."""
    model, vae = made(family)
    bent = guide(model, vae, strength=0.1, limit=1.0, end=0.3, normalise=True)
    (own,) = networks(bent)
    distances = []
    gradient = type(own.field).gradient

    def spy(field, latent, decode, target, *rest):
        found = gradient(field, latent, decode, target, *rest)
        distances.append((float(found[1]), decode, target))
        return found

    monkeypatch.setattr(type(own.field), "gradient", spy)
    after = []

    def look(args):
        distance, decode, target = distances[-1]
        with torch.no_grad():
            latent = args["denoised"].clone()
            latent = latent[:, :, 0] if latent.ndim == 5 else latent
            after.append(1 - float(own.field.distance(decode(latent), target)) / distance)
        return args["denoised"]

    bent.set_model_sampler_post_cfg_function(look)
    families.sample(bent, steps=1)
    assert len(distances) == 1 and 0.03 < after[0] < 0.3, f"a tenth, within a factor of three, not {after}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_vae_in_half_precision(made, guide, dtype):
    model, _ = made("SDXL")
    vae = families.vae(model)
    with torch.inference_mode():
        vae.first_stage_model.to(dtype)
    vae.vae_dtype = dtype
    bent = guide(model, vae)
    assert next(networks(bent)[0].vae.parameters()).dtype == dtype
    latent = families.sample(bent)
    assert latent.isfinite().all() and not latent.equal(families.sample(model))


@pytest.mark.parametrize("kind", ["official", "vitpose"])
@pytest.mark.parametrize("space", ["heatmaps", "features"])
def test_public_estimators_guide(pack, made, guide, kind, space, tmp_path):
    from tests.estimator.test_load import flat, micro
    from tests.estimator.test_vitpose import save_tiny

    path = tmp_path / "w4_128.pth"
    if kind == "official":
        torch.save(flat(micro()), path)
    else:
        path = tmp_path / "vitpose"
        save_tiny(path)
    loaded = pack.nodes.estimators.load_in_patcher(path)
    model, vae = made("SD 1.5")
    # A network of random weights may see no joint anywhere, and then the mask is empty.
    latent = families.sample(guide(model, vae, estimator=loaded, space=space, mask_threshold=0.0))
    assert latent.isfinite().all() and not latent.equal(families.sample(model))


def test_prompt_without_the_new_inputs_is_run_as_before(pack):
    """A saved prompt holds the inputs up to the limit: the others may be left out, and stand at what always was."""
    import inspect

    node = pack.nodes.guidance.PoseInteractionFieldGuidance
    inputs = {each.id: each for each in node.define_schema().inputs}
    parameters = inspect.signature(node.execute).parameters
    new = list(inputs)[list(inputs).index("limit") + 1 :]
    assert new.pop() == "preset"
    assert parameters["preset"].default == "custom", "new nodes begin with another"
    assert new == ["normalise", "every_nth_step", "mask_threshold", "joints", "people", "decoder", "decode_size"]
    neutral = [False, 1, 0.1, "all", "0", "vae", 1.0]
    for name, value in zip(new, neutral, strict=True):
        assert inputs[name].optional and inputs[name].default == value == parameters[name].default, name
