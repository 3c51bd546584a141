"""The standalone pipeline: what goes in, what comes out, and what it says about input it cannot use."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reposedm_core import PRESETS, InputError, ModelConfig, Pose, RePoseDMPipeline, load_networks
from reposedm_core.config import FieldConfig, from_dict
from reposedm_core.diffusion.schedulers import SAMPLERS
from reposedm_core.field import pose_target
from reposedm_core.images import fit_image, to_image
from reposedm_core.networks import SHIPPED
from reposedm_core.pose import load_pose_file
from reposedm_core.presets import SHIPPED_PRESET

EXAMPLES = Path(__file__).parents[1] / "workflows" / "examples"


@pytest.fixture(scope="module")
def pipeline():
    return RePoseDMPipeline.from_pretrained()


@pytest.fixture(scope="module")
def pose():
    """A standing person on a canvas of another size than the model's."""
    points = {
        0: (96, 50),
        1: (96, 75),
        2: (80, 75),
        3: (72, 105),
        4: (70, 130),
        5: (112, 75),
        6: (120, 105),
        7: (122, 130),
        8: (86, 135),
        9: (84, 175),
        10: (84, 215),
        11: (106, 135),
        12: (108, 175),
        13: (108, 215),
        14: (92, 46),
        15: (100, 46),
        16: (86, 48),
        17: (106, 48),
    }
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


def test_a_pipeline_made_in_inference_mode_guides(pipeline, picture, pose):
    with torch.inference_mode():
        made = RePoseDMPipeline.from_pretrained()
        image = made(picture, pose, seed=1).image
    assert torch.equal(image, pipeline(picture, pose, seed=1).image)


def test_field_guidance_of_strength_zero_or_an_empty_range_is_exactly_neutral(pipeline, picture, pose):
    def run(**field):
        return pipeline(picture, pose, seed=1, steps=4, **field).image

    plain = run(field_strength=0.0)
    assert torch.equal(plain, run(field_strength=1.0, field_start=0.3, field_end=0.3))
    assert torch.equal(run(), run(field_strength=pipeline.config.field.strength))
    assert not torch.equal(plain, run()), "the preset's strength is the default"


def test_half_precision_gives_nearly_the_same_picture(pipeline, pose):
    source = EXAMPLES / "red_trousers.png"
    exact = pipeline(source, pose, seed=1, steps=2, height=64, width=48, field_strength=0.0)
    half = RePoseDMPipeline(load_networks(SHIPPED), dtype=torch.bfloat16)
    near = half(source, pose, seed=1, steps=2, height=64, width=48, field_strength=0.0)
    assert near.image.dtype == near.latent.dtype == torch.float32
    assert next(half.denoiser.parameters()).dtype == torch.bfloat16
    assert 0 < (near.image - exact.image).abs().mean() < 0.02
    guided = half(source, pose, seed=1, steps=2, height=64, width=48, field_strength=1.0, field_start=0.0)
    assert guided.image.isfinite().all() and not torch.equal(guided.image, near.image)


def test_only_the_first_of_several_people_counts(pipeline, picture, pose):
    other = pose.joints + np.array([20.0, 10.0, 0.0], np.float32)
    both = Pose(np.concatenate([pose.joints, other]), pose.height, pose.width)
    small = {"steps": 2, "height": 64, "width": 48, "field_strength": 1.0, "field_start": 0.0}
    assert torch.equal(pipeline(picture, both, **small).image, pipeline(picture, pose, **small).image)


def test_a_batch_of_sources_is_aligned_each_for_itself(pipeline, picture, pose):
    pictures = torch.cat([to_image(picture), to_image(picture).flip(-1)]) / 2 + 0.5
    both = pipeline(pictures, pose, steps=1)
    single = [pipeline(pictures[i : i + 1], pose, steps=1).aligned for i in range(2)]
    assert both.image.shape == (2, 3, *size_of(pipeline))
    torch.testing.assert_close(both.aligned, torch.cat(single), rtol=0, atol=1e-4)


def test_a_picture_that_shows_more_of_the_person_helps(pipeline):
    """The second picture is the truth itself: with it the result must come nearer, and one of a stranger must not."""
    better = {"truth": 0, "stranger": 0}
    names = sorted(path.name.removesuffix("_target.png") for path in EXAMPLES.glob("*_target.png"))
    for number, name in enumerate(names):
        file, pose = example(name)
        truth = fit_image(to_image(file), *size_of(pipeline)) / 2 + 0.5
        others = {"truth": file, "stranger": EXAMPLES / f"{names[number - 1]}.png"}

        def off(*more, name=name, pose=pose, truth=truth):
            result = pipeline(EXAMPLES / f"{name}.png", pose, seed=1, field_strength=0.0, more_sources=more)
            assert result.image.shape == truth.shape == result.aligned.shape == result.pose_image.shape
            assert len(result.source) == 1 + len(more) == len(result.alignment.maps[-1])
            return float((result.image - truth).abs().mean())

        alone = off()
        for kind, other in others.items():
            better[kind] += off(other) < alone
    assert better["truth"] == 6 and better["stranger"] <= 2, better


def test_further_sources_are_a_list_of_pictures(pipeline, picture, pose):
    for wrong in ("person.png", torch.zeros(1, 3, 8, 8)):
        with pytest.raises(InputError, match=r"more_sources: a .*; give a list of pictures"):
            pipeline(picture, pose, more_sources=wrong)
    with pytest.raises(InputError, match="more_sources: cannot read the picture"):
        pipeline(picture, pose, more_sources=["nothing.png"])
    small, large = Image.new("RGB", (1, 1)), Image.new("RGB", (500, 20))
    found = pipeline(picture, pose, steps=1, height=64, width=48, more_sources=[small, large])
    assert found.image.isfinite().all() and found.source.shape == (3, 3, 64, 48)


def test_defaults_of_the_field_are_the_configurations(picture, pose):
    networks = load_networks(SHIPPED)
    networks.config = replace(networks.config, field=FieldConfig(start=0.5, end=0.9, space="features"))
    pipeline = RePoseDMPipeline(networks)
    small = {"steps": 2, "height": 64, "width": 48, "field_strength": 3.0}
    implied = pipeline(picture, pose, **small).image
    said = pipeline(picture, pose, field_start=0.5, field_end=0.9, field_space="features", **small).image
    assert pipeline.field.space == "features" and torch.equal(implied, said)
    for other in ({"field_start": 0.0}, {"field_end": 0.5}, {"field_space": "heatmaps"}):
        assert not torch.equal(implied, pipeline(picture, pose, **{**small, **other}).image)


def test_field_guidance_lowers_the_field(pipeline):
    """Over all examples: where the pose is met already, the decoder's copying moves what is left either way."""
    distances = []
    for file in sorted(EXAMPLES.glob("*_source.json")):
        name = file.name.removesuffix("_source.json")
        _, pose = example(name)
        native = pipeline.config.network_size
        target = pose_target(pipeline.field, [pose], size_of(pipeline), native)
        results = [pipeline(EXAMPLES / f"{name}.png", pose, seed=1, field_strength=s).image for s in (0.0, 0.1)]
        distances.append([pipeline.field.distance(fit_image(image * 2 - 1, *native), target) for image in results])
    plain, guided = torch.tensor(distances).T
    assert len(plain) > 5 and guided.mean() < plain.mean(), (plain, guided)


def test_callback_sees_every_step_and_can_stop(pipeline, picture, pose):
    seen = []
    pipeline(picture, pose, steps=3, callback=lambda step, steps, x0: seen.append((step, steps, x0.shape[1])))
    assert seen == [(0, 3, 16), (1, 3, 16), (2, 3, 16)]

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline(picture, pose, steps=3, callback=stop)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_at_another_size(pipeline, picture, pose, sampler):
    results = [pipeline(picture, pose, seed=3, steps=2, sampler=sampler, height=64, width=48) for _ in range(2)]
    assert results[0].image.shape == (1, 3, 64, 48)
    assert torch.equal(results[0].image, results[1].image), "one seed, one picture"


def size_of(pipeline):
    """Height and width of the model's pictures."""
    return pipeline.config.height, pipeline.config.width


def example(name):
    return EXAMPLES / f"{name}_target.png", load_pose_file(EXAMPLES / f"{name}_pose.json")[0]


def test_estimated_pose_is_in_the_pictures_own_pixels(pipeline):
    """On a canvas of another aspect, where people are smaller, the joints are still found where they are."""
    medians = []
    for name in sorted(path.name.removesuffix("_target.png") for path in EXAMPLES.glob("*_target.png")):
        file, truth = example(name)
        canvas = Image.new("RGB", (320, 280), (120, 120, 120))
        canvas.paste(Image.open(file), (80, 12))
        found = pipeline.estimate(canvas)
        assert (found.height, found.width) == (280, 320)
        distance = np.linalg.norm(found.joints[0, :, :2] - truth.joints[0, :, :2] - (80, 12), axis=1)
        medians.append(np.median(distance[found.joints[0, :, 2] > 0]))
    assert len(medians) == 6 and np.mean(medians) < 7 and max(medians) < 12, medians


def test_the_result_is_in_the_target_pose_and_the_source_is_not(pipeline):
    for name in ("red_trousers", "lime_top"):
        _, pose = example(name)
        source = EXAMPLES / f"{name}.png"
        there = pose.joints[0, :, 2] > 0
        off = {}
        for label, picture in (("source", source), ("result", pipeline(source, pose, seed=1).to_pil())):
            found = pipeline.estimate(picture).resized(pose.height, pose.width).joints[0]
            both = there & (found[:, 2] > 0)
            off[label] = np.linalg.norm(found[both, :2] - pose.joints[0, both, :2], axis=1).mean()
        assert off["result"] < 0.6 * off["source"]


def test_nobody_is_refused(pipeline, picture):
    with pytest.raises(InputError, match="nobody is in it"):
        pipeline(picture, Pose(np.zeros((0, 18, 3), np.float32), 128, 96))
    empty = {"people": [], "canvas_height": 256, "canvas_width": 192}
    with pytest.raises(InputError, match=r"[Nn]obody"):
        pipeline(picture, [empty])


def test_a_turned_photograph_is_turned_back(tmp_path):
    upright = Image.new("RGB", (20, 30), (255, 0, 0))
    upright.paste((0, 0, 255), (0, 15, 20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to see it upright
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(to_image(tmp_path / "turned.png"), to_image(upright))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 100}, r"divisible by (8|16)\b"),
        ({"sampler": "none"}, "known are ddim, ancestral"),
        ({"steps": 2000}, "1 to 1000"),
        ({"steps": 2.5}, r"steps = 2\.5: must be a whole number"),
        ({"height": 0}, "height = 0: must be 1 or more"),
        ({"width": 96.0}, r"width = 96\.0: must be a whole number"),
        ({"seed": 1.5}, r"seed = 1\.5: must be a whole number"),
        ({"seed": 2**70}, "seed = .*at most"),
        ({"field_space": "x", "field_strength": 0.0}, "space = 'x': known are heatmaps"),
        ({"field_start": 0.6, "field_end": 0.4}, r"field_start = 0\.6 is after field_end = 0\.4"),
    ],
)
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
    with pytest.raises(InputError, match="source"):
        pipeline(None, pose)
    with pytest.raises(InputError, match="2 pictures; estimate one"):
        pipeline.estimate(torch.zeros(2, 128, 96, 3))
    with pytest.raises(InputError, match="no such file"):
        RePoseDMPipeline.from_pretrained(tmp_path / "none.safetensors")


def test_pictures_of_every_kind_are_the_same_picture(picture):
    array = np.asarray(picture)
    expected = to_image(picture)
    assert torch.equal(expected, to_image(array))
    assert torch.allclose(expected, to_image(torch.from_numpy(array)[None].float() / 255))
    assert fit_image(expected, 128, 96).shape == (1, 3, 128, 96)


def test_shipped_weights_are_small_and_carry_their_card():
    from reposedm_core.checkpoint import read_header

    assert SHIPPED.stat().st_size < 40e6
    header = read_header(SHIPPED)
    assert from_dict(ModelConfig, header["config"]) == PRESETS[SHIPPED_PRESET]
    card = header["card"]
    assert card["reposedm"]["steps"] > 0 and "epe1" in card["aligner"]["validation"]
