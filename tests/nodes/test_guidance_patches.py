"""Which steps are guided, and the guidance beside samplers, areas, masks, ControlNets and other patches."""

from __future__ import annotations

import pytest
import torch

from tests.nodes import families
from tests.nodes.guided import count_decodings, networks


@pytest.mark.parametrize(
    ("sampler", "every", "start", "end", "decodings"),
    [
        ("euler", 1, 0.0, 1.0, 6),
        ("euler", 2, 0.0, 1.0, 3),
        ("euler", 4, 0.0, 1.0, 2),
        ("euler", 100, 0.0, 1.0, 1),
        ("euler", 2, 0.4, 1.0, 2),
        ("euler", 3, 0.0, 0.4, 1),
        ("euler_ancestral", 2, 0.0, 1.0, 3),
        ("dpmpp_2m", 3, 0.0, 1.0, 2),
    ],
)
@pytest.mark.parametrize("family", ["SD 1.5", "Flux"])
def test_every_nth_step(made, guide, family, sampler, every, start, end, decodings):
    model, vae = made(family)
    bent = guide(model, vae, every_nth_step=every, start=start, end=end)
    shapes = count_decodings(bent)
    assert families.sample(bent, steps=6, sampler=sampler).isfinite().all()
    if (start, end) == (0.0, 1.0):
        assert len(shapes) == decodings
    else:  # how many steps lie in a part of the sampling is the schedule's
        full = guide(model, vae, start=start, end=end)
        whole = count_decodings(full)
        families.sample(full, steps=6, sampler=sampler)
        assert len(shapes) == -(-len(whole) // every) and 0 < len(whole) < 6


def test_evaluations_in_the_middle_of_a_step_belong_to_it(pack):
    turn = pack.nodes.host.field_sampling.is_guided_step
    levels = [8.0, 4.0, 2.0, 1.0]

    def acts(sigma, every, last=0.0):
        return turn(levels, sigma, last, every)

    assert [acts(sigma, 2) for sigma in (8.0, 5.0, 4.0, 3.0, 2.0, 1.5, 1.0)] == [
        False,
        False,
        True,
        True,
        False,
        False,
        True,
    ]
    assert [acts(sigma, 2, last=1.0) for sigma in (8.0, 4.0, 2.0)] == [True, False, True], (
        "back from the last guided step"
    )
    assert acts(9.0, 4), "a sampler that adds noise before its first step"
    assert acts(0.5, 2), "an evaluation in the middle of the last step"
    assert turn(None, 1.0, 8.0, 5), "a sampler that tells nothing"


@pytest.mark.parametrize("family", ["SD 1.5", "SDXL", "Flux"])
def test_composes_with_a_second_guidance_and_a_weight_patch(made, guide, family):
    model, vae = made(family)
    patched = model.clone()
    name = next(
        key
        for key, weight in model.model.named_parameters()
        if weight.ndim == 2 and "diffusion_model" in key and not key.endswith(("emb.weight", "time_embed.0.weight"))
    )
    with torch.inference_mode():
        assert patched.add_patches(
            {
                name: (
                    "diff",
                    (
                        0.5
                        * torch.randn(model.model.state_dict()[name].shape, generator=torch.Generator().manual_seed(0)),
                    ),
                )
            }
        )
    once, both = guide(model, vae), guide(patched, vae)
    twice = guide(once, vae, joints="arms", strength=0.3)
    assert len(networks(twice)) == 2
    results = [families.sample(kind) for kind in (model, patched, once, both, twice)]
    for index, first in enumerate(results):
        assert first.isfinite().all() and not any(first.equal(other) for other in results[index + 1 :]), index
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
        assert first.isfinite().all() and not any(first.equal(other) for other in results[index + 1 :]), index
    assert families.sample(guide(model, vae, start=0.6, end=0.61), positive=positive()).equal(controlled)


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
