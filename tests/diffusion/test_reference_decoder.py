"""The decoder that sees the source: what it gives before training, sizes, gradients, bad input."""

from dataclasses import fields, replace

import pytest
import torch

from reposedm_core import InputError
from reposedm_core.config import DecoderConfig
from reposedm_core.diffusion.reference_decoder import FLAT, MASKS, Reference, ReferenceDecoder, smooth

CONFIG = DecoderConfig("reference", (8, 16, 16), 4)


def build(shaken=False, **changes):
    torch.manual_seed(0)
    decoder = ReferenceDecoder(replace(CONFIG, **changes)).eval()
    if shaken:
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return decoder


def given(height=32, width=24, batch=2, stride=8):
    """Decoded picture, latent and reference."""
    generator = torch.Generator().manual_seed(1)

    def draw(count, h=height, w=width):
        return torch.rand(batch, count, h, w, generator=generator)

    *earlier, _ = (field.name for field in fields(Reference))
    shown = {name: draw(1) if name in MASKS else 2 * draw(3) - 1 for name in earlier}
    latent = draw(4, max(1, height // stride), max(1, width // stride))
    return 2 * draw(3) - 1, latent, Reference(**shown, flat=2 * draw(3) - 1)


def test_before_training_it_is_the_warp_where_the_source_shows_the_person_the_plate_off_him_else_the_latent():
    decoded, latent, reference = given()
    out = build()(decoded, latent, reference)
    seen = reference.person * reference.visibility
    share = torch.stack([seen, 1 - reference.person, reference.person - seen]).clamp(min=0.01)
    share = share / share.sum(0)
    torch.testing.assert_close(out, share[0] * reference.warped + share[1] * reference.plate + share[2] * decoded)
    certain = {"person": torch.ones_like(reference.person), "visibility": torch.ones_like(reference.visibility)}
    for change, expected in (
        ({}, reference.warped),
        ({"visibility": 0 * reference.visibility}, decoded),
        ({"person": 0 * reference.person}, reference.plate),
    ):
        told = replace(reference, **{**certain, **change})
        assert (build()(decoded, latent, told) - expected).abs().max() < 0.05


def test_detail_starts_as_nothing_and_makes_edges_of_one_pixel():
    """Shares from the blocks alone change over 4 pixels or more; those with detail from one pixel to the next."""
    decoded, latent, reference = given()
    plain, fine = build(), build(detail=8)
    torch.testing.assert_close(fine(decoded, latent, reference), plain(decoded, latent, reference))
    column = torch.arange(24.0).expand(2, 1, 32, 24)
    reference = replace(
        reference,
        person=torch.full_like(reference.person, 0.5),
        visibility=torch.ones_like(reference.person),
        hidden=(column > 11).float(),
    )
    truth = torch.where(column > 11, reference.warped, reference.plate)
    optimiser = torch.optim.Adam(fine.train().parameters(), 2e-3)
    for _ in range(150):
        optimiser.zero_grad()
        (fine(decoded, latent, reference) - truth).abs().mean().backward()
        optimiser.step()
    with torch.no_grad():
        shares, _ = fine.shares(decoded, latent, reference)
    step = (shares[:, 0, :, 12] - shares[:, 0, :, 11]).mean()
    assert step > 0.5 and (shares[:, 0, :, 14] - shares[:, 0, :, 12]).abs().mean() < 0.3


def test_the_grid_of_blocks_does_not_show():
    """What a channel of one pixel of every block adds is in all pixels the same."""
    every = torch.zeros(1, 6, 32, 24)
    every[:, :, 1::4, 2::4] = 16
    torch.testing.assert_close(smooth(every)[..., 4:-4, 4:-4], torch.ones(1, 6, 24, 16))
    even = torch.full((1, 6, 8, 8), 0.7)
    torch.testing.assert_close(smooth(even), even)


def test_in_use_it_is_more_decided_and_copies_more():
    told = given()
    plain, decided = build(True), build(True, decision=2.0, copying=1.5)
    shares, paint = plain.shares(*told)
    logits = 2 * (shares.log() + torch.tensor([1.5, 0, 0])[:, None, None])
    found = decided.shares(*told)
    torch.testing.assert_close(found[0], logits.softmax(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[1], paint)
    assert found[0][:, 0].mean() > shares[:, 0].mean() + 0.1
    torch.testing.assert_close(decided.train().shares(*told)[0], shares)


def test_its_own_paint_is_what_it_would_show_alone():
    decoder, (decoded, latent, reference) = build(True), given()
    picture, paint = decoder(decoded, latent, reference, with_paint=True)
    torch.testing.assert_close(picture, decoder(decoded, latent, reference), rtol=0, atol=0)
    torch.testing.assert_close(build()(decoded, latent, reference, with_paint=True)[1], decoded)
    assert (paint - decoded).abs().max() > 0.01


@pytest.mark.parametrize(("height", "width"), [(32, 24), (64, 48), (20, 12), (28, 36), (4, 4), (8, 100)])
@pytest.mark.parametrize("widths", [(8, 16), (8, 16, 16), (8, 8, 8, 16, 16)])
def test_any_size_that_four_divides(height, width, widths):
    """Sides of odd numbers of blocks at any depth, too, and where a level has one block."""
    out = build(True, widths=widths)(*given(height, width))
    assert out.shape == (2, 3, height, width) and out.isfinite().all()


def test_a_batch_is_its_pictures_alone():
    decoder, (decoded, latent, reference) = build(True), given(28, 36, batch=3)
    together = decoder(decoded, latent, reference)
    for i in range(3):
        rows = slice(i, i + 1)
        alone = decoder(decoded[rows], latent[rows], reference[rows])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-4)


def test_the_gradient_reaches_every_weight_and_everything_that_is_shown():
    decoder, (decoded, latent, reference) = build(True, flat=True), given()
    reference = reference.map(lambda value: value.requires_grad_())
    decoded, latent = decoded.requires_grad_(), latent.requires_grad_()
    decoder(decoded, latent, reference).square().mean().backward()
    shown = {"decoded": decoded, "latent": latent, **vars(reference)}
    for name, value in [*decoder.named_parameters(), *shown.items()]:
        assert value.grad is not None and value.grad.isfinite().all() and value.grad.any(), name


def test_a_fresh_one_learns():
    """Its last layer starts at zero: the first step reaches that, the second everything behind it."""
    decoder, told = build(), given()
    truth = (told[2].warped + told[2].plate) / 2
    optimiser, losses = torch.optim.Adam(decoder.parameters(), 1e-3), []  # at more the choice saturates
    for _ in range(12):
        losses.append((decoder(*told) - truth).square().mean())
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad.any() for parameter in decoder.parameters())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d, z, r: (d[..., :30, :], z, r), r"decoded has shape \(2, 3, 30, 24\): H = 30 must be divisible by 4"),
        (lambda d, z, r: (d[:, :1], z, r), r"decoded has shape \(2, 1, 32, 24\); expected \(B, 3, H, W\)"),
        (lambda d, z, r: (d, z[:, :3], r), r"latent has shape \(2, 3, 4, 3\).* C = 4"),
        (lambda d, z, r: (d, z[:1], r), "latent has shape .* B = 2"),
        (lambda d, z, r: (d, z, replace(r, plate=r.plate[..., :-4])), r"reference\.plate has shape .* W = 24"),
        (lambda d, z, r: (d, z, replace(r, warped=r.hidden)), r"reference\.warped has shape .*\(B, 3, H, W\)"),
        (lambda d, z, r: (d, z, replace(r, person=r.plate)), r"reference\.person has shape .*\(B, 1, H, W\)"),
        (lambda d, z, r: (d, z, r[:1]), r"reference\.warped has shape .* B = 2"),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    with pytest.raises(InputError, match=words):
        build()(*change(*given()))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "other"}, "kind = 'other': known are none, reference"),
        ({"widths": (8,)}, "widths = .*2 to 8 values"),
        ({"latent_channels": 0}, "latent_channels = 0: must be 1 to"),
    ],
)
def test_bad_configurations_are_named(changes, words):
    with pytest.raises(InputError, match=words):
        replace(CONFIG, **changes)


def test_with_flat_colours_it_may_paint_in_them_and_without_it_does_not_look_at_them():
    """Before training a twentieth of the paint is the layout's; what the tone's logit says counts from there."""
    decoded, latent, reference = given()
    plain, flat = build(), build(flat=True)
    other = replace(reference, flat=-reference.flat)
    assert torch.equal(plain(decoded, latent, reference), plain(decoded, latent, other))
    share = torch.tensor(FLAT).sigmoid()
    _, paint = flat.shares(decoded, latent, reference)
    torch.testing.assert_close(paint, share * reference.flat + (1 - share) * decoded)
    flat.read[1].bias.data.unflatten(0, (7, 16))[6] = 50.0
    torch.testing.assert_close(flat.shares(decoded, latent, reference)[1], reference.flat)
    torch.testing.assert_close(flat.shares(decoded, latent, reference)[0], plain.shares(decoded, latent, reference)[0])
    fine = build(flat=True, detail=8)
    torch.testing.assert_close(fine.shares(decoded, latent, reference)[1], paint)
