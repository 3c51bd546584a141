"""Appearance control (Fig. 4): a garment on another person, inside a mask, everything else kept."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from reposedm_core import InputError, RePoseDMPipeline, load_networks
from reposedm_core.appearance import KeepOutside, inside, latent_mask
from reposedm_core.diffusion.sampler import Denoised, initial_latent, sample_ancestral, sample_ddim
from reposedm_core.diffusion.schedulers import SAMPLERS
from reposedm_core.images import to_image
from reposedm_core.networks import SHIPPED
from reposedm_core.pose import load_pose_file, to_keypoints

EXAMPLES = Path(__file__).parents[1] / "workflows" / "examples"


@pytest.fixture(scope="module")
def pipeline():
    return RePoseDMPipeline.from_pretrained()


def at_its_size(pipeline, name):
    """An example's picture at the model's size, at which nothing is letterboxed."""
    return Image.open(EXAMPLES / name).convert("RGB").resize((pipeline.config.width, pipeline.config.height))


@pytest.fixture(scope="module")
def reference(pipeline):
    return at_its_size(pipeline, "red_trousers_target.png")


@pytest.fixture(scope="module")
def garment(pipeline):
    return at_its_size(pipeline, "blue_shirt.png")


@pytest.fixture(scope="module")
def pose(reference):
    (pose,) = load_pose_file(EXAMPLES / "red_trousers_pose.json")
    return pose.resized(reference.height, reference.width)


@pytest.fixture(scope="module")
def torso(pose):
    """Shoulders to hips of the reference, (H, W) bool."""
    mask = Image.new("L", (pose.width, pose.height))
    corners = [tuple(pose.joints[0, joint, :2]) for joint in (2, 5, 11, 8)]
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    return np.asarray(mask) > 0


@pytest.fixture(scope="module")
def dressed(pipeline, pose, torso, reference, garment):
    return pipeline.dress(reference, garment, torso, pose, seed=1)


def test_outside_of_the_mask_not_a_bit_changes(dressed, torso, reference):
    original = np.asarray(reference)
    assert torch.equal(dressed.image[0, :, ~torso], dressed.reference[0, :, ~torso])
    assert np.array_equal(np.asarray(dressed.to_pil())[~torso], original[~torso])


def test_outside_of_the_mask_the_latent_is_the_references(pipeline, dressed):
    outside = latent_mask(dressed.mask, pipeline.autoencoder.stride)[0, 0] == 0
    reference = pipeline.encode(dressed.reference * 2 - 1)
    assert 0.3 < outside.float().mean() < 1 and reference[0, :, outside].std() > 0.1
    torch.testing.assert_close(dressed.latent[0, :, outside], reference[0, :, outside])


def test_inside_the_garments_colours_appear(dressed, torso):
    """Blue and green on what was dark red: nearer to the aligned garment picture than the reference is."""
    deep = inside(torch.from_numpy(torso).float()[None, None], 2)[0, 0] == 1
    colour = {name: getattr(dressed, name)[0][:, deep].mean(1) for name in ("image", "reference", "aligned")}
    before, after = ((colour[name] - colour["aligned"]).norm() for name in ("reference", "image"))
    assert before > 0.3 and after < 0.4 * before


def test_a_seed_gives_one_picture_and_another_seed_another(pipeline, pose, torso, dressed, reference, garment):
    again, other = (pipeline.dress(reference, garment, torso, pose, seed=seed).image for seed in (1, 2))
    assert torch.equal(again, dressed.image) and not torch.equal(other, dressed.image)


def test_a_mask_of_everything_is_pose_transfer(shaken, first_config, pose, reference, garment):
    """Where no person is found; where one is, the reference is behind the clothes (see test_second_generation.py)."""
    pipeline, everything = RePoseDMPipeline(shaken(first_config)), torch.ones(pose.height, pose.width)
    plain = pipeline(garment, pose, seed=3, steps=2)
    torch.testing.assert_close(
        pipeline.dress(reference, garment, everything, pose, seed=3, steps=2).image, plain.image, rtol=0, atol=1e-5
    )


def test_without_a_pose_the_estimator_finds_it(pipeline, pose, torso, reference, garment):
    """The same garment in nearly the same place."""
    found = pipeline.dress(reference, garment, torso, seed=1)
    assert (
        found.pose_image - pipeline.dress(reference, garment, torso, pose, seed=1, steps=1).pose_image
    ).abs().mean() < 0.1
    assert torch.equal(found.image[0, :, ~torso], found.reference[0, :, ~torso])


def test_a_pose_that_does_not_tell_its_canvas_is_in_pixels_of_the_reference(pipeline, pose, torso, reference, garment):
    raw = {"people": to_keypoints(pose)[0]["people"]}
    known, told = (pipeline.dress(reference, garment, torso, given, seed=1, steps=1) for given in (pose, raw))
    assert torch.equal(told.pose_image, known.pose_image)


def test_a_reference_of_another_size_is_letterboxed_with_mask_and_pose(pipeline, pose, torso, reference, garment):
    """Twice as large on a wider canvas: the mask stays on the body."""
    height, width = torso.shape
    canvas = Image.new("RGB", (width * 5 // 2, height * 2), (90, 90, 90))
    canvas.paste(reference.resize((2 * width, 2 * height)), (width // 4, 0))
    mask = Image.new("L", canvas.size)
    mask.paste(Image.fromarray(torso).convert("L").resize((2 * width, 2 * height)), (width // 4, 0))
    out = pipeline.dress(canvas, garment, mask, pose.resized(canvas.height, canvas.width), seed=1, steps=1)
    weight = out.mask[0, 0]
    there = weight > 0
    # Letterboxing shrinks the person to 0.8 of what fills the canvas.
    assert float(weight.sum()) == pytest.approx(0.8**2 * torso.sum(), rel=0.05)
    assert torch.equal(out.image[0][:, ~there], out.reference[0][:, ~there])
    found = ((there.nonzero() * weight[there][:, None]).sum(0) / weight.sum()).tolist()
    centre = torch.from_numpy(np.argwhere(torso)).float().mean(0).tolist()
    for place, was, side in zip(found, centre, torso.shape, strict=True):
        assert place == pytest.approx(side / 2 + 0.8 * (was - side / 2), abs=side / 64)


def test_masks_of_another_size_are_stretched_and_several_taken_in_turn(pipeline, pose, torso, reference, garment):
    """Half as large, and once for the torso, once for all: three garments take torso, all, torso."""
    cover = torch.from_numpy(torso).float()
    half = torch.nn.functional.avg_pool2d(cover[None, None], 2)[0]
    settings = {"pose": pose, "seed": 1, "steps": 1, "feather": 0}
    found = pipeline.dress(reference, garment, half, **settings).mask
    expected = torch.nn.functional.interpolate(half[None], size=torso.shape, mode="bilinear")
    assert torch.allclose(found, expected) and (found - cover).abs().mean() < 0.02
    garments = to_image(garment).expand(3, -1, -1, -1) / 2 + 0.5
    both = torch.stack([cover, torch.ones_like(cover)])
    several = pipeline.dress(reference, garments, both, **settings)
    for index, mask in enumerate((cover, torch.ones_like(cover), cover)):
        outside = mask == 0
        assert torch.equal(several.image[index][:, outside], several.reference[index][:, outside])
        alone = pipeline.dress(reference, garments, mask, **settings)
        torch.testing.assert_close(several.image[index], alone.image[index], rtol=0, atol=1e-5)
    assert (several.image[1] - several.image[2]).abs().max() > 0.1


def test_field_guidance_and_every_sampler_work_inside_a_mask(pipeline, pose, torso, reference, garment):
    small = {"pose": pose, "steps": 2, "height": 64, "width": 48}
    plain = pipeline.dress(reference, garment, torso, field_strength=0.0, **small)
    outside = plain.mask[0, 0] == 0
    on, off = (
        pipeline.dress(reference, garment, torso, field_strength=strength, **{**small, "steps": 4}).image
        for strength in (2.0, 0.0)
    )
    assert not torch.equal(on, off) and torch.equal(on[0, :, outside], plain.reference[0, :, outside])
    for sampler in SAMPLERS:
        image = pipeline.dress(reference, garment, torso, sampler=sampler, **small).image
        assert image.isfinite().all() and torch.equal(image[0, :, outside], plain.reference[0, :, outside])


def guess(x, sigma):
    """A model that estimates half the sample."""
    return Denoised(x / 2)


def test_outside_the_sample_is_the_reference_noised_to_every_level():
    """What PIDM does by replacing the sample follows from replacing the estimate: x = z_ref + σ ε, ε the run's own."""
    generator = torch.Generator().manual_seed(0)
    reference, noise = (torch.randn(1, 4, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., :2] = 1
    sigmas = torch.tensor([150.0, 20.0, 3.0, 0.5, 0.0], dtype=torch.float64)
    x = initial_latent(noise, sigmas[0])
    seen = []

    def watched(value, sigma):
        seen.append(value)
        return guess(value, sigma)

    out = sample_ddim(KeepOutside(watched, reference, mask), x, sigmas)
    own = (x - reference) / sigmas[0]
    for value, sigma in zip(seen, sigmas, strict=False):
        torch.testing.assert_close((value - reference - sigma * own)[..., 2:], torch.zeros(1, 4, 4, 2).double())
    torch.testing.assert_close(out[..., 2:], reference[..., 2:])
    torch.testing.assert_close(out[..., :2], sample_ddim(guess, x, sigmas)[..., :2])


def test_what_the_model_prepares_for_its_sampling_is_prepared_inside_a_mask_too():
    """The context's keys and values, which GuidedDenoiser keeps from step to step."""

    class Prepared:
        ready = False

        @contextmanager
        def sampling(self, x, levels):
            self.ready = x is zeros and [float(level) for level in levels] == [9.0, 1.0]
            yield
            self.ready = False

        def __call__(self, x, sigma):
            assert self.ready
            return guess(x, sigma)

    model, zeros = Prepared(), torch.zeros(1, 4, 4, 4)
    sample_ddim(KeepOutside(model, zeros, zeros[:, :1]), zeros, torch.tensor([9.0, 1.0, 0.0]))
    assert not model.ready


def test_ancestral_sampling_keeps_the_references_marginals():
    """Outside, x at a level has mean z_ref and deviation σ, over many runs at once."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.full((1, 1, 1, 1), 0.7)
    sigmas = torch.tensor([80.0, 5.0, 1.0, 0.0])
    x = initial_latent(torch.randn(20000, 1, 1, 1, generator=generator), sigmas[0])
    seen = []

    def watched(value, sigma):
        seen.append(value)
        return guess(value, sigma)

    out = sample_ancestral(KeepOutside(watched, reference, torch.zeros(1, 1, 1, 1)), x, sigmas, generator=generator)
    for value, sigma in zip(seen[1:], sigmas[1:], strict=False):
        assert float(value.mean()) == pytest.approx(0.7, abs=0.05 * float(sigma))
        assert float(value.std()) == pytest.approx(float(sigma), rel=0.03)
    torch.testing.assert_close(out, reference.expand_as(out))


def test_mask_of_the_latent_covers_every_marked_pixel():
    mask = torch.zeros(1, 1, 16, 24)
    mask[0, 0, 7, 15], mask[0, 0, 8, 0] = 0.2, 1
    assert latent_mask(mask, 8)[0, 0].tolist() == [[0, 1, 0], [1, 0, 0]]


def test_feather_lies_inside_and_the_pictures_border_is_no_edge():
    mask = torch.zeros(1, 1, 7, 9)
    mask[..., 3:] = 1
    ramp = inside(mask, 2)[0, 0]
    assert torch.allclose(ramp[3], torch.tensor([0, 0, 0, 1 / 3, 2 / 3, 1, 1, 1, 1]))
    assert torch.equal(ramp[0], ramp[3])
    assert torch.equal(inside(mask / 2, 0), mask / 2)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(128, 96), "mask: it is black everywhere.*Open in MaskEditor"),
        (torch.full((128, 96), 2.0), "from 2 to 2"),
        (torch.full((128, 96), float("nan")), "values that are not numbers"),
        (torch.ones(128, 96, 3), r"expected \(height, width\)"),
    ],
)
def test_masks_that_cannot_be_used(pipeline, pose, mask, message, reference, garment):
    with pytest.raises(InputError, match=message):
        pipeline.dress(reference, garment, mask, pose)


def test_a_reference_in_which_the_estimator_finds_nobody(torso, reference, garment):
    networks = load_networks(SHIPPED)
    for weight in networks.estimator.parameters():  # an estimator that sees nothing anywhere
        weight.zero_()
    with pytest.raises(InputError, match="reference: nobody was found"):
        RePoseDMPipeline(networks).dress(reference, garment, torso)


def test_other_input_that_cannot_be_used(pipeline, pose, torso, reference, garment):
    with pytest.raises(InputError, match="reference: it holds 2 pictures"):
        pipeline.dress(torch.rand(2, 3, 128, 96), garment, torso, pose)
    with pytest.raises(InputError, match="garment: a picture of shape"):
        pipeline.dress(reference, torch.zeros(3, 3), torso, pose)
    with pytest.raises(InputError, match="feather = -1"):
        pipeline.dress(reference, garment, torso, pose, steps=1, feather=-1)
    with pytest.raises(InputError, match="sampler = 'none'"):
        pipeline.dress(reference, garment, torso, pose, sampler="none")
