"""The denoiser of section 3.1: every field of its configuration, odd sizes, half precision, and clear refusals."""

import dataclasses

import pytest
import torch

from reposedm_core.config import DenoiserConfig, ScheduleConfig
from reposedm_core.diffusion.denoiser import Conditioner, Denoiser
from reposedm_core.diffusion.guided import Condition, GuidedDenoiser
from reposedm_core.diffusion.sampler import initial_latent, sample_ancestral, sample_ddim, simple_sigmas
from reposedm_core.diffusion.schedule import DiffusionSchedule, schedule_sigmas
from reposedm_core.errors import InputError
from reposedm_core.networks import MixedPrecisionDenoiser
from reposedm_core.presets import PRESETS

TINY = DenoiserConfig(
    latent_channels=4, block_channels=(16, 32), layers=1, heads_dim=16, context_dim=16, height=8, width=8
)


def make(config=TINY):
    torch.manual_seed(0)
    model = Denoiser(config).eval()
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.1)  # it starts at zero: give it something to say
    return model


def latents(seed, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 4, 8, 8, generator=generator)


@pytest.mark.parametrize(("texture", "channel"), [("aligned", True), ("aligned", False), ("source", False)])
def test_every_variant_predicts_latents_and_variance(texture, channel):
    model = make(dataclasses.replace(TINY, texture=texture, channel_condition=channel))
    schedule = DiffusionSchedule(ScheduleConfig())
    condition = Condition.of(model, latents(1), latents(2), latents(3), torch.rand(2, 1, 8, 8))
    out = GuidedDenoiser(model, schedule, condition)(latents(4) * 5, torch.tensor([5.0, 5.0]))
    assert out.x0.shape == out.variance_logits.shape == (2, 4, 8, 8)


@pytest.mark.parametrize("residual", [True, False])
def test_a_fresh_denoiser_predicts_the_gated_aligned_latent_or_nothing(residual):
    model = Denoiser(dataclasses.replace(TINY, residual=residual)).eval()  # its last layer is zero
    arguments = inputs()
    prediction = model(**arguments)[0]
    if residual:
        pose, aligned, visibility, sigma = map(arguments.get, ("pose_latent", "aligned", "visibility", "sigma"))
        gate = model.gate(torch.cat([pose, aligned, visibility], 1)).sigmoid()
        assert torch.allclose(prediction, -sigma * gate * aligned)
    else:
        assert not prediction.any()
        assert model.unet.conv_in.in_channels == Denoiser(TINY).unet.conv_in.in_channels, "the channel axis stays"


def test_the_source_reaches_b1_and_the_aligned_latent_the_others():
    for texture, moves in (("source", 0), ("aligned", 1)):
        model = make(dataclasses.replace(TINY, texture=texture, channel_condition=False))
        visibility = torch.rand(2, 1, 8, 8)
        base = Condition.of(model, latents(1), latents(2), latents(3), visibility).tokens
        changed = [
            Condition.of(model, latents(1), latents(5), latents(3), visibility).tokens,
            Condition.of(model, latents(1), latents(2), latents(5), visibility).tokens,
        ]
        assert [bool((c != base).any()) for c in changed] == [i == moves for i in range(2)]


def test_samplers_are_deterministic_for_a_seed():
    model, schedule = make(), DiffusionSchedule(ScheduleConfig())
    condition = Condition.of(model, latents(1, 1), latents(2, 1), latents(3, 1), torch.rand(1, 1, 8, 8))
    guided = GuidedDenoiser(model, schedule, condition, 1.5)
    sigmas = simple_sigmas(schedule, 3)
    start = initial_latent(latents(9, 1), sigmas[0])
    assert torch.equal(sample_ddim(guided, start, sigmas), sample_ddim(guided, start, sigmas))

    def ancestral(seed):
        return sample_ancestral(guided, start, sigmas, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(ancestral(1), ancestral(1))
    assert not torch.equal(ancestral(1), ancestral(2))


def test_mini_and_its_ablations_build():
    sizes = {
        name: sum(p.numel() for p in Denoiser(PRESETS[name].denoiser).parameters())
        for name in ("mini", "mini-b1", "mini-b2")
    }
    assert sizes["mini"] > sizes["mini-b2"] == sizes["mini-b1"]


def inputs(config=TINY, batch=2, size=(8, 8), dtype=torch.float32):
    """Arguments of `Denoiser.forward` with random values."""
    generator = torch.Generator().manual_seed(5)
    c, (h, w) = config.latent_channels, size

    def random(*shape):
        return torch.randn(batch, *shape, generator=generator).to(dtype)

    return {
        "z": random(c, h, w),
        "t": torch.arange(batch) * 100 + 50,
        "pose_latent": random(c, h, w),
        "tokens": random(h * w, config.context_dim),
        "aligned": random(c, h, w),
        "visibility": random(1, h, w),
        "sigma": random(1, 1, 1).abs(),
    }


def alive(config):
    """A denoiser all of whose weights are random."""
    model = make(config).requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.03 * torch.randn_like(parameter))
    return model


def count(model, name):
    return sum(type(module).__name__ == name for module in model.modules())


@pytest.mark.parametrize("attention", [(True, True, True), (False, True, False), (False, False, False)])
def test_each_resolution_attends_or_not(attention):
    config = dataclasses.replace(TINY, block_channels=(16, 16, 32), attention=attention, layers=2)
    model = alive(config)
    assert [hasattr(block, "attentions") for block in model.unet.down_blocks] == list(attention)
    assert [hasattr(block, "attentions") for block in model.unet.up_blocks] == list(attention)[::-1]
    assert count(model, "BasicTransformerBlock") == 1 + 5 * sum(attention)  # 2 on the way down, 3 up, 1 between
    values = inputs(config)
    other = {**values, "tokens": values["tokens"].flip(0)}
    assert not torch.equal(model(**values)[0], model(**other)[0]), "the middle block attends always"


def test_without_learned_variance_there_is_only_the_prediction():
    config = dataclasses.replace(TINY, learned_variance=False)
    model = alive(config)
    assert model.unet.conv_out.out_channels == 4
    prediction, variance = model(**inputs(config))
    assert prediction.shape == (2, 4, 8, 8) and variance is None
    schedule = DiffusionSchedule(ScheduleConfig())
    condition = Condition.of(model, latents(1), latents(2), latents(3), torch.rand(2, 1, 8, 8))
    for scale in (1.0, 2.0):
        guided = GuidedDenoiser(model, schedule, condition, scale)
        assert guided(latents(4), torch.ones(2)).variance_logits is None
        sigmas = simple_sigmas(schedule, 2)
        assert sample_ancestral(guided, initial_latent(latents(4), sigmas[0]), sigmas).isfinite().all()


def test_without_a_size_there_are_no_learned_positions():
    config = dataclasses.replace(TINY, height=0, width=0)
    model = alive(config)
    assert not [name for name, _ in model.named_parameters() if "position" in name]
    assert model.unet.conv_in.in_channels == 4 + 4 + 5
    # Of positions the tokens have none but those that the convolutions' borders give.
    constant = model.context(torch.ones(1, 4, 16, 16), torch.ones(1, 1, 16, 16)).view(1, 16, 16, 16)
    inner = constant[:, 6:10, 6:10]
    torch.testing.assert_close(inner, inner[:, :1, :1].expand_as(inner))


def test_heads_and_groups_are_the_configuration_s():
    model = Denoiser(dataclasses.replace(TINY, heads_dim=8, norm_groups=4))
    groups = [module.num_groups for module in model.unet.modules() if isinstance(module, torch.nn.GroupNorm)]
    heads = {(layer.heads, layer.inner_dim) for layer in model.unet.modules() if type(layer).__name__ == "Attention"}
    assert set(groups) == {4} and heads == {(2, 16), (4, 32)}


@pytest.mark.parametrize("size", [(32, 22), (16, 8), (13, 7), (1, 1), (3, 17)])
def test_any_latent_size_at_four_resolutions(size):
    """22 halves to 11, 6, 3: the U-Net rounds up on its way down and back to the very size on its way up."""
    config = dataclasses.replace(
        TINY, block_channels=(16, 16, 16, 32), attention=(False, True, True, True), height=32, width=22, norm_groups=8
    )
    model, values = alive(config), inputs(config, size=size)
    prediction, variance = model(**values)
    assert prediction.shape == variance.shape == (2, 4, *size)
    assert model.context(values["aligned"], values["visibility"]).shape == (2, size[0] * size[1], 16)
    alone = [model(**{name: value[i : i + 1] for name, value in values.items()})[0] for i in range(2)]
    torch.testing.assert_close(prediction, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)])
def test_half_precision_is_near_single_precision(dtype, tolerance):
    """Largest difference over the root mean square of the output; in float64 against float32: 1e-5."""
    model, values = alive(TINY), inputs()

    def run(kind):
        network = make(TINY).to(kind)
        network.load_state_dict(model.state_dict())
        cast = {name: value if name == "t" else value.to(kind) for name, value in values.items()}
        outs = network(**cast)
        assert all(out.dtype == kind for out in outs)
        return torch.cat(outs).double()

    exact = run(torch.float64)
    scale = exact.square().mean().sqrt()
    assert (run(torch.float32) - exact).abs().max() / scale < 1e-5
    assert (run(dtype) - exact).abs().max() / scale < tolerance


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", [sample_ddim, sample_ancestral])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-4), (torch.float16, 0.02), (torch.bfloat16, 0.12)])
def test_sampling_in_half_precision_is_near_single_precision(dtype, tolerance, sampler, prediction):
    """Largest difference over the root mean square of the latent, both passes of eq. 16 and six steps included."""
    schedule = DiffusionSchedule(ScheduleConfig(prediction=prediction))
    sigmas = simple_sigmas(schedule, 6)

    def sample(kind):
        model = alive(TINY).to(kind)
        told = *(latents(i, 1) for i in range(1, 4)), torch.ones(1, 1, 8, 8)
        guided = GuidedDenoiser(model, schedule, Condition.of(model, *(value.to(kind) for value in told)), 1.5)
        start = initial_latent(latents(9, 1), sigmas[0]).to(kind)
        result = sampler(guided, start, sigmas, generator=torch.Generator().manual_seed(0))
        assert result.dtype == kind
        return result.double()

    single = sample(torch.float32)
    assert (sample(dtype) - single).abs().max() / single.square().mean().sqrt() < tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("level", [0, 20, 999])
def test_in_half_precision_only_the_network_is_rounded(dtype, level):
    """A network that sees no noise says ŷ_0 = x, at every level: through √ᾱ_t and back nothing is lost."""
    schedule = DiffusionSchedule(ScheduleConfig(prediction="epsilon"))
    model = Denoiser(dataclasses.replace(TINY, channel_condition=False)).eval().to(dtype)  # its last layer is zero
    told = Condition.of(model, *(latents(i).to(dtype) for i in range(1, 4)), torch.ones(2, 1, 8, 8).to(dtype))
    x = latents(9).to(dtype) * 3
    assert torch.equal(GuidedDenoiser(model, schedule, told, 1.5)(x, schedule_sigmas(schedule)[[level] * 2]).x0, x)


def test_weights_of_half_precision_between_single_ones():
    model = alive(TINY)
    values, drop = inputs(), torch.tensor([True, False])
    tokens = model.context(values["aligned"], values["visibility"].sigmoid(), drop)
    exact = model(**{**values, "tokens": tokens})
    half = MixedPrecisionDenoiser(model, torch.bfloat16)
    found = half(*{**values, "tokens": half.context(values["aligned"], values["visibility"].sigmoid(), drop)}.values())
    assert half.context(values["aligned"], values["visibility"]).shape == (2, 64, 16)
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)


def test_gradients_reach_every_weight():
    model = alive(TINY).requires_grad_(True)
    values = inputs()
    values["tokens"] = model.context(values["aligned"], values["visibility"], torch.tensor([True, False]))
    sum(out.square().sum() for out in model(**values)).backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]


@pytest.mark.parametrize("kind", [Denoiser, Conditioner])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"texture": "text"}, "texture = 'text': .*RePoseSD"),
        ({"texture": "warp"}, "texture = 'warp': known"),
        ({"attention": (True,)}, "attention = .*one value a resolution"),
        ({"heads_dim": 24}, "heads_dim = 24: must divide"),
        ({"norm_groups": 5}, "norm_groups = 5: must divide"),
        ({"height": 0}, "height = 0: with width = 8"),
    ],
)
def test_configurations_that_contradict_themselves_are_named(kind, change, named):
    with pytest.raises(InputError, match=named):
        kind(dataclasses.replace(TINY, **change))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("z", lambda v: v[:0], r"z has shape \(0, 4, 8, 8\): axis B"),
        ("z", lambda v: v[:, :3], r"z has shape \(2, 3, 8, 8\).*C = 4"),
        ("z", lambda v: v.half(), "z .*float16; the network's weights are torch.float32"),
        ("z", lambda v: v.int(), "z .*int32"),
        ("t", lambda v: v[:1], r"t is \(1,\); expected .*\(2,\)"),
        ("t", lambda v: 7, "t is 7"),
        ("pose_latent", lambda v: v[..., :7], r"pose_latent has shape \(2, 4, 8, 7\).*w = 8"),
        ("pose_latent", lambda v: v.double(), "pose_latent .*float64.* expected torch.float32"),
        ("tokens", lambda v: v[..., :5], r"tokens has shape \(2, 64, 5\).*D = 16"),
        ("tokens", lambda v: v[:1], r"tokens has shape \(1, 64, 16\).*B = 2"),
        ("aligned", lambda v: v[:1], r"aligned has shape \(1, 4, 8, 8\).*B = 2"),
        ("visibility", lambda v: v.expand(-1, 2, -1, -1), r"visibility has shape \(2, 2, 8, 8\)"),
        ("sigma", lambda v: v.flatten(), r"sigma has shape \(2,\)"),
    ],
)
def test_what_does_not_fit_is_named(name, change, message):
    values = inputs()
    with pytest.raises(InputError, match=message):
        make()(**{**values, name: change(values[name])})


def test_contexts_that_do_not_fit_are_named():
    model = make()
    for latent, visibility, drop, message in (
        (latents(1)[:0], torch.ones(0, 1, 8, 8), None, "latent .*axis B"),
        (latents(1), torch.ones(2, 1, 8, 4), None, r"visibility has shape \(2, 1, 8, 4\)"),
        (latents(1), torch.ones(2, 1, 8, 8), torch.ones(2), "drop .*bool"),
        (latents(1), torch.ones(2, 1, 8, 8), torch.ones(3, dtype=torch.bool), r"drop has shape \(3,\)"),
    ):
        with pytest.raises(InputError, match=message):
            model.context(latent, visibility, drop)
