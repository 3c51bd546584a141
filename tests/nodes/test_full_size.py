"""Recurrent Pose Aligner, RePoseDM Decode and Garment Transfer at the picture's own size."""

from __future__ import annotations

import pytest
import torch

from reposedm_core import RePoseDMPipeline
from tests.nodes.guided import OUTPUTS, POSES
from tests.nodes.people import run

LARGE = 200, 150
"""Height and width of the pictures, which are letterboxed into the model's 64 × 48."""


@pytest.fixture(scope="module")
def pictures():
    """Three pictures with detail in every pixel, as IMAGE."""
    return torch.rand(3, *LARGE, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def transfer(pack, host, align):
    """LATENT as sampled, and the decoded IMAGE."""

    def made(source, pose, host=host, **options):
        found = align(source, pose, host=host, **options)
        with torch.inference_mode():
            (latent,) = pack.nodes.sampler.RePoseDMKSampler.execute(
                host[0], found["positive"], found["negative"], found["latent"], 3, 2, 1.5, "ddim", "simple", 1.0
            ).args
        return latent, decode(pack, host, latent)

    return made


def decode(pack, host, latent):
    with torch.inference_mode():
        return pack.nodes.decode.RePoseDMDecode.execute(latent, host[1], host[2]).args[0]


def with_person(pack, latent, top=20, bottom=40, left=15, right=30):
    """The LATENT with masks that say where somebody is: random weights see a person everywhere."""
    from dataclasses import replace

    key = pack.nodes.decode.REFERENCE
    reference, source = pack.nodes.decode.unpack(latent[key])
    here = torch.zeros_like(reference.person)
    here[..., top:bottom, left:right] = 1
    return {**latent, key: pack.nodes.decode.pack(replace(reference, person=here, hidden=here), source)}


def small(picture):
    """An IMAGE at the networks' size."""
    return torch.nn.functional.interpolate(picture.movedim(-1, 1), (64, 48), mode="area").movedim(1, -1)


def test_everything_comes_out_at_the_source_s_size_and_the_networks_see_the_same(align, pictures, frames):
    plain, large = (align(pictures[:1], frames[:1], output_size=size) for size in ("model", "source"))
    assert plain["aligned"].shape == (1, 64, 48, 3) and "reposedm_detail" not in plain["latent"]
    for name in ("aligned", "flow"):
        assert large[name].shape == (1, *LARGE, 3)
    for name in ("visibility", "person", "changed"):
        assert large[name].shape == (1, *LARGE)
        reduced = small(large[name][..., None])[..., 0]
        assert (reduced - plain[name]).abs().mean() < 0.06, name
    assert (small(large["flow"]) - plain["flow"]).abs().mean() < 0.05
    assert torch.equal(large["positive"][0][0], plain["positive"][0][0])
    assert torch.equal(large["latent"]["reposedm_reference"], plain["latent"]["reposedm_reference"])
    by_height = align(pictures[:1], frames[:1], output_size="height", output_height=80)
    assert by_height["aligned"].shape == (1, 80, 64, 3) and by_height["person"].shape == (1, 80, 64)


def test_the_picture_has_the_detail_of_the_source(align, pictures, frames):
    """Noise of single pixels, which the letterboxed picture has no more."""

    def contrast(picture):
        return picture.diff(dim=1).abs().mean()

    plain, large = (align(pictures[:1], frames[:1], output_size=size)["aligned"] for size in ("model", "source"))
    enlarged = torch.nn.functional.interpolate(plain.movedim(-1, 1), LARGE, mode="bicubic")
    assert contrast(large) > 4 * contrast(enlarged.movedim(1, -1))


@pytest.mark.parametrize("size", ["source", 96])
def test_it_is_the_pipeline_s(tiny_256, transfer, align, pictures, frames, size):
    options = {"output_size": size} if size == "source" else {"output_size": "height", "output_height": size}
    _, image = transfer(pictures[:1], frames[1:2], source_pose=frames[:1], **options)
    expected = RePoseDMPipeline.from_pretrained(tiny_256)(
        pictures[:1],
        POSES[1],
        seed=3,
        steps=2,
        guidance_scale=1.5,
        field_strength=0.0,
        source_pose=frames[:1],
        output_size=size,
    )
    aligned = align(pictures[:1], frames[1:2], source_pose=frames[:1], **options)["aligned"]
    assert image.shape[1:3] == (LARGE if size == "source" else (96, 72))
    assert (image.movedim(-1, 1) - expected.image).abs().max() < 1e-4
    assert (aligned.movedim(-1, 1) - expected.aligned).abs().max() < 1e-4


@pytest.mark.parametrize("size", [LARGE, (1000, 411), (600, 1000)])
def test_the_decoded_picture_is_the_source_to_the_bit_away_from_the_persons(pack, host, transfer, frames, size):
    """Whatever its proportions, which are not those of the networks' 64 × 48."""
    picture = torch.rand(1, *size, 3, generator=torch.Generator().manual_seed(2))
    latent, image = transfer(picture, frames[:1], output_size="source")
    assert image.shape == picture.shape
    image = decode(pack, host, with_person(pack, latent))
    box = pack.reposedm_core.letterbox.Letterbox(size, (64, 48))
    top, left, bottom, right = (
        round((at - box.corner[n % 2]) * size[n % 2] / box.inner[n % 2]) for n, at in enumerate((20, 15, 40, 30))
    )
    kept, grown = (image == picture).all(-1)[0], round(6 * size[0] / box.inner[0])
    assert kept[: max(0, top - grown)].all() and kept[bottom + grown :].all()
    assert kept[:, : max(0, left - grown)].all() and kept[:, right + grown :].all()
    inside = kept[top + grown : bottom - grown, left + grown : right - grown]
    assert inside.numel() and not inside.any()
    plain = decode(pack, host, {key: value for key, value in latent.items() if key != "reposedm_detail"})
    if size == LARGE:  # of the same proportions
        assert (small(decode(pack, host, latent)) - plain).abs().mean() < 0.1, "the same picture"


def test_a_pose_on_a_canvas_of_other_proportions_lies_in_the_picture(pack, align, tiny_256, frames):
    """Whole, as with Skeleton Warp; not in the networks' frame, of which a wide picture is a strip."""
    picture, canvas = torch.rand(1, 60, 150, 3, generator=torch.Generator().manual_seed(3)), (60, 150)
    poses = pack.reposedm_core.parse_keypoints(frames[:1])
    assert (poses[0].height, poses[0].width) != canvas
    there = pack.reposedm_core.pose.to_keypoints([pose.resized(*canvas) for pose in poses])
    own, placed = (align(picture, each, output_size="source") for each in (frames[:1], there))
    assert all(torch.equal(own[name], placed[name]) for name in ("aligned", "person", "flow"))
    assert torch.equal(own["positive"][0][0], placed["positive"][0][0])
    frame = align(picture, frames[:1])
    assert not torch.equal(frame["positive"][0][0], own["positive"][0][0]), "the frame is what is shown there"
    pipeline = RePoseDMPipeline.from_pretrained(tiny_256)
    options = {"seed": 3, "steps": 1, "field_strength": 0.0, "output_size": "source"}
    first, second = (pipeline(picture, each, **options) for each in (frames[:1], there))
    assert torch.equal(first.image, second.image)
    unknown = [{"people": frames[0]["people"]}]
    node, package = align(picture, unknown, output_size="source"), pipeline(picture, unknown, **options)
    assert torch.allclose(node["aligned"].movedim(-1, 1), package.aligned, atol=1e-5), "on a guessed canvas, too"


def test_batches_and_parts_of_them_keep_their_own_source(pack, host, transfer, pictures, frames):
    latent, image = transfer(pictures, frames[:3], output_size="source")
    latent = with_person(pack, latent)
    image = decode(pack, host, latent)
    assert all((each[:50] == own[:50]).all() for each, own in zip(image, pictures, strict=True))
    cut = {**latent, "samples": latent["samples"][1:2], "batch_index": [1]}
    assert (decode(pack, host, cut)[0] - image[1]).abs().max() < 1e-4
    one, several = transfer(pictures[:1], frames[:2], output_size="source")
    assert several.shape == (2, *LARGE, 3) and one["reposedm_detail"].rows == [[0], [0]]
    assert (several[0] - transfer(pictures[:1], frames[:1], output_size="source")[1][0]).abs().max() < 1e-3


def test_several_pictures_of_one_person(pack, align, transfer, pictures, frames):
    together = {"sources": pack.nodes.aligner.TOGETHER, "output_size": "source"}
    found = align(pictures, frames[:2], **together)
    assert found["aligned"].shape == (2, *LARGE, 3) and found["flow"].shape == (6, *LARGE, 3)
    assert found["latent"]["reposedm_detail"].rows == [[0, 1, 2]] * 2
    plain = align(pictures, frames[:2], sources=pack.nodes.aligner.TOGETHER)
    assert (small(found["aligned"]) - plain["aligned"]).abs().mean() < 0.1
    assert transfer(pictures, frames[:2], **together)[1].shape == (2, *LARGE, 3)


@pytest.mark.parametrize("size", [(16, 16), (1000, 411), (3, 500)])
@pytest.mark.parametrize("channels", [3, 4])
def test_pictures_of_any_shape(transfer, align, frames, size, channels):
    picture = torch.rand(1, *size, channels)
    found = align(picture, frames[:1], output_size="source")
    assert all(found[name].shape[1:3] == size and found[name].isfinite().all() for name in OUTPUTS[3:])
    assert transfer(picture, frames[:1], output_size="source")[1].shape == (1, *size, 3)


def test_a_model_that_finds_no_person(pack, tiny, align, transfer, pictures, frames):
    host = pack.nodes.loaders.load_checkpoint(tiny)
    found = align(pictures[:1], frames[:1], host=host, output_size="source")
    assert found["aligned"].shape == (1, *LARGE, 3) and found["changed"].min() > 0.999 and found["person"].max() == 0
    assert transfer(pictures[:1], frames[:1], host, output_size="source")[1].shape == (1, 64, 48, 3)


def test_a_size_that_was_not_trained_is_told(pack, host, pictures, frames, caplog):
    node = pack.nodes.aligner.RecurrentPoseAlignerNode
    with torch.inference_mode():
        told, untold = (
            node.execute(host[2], host[1], pictures[:1], frames[:1], width, height).ui
            for width, height in ((96, 128), (48, 64))
        )
    assert untold is None
    (note,) = told["text"]
    assert note.startswith("Warning: this model was trained at 48 × 64 and is to work at 96 × 128")
    assert any(note in message for message in caplog.messages)


def test_too_many_large_pictures_are_told_before_they_are_made(pack, align, frames, monkeypatch):
    monkeypatch.setattr(pack.reposedm_core.pose.limits, "MOST_PIXELS", 10_000)
    with pytest.raises(pack.reposedm_core.InputError, match="output_size: 1 pictures of 150 × 200"):
        align(torch.rand(1, *LARGE, 3), frames[:1], output_size="source")


@pytest.fixture
def dress(pack, host, pictures, frames):
    def dressed(host=host, reference=pictures[:1], **options):
        mask = torch.zeros(1, *reference.shape[1:3])
        mask[:, 80:120, 50:90] = 1
        values = {
            "model": host[0],
            "vae": host[1],
            "aligner": host[2],
            "reference": reference,
            "garment": pictures[1:2],
            "mask": mask,
            "seed": 3,
            "steps": 2,
            "cfg": 1.5,
            "sampler_name": "ddim",
            "scheduler": "simple",
            "feather": 4,
            "pose": frames[0],
            "garment_pose": frames[1],
        }
        return run(pack, "RePoseDMGarmentTransfer", **{**values, **options})

    return dressed


@pytest.mark.parametrize("generation", [1, 2])
def test_garments_at_the_reference_s_size(pack, tiny, tiny_256, host, dress, pictures, frames, generation):
    host = host if generation == 2 else pack.nodes.loaders.load_checkpoint(tiny)
    image, aligned, share, _ = dress(host, output_size="source")
    assert image.shape == aligned.shape == (1, *LARGE, 3) and share.shape == (1, *LARGE)
    outside = share[0] == 0
    assert outside.sum() == 200 * 150 - 40 * 40 and torch.equal(image[0][outside], pictures[0][outside])
    assert not torch.equal(image[0][~outside], pictures[0][~outside])
    mask = torch.zeros(*LARGE)
    mask[80:120, 50:90] = 1
    expected = RePoseDMPipeline.from_pretrained(tiny_256 if generation == 2 else tiny).dress(
        pictures[:1],
        pictures[1:2],
        mask,
        frames[0],
        seed=3,
        steps=2,
        guidance_scale=1.5,
        field_strength=0.0,
        feather=4,
        garment_pose=frames[1],
        output_size="source",
    )
    assert (image.movedim(-1, 1) - expected.image).abs().max() < 1e-3
    assert (aligned.movedim(-1, 1) - expected.aligned).abs().max() < 1e-3
    plain = dress(host)
    assert plain[0].shape == (1, 64, 48, 3)
    assert dress(host, output_size="height", output_height=96)[0].shape == (1, 96, 72, 3)


def test_a_reference_and_a_garment_of_other_shapes(dress):
    reference = torch.rand(1, 300, 160, 4)
    image, aligned, share, _ = dress(reference=reference, output_size="source")
    assert image.shape == aligned.shape == (1, 300, 160, 3)
    outside = share[0] == 0
    assert torch.equal(image[0][outside], reference[0, ..., :3][outside])
