"""Keys and values of the fixed context: computed once a picture, bit-identical, and never those of another context."""

from __future__ import annotations

import dataclasses
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers.models.attention_processor import Attention

from reposedm_core.config import DenoiserConfig, ScheduleConfig
from reposedm_core.diffusion.context_cache import cached_context
from reposedm_core.diffusion.denoiser import Denoiser
from reposedm_core.diffusion.guided import Condition, GuidedDenoiser
from reposedm_core.diffusion.sampler import initial_latent, simple_sigmas
from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.diffusion.schedulers import SAMPLERS
from tests.fixtures.projections import computed_projections
from tests.fixtures.waiting import CEILING

TINY = DenoiserConfig(
    latent_channels=4, block_channels=(16, 32), layers=1, heads_dim=16, context_dim=16, height=8, width=8
)
SCHEDULE = DiffusionSchedule(ScheduleConfig())


@pytest.fixture
def model() -> Denoiser:
    torch.manual_seed(0)
    network = Denoiser(TINY).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@pytest.fixture
def calls(model, monkeypatch) -> list[str]:
    return computed_projections(model, monkeypatch)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(model: Denoiser, tokens: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """One pass with `tokens` (B, 64, 16); everything else comes from the seed."""
    batch = len(tokens)
    z, pose, aligned = (random(seed + i, batch, 4, 8, 8).to(tokens.dtype) for i in range(3))
    return model(z, torch.full((batch,), 500), pose, tokens, aligned, aligned[:, :1], aligned[:, :1, :1, :1])[0]


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("sampler", ["ddim", "ancestral", "dpmpp_2m", "heun"])
def test_a_run_projects_the_context_once_and_changes_not_one_bit(model, calls, sampler, scale):
    condition = Condition.of(model, *(random(i, 2, 4, 8, 8) for i in range(3)), torch.ones(2, 1, 8, 8))
    guided = GuidedDenoiser(model, SCHEDULE, condition, scale)
    sigmas = simple_sigmas(SCHEDULE, 5)
    start = initial_latent(random(9, 2, 4, 8, 8), sigmas[0])

    def sample(network):
        return SAMPLERS[sampler](network, start, sigmas, None, torch.Generator().manual_seed(0))

    with_cache = sample(guided)
    assert len(calls) == len(set(calls)) == 2 * 7, "key and value of each of the seven cross-attentions, once"
    calls.clear()

    class Bare:
        """The same model, with nothing prepared."""

        schedule = SCHEDULE

        def __call__(self, x, sigma):
            return GuidedDenoiser(model, SCHEDULE, condition, scale)(x, sigma)

    without = sample(Bare())
    assert torch.equal(with_cache, without)
    assert len(calls) == (9 if sampler == "heun" else 5) * 14
    calls.clear()
    assert torch.equal(sample(guided), with_cache) and len(calls) == 14, "a new run starts empty"


def test_contexts_put_together_anew_are_known_by_their_values(model, calls):
    parts = random(1, 1, 64, 16), random(2, 1, 64, 16)
    with torch.no_grad(), cached_context(model):
        results = [run(model, torch.cat(parts), seed) for seed in range(4)]
    assert len(calls) == 14
    with torch.no_grad():
        assert all(torch.equal(result, run(model, torch.cat(parts), seed)) for seed, result in enumerate(results))


def test_condition_and_null_condition_by_turns_are_both_kept(model, calls):
    contexts = random(1, 1, 64, 16), random(2, 1, 64, 16)
    with torch.no_grad(), cached_context(model):
        for seed in range(6):
            run(model, contexts[seed % 2].clone(), seed)
    assert len(calls) == 28


def test_only_so_many_contexts_are_kept(model, calls):
    with torch.no_grad(), cached_context(model, capacity=2) as projections:
        for seed in (0, 1, 2, 1, 2, 0):
            run(model, random(seed, 1, 64, 16))
            assert all(len(projection.forward.known) <= 2 for projection in projections)
    assert len(calls) == 56, "only the first was forgotten"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "change",
    [
        lambda tokens: tokens + 1e-6,
        lambda tokens: tokens.flip(0),
        lambda tokens: tokens[:1],
        lambda tokens: torch.cat([tokens, tokens]),
        lambda tokens: tokens[:, :32],
        lambda tokens: tokens.add_(1),
        lambda tokens: tokens.index_fill_(0, torch.tensor([1]), 0.0),
    ],
)
def test_another_context_is_never_served_the_old_one_s_keys(model, change, mode):
    """Other values, another batch, fewer tokens, and the same tensor written to."""
    with mode():
        tokens = random(1, 2, 64, 16)
        with cached_context(model):
            run(model, tokens)
            other = change(tokens)
            found = run(model, other)
        assert torch.equal(found, run(model, other))


@pytest.mark.parametrize("name", ["to_k", "to_v"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_weights_that_changed_between_two_runs_are_projected_with_anew(model, mode, name):
    """Written to, written to where torch does not count it, and replaced; while a run lasts they are taken as fixed."""
    tokens = random(1, 1, 64, 16)
    layer = model.get_submodule("unet.mid_block.attentions.0.transformer_blocks.0.attn2." + name)
    results = []

    def other() -> None:
        layer.weight = torch.nn.Parameter(torch.ones_like(layer.weight), requires_grad=False)

    with torch.no_grad():
        changes = (lambda: None, lambda: layer.weight.mul_(2), lambda: layer.weight.data.mul_(5), other)
        for change in changes:
            change()
            with mode(), cached_context(model):
                results.append(run(model, tokens))
                assert torch.equal(results[-1], run(model, tokens))
            assert torch.equal(results[-1], run(model, tokens))
    assert len({float(value.double().sum()) for value in results}) == 4


def test_other_precision_under_autocast_is_another_context(model):
    tokens = random(1, 1, 64, 16)
    with torch.no_grad(), cached_context(model):
        single = run(model, tokens)
        with torch.autocast("cpu", torch.bfloat16):
            half = run(model, tokens)
        assert torch.equal(run(model, tokens), single)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run(model, tokens), half) and not torch.equal(half.float(), single)


def test_gradients_go_past_the_cache(model, calls):
    tokens = random(1, 1, 64, 16)
    with cached_context(model):
        with torch.no_grad():
            run(model, tokens)
        wanted = tokens.clone().requires_grad_()
        (slope,) = torch.autograd.grad(run(model, wanted).sum(), wanted)
        with torch.enable_grad():
            run(model, tokens)
        assert len(calls) == 42
    (truth,) = torch.autograd.grad(run(model, wanted).sum(), wanted)
    assert slope.abs().max() > 0 and torch.equal(slope, truth)


def test_a_cache_filled_in_inference_mode_leaves_gradients_alone(model):
    tokens = random(1, 1, 64, 16)
    with cached_context(model):
        with torch.inference_mode():
            run(model, tokens)
        z = random(0, 1, 4, 8, 8).requires_grad_()
        out = model(z, torch.full((1,), 500), z, tokens, z, z[:, :1], z[:, :1, :1, :1])[0]
        assert torch.autograd.grad(out.sum(), z)[0].abs().max() > 0


def cached(model: Denoiser) -> int:
    """How many projections remember."""
    return sum("forward" in vars(layer) for layer in model.modules())


def test_layers_and_memory_are_given_back_whatever_happens(model):
    kept = []

    @torch.no_grad()
    def interrupted():
        with cached_context(model) as projections:
            assert cached(model) == len(projections) == 14
            run(model, random(1, 1, 64, 16))
            kept.extend(weakref.ref(each[-1]) for projection in projections for each in projection.forward.known)
            assert len(kept) == 14 and all(reference() is not None for reference in kept)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    gc.collect()
    assert not any(reference() is not None for reference in kept) and not cached(model)


def test_caches_within_one_another_give_the_same(model, calls):
    tokens = random(1, 1, 64, 16)
    with torch.no_grad():
        with cached_context(model):
            first = run(model, tokens)
            with cached_context(model):
                assert torch.equal(run(model, tokens), first)
            assert torch.equal(run(model, tokens), first)
        assert len(calls) == 14, "they are one"
        assert torch.equal(run(model, tokens), first) and len(calls) == 28


@torch.no_grad()
def test_overlapping_runs_leave_in_any_order(model, calls):
    tokens = random(1, 1, 64, 16)
    first, second = cached_context(model), cached_context(model.unet)
    truth = run(model, tokens)
    first.__enter__()
    run(model, tokens)
    second.__enter__()
    calls.clear()
    assert torch.equal(run(model, tokens), truth) and not calls
    first.__exit__(None, None, None)
    assert not cached(model) and torch.equal(run(model, tokens), truth)
    second.__exit__(None, None, None)
    assert not cached(model) and not torch.equal(run(model, tokens.mul_(3)), truth), "nobody remembers"


@pytest.mark.processes
def test_runs_of_two_threads_are_those_of_one(model, calls):
    """Each step of one lies between steps of the other: none sees the other's context."""
    conditions = [
        Condition.of(model, *(random(10 * k + i, 1, 4, 8, 8) for i in range(3)), torch.ones(1, 1, 8, 8))
        for k in range(2)
    ]
    sigmas = simple_sigmas(SCHEDULE, 4)
    start = initial_latent(random(9, 1, 4, 8, 8), sigmas[0])
    turn = threading.Barrier(2, timeout=CEILING)

    def sample(k: int, wait: bool) -> torch.Tensor:
        return SAMPLERS["ddim"](
            GuidedDenoiser(model, SCHEDULE, conditions[k], 1.5), start, sigmas, lambda *_: wait and turn.wait()
        )

    alone = [sample(k, False) for k in range(2)]
    calls.clear()
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(sample, range(2), [True, True]))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True)) and not torch.equal(*together)
    assert not cached(model)


@torch.no_grad()
def test_a_context_written_to_between_two_layers_is_noticed(model):
    """What the later layers make of it is not kept as that of the context which the pass began with."""
    tokens = random(1, 1, 64, 16)
    plain = run(model, tokens)
    with cached_context(model):
        middle = model.get_submodule("unet.mid_block.attentions.0")
        hook = middle.register_forward_pre_hook(lambda *_: tokens.mul_(1.5) is None or None)
        torn = run(model, tokens)
        hook.remove()
        assert not torch.equal(torn, plain) and torch.equal(run(model, random(1, 1, 64, 16)), plain)


@torch.no_grad()
def test_attention_outside_of_a_u_net_is_left_alone(model):
    network = torch.nn.ModuleList([model, Attention(query_dim=8, cross_attention_dim=8, heads=2, dim_head=4)])
    with cached_context(network):
        assert cached(network) == cached(model) == 14


def test_without_cross_attention_nothing_happens():
    network = torch.nn.Linear(2, 2)
    with cached_context(network) as projections:
        network(torch.zeros(1, 2))
        assert projections == []


def test_one_guided_denoiser_serves_batches_of_any_size(model):
    condition = Condition.of(model, *(random(i, 1, 4, 8, 8) for i in range(3)), torch.ones(1, 1, 8, 8))
    guided = GuidedDenoiser(model, SCHEDULE, condition, 1.5)
    sigmas = simple_sigmas(SCHEDULE, 2)
    for batch in (1, 3, 2):
        start = initial_latent(random(9, batch, 4, 8, 8), sigmas[0])
        fresh = GuidedDenoiser(model, SCHEDULE, condition, 1.5)
        assert torch.equal(SAMPLERS["ddim"](guided, start, sigmas), SAMPLERS["ddim"](fresh, start, sigmas))
    assert dataclasses.astuple(guided.condition)[0].shape[0] == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_what_is_changed_between_steps_is_seen(model, scale, mode):
    """Scale and condition are attributes like any other, and the condition's tensors may be written to."""
    x, sigma = random(9, 1, 4, 8, 8), torch.tensor([2.0])

    def fresh():
        return GuidedDenoiser(model, SCHEDULE, guided.condition, guided.scale)(x, sigma).x0

    with mode():
        conditions = [
            Condition.of(model, *(random(10 * k + i, 1, 4, 8, 8) for i in range(3)), torch.ones(1, 1, 8, 8))
            for k in range(2)
        ]
        guided = GuidedDenoiser(model, SCHEDULE, conditions[0], scale)
        with guided.sampling(x, [sigma]):
            seen = [guided(x, sigma).x0]
            guided.scale = 4.0 - scale
            seen.append(guided(x, sigma).x0)
            assert torch.equal(seen[-1], fresh())
            guided.condition = conditions[1]
            seen.append(guided(x, sigma).x0)
            assert torch.equal(seen[-1], fresh())
            guided.condition.tokens.mul_(2)
            seen.append(guided(x, sigma).x0)
            assert torch.equal(seen[-1], fresh())
            guided.condition.pose = conditions[0].pose
            seen.append(guided(x, sigma).x0)
            assert torch.equal(seen[-1], fresh())
    assert len({float(value.double().sum()) for value in seen}) == 5
