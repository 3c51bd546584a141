"""The match biased towards a known map, and convex upsampling: against loops, their gradients and precision."""

import math

import pytest
import torch
import torch.nn.functional as F

from reposedm_core.alignment.correlation import global_match
from reposedm_core.alignment.matching import FINER, NEIGHBOURS, BiasedMatch, biased_match, finer
from reposedm_core.alignment.warp import identity_map

ASPECT = 0.75


def inputs(size, other=None, batch=2, channels=5):
    """Query, key, start and precision in float64."""
    generator = torch.Generator().manual_seed(0)

    def draw(count, shape):
        return torch.randn(batch, count, *shape, generator=generator, dtype=torch.float64)

    start = identity_map(*size, dtype=torch.float64) + 0.4 * draw(2, size)
    return draw(channels, size), draw(channels, other or size), start, 40 * draw(1, size).abs()


def loop(query, key, sharpness, start, precision, aspect):
    """Cell by cell: the softmax over the source's cells, distances in picture heights."""
    b, _, h, w = query.shape
    rows, columns = key.shape[-2:]
    log, places = torch.zeros(b, h * w, rows * columns).double(), torch.zeros(b, 2, h, w).double()
    for n in range(b):
        for cell in range(h * w):
            y, x = divmod(cell, w)
            logits, centres = [], []
            for other in range(rows * columns):
                j, i = divmod(other, columns)
                centre = (i + 0.5) * 2 / columns - 1, (j + 0.5) * 2 / rows - 1
                right, down = (centre[axis] - float(start[n, axis, y, x]) for axis in range(2))
                distance = math.hypot(right / 2 * aspect, down / 2)
                cosine = float(F.cosine_similarity(query[n, :, y, x], key[n, :, j, i], dim=0))
                logits.append(sharpness * cosine - 0.5 * float(precision[n, 0, y, x]) * distance**2)
                centres.append(centre)
            total = math.log(sum(map(math.exp, logits)))
            log[n, cell] = torch.tensor(logits, dtype=torch.float64) - total
            for axis in range(2):
                places[n, axis, y, x] = sum(
                    math.exp(logit - total) * centre[axis] for logit, centre in zip(logits, centres, strict=True)
                )
    return log, places


@pytest.mark.parametrize("aspect", [0.75, 2.0])
@pytest.mark.parametrize(("size", "other"), [((3, 4), (3, 4)), ((2, 3), (4, 2)), ((1, 1), (1, 3))])
def test_it_equals_the_loop(size, other, aspect):
    query, key, start, precision = inputs(size, other)
    precision[0] *= 0  # one of the two pictures is matched without
    sharpness = torch.tensor(3.0).double()
    found = biased_match(query, key, sharpness, start, precision, aspect)
    for mine, expected in zip(found, loop(query, key, 3.0, start, precision, aspect), strict=True):
        torch.testing.assert_close(mine, expected)


def test_without_precision_it_is_the_global_match_of_equation_6():
    query, key, start, precision = inputs((5, 3), (4, 6))
    log, place = biased_match(query, key, torch.tensor(3.0).double(), start, 0 * precision, ASPECT)
    expected, match = global_match(query, key, 3.0)
    torch.testing.assert_close(place, expected)
    torch.testing.assert_close(log.exp().amax(-1).reshape(match.shape), match)


def test_with_great_precision_it_stays_where_it_was():
    """The nearest source cell then has all the probability, whatever the features say."""
    query, key, start, precision = inputs((6, 8), (12, 16))
    log, place = biased_match(query, key, torch.tensor(10.0).double(), start.clamp(-0.9, 0.9), 1e6 + precision, ASPECT)
    off = (place - start.clamp(-0.9, 0.9)).abs()
    assert off[:, 0].max() <= 1 / 16 + 1e-6 and off[:, 1].max() <= 1 / 12 + 1e-6
    torch.testing.assert_close(log.exp().sum(-1), torch.ones_like(log[..., 0]))


def test_gradients_of_the_match():
    query, key, start, precision = (t.requires_grad_() for t in inputs((2, 3), (2, 2), batch=1, channels=3))
    sharpness = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *given: biased_match(*given, ASPECT), (query, key, sharpness, start, precision)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, "autocast"])
def test_the_match_in_half_precision(dtype):
    """Features are rounded, places are not: probabilities and places are of float32."""
    query, key, start, precision = (t.float() for t in inputs((8, 6), channels=32))
    sharpness = torch.tensor(10.0)
    exact = biased_match(query, key, sharpness, start, precision, ASPECT)
    if dtype == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            found = biased_match(query, key, sharpness, start, precision, ASPECT)
    else:
        found = biased_match(query.to(dtype), key.to(dtype), sharpness, start, precision, ASPECT)
    assert all(value.dtype == torch.float32 for value in found)
    torch.testing.assert_close(found[0].exp(), exact[0].exp(), rtol=0.2, atol=2e-3)
    assert ((found[1] - exact[1]).abs() * torch.tensor([3.0, 4.0]).view(2, 1, 1)).max() < 0.1, "of a cell"


# -- the read-out at twice the resolution


def test_upsampling_equals_the_loop():
    generator = torch.Generator().manual_seed(0)
    values, weights = (
        torch.randn(2, count, 3, 4, generator=generator, dtype=torch.float64) for count in (3, NEIGHBOURS * FINER**2)
    )
    expected = torch.zeros(2, 3, 6, 8, dtype=torch.float64)
    for y in range(6):
        for x in range(8):
            part = 2 * (y % 2) + x % 2
            around = [(min(max(y // 2 + j, 0), 2), min(max(x // 2 + i, 0), 3)) for j in (-1, 0, 1) for i in (-1, 0, 1)]
            share = torch.stack([weights[:, 4 * k + part, y // 2, x // 2] for k in range(9)]).exp()
            for k, (row, column) in enumerate(around):
                expected[:, :, y, x] += (share[k] / share.sum(0))[:, None] * values[:, :, row, column]
    torch.testing.assert_close(finer(values, weights), expected)


def test_upsampling_is_convex_and_keeps_what_is_constant():
    generator = torch.Generator().manual_seed(0)
    values, weights = (5 * torch.randn(1, count, 5, 4, generator=generator) for count in (2, NEIGHBOURS * FINER**2))
    flat = torch.tensor([0.3, -0.7]).view(1, 2, 1, 1).expand(1, 2, 5, 4)
    torch.testing.assert_close(finer(flat, weights), flat[..., :1, :1].expand(1, 2, 10, 8))
    out = finer(values, weights)
    high = F.interpolate(F.max_pool2d(values, 3, 1, 1), scale_factor=2)
    low = F.interpolate(-F.max_pool2d(-values, 3, 1, 1), scale_factor=2)
    assert (out <= high + 1e-5).all() and (out >= low - 1e-5).all()
    assert finer(values.double(), weights).dtype == torch.float64


def test_upsampling_is_nearly_bilinear_at_the_initial_weights():
    """The neighbours that bilinear interpolation leaves out keep a hundredth each, so that training can raise it."""
    torch.manual_seed(0)
    bias = BiasedMatch(8, (8, 8)).detail.bias.detach()[: NEIGHBOURS * FINER**2]
    values = torch.randn(1, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    out = finer(values, bias.view(1, -1, 1, 1).expand(1, -1, 6, 5))
    expected = F.interpolate(values, scale_factor=2, mode="bilinear", align_corners=False)
    reach = values.amax() - values.amin()
    assert (out - expected).abs().max() < 0.05 * reach
    share = bias.unflatten(0, (NEIGHBOURS, FINER**2)).softmax(0)
    assert share.amin() == pytest.approx(0.01 / 1.05, rel=1e-4) and share.amax() == pytest.approx(0.5625 / 1.05)


def test_gradients_of_the_upsampling():
    generator = torch.Generator().manual_seed(0)
    given = [
        torch.randn(1, count, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
        for count in (2, NEIGHBOURS * FINER**2)
    ]
    assert torch.autograd.gradcheck(finer, given)


# -- an iteration


def iteration(channels=8, size=(6, 5), batch=2):
    """A fresh module and what it is given: features, φⁿ, trust, logits."""
    torch.manual_seed(0)
    match = BiasedMatch(channels, (8, 8))
    start = identity_map(*size).expand(batch, -1, -1, -1) + 0.2 * torch.randn(batch, 2, *size)
    given = [
        torch.randn(batch, channels, *size),
        torch.randn(batch, channels, *size),
        start,
        torch.rand(batch, 1, *size),
        torch.randn(batch, 2, *size),
    ]
    return match, given


def test_before_training_an_iteration_is_the_match_alone():
    match, (target, source, start, known, logits) = iteration()
    sampling, after, fine, fine_logits, log, _ = match(target, source, start, known, logits, ASPECT)
    sigma = match.log_sigma.detach().exp()
    assert float(sigma) == pytest.approx(1 / 16), "8 pixels of 128"
    expected, place = biased_match(
        match.query(target), match.key(source), torch.tensor(10.0), start, known / sigma**2, ASPECT
    )
    torch.testing.assert_close(log, expected)
    torch.testing.assert_close(sampling, place, rtol=0, atol=1e-5)
    assert torch.equal(after, logits)
    shares = match.detail.bias[: NEIGHBOURS * FINER**2].view(1, -1, 1, 1).expand(2, -1, 6, 5)
    grid = identity_map(6, 5)
    torch.testing.assert_close(fine, identity_map(12, 10) + finer(place - grid, shares), rtol=0, atol=1e-5)
    torch.testing.assert_close(fine_logits, finer(logits, shares))


def test_where_nothing_is_known_the_map_so_far_has_no_say():
    match, (target, source, start, known, logits) = iteration()
    moved = start + 0.3
    for trust, same in ((0 * known, True), (known, False)):
        results = [match(target, source, phi, trust, logits, ASPECT)[0] for phi in (start, moved)]
        assert torch.equal(*results) == same


def test_the_gradient_of_an_iteration_reaches_everything():
    match, given = iteration()
    for layer in (match.trust, match.read, match.detail):
        torch.nn.init.normal_(layer.weight, std=0.1)
    given = [value.requires_grad_() for value in given]
    sampling, logits, fine, fine_logits, log, _ = match(*given, ASPECT)
    (fine.square().sum() + fine_logits.square().sum() + sampling.sum() + logits.sum() - log[..., 0].sum()).backward()
    inputs = zip(("target", "source", "start", "known", "logits"), given, strict=True)
    for name, value in [*match.named_parameters(), *inputs]:
        assert value.grad is not None and value.grad.isfinite().all() and value.grad.any(), name
