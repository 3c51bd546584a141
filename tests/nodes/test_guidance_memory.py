"""What the guidance keeps and needs of memory, what happens when it runs out, and cancelling."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from tests.nodes import families
from tests.nodes.guided import networks


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
    monkeypatch.setattr(
        management,
        "load_models_gpu",
        lambda models, *args, **kwargs: (
            asked.append(kwargs.get("minimum_memory_required")) or load(models, *args, **kwargs)
        ),
    )

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


def test_a_large_decoding_keeps_less_and_does_the_same(pack, made, guide, monkeypatch):
    """The host's decoders of pictures; that of videos has none of the blocks."""
    from comfy.patcher_extension import WrappersMP

    checkpointing = pack.reposedm_core.diffusion.checkpointing
    for family, checkpoints in (("SDXL", True), ("Flux", True), ("Qwen Image", False)):
        model, vae = made(family)

        def run(model=model, vae=vae):
            bent = guide(model, vae)
            needed = next(iter(bent.get_wrappers(WrappersMP.PREPARE_SAMPLING, "reposedm_field"))).guidances[0][0].memory
            ran = []
            for layer in networks(bent)[0].vae.modules():
                if type(layer).__name__ == "ResnetBlock":
                    layer.norm1.register_forward_hook(lambda *_: ran.append(1))
            return families.sample(bent, steps=1), needed([1, 4, *families.SIDE]), len(ran)

        plain, whole, once = run()
        with monkeypatch.context() as patch:
            patch.setattr(checkpointing, "LARGE", 1)
            again, less, twice = run()
        assert plain.equal(again)
        assert (twice == 2 * once > 0 and less < 0.5 * whole) if checkpoints else (twice == once == 0 and less == whole)


def test_kept_results_take_no_room_on_the_device(made, guide):
    """What the guidance keeps from run to run lies in main memory, one size of picture at a time."""
    model, vae = made("SD 1.5")
    bent = guide(model, vae)
    families.sample(bent)
    (function,) = bent.model_options["sampler_post_cfg_function"]
    (target,) = function.__self__._targets.values()
    assert target.heatmaps.device.type == "cpu"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
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
    with pytest.raises(
        management.OOM_EXCEPTION,
        match=r"Guidance ran out of memory at a picture of 48 × 64 pixels\. "
        r"Choose the decoder taesd, lower decode_size",
    ) as raised:
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
