"""RePoseDM KSampler: the Python API's pictures, the ancestral sampler, field strength, previews, cancelling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from reposedm_core import RePoseDMPipeline
from reposedm_core.pose import load_pose_file, to_keypoints
from workflows.comfy_server import ROOT

POSE = sorted((ROOT / "workflows" / "examples").glob("*_pose.json"))[0]
SETTINGS = {"seed": 3, "steps": 3, "cfg": 1.5, "sampler_name": "ddim", "scheduler": "simple", "denoise": 1.0}


@pytest.fixture(scope="module")
def sources():
    return torch.rand(2, 80, 64, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def host(pack, tiny):
    return pack.nodes.loaders.load_checkpoint(tiny)


@pytest.fixture
def aligned(pack, host, sources):
    """positive, negative and latent of a batch of two."""
    with torch.inference_mode():
        return pack.nodes.aligner.RecurrentPoseAlignerNode.execute(
            host[2], host[1], sources, to_keypoints(load_pose_file(POSE)), 0, 0
        ).args[:3]


def sample(pack, model, aligned, **changed):
    with torch.inference_mode():
        return pack.nodes.sampler.RePoseDMKSampler.execute(model, *aligned, **{**SETTINGS, **changed}).args[0][
            "samples"
        ]


def learned(pack):
    return {"sampler_name": pack.nodes.sampler.LEARNED}


@pytest.mark.parametrize(
    ("name", "cfg", "seed", "steps"),
    [("ddim", 1.5, 3, 3), ("ancestral", 1.5, 3, 3), ("ancestral", 1.0, 2**64 - 1, 5), ("ancestral", 0.0, 0, 2)],
)
def test_a_batch_of_two_is_the_python_api_s(pack, tiny, host, aligned, sources, name, cfg, seed, steps):
    """To 1e-5 of the largest value: the host computes the same in another order."""
    sampler = {"sampler_name": name} if name == "ddim" else learned(pack)
    latent = sample(pack, host[0], aligned, cfg=cfg, seed=seed, steps=steps, **sampler)
    expected = RePoseDMPipeline.from_pretrained(tiny)(
        sources, POSE, seed=seed, steps=steps, guidance_scale=cfg, field_strength=0.0, sampler=name
    ).latent
    assert latent.shape == (2, 16, 8, 6) and not torch.equal(latent[0], latent[1])
    assert (latent - expected).abs().max() < 1e-5 * expected.abs().max()


def test_one_noise_for_all_pictures(pack, host, sources):
    """The same person and pose twice are the same picture twice; alone, and as a part of a batch, it is that one."""
    with torch.inference_mode():
        twice = pack.nodes.aligner.RecurrentPoseAlignerNode.execute(
            host[2], host[1], sources[:1].repeat(2, 1, 1, 1), to_keypoints(load_pose_file(POSE)), 0, 0
        ).args[:3]
    own, same = sample(pack, host[0], twice), sample(pack, host[0], twice, same_noise=True)
    assert (own[0] - own[1]).abs().max() > 0.1
    assert torch.allclose(same[0], same[1], atol=1e-5)
    part = {**twice[2], "samples": twice[2]["samples"][1:], "batch_index": [1]}
    second = sample(pack, host[0], (*twice[:2], part), same_noise=True)
    assert torch.allclose(second[0], same[1], atol=1e-4)
    once = sample(pack, host[0], (*twice[:2], part))
    assert (once[0] - second[0]).abs().max() > 0.1


def test_ancestral_pictures_follow_the_seed_alone(pack, host, aligned):
    first, again, other = (sample(pack, host[0], aligned, seed=seed, **learned(pack)) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=0.1)
    assert not torch.allclose(first, sample(pack, host[0], aligned), atol=0.1), "not DDIM's"


def test_the_learned_variance_is_what_counts(pack, host, aligned):
    """Logits that are moved change the picture though the prediction stays."""
    before = sample(pack, host[0], aligned, **learned(pack))
    ddim = sample(pack, host[0], aligned)
    denoiser = host[0].model.diffusion_model.denoiser
    with torch.inference_mode(False), torch.no_grad():
        denoiser.unet.conv_out.bias[denoiser.config.latent_channels :] += 1
    assert torch.equal(sample(pack, host[0], aligned), ddim)
    assert not torch.allclose(sample(pack, host[0], aligned, **learned(pack)), before, atol=1e-3)


def test_short_of_memory_condition_and_null_condition_run_by_turns(pack, host, aligned, monkeypatch):
    whole = sample(pack, host[0], aligned, **learned(pack))
    sizes = []
    handle = host[0].model.diffusion_model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    monkeypatch.setattr(type(host[0]), "get_free_memory", lambda *_: 0)
    parts = sample(pack, host[0], aligned, **learned(pack))
    handle.remove()
    assert sizes == [2] * 6 and (parts - whole).abs().max() < 1e-5 * whole.abs().max()


def test_several_conditionings_and_a_latent_to_start_from(pack, host, aligned):
    positive, negative, latent = aligned
    whole = sample(pack, host[0], aligned, **learned(pack))
    twice = sample(pack, host[0], (positive + positive, negative, latent), **learned(pack))
    assert (twice - whole).abs().max() < 1e-5 * whole.abs().max(), "the mean of two that are the same"
    start = {"samples": whole}
    assert torch.equal(sample(pack, host[0], (positive, negative, start), denoise=0.0, **learned(pack)), whole)
    near, far = (
        (sample(pack, host[0], (positive, negative, start), denoise=denoise, steps=2, **learned(pack)) - whole)
        .abs()
        .mean()
        for denoise in (0.02, 0.9)
    )
    assert near < 0.5 * far


def test_areas_are_refused_by_the_ancestral_sampler_alone(pack, host, aligned):
    positive, negative, latent = aligned
    part = [[tokens, {**extras, "area": (4, 6, 0, 0), "strength": 1.0}] for tokens, extras in positive]
    with pytest.raises(pack.reposedm_core.InputError, match=r"positive: .* whole picture; remove areas"):
        sample(pack, host[0], (part, negative, latent), **learned(pack))


def test_models_without_a_learned_variance_are_told(pack, host, aligned):
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    denoiser = host[0].model.diffusion_model.denoiser
    denoiser.config = replace(denoiser.config, learned_variance=False)
    with pytest.raises(pack.reposedm_core.InputError, match=r"trained without a variance.* such as ddim"):
        sample(pack, host[0], aligned, **learned(pack))
    stock = comfy.model_base.BaseModel(comfy.supported_models.SD15({"disable_unet_model_creation": True}))
    stock.diffusion_model = torch.nn.Identity()
    patcher = comfy.model_patcher.ModelPatcher(stock, torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(pack.reposedm_core.InputError, match="is for RePoseDM models"):
        sample(pack, patcher, (aligned[0], aligned[1], {"samples": torch.zeros(1, 4, 8, 6)}), **learned(pack))


def watched(model):
    """A clone of the model that passes for guided and notes the field strengths that reach its steps."""
    seen = []

    def note(args):
        seen.append(args["model_options"]["transformer_options"].get("reposedm_field_strength"))
        return args["denoised"]

    guided = model.clone()
    guided.set_model_sampler_post_cfg_function(note)
    guided.set_additional_models("reposedm_field", [])
    guided.additional_models["reposedm_field"] = [model.clone()]
    return guided, seen


def test_field_strength_reaches_the_guidance_and_leaves_the_model_alone(pack, host, aligned):
    guided, seen = watched(host[0])
    plain = sample(pack, host[0], aligned)
    for given in (-1.0, 0.0, 0.25):
        for sampler in ({}, learned(pack)):
            seen.clear()
            found = sample(pack, guided, aligned, field_strength=given, **sampler)
            assert seen == [None if given == -1 else given] * 3
            assert sampler or torch.equal(found, plain)
    assert "reposedm_field_strength" not in guided.model_options["transformer_options"]


def test_field_strength_stands_for_the_guidances_own(pack, host, aligned):
    pose = to_keypoints(load_pose_file(POSE))
    weak, strong = (
        pack.nodes.guidance.PoseInteractionFieldGuidance.execute(
            host[0], host[1], host[3], pose, strength, 0.0, 1.0, "heatmaps", limit=0.0
        ).args[0]
        for strength in (0.05, 0.2)
    )
    expected, plain = sample(pack, strong, aligned), sample(pack, host[0], aligned)
    assert torch.equal(sample(pack, weak, aligned, field_strength=0.2), expected)
    assert torch.equal(sample(pack, weak, aligned, field_strength=0.0), plain)
    assert not torch.equal(sample(pack, weak, aligned), expected) and not torch.equal(expected, plain)


def test_field_strength_without_a_guidance(pack, host, aligned):
    plain = sample(pack, host[0], aligned)
    assert torch.equal(sample(pack, host[0], aligned, field_strength=0.0), plain)
    with pytest.raises(pack.reposedm_core.InputError, match="field_strength: this model is not guided"):
        sample(pack, host[0], aligned, field_strength=0.1)
    with pytest.raises(pack.reposedm_core.InputError, match=r"field_strength = -0\.5"):
        sample(pack, host[0], aligned, field_strength=-0.5)


@pytest.mark.parametrize("ancestral", [False, True])
def test_every_step_shows_its_progress_and_a_preview(pack, host, aligned, monkeypatch, ancestral):
    import comfy.utils
    import latent_preview

    shown = []
    monkeypatch.setattr(latent_preview.args, "preview_method", latent_preview.LatentPreviewMethod.Auto)
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, **_: shown.append((value, total, preview))
    )
    sample(pack, host[0], aligned, **(learned(pack) if ancestral else {}))
    assert [item[:2] for item in shown] == [(1, 3), (2, 3), (3, 3)]
    for _, _, (_, image, _) in shown:
        assert image.size == (6, 8) and len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 4


@pytest.mark.parametrize("ancestral", [False, True])
def test_an_interruption_takes_effect_within_a_step(pack, host, aligned, ancestral):
    import comfy.model_management as management

    unet, begun, done = host[0].model.diffusion_model.denoiser.unet, [], []
    handles = [
        unet.conv_in.register_forward_hook(lambda *_: management.interrupt_current_processing()),
        unet.register_forward_pre_hook(lambda *_: begun.append(1)),
        unet.register_forward_hook(lambda *_: done.append(1)),
    ]
    try:
        with pytest.raises(management.InterruptProcessingException):
            sample(pack, host[0], aligned, **(learned(pack) if ancestral else {}))
    finally:
        management.interrupt_current_processing(False)
        for handle in handles:
            handle.remove()
    assert begun and not done, "the first step did not end"
    assert sample(pack, host[0], aligned, **(learned(pack) if ancestral else {})).isfinite().all()


def test_what_a_saved_workflow_has_comes_first(pack):
    import comfy.samplers

    schema = pack.nodes.sampler.RePoseDMKSampler.define_schema()
    names = [item.id for item in schema.inputs]
    assert names == [
        "model",
        "positive",
        "negative",
        "latent",
        "seed",
        "steps",
        "cfg",
        "sampler_name",
        "scheduler",
        "denoise",
        "field_strength",
        "same_noise",
    ]
    assert [item.default for item in schema.inputs[-2:]] == [-1, False] and all(i.optional for i in schema.inputs[-2:])
    options = schema.inputs[7].options
    assert options == [*comfy.samplers.SAMPLER_NAMES, pack.nodes.sampler.LEARNED]
    assert pack.nodes.sampler.LEARNED not in comfy.samplers.SAMPLER_NAMES, "the host's own list stays as it is"
