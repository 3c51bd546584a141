"""Pose field guidance on stock models: every family, its gradient and its memory, other patches, decoders, mishaps."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from reposedm_core.pose import Pose, load_pose_file, to_keypoints
from tests.nodes import families
from workflows.host import ROOT

POSE = to_keypoints(load_pose_file(sorted((ROOT / "workflows" / "examples").glob("*_pose.json"))[0]))
TINY = {"SD 1.5": "taesd_decoder", "SD 2.1": "taesd_decoder", "SDXL": "taesdxl_decoder", "SDXL v": "taesdxl_decoder",
        "AuraFlow": "taesdxl_decoder", "Flux": "taef1_decoder"}


@pytest.fixture(scope="module")
def estimator(pack, tiny):
    return pack.nodes.loaders.load_checkpoint(tiny)[3]


@pytest.fixture(scope="module")
def made(pack):
    """Model and VAE of a family, built when they are first asked for."""
    known = {}

    def make(family):
        if family not in known:
            model = families.build(family)
            known[family] = model, families.vae(model)
        return known[family]
    return make


@pytest.fixture
def guide(pack, estimator):
    def run(model, vae, pose=POSE, strength=0.1, start=0.0, end=1.0, space="heatmaps", limit=0.1, **options):
        with torch.inference_mode():
            return pack.nodes.guidance.PoseInteractionFieldGuidance.execute(
                model, vae, options.pop("estimator", estimator), pose, strength, start, end, space, limit, **options
            ).args[0]
    return run


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
    weights = [weight for network in (model.model, vae.first_stage_model, estimator.patcher.model)
               for weight in network.parameters()]
    before = [weight.detach().clone() for weight in weights]
    bent = guide(model, vae, space=space)
    seen, pictures = [], []
    (own,) = networks(bent)
    own.vae.decoder.register_forward_hook(lambda _, inputs, output: pictures.append(
        weakref.ref(output[0] if isinstance(output, list) else output)))
    hook = model.model.diffusion_model.register_forward_hook(
        lambda *_: seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled())))
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
def test_normalised_strength_takes_about_the_same_share_off_the_distance(pack, made, guide, family):
    """Of one step alone, measured where the gradient acts, for models whose bare gradients differ by five orders."""
    model, vae = made(family)
    bent = guide(model, vae, strength=0.1, limit=1.0, end=0.3, normalise=True)
    (own,) = networks(bent)
    distances = []
    gradient = own.field.gradient

    def spy(latent, decode, target, chunk=None):
        found = gradient(latent, decode, target, chunk)
        distances.append((float(found[1]), decode, target))
        return found

    own.field.gradient = spy
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
    assert len(distances) == 1 and 0.05 < after[0] < 0.15, after


@pytest.mark.parametrize("family", TINY)
def test_tiny_decoder_of_the_family(pack, made, guide, family, tmp_path, monkeypatch):
    import folder_paths
    from comfy.taesd.taesd import TAESD

    model, vae = made(family)
    channels = model.model.latent_format.latent_channels
    with monkeypatch.context() as patch:
        patch.setitem(folder_paths.folder_names_and_paths, "vae_approx", ([str(tmp_path)], {".safetensors", ".pth"}))
        with pytest.raises(pack.reposedm_core.InputError,
                           match=f"decoder: there is no {TINY[family]} in models/vae_approx; put {TINY[family]}.safet"):
            guide(model, vae, decoder="taesd")
        network = TAESD(latent_channels=channels)
        families.randomise(network)
        save_file(network.taesd_decoder.state_dict(), tmp_path / f"{TINY[family]}.safetensors")
        folder_paths.cache_helper.clear() if hasattr(folder_paths, "cache_helper") else None
        folder_paths.filename_list_cache.clear()
        bent = guide(model, vae, decoder="taesd")
    (own,) = networks(bent)
    assert type(own.vae) is TAESD and not any(weight.is_inference() for weight in own.parameters())
    shapes = count_decodings(bent)
    latent = families.sample(bent)
    assert latent.isfinite().all() and not latent.equal(families.sample(model))
    assert shapes == [(1, channels, *families.SIDE)] * 3


def test_tiny_decoder_that_is_torn_or_another_s(pack, made, guide, tmp_path, monkeypatch):
    import folder_paths

    model, vae = made("SD 1.5")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae_approx", ([str(tmp_path)], {".safetensors", ".pth"}))
    for content in (b"torn", None):
        folder_paths.filename_list_cache.clear()
        if content:
            (tmp_path / "taesd_decoder.safetensors").write_bytes(content)
        else:
            save_file({"weight": torch.zeros(2)}, tmp_path / "taesd_decoder.safetensors")
        with pytest.raises(pack.reposedm_core.InputError,
                           match=r"decoder: taesd_decoder.safetensors is no tiny decoder for this model .*choose vae"):
            guide(model, vae, decoder="taesd")


def test_reposedm_has_no_tiny_decoder(pack, tiny, guide):
    model, vae, _, _ = pack.nodes.loaders.load_checkpoint(tiny)
    with pytest.raises(pack.reposedm_core.InputError, match="decoder: for the latents of this model there is no tiny"):
        guide(model, vae, decoder="taesd")


@pytest.mark.parametrize(("share", "size"), [(0.5, (4, 3)), (0.25, (2, 2)), (0.125, (1, 1))])
def test_reduced_decoding(made, guide, share, size):
    model, vae = made("SDXL")
    bent = guide(model, vae, decode_size=share)
    shapes = count_decodings(bent)
    latent = families.sample(bent)
    assert shapes == [(1, 4, *size)] * 3 and latent.isfinite().all()
    assert not latent.equal(families.sample(model)) and not latent.equal(families.sample(guide(model, vae)))


@pytest.mark.parametrize(("sampler", "every", "start", "end", "decodings"), [
    ("euler", 1, 0.0, 1.0, 6), ("euler", 2, 0.0, 1.0, 3), ("euler", 4, 0.0, 1.0, 2), ("euler", 100, 0.0, 1.0, 1),
    ("euler", 2, 0.4, 1.0, 2), ("euler", 3, 0.0, 0.4, 1), ("euler_ancestral", 2, 0.0, 1.0, 3),
    ("dpmpp_2m", 3, 0.0, 1.0, 2)])
@pytest.mark.parametrize("family", ["SD 1.5", "Flux"])
def test_every_nth_step(made, guide, family, sampler, every, start, end, decodings):
    model, vae = made(family)
    bent = guide(model, vae, every_nth_step=every, start=start, end=end)
    shapes = count_decodings(bent)
    assert families.sample(bent, steps=6, sampler=sampler).isfinite().all()
    if (start, end) == (0.0, 1.0):
        assert len(shapes) == decodings
    else:      # how many steps lie in a part of the sampling is the schedule's
        full = guide(model, vae, start=start, end=end)
        whole = count_decodings(full)
        families.sample(full, steps=6, sampler=sampler)
        assert len(shapes) == -(-len(whole) // every) and 0 < len(whole) < 6


def test_evaluations_in_the_middle_of_a_step_belong_to_it(pack):
    turn = pack.nodes.guidance.is_turn
    sigmas = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0])

    def acts(sigma, every, first=100.0):
        options = {"transformer_options": {"sample_sigmas": sigmas}}
        return turn({"sigma": torch.tensor([sigma]), "model_options": options}, first, every)

    assert [acts(sigma, 2) for sigma in (8.0, 5.0, 4.0, 3.0, 2.0, 1.5, 1.0)] == [True, True, False, False, True, True,
                                                                                 False]
    assert [acts(sigma, 2, first=4.0) for sigma in (4.0, 2.0, 1.0)] == [True, False, True], "from the first guided step"
    assert acts(9.0, 3), "a sampler that adds noise before its first step"
    assert turn({"sigma": torch.tensor([1.0]), "model_options": {}}, 8.0, 5), "a sampler that tells nothing"


@pytest.mark.parametrize("family", ["SD 1.5", "SDXL", "Flux"])
def test_composes_with_a_second_guidance_and_a_weight_patch(made, guide, family):
    model, vae = made(family)
    patched = model.clone()
    name = next(key for key, weight in model.model.named_parameters() if weight.ndim == 2 and "diffusion_model" in key
                and not key.endswith(("emb.weight", "time_embed.0.weight")))
    with torch.inference_mode():
        assert patched.add_patches({name: ("diff", (0.5 * torch.randn(
            model.model.state_dict()[name].shape, generator=torch.Generator().manual_seed(0)),))})
    once, both = guide(model, vae), guide(patched, vae)
    twice = guide(once, vae, joints="arms", strength=0.3)
    assert len(networks(twice)) == 2
    results = [families.sample(kind) for kind in (model, patched, once, both, twice)]
    for index, first in enumerate(results):
        assert first.isfinite().all() and not any(first.equal(other) for other in results[index + 1:]), index
    assert families.sample(guide(patched, vae, strength=0.0)).equal(results[1])
    assert families.sample(model).equal(results[0]) and families.sample(once).equal(results[2])


@pytest.mark.parametrize("family", ["SD 1.5", "Flux"])
def test_composes_with_samplers_areas_and_masks(made, guide, family):
    model, vae = made(family)
    bent = guide(model, vae, strength=0.5, limit=0.3, normalise=True)
    for sampler in ("uni_pc", "heun", "dpmpp_2s_ancestral", "euler_cfg_pp"):
        plain, found = (families.sample(kind, steps=4, sampler=sampler) for kind in (model, bent))
        assert found.isfinite().all() and not found.equal(plain), sampler
    ((tokens, options),) = families.conditioning(model, 5)
    regions = [*families.conditioning(model), [tokens, {**options, "area": (4, 4, 2, 1), "strength": 1.0}]]
    plain, found = (families.sample(kind, positive=regions, cfg=1.0, batch=2) for kind in (model, bent))
    assert found.isfinite().all() and not found.equal(plain)
    mask = torch.zeros(1, 1, *families.SIDE)
    mask[..., :4, :] = 1
    plain, found = (families.sample(kind, noise_mask=mask) for kind in (model, bent))
    assert not found[..., :4, :].equal(plain[..., :4, :]), "what is painted anew is guided"
    assert found[..., 4:, :].equal(plain[..., 4:, :]), "what is kept is kept"


def test_composes_with_a_controlnet(made, guide):
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.model_management as management

    model, vae = made("SD 1.5")
    sizes = model.model.model_config.unet_config
    wanted = {key: value for key, value in sizes.items() if key not in ("out_channels", "transformer_depth_output")}
    network = comfy.cldm.cldm.ControlNet(hint_channels=3, **wanted)
    families.randomise(network)
    control = comfy.controlnet.ControlNet(network, load_device=management.get_torch_device())
    hint = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))

    def positive():
        ((tokens, options),) = families.conditioning(model)
        hinted = control.copy().set_cond_hint(hint, 1.0)
        return [[tokens, {**options, "control": hinted, "control_apply_to_uncond": True}]]

    plain, controlled = families.sample(model), families.sample(model, positive=positive())
    bent, both = families.sample(guide(model, vae)), families.sample(guide(model, vae), positive=positive())
    results = [plain, controlled, bent, both]
    for index, first in enumerate(results):
        assert first.isfinite().all() and not any(first.equal(other) for other in results[index + 1:]), index
    assert families.sample(guide(model, vae, start=0.6, end=0.61), positive=positive()).equal(controlled)


def test_memory_after_the_run_is_what_it_was(made, guide):
    import comfy.model_management as management

    model, vae = made("SDXL")
    management.unload_all_models()
    families.sample(model)
    before = {id(loaded.model.model) for loaded in management.current_loaded_models}
    bent = guide(model, vae)
    (own,) = networks(bent)
    families.sample(bent)
    assert any(loaded.model.model is own for loaded in management.current_loaded_models), "the host has it in its books"
    own, gone = None, weakref.ref(own)
    bent = None
    gc.collect()
    management.cleanup_models()
    assert gone() is None
    assert {id(loaded.model.model) for loaded in management.current_loaded_models} == before


def test_networks_are_on_the_device_whole_or_not_at_all(pack, made, guide, tiny):
    """Of a memory that has room for next to nothing, what the host would leave behind is no matter to these."""
    from comfy.model_patcher import ModelPatcher

    loaders = pack.nodes.loaders
    model, vae = made("SD 1.5")
    _, own_vae, aligner, estimator = loaders.load_checkpoint(tiny)
    (networks,) = guide(model, vae).get_additional_models_with_key("reposedm_field")
    cpu = torch.device("cpu")
    for patcher in (networks, own_vae.patcher, aligner.patcher, estimator.patcher):
        patcher.partially_load(cpu, 1)
        assert patcher.loaded_size() == patcher.model_size() and not patcher.model.model_lowvram
        assert not any(getattr(layer, "comfy_cast_weights", False) for layer in patcher.model.modules())
        assert patcher.partially_unload(cpu, 1) == 0, "the host unloads it whole then"
        patcher.detach()
        assert patcher.loaded_size() == 0
    usual = ModelPatcher(networks.model, cpu, cpu)
    usual.partially_load(cpu, 1)
    assert usual.loaded_size() < usual.model_size() and usual.model.model_lowvram
    usual.detach()


def test_half_of_the_vae_that_only_encodes_is_left_out(made, guide):
    for family in ("SD 1.5", "Qwen Image"):
        model, vae = made(family)
        (own,) = networks(guide(model, vae))
        assert not any("encoder" in name for name, _ in own.vae.named_parameters())
        assert any("encoder" in name for name, _ in vae.first_stage_model.named_parameters())


def test_host_is_told_what_memory_a_guided_step_takes(made, guide, monkeypatch):
    import comfy.model_management as management

    asked = []
    load = management.load_models_gpu
    monkeypatch.setattr(management, "load_models_gpu", lambda models, *args, **kwargs: asked.append(
        kwargs.get("minimum_memory_required")) or load(models, *args, **kwargs))

    def ask(model, **options):
        asked.clear()
        families.sample(model, steps=1, **options)
        return asked[0]

    for family in ("SD 1.5", "Qwen Image"):
        model, vae = made(family)
        shape = [1, model.model.latent_format.latent_channels, *[1] * (vae.latent_dim - 2), *families.SIDE]
        there_and_back = 2.6 * vae.memory_used_decode(shape, vae.vae_dtype)
        alone, bent, reduced = ask(model), ask(guide(model, vae)), ask(guide(model, vae, decode_size=0.5))
        assert alone < reduced < 0.5 * bent and there_and_back < bent < 3 * there_and_back
        twice = guide(guide(model, vae), vae, decode_size=0.5)
        assert ask(twice) == pytest.approx(bent, rel=0.05), "one after the other, not at once"
        assert ask(guide(model, vae), batch=2) == pytest.approx(2 * bent, rel=0.05), "both pictures fit one pass"


@pytest.mark.parametrize(("share", "chunks"), [(1.0, [1, 1, 1]), (0.5, [3])])
def test_large_pictures_are_decoded_one_at_a_time(pack, made, guide, monkeypatch, share, chunks):
    """The estimator of 64 × 48 pixels would take many pictures at once, whatever the size of those decoded."""
    model, vae = made("SDXL")
    whole = families.sample(guide(model, vae, decode_size=share), steps=1, batch=3)
    monkeypatch.setattr(pack.nodes.guidance, "CHUNK_PIXELS", 64 * 48 + (3 * 64 * 48 if share < 1 else 0))
    bent = guide(model, vae, decode_size=share)
    shapes = count_decodings(bent)
    found = families.sample(bent, steps=1, batch=3)
    assert [shape[0] for shape in shapes] == chunks
    torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["AuraFlow", "SD 1.5"])
def test_noise_levels_may_be_changed_behind_it(made, guide, family):
    from comfy_extras import nodes_model_advanced as advanced

    def change(model):
        if family == "AuraFlow":
            return advanced.ModelSamplingAuraFlow().patch_aura(model, 20.0)[0]
        return advanced.ModelSamplingDiscrete().patch(model, "v_prediction", True)[0]

    model, vae = made(family)
    before, behind = guide(change(model), vae, start=0.4, end=0.6), change(guide(model, vae, start=0.4, end=0.6))
    shapes = count_decodings(before), count_decodings(behind)
    assert families.sample(before, steps=8).equal(families.sample(behind, steps=8))
    assert shapes[0] == shapes[1] and 0 < len(shapes[0]) < 8


def test_a_decoder_that_overflows_is_named(pack, made, guide):
    model, vae = made("SD 1.5")
    bent = guide(model, vae)
    own = networks(bent)[0].vae
    decode = own.decode
    own.decode = lambda latent: decode(latent) * torch.inf
    with pytest.raises(pack.reposedm_core.InputError, match=r"^vae: the picture .* not finite\. Start ComfyUI with"):
        families.sample(bent)
    own.decode = lambda latent: decode(latent) + (latent * 0).sqrt().sum()
    with pytest.raises(pack.reposedm_core.InputError, match="the gradient through decoder and estimator is not f"):
        families.sample(bent)


def test_streamed_vae_without_a_file_is_refused(pack, made, guide, monkeypatch):
    """Of the host's Load VAE, when it puts one together from two files, and of checkpoints on older hosts."""
    model, vae = made("SD 1.5")
    guide(model, vae)
    monkeypatch.setattr(type(vae.patcher), "is_dynamic", lambda patcher: patcher is vae.patcher)
    assert vae.patcher.cached_patcher_init is None
    with pytest.raises(pack.reposedm_core.InputError, match=r"^vae: ComfyUI streams .* or start ComfyUI with --"):
        guide(model, vae)


def test_videos_are_refused(pack, made, guide):
    import comfy.sample

    model, vae = made("Qwen Image")
    noise = torch.randn(1, 16, 2, *families.SIDE)
    with torch.inference_mode(), pytest.raises(pack.reposedm_core.InputError, match=r"^latent: these are video"):
        comfy.sample.sample(guide(model, vae), noise, 1, 1.0, "euler", "normal", families.conditioning(model),
                            families.conditioning(model), torch.zeros_like(noise), disable_pbar=True, seed=0)
    model, vae = made("SD 1.5")
    sound = vae.__class__.__new__(vae.__class__)
    sound.__dict__.update({**vae.__dict__, "latent_dim": 1})
    with pytest.raises(pack.reposedm_core.InputError, match=r"^vae: this is no VAE of pictures; connect"):
        guide(model, sound)


def test_kept_results_take_no_room_on_the_device(made, guide):
    """What the closure keeps from step to step lies in main memory, one size of picture at a time."""
    model, vae = made("SD 1.5")
    bent = guide(model, vae)
    families.sample(bent)
    (function,) = bent.model_options["sampler_post_cfg_function"]
    for name in ("bent", "targets"):
        cells = dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))
        function = cells[name].cell_contents
    (target,) = function.values()
    assert target.heatmaps.device.type == "cpu"


def crowd(people, scale=1.0, frames=1):
    generator = np.random.default_rng(0)
    joints = np.ones((people, 18, 3))
    joints[..., :2] = generator.random((people, 18, 2)) * (48, 64) * scale
    return to_keypoints([Pose(joints, 64, 48)] * frames)


@pytest.mark.parametrize("space", ["heatmaps", "features"])
@pytest.mark.parametrize(("pose", "options"), [
    (crowd(20), {"people": "all"}), (crowd(20), {}), (crowd(3), {"people": "0, 2", "joints": "arms, -left"}),
    (crowd(2, 5.0), {"people": "all"}), (crowd(1), {"mask_threshold": 0.0}), (crowd(1), {"mask_threshold": 2.0})])
def test_any_crowd(made, guide, space, pose, options):
    model, vae = made("AuraFlow")
    latent = families.sample(guide(model, vae, pose=pose, space=space, **options))
    assert latent.isfinite().all() and not latent.equal(families.sample(model))


def test_a_frame_a_picture(pack, made, guide):
    model, vae = made("SD 1.5")
    assert families.sample(guide(model, vae, pose=crowd(2, frames=2)), batch=2).shape[0] == 2
    with pytest.raises(pack.reposedm_core.InputError, match=r"pose: it has 3 frames and the latent 2 pictures"):
        families.sample(guide(model, vae, pose=crowd(2, frames=3)), batch=2)


@pytest.mark.parametrize(("options", "problem"), [
    ({"joints": "tail"}, "joints: 'tail' is no joint; name some of"),
    ({"people": "me"}, "people: 'me' is no person; give numbers"),
    ({"pose": [{"people": [], "canvas_width": 8, "canvas_height": 8}]}, "pose: there is nobody"),
    ({"pose": [*POSE, {**POSE[0], "people": []}]}, r"pose: nobody is in frame 1 .*leave out")])
def test_one_message(pack, made, guide, options, problem):
    model, vae = made("SD 1.5")
    with pytest.raises(pack.reposedm_core.InputError, match=problem):
        guide(model, vae, **options)


def test_inputs_are_checked_before_anything_runs(pack):
    node = pack.nodes.guidance.PoseInteractionFieldGuidance
    assert node.validate_inputs() is True and node.validate_inputs(joints="arms", people="0, 3") is True
    assert str(node.validate_inputs(joints="tail", people="0")).startswith("'tail' is no joint; name")
    assert str(node.validate_inputs(joints="all", people="")).startswith("nobody is chosen; give")


def test_person_that_is_not_there_is_named_when_it_samples(pack, made, guide):
    model, vae = made("SD 1.5")
    with pytest.raises(pack.reposedm_core.InputError, match=r"people: frame 0 .* 1 people and none of those chosen"):
        families.sample(guide(model, vae, people="4"))


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")])
def test_out_of_memory_is_one_message_and_the_next_run_works(made, guide, error):
    import comfy.model_management as management

    model, vae = made("SD 1.5")
    plain, bent = families.sample(model), guide(model, vae)
    expected = families.sample(guide(model, vae))
    network = networks(bent)[0].vae
    decode, held = network.decode, []

    def fail(latent):
        picture = decode(latent)
        held.append(weakref.ref(picture))
        raise error

    network.decode = fail
    with pytest.raises(management.OOM_EXCEPTION, match=r"Guidance ran out of memory at a picture of 48 × 64 pixels\. "
                                                       r"Choose the decoder taesd, lower decode_size") as raised:
        families.sample(bent)
    assert management.is_oom(raised.value), "the host unloads its models"
    assert raised.value.__context__ is None and raised.value.__cause__ is None
    error.__traceback__ = None
    gc.collect()
    assert held[0]() is None, "the message does not hold on to what was computed"
    management.unload_all_models()
    network.decode = decode
    assert families.sample(bent).equal(expected) and families.sample(model).equal(plain)


@pytest.mark.parametrize("older", [False, True], ids=["", "older host"])
def test_another_error_is_not_called_that(made, guide, older, monkeypatch):
    import comfy.model_management as management

    if older:
        monkeypatch.delattr(management, "is_oom")
    model, vae = made("SD 1.5")
    bent = guide(model, vae)
    networks(bent)[0].vae.decode = lambda latent: (_ for _ in ()).throw(RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        families.sample(bent)


def test_cancelled_within_a_guided_step(made, guide):
    import comfy.model_management as management

    model, vae = made("Flux")
    bent = guide(model, vae)
    own = networks(bent)[0]
    decode, seen = own.vae.decode, []

    def interrupted(latent):
        picture = decode(latent)
        management.interrupt_current_processing()
        return picture

    own.vae.decode = interrupted
    own.field.estimator.register_forward_hook(lambda *_: seen.append(1))
    with pytest.raises(management.InterruptProcessingException):
        families.sample(bent, steps=50)
    assert not seen, "the step is not finished first"
    own.vae.decode = decode
    assert families.sample(bent).isfinite().all()


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
    from tests.field.test_vitpose import save_tiny
    from tests.test_estimators import flat, micro

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
    new = list(inputs)[list(inputs).index("limit") + 1:]
    assert new == ["normalise", "every_nth_step", "mask_threshold", "joints", "people", "decoder", "decode_size"]
    neutral = [False, 1, 0.1, "all", "0", "vae", 1.0]
    parameters = inspect.signature(node.execute).parameters
    for name, value in zip(new, neutral, strict=True):
        assert inputs[name].optional and inputs[name].default == value == parameters[name].default, name
