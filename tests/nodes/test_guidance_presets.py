"""Presets of the guidance: what a file says, what stock models get, and graphs from before there were any."""

from __future__ import annotations

import pytest
import torch

from tests.nodes import families
from tests.nodes.guided import POSE

STOCK = "Stable Diffusion · SDXL · flow models"


@pytest.fixture(scope="module")
def schema(pack):
    return pack.nodes.guidance.PoseInteractionFieldGuidance.define_schema()


@pytest.fixture(scope="module")
def reposedm(pack, tiny):
    return pack.nodes.loaders.load_checkpoint(tiny)


def sampled(pack, reposedm, guide, **options):
    """The latent of tiny RePoseDM, guided."""
    model, vae, aligner, estimator = reposedm
    picture = torch.rand(1, 64, 48, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        positive, negative, latent = pack.nodes.aligner.RecurrentPoseAlignerNode.execute(
            aligner, vae, picture, POSE, 0, 0
        ).args[:3]
        guided = guide(model, vae, estimator=estimator, **options)
        return pack.nodes.sampler.sample(guided, positive, negative, latent, 0, 4, 1.5, "ddim", "simple")["samples"]


def test_five_widgets_are_shown(schema):
    shown = [item.id for item in schema.inputs if not item.advanced and hasattr(item, "default")]
    assert shown == ["strength", "joints", "people", "decoder", "preset"]


def test_model_says_how_it_is_guided(pack, reposedm, guide):
    field = reposedm[0].model.reposedm_field_config
    by_file = sampled(
        pack, reposedm, guide, preset="from the model", strength=2.0, start=0.0, end=0.1, space="features"
    )
    by_hand = (2 * field.strength, field.start, field.end, field.space, field.limit)
    names = ("strength", "start", "end", "space", "limit")
    assert torch.equal(by_file, sampled(pack, reposedm, guide, **dict(zip(names, by_hand, strict=True))))
    assert not torch.equal(by_file, sampled(pack, reposedm, guide, strength=0.0))


def test_strength_of_the_sampler_is_in_the_preset_s_measure(pack, reposedm, guide):
    model, vae, _, estimator = reposedm
    half = guide(model, vae, estimator=estimator, preset="from the model", strength=0.5)
    (one,) = half.model_options["sampler_post_cfg_function"]
    assert one.__self__.settings.unit == model.model.reposedm_field_config.strength


@pytest.fixture(scope="module")
def cheaper(pack, tiny, tmp_path_factory):
    """Path of tiny RePoseDM whose file has it guided in one step of three, on pictures of half the size, unbounded."""
    from reposedm_core.checkpoint import load_parts, save_model

    parts, header = load_parts(tiny)
    field = {**header["config"]["field"], "start": 0.0, "strength": 1e-3, "every": 3, "size": 0.5, "limit": 0.0}
    own = pack.reposedm_core.load_networks(tiny)
    path = tmp_path_factory.mktemp("models") / "cheaper.safetensors"
    networks = {part: getattr(own, part) for part in parts}
    save_model(path, networks, {**header["config"], "field": field}, dtype=torch.float32)
    return path


def test_steps_and_size_of_a_file_are_those_of_the_python_pipeline(pack, cheaper, guide, monkeypatch):
    """The same gradients of the same latent, in the same steps, on pictures of the same size."""
    model, vae, _, estimator = reposedm = pack.nodes.loaders.load_checkpoint(cheaper)
    pipeline = pack.reposedm_core.RePoseDMPipeline.from_pretrained(cheaper)
    config = pipeline.config
    guidance = pack.reposedm_core.diffusion.guided.FieldGuidance
    calls, call = [], guidance.__call__
    monkeypatch.setattr(guidance, "__call__", lambda own, *told: calls.append((own, *told)) or call(own, *told))
    bent = guide(model, vae, estimator=estimator, preset="from the model", strength=1.0)
    (one,) = bent.model_options["sampler_post_cfg_function"]
    assert (one.__self__.settings.every, one.__self__.settings.share) == (3, 0.5)
    assert one.__self__.native == config.field_size(0.5) != config.field_size(1.0)
    sampled(pack, reposedm, guide, preset="from the model", strength=1.0)
    assert len(calls) == 2, "the first and the fourth of four steps"
    _, x0, alpha_bar, weight = calls[0]
    pose = pack.reposedm_core.pose.one_pose(POSE)
    core = pipeline._guidance(pose, (config.height, config.width), None)
    torch.testing.assert_close(calls[0][0].target.heatmaps, core.target.heatmaps)
    torch.testing.assert_close(call(calls[0][0], x0, alpha_bar, weight), call(core, x0, alpha_bar, weight))
    assert not torch.equal(call(core, x0, alpha_bar, weight), x0)
    sampled(pack, reposedm, guide, preset="from the model", every_nth_step=2)
    assert len(calls) == 3, "the widgets of cost multiply the file's"


def test_guided_sampling_is_that_of_the_python_pipeline(pack, cheaper, guide):
    """Without a bound, under which one weight of the gradient would pass for another."""
    reposedm = pack.nodes.loaders.load_checkpoint(cheaper)
    found = sampled(pack, reposedm, guide, preset="from the model", strength=2.0)
    pipeline = pack.reposedm_core.RePoseDMPipeline.from_pretrained(cheaper)
    picture = torch.rand(1, 64, 48, 3, generator=torch.Generator().manual_seed(0))
    own, weaker = (
        pipeline(picture, POSE, seed=0, steps=4, guidance_scale=1.5, field_strength=strength).latent
        for strength in (2e-3, 2e-3 / 1.5)
    )
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-4)
    assert (own - weaker).abs().max() > 1e-2


def test_stock_models_are_guided_by_the_size_of_the_gradient(made, guide):
    model, vae = made("SD 1.5")
    by_hand = guide(model, vae, strength=0.2, start=0.15, end=0.7, normalise=True)
    preset = guide(model, vae, preset=STOCK, strength=1.0, limit=1.0, space="features")
    assert torch.equal(families.sample(preset, steps=4), families.sample(by_hand, steps=4))
    assert not torch.equal(families.sample(preset, steps=4), families.sample(model, steps=4))


def test_file_s_mask_and_update_are_taken_and_w_c_weighs_the_gradient(pack, made, guide, monkeypatch):
    """Eq. 16 in the host as in core: ∇G times w_c with whatever model a field belongs to, RePoseSD's too."""
    model, vae = made("SD 1.5")
    field = pack.reposedm_core.config.FieldConfig(strength=0.5, start=0.0, mask="predicted", update="eq14")
    monkeypatch.setattr(model.model, "reposedm_field_config", field, raising=False)
    guidance, seen = pack.reposedm_core.diffusion.guided.FieldGuidance, []
    call = guidance.__call__
    monkeypatch.setattr(
        guidance, "__call__", lambda own, x0, alpha_bar, weight: seen.append((own, weight)) or call(own, x0, alpha_bar)
    )
    guided = guide(model, vae, preset="from the model", strength=3.0)
    families.sample(guided, cfg=7.5)
    assert {weight for _, weight in seen} == {7.5}
    assert {(own.update, own.field.mask, own.strength) for own, _ in seen} == {("eq14", "predicted", 1.5)}
    seen.clear()
    monkeypatch.delattr(model.model, "reposedm_field_config")
    families.sample(guide(model, vae, strength=3.0), cfg=7.5)
    assert {weight for _, weight in seen} == {1.0}, "nothing says what the gradient of a stock model is worth"
    assert {(own.update, own.field.mask) for own, _ in seen} == {("eq15", "union")}


def test_share_of_the_distance_is_whole_whatever_cfg_is(pack, made, guide, monkeypatch):
    """With `normalise` of a model whose file has a field, too."""
    model, vae = made("SD 1.5")
    monkeypatch.setattr(model.model, "reposedm_field_config", pack.reposedm_core.config.FieldConfig(), raising=False)
    guided, weights = pack.reposedm_core.diffusion.guided, []
    step = guided.guide_x0
    monkeypatch.setattr(guided, "guide_x0", lambda *told: weights.append((told[3], told[5] is None)) or step(*told))
    for preset in (STOCK, "from the model"):
        families.sample(guide(model, vae, preset=preset, strength=2.0), cfg=7.5)
    assert set(weights) == {(2 * 0.2, False), (2 * 0.1 * 7.5, True)}


def test_model_that_says_nothing_is_told_so(made, guide, caplog):
    model, vae = made("SD 1.5")
    by_file = guide(model, vae, preset="from the model", strength=1.0)
    assert "says nothing of a pose field" in caplog.text and "random weights only" in caplog.text
    assert torch.equal(families.sample(by_file), families.sample(guide(model, vae, preset=STOCK, strength=1.0)))


def test_part_that_ends_before_it_begins_is_refused(pack, made, guide):
    model, vae = made("SD 1.5")
    with pytest.raises(
        pack.reposedm_core.InputError, match=r"start_percent = 0.8 is behind end_percent = 0.2: .* swap"
    ):
        guide(model, vae, start=0.8, end=0.2)


def test_swapped_conditionings_are_refused(pack, reposedm):
    model, vae, aligner, _ = reposedm
    picture = torch.rand(1, 64, 48, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        positive, negative, latent = pack.nodes.aligner.RecurrentPoseAlignerNode.execute(
            aligner, vae, picture, POSE, 0, 0
        ).args[:3]
        run = pack.nodes.sampler.RePoseDMKSampler.execute
        settings = (latent, 0, 1, 1.5, "ddim", "simple", 1.0)
        with pytest.raises(pack.reposedm_core.InputError, match="positive: it holds no pose, and negative does"):
            run(model, negative, positive, *settings)
        assert run(model, positive, negative, *settings).args[0]["samples"].isfinite().all()
