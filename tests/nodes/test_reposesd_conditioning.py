"""RePoseSD Conditioning: what of the pose reaches the network, and when."""

from __future__ import annotations

import pytest
import torch

from reposedm_core import PRESETS
from reposedm_core.pose import Pose, draw_pose, to_keypoints

CONTEXT = PRESETS["mini"].denoiser.context_dim
HEIGHT, WIDTH = 64, 48
GIVEN = {
    "width": WIDTH,
    "height": HEIGHT,
    "strength": 1.0,
    "start_percent": 0.0,
    "end_percent": 1.0,
    "style": "auto",
    "negative_pose": "auto",
}


def frame(*shifts):
    """A frame with a person for each shift to the right."""
    points = [
        [20, 8],
        [20, 16],
        [14, 16],
        [12, 26],
        [10, 34],
        [26, 16],
        [28, 26],
        [30, 34],
        [16, 36],
        [16, 46],
        [16, 56],
        [24, 36],
        [24, 46],
        [24, 56],
        [18, 6],
        [22, 6],
        [16, 8],
        [24, 8],
    ]
    people = [[[x + shift, y, 1.0] for x, y in points] for shift in shifts]
    return Pose(torch.tensor(people).reshape(-1, 18, 3).numpy(), HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def loaded(pack, reposesd_file):
    with torch.inference_mode():
        model, _, vae = pack.nodes.reposesd.load_checkpoint(reposesd_file)
    return model, vae


@pytest.fixture
def inputs(monkeypatch, loaded):
    """What the network is given, a tensor (batch, 8, h, w) a call."""
    seen, network = [], loaded[0].model.diffusion_model
    forward = network.forward
    monkeypatch.setattr(
        network, "forward", lambda x, *args, **kwargs: seen.append(x.clone()) or forward(x, *args, **kwargs)
    )
    return seen


def prompts():
    generator = torch.Generator().manual_seed(1)
    return [[[torch.randn(1, 77, CONTEXT, generator=generator), {}]] for _ in range(2)]


def conditioned(pack, vae, *frames, **changes):
    """positive, negative, latent, skeleton of the node."""
    with torch.inference_mode():
        node = pack.nodes.reposesd_conditioning.RePoseSDConditioning
        return node.execute(*changes.pop("prompts", prompts()), vae, to_keypoints(frames), **{**GIVEN, **changes}).args


def sample(pack, model, positive, negative, latent, steps=2, cfg=2.0):
    with torch.inference_mode():
        return pack.nodes.sampler.RePoseDMKSampler.execute(
            model, positive, negative, latent, 0, steps, cfg, "euler", "normal", 1.0
        ).args[0]["samples"]


def latents(pack, vae, pose, style="humansd"):
    with torch.inference_mode():
        return vae.encode(draw_pose(pose, HEIGHT, WIDTH, style=style).movedim(0, -1).contiguous()[None])


def key(pack):
    return pack.nodes.host.reposesd_model.POSE_LATENT


def test_everybody_is_drawn_as_humansd_does_and_reaches_the_network(pack, loaded, inputs):
    model, vae = loaded
    pose = frame(0, 16)
    positive, negative, latent, skeleton = conditioned(pack, vae, pose)
    assert skeleton.shape == (1, HEIGHT, WIDTH, 3) and latent["samples"].shape == (1, 4, 8, 6)
    assert torch.equal(skeleton[0], draw_pose(pose, HEIGHT, WIDTH, style="humansd").movedim(0, -1))
    told = latents(pack, vae, pose)
    assert not torch.allclose(told, latents(pack, vae, frame(0)))
    out = sample(pack, model, positive, negative, latent)
    assert out.isfinite().all() and inputs
    for x in inputs:  # both halves of classifier-free guidance: HumanSD tells the negative prompt, too
        assert torch.allclose(x[:, 4:], told * 0.18215, atol=1e-6)
    other = sample(pack, model, *conditioned(pack, vae, frame(8))[:3])
    assert (out - other).abs().max() > 1e-3
    assert (out - sample(pack, model, *prompts(), latent)).abs().max() > 1e-3


def test_each_frame_is_the_pose_of_its_picture(pack, loaded, inputs):
    model, vae = loaded
    frames = frame(0), frame(12), frame()
    positive, negative, latent, skeleton = conditioned(pack, vae, *frames)
    assert latent["samples"].shape == (3, 4, 8, 6) and not skeleton[2].any(), "nobody there: black"
    out = sample(pack, model, positive, negative, latent)
    assert out.shape == (3, 4, 8, 6)
    for pose, x in zip(frames * 2, torch.cat([x[:, 4:] for x in inputs[:2]])[:6], strict=True):
        assert torch.allclose(x, latents(pack, vae, pose)[0] * 0.18215, atol=1e-5)


def test_one_frame_serves_a_batch(pack, loaded, inputs):
    model, vae = loaded
    empty = {"samples": torch.zeros(2, 4, 10, 6), "batch_index": [3, 4]}
    positive, negative, latent, skeleton = conditioned(pack, vae, frame(0), latent=empty)
    assert latent is empty and skeleton.shape == (1, 80, 48, 3), "the latent has a say about the size"
    out = sample(pack, model, positive, negative, latent)
    assert out.shape == (2, 4, 10, 6) and not torch.equal(*out)
    assert torch.equal(inputs[0][0, 4:], inputs[0][1, 4:]) and inputs[0][:, 4:].any()


def test_frames_that_do_not_fit_the_batch_are_named(pack, loaded):
    model, vae = loaded
    with pytest.raises(pack.reposedm_core.InputError, match="latent: it has 2 pictures and the pose 3 frames; give"):
        conditioned(pack, vae, *[frame(0)] * 3, latent={"samples": torch.zeros(2, 4, 8, 6)})
    positive, negative, _, _ = conditioned(pack, vae, *[frame(0)] * 3)
    with pytest.raises(pack.reposedm_core.InputError, match="latent: it has 2 pictures and the pose 3 frames"):
        sample(pack, model, positive, negative, {"samples": torch.zeros(2, 4, 8, 6)})


@pytest.mark.parametrize("off", [{"strength": 0.0}, {"start_percent": 0.5, "end_percent": 0.5}])
def test_switched_off_is_exactly_the_model_without_a_pose(pack, loaded, off):
    model, vae = loaded
    positive, negative, latent, skeleton = conditioned(pack, vae, frame(0), **off)
    assert skeleton.any()
    assert torch.equal(sample(pack, model, positive, negative, latent), sample(pack, model, *prompts(), latent))


def test_part_that_ends_before_it_begins_is_refused(pack, loaded):
    with pytest.raises(pack.reposedm_core.InputError, match=r"start_percent = 0\.7 is behind end_percent = 0\.2"):
        conditioned(pack, loaded[1], frame(0), start_percent=0.7, end_percent=0.2)


def test_strength_scales_the_pose(pack, loaded):
    vae = loaded[1]
    whole, half = (conditioned(pack, vae, frame(0), strength=strength)[0][0][1][key(pack)] for strength in (1.0, 0.5))
    assert torch.equal(half, 0.5 * whole) and whole.any()


@pytest.mark.parametrize(
    ("start", "end", "told"),
    [
        (0.0, 0.5, [True, True, False, False]),
        (0.5, 1.0, [False, False, True, True]),
        (0.3, 0.7, [False, True, True, False]),
    ],
)
def test_pose_is_told_in_its_part_of_the_sampling(pack, loaded, inputs, start, end, told):
    model, vae = loaded
    out = sample(
        pack, model, *conditioned(pack, vae, frame(0), start_percent=start, end_percent=end)[:3], steps=4, cfg=1.0
    )
    assert [bool(x[:, 4:].any()) for x in inputs] == told
    assert len(inputs) == 4 and out.isfinite().all(), "and the network is asked once a step"


SPANS = {
    "all": (None, (0.0, 1.0), [(None, "new")]),
    "start": (None, (0.0, 0.4), [((0.0, 0.4), "new"), ((0.4, 1.0), None)]),
    "middle": (None, (0.2, 0.4), [((0.0, 0.2), None), ((0.2, 0.4), "new"), ((0.4, 1.0), None)]),
    "inside of a part": ((0.5, 1.0), (0.0, 0.7), [((0.5, 0.7), "new"), ((0.7, 1.0), None)]),
    "whole part": ((0.5, 0.8), (0.4, 0.9), [((0.5, 0.8), "new")]),
    "another part": ((0.5, 1.0), (0.0, 0.3), [((0.5, 1.0), None)]),
    "touching": ((0.5, 1.0), (0.0, 0.5), [((0.5, 1.0), None)]),
    "never": (None, (0.6, 0.2), [(None, None)]),
}


@pytest.mark.parametrize("case", SPANS)
@pytest.mark.parametrize("before", [{}, {"mask_strength": 0.5}])
def test_spans_of_the_sampling_are_each_covered_once(pack, case, before):
    covered, pose, expected = SPANS[case]

    def entry(span, what):
        limits = {} if span is None else dict(zip(("start_percent", "end_percent"), span, strict=True))
        return ["text", {**before, **limits, **({} if what is None else {key(pack): what})}]

    found = pack.nodes.reposesd_conditioning.with_pose([entry(covered, None)], "new", *pose)
    assert found == [entry(*span) for span in expected]


def test_a_second_node_tells_another_pose_where_the_first_has_ended(pack, loaded):
    vae = loaded[1]
    first = conditioned(pack, vae, frame(0), end_percent=0.5)
    second = conditioned(pack, vae, frame(9), start_percent=0.5, prompts=first[:2])
    told = [(extra["start_percent"], extra["end_percent"], extra[key(pack)]) for _, extra in second[0]]
    assert [span[:2] for span in told] == [(0.0, 0.5), (0.5, 1.0)]
    assert torch.equal(told[0][2], latents(pack, vae, frame(0)))
    assert torch.equal(told[1][2], latents(pack, vae, frame(9)))


@pytest.mark.parametrize(
    ("own", "choice", "told"),
    [(False, "auto", True), (True, "auto", False), (True, "same", True), (False, "none", False)],
)
def test_negative_prompt_is_told_what_the_model_learned(pack, loaded, monkeypatch, own, choice, told):
    vae, models = loaded[1], pack.nodes.host.reposesd_model
    monkeypatch.setattr(vae, models.HABITS, models.OWN if own else models.HUMANSD)
    positive, negative, _, _ = conditioned(pack, vae, frame(0), negative_pose=choice)
    assert key(pack) in positive[0][1] and (key(pack) in negative[0][1]) == told


def test_style_is_the_one_that_the_model_learned(pack, loaded, monkeypatch):
    vae, models = loaded[1], pack.nodes.host.reposesd_model
    drawn = {style: draw_pose(frame(0), HEIGHT, WIDTH, style=style).movedim(0, -1) for style in ("humansd", "openpose")}
    assert torch.equal(conditioned(pack, vae, frame(0), style="openpose")[3][0], drawn["openpose"])
    monkeypatch.setattr(vae, models.HABITS, models.OWN)
    assert torch.equal(conditioned(pack, vae, frame(0))[3][0], drawn["openpose"])
    bare = frame(0)
    handed = Pose(bare.joints, bare.height, bare.width, right_hand=[[(20 + k, 20, 1) for k in range(21)]])
    assert torch.equal(conditioned(pack, vae, handed)[3][0], drawn["openpose"])  # no hands in its training
    assert not torch.equal(conditioned(pack, vae, handed, style="openpose")[3][0], drawn["openpose"])
    monkeypatch.delattr(vae, models.HABITS)  # a VAE of another loader
    assert torch.equal(conditioned(pack, vae, frame(0))[3][0], drawn["humansd"])


def test_what_cannot_be_used_is_named(pack, tiny, loaded, checkpoint_without_vae):
    errors = pack.reposedm_core.InputError
    with pytest.raises(errors, match="pose: there is nobody in this pose"):
        conditioned(pack, loaded[1], frame(), frame())
    with pytest.raises(errors, match=r"vae: its latents have 16 channels.*connect the VAE of RePoseSD Loader"):
        conditioned(pack, pack.nodes.loaders.load_checkpoint(tiny)[1], frame(0))
    with pytest.raises(errors, match="vae: the loaded file holds no VAE"):
        conditioned(pack, pack.nodes.reposesd.load_checkpoint(checkpoint_without_vae)[2], frame(0))
    with pytest.raises(errors, match=r"latent: it has shape \(1, 4, 1, 8, 6\)"):
        conditioned(pack, loaded[1], frame(0), latent={"samples": torch.zeros(1, 4, 1, 8, 6)})


@pytest.fixture(scope="module")
def checkpoint_without_vae(reposesd_state, tmp_path_factory):
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("checkpoints") / "bare.safetensors"
    save_file(reposesd_state, path)
    return path
