"""Whom the guidance follows: crowds, frames, chosen joints and people, and one message for what it cannot follow."""

from __future__ import annotations

import numpy as np
import pytest

from reposedm_core.pose import Pose, to_keypoints
from tests.nodes import families
from tests.nodes.guided import POSE


def crowd(people, scale=1.0, frames=1):
    generator = np.random.default_rng(0)
    joints = np.ones((people, 18, 3))
    joints[..., :2] = generator.random((people, 18, 2)) * (48, 64) * scale
    return to_keypoints([Pose(joints, 64, 48)] * frames)


@pytest.mark.parametrize("space", ["heatmaps", "features"])
@pytest.mark.parametrize(
    ("pose", "options"),
    [
        (crowd(20), {"people": "all"}),
        (crowd(20), {}),
        (crowd(3), {"people": "0, 2", "joints": "arms, -left"}),
        (crowd(2, 5.0), {"people": "all"}),
        (crowd(1), {"mask_threshold": 0.0}),
        (crowd(1), {"mask_threshold": 2.0}),
    ],
)
def test_any_crowd(made, guide, space, pose, options):
    model, vae = made("AuraFlow")
    latent = families.sample(guide(model, vae, pose=pose, space=space, **options))
    assert latent.isfinite().all() and not latent.equal(families.sample(model))


def test_a_frame_a_picture(pack, made, guide):
    model, vae = made("SD 1.5")
    assert families.sample(guide(model, vae, pose=crowd(2, frames=2)), batch=2).shape[0] == 2
    with pytest.raises(pack.reposedm_core.InputError, match=r"pose: it has 3 frames and the latent 2 pictures"):
        families.sample(guide(model, vae, pose=crowd(2, frames=3)), batch=2)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"joints": "tail"}, "joints: 'tail' is no joint; name some of"),
        ({"people": "me"}, "people: 'me' is no person; give numbers"),
        ({"pose": [{"people": [], "canvas_width": 8, "canvas_height": 8}]}, "pose: there is nobody"),
        ({"pose": [*POSE, {**POSE[0], "people": []}]}, r"pose: nobody is in frame 1 .*leave out"),
    ],
)
def test_one_message(pack, made, guide, options, problem):
    model, vae = made("SD 1.5")
    with pytest.raises(pack.reposedm_core.InputError, match=problem):
        guide(model, vae, **options)


def test_inputs_are_checked_before_anything_runs(pack):
    node = pack.nodes.guidance.PoseInteractionFieldGuidance
    assert node.validate_inputs() is True and node.validate_inputs(joints="arms") is True
    assert str(node.validate_inputs(joints="tail")).startswith("'tail' is no joint; name")


def test_person_that_is_not_there_is_named_when_it_samples(pack, made, guide):
    model, vae = made("SD 1.5")
    with pytest.raises(pack.reposedm_core.InputError, match=r"people: frame 0 .* 1 people and none of those chosen"):
        families.sample(guide(model, vae, people="4"))
