"""The standalone pipeline: what goes in, what comes out, and what it says about input it cannot use."""

import numpy as np
import pytest
import torch
from PIL import Image

from reposedm_core import InputError, Pose, RePoseDMPipeline
from reposedm_core.pipeline import SHIPPED, fit_image, to_image


@pytest.fixture(scope="module")
def pipeline():
    return RePoseDMPipeline.from_pretrained()


@pytest.fixture(scope="module")
def pose():
    """A standing person on a canvas of another size than the model's."""
    points = {0: (96, 50), 1: (96, 75), 2: (80, 75), 3: (72, 105), 4: (70, 130), 5: (112, 75), 6: (120, 105),
              7: (122, 130), 8: (86, 135), 9: (84, 175), 10: (84, 215), 11: (106, 135), 12: (108, 175), 13: (108, 215),
              14: (92, 46), 15: (100, 46), 16: (86, 48), 17: (106, 48)}
    joints = np.array([[(*points[i], 1.0) for i in range(18)]], dtype=np.float32)
    return Pose(joints, 256, 192)


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (160, 120, 3), dtype=np.uint8))


def test_a_seed_gives_one_picture(pipeline, picture, pose):
    runs = [pipeline(picture, pose, seed=seed, steps=2) for seed in (1, 1, 2)]
    assert runs[0].image.shape == (1, 3, pipeline.config.height, pipeline.config.width)
    assert torch.equal(runs[0].image, runs[1].image)
    assert not torch.equal(runs[0].image, runs[2].image)
    assert runs[0].image.min() >= 0 and runs[0].image.max() <= 1
    assert runs[0].to_pil().size == (pipeline.config.width, pipeline.config.height)


def test_field_guidance_of_strength_zero_is_exactly_neutral_and_lowers_the_field(pipeline, picture, pose):
    plain = pipeline(picture, pose, seed=1, steps=4)
    assert torch.equal(plain.image, pipeline(picture, pose, seed=1, steps=4, field_strength=0.0).image)
    assert torch.equal(plain.image,
                       pipeline(picture, pose, seed=1, steps=4, field_strength=1.0, field_start=1.0).image)
    guided = pipeline(picture, pose, seed=1, steps=4, field_strength=0.01)
    assert not torch.equal(plain.image, guided.image)


def test_callback_sees_every_step_and_can_stop(pipeline, picture, pose):
    seen = []
    pipeline(picture, pose, steps=3, callback=lambda step, steps, x0: seen.append((step, steps, x0.shape[1])))
    assert seen == [(0, 3, 16), (1, 3, 16), (2, 3, 16)]

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline(picture, pose, steps=3, callback=stop)


def test_both_samplers_and_another_size(pipeline, picture, pose):
    out = pipeline(picture, pose, steps=2, sampler="ancestral", height=64, width=48)
    assert out.image.shape == (1, 3, 64, 48)


def test_estimated_pose_is_in_the_pictures_own_pixels(pipeline, picture):
    pose = pipeline.estimate(picture)
    assert (pose.height, pose.width) == (160, 120)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"height": 100}, "divisible by 8"),
    ({"sampler": "euler"}, "known are ddim, ancestral"),
    ({"steps": 2000}, "1 to 1000"),
])
def test_arguments_out_of_range(pipeline, picture, pose, arguments, message):
    with pytest.raises(InputError, match=message):
        pipeline(picture, pose, **arguments)


def test_input_that_cannot_be_used_is_named(pipeline, picture, pose, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png"):
        pipeline(broken, pose)
    with pytest.raises(InputError, match="not numbers"):
        pipeline(torch.full((1, 8, 8, 3), float("nan")), pose)
    with pytest.raises(InputError, match="expected"):
        pipeline(torch.zeros(5, 5), pose)
    with pytest.raises(InputError, match="no such file"):
        RePoseDMPipeline.from_pretrained(tmp_path / "none.safetensors")


def test_pictures_of_every_kind_are_the_same_picture(picture):
    array = np.asarray(picture)
    expected = to_image(picture)
    assert torch.equal(expected, to_image(array))
    assert torch.allclose(expected, to_image(torch.from_numpy(array)[None].float() / 255))
    assert fit_image(expected, 128, 96).shape == (1, 3, 128, 96)


def test_letterbox_keeps_the_aspect():
    image = torch.zeros(1, 3, 40, 40)
    image[..., 10:30, 10:30] = 1
    fitted = fit_image(image, 80, 40)
    assert fitted[0, 0, :, 20].round().nonzero().flatten().tolist() == list(range(30, 50))


def test_shipped_weights_are_small_and_carry_their_card():
    from reposedm_core.checkpoint import read_header

    assert SHIPPED.stat().st_size < 40e6
    card = read_header(SHIPPED)["card"]
    assert card["denoiser"]["steps"] > 0 and "validation" in card["aligner"]
