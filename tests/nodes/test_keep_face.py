"""Keep Face: core's pictures, batches, its switch, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from reposedm_core.keep_face import keep_face
from reposedm_core.pose import load_pose_file, to_keypoints
from tests.nodes.people import CANVAS, EMPTY, run
from workflows.comfy_server import ROOT

NODE = "RePoseDMKeepFace"
EXAMPLES = ROOT / "workflows" / "examples"


def example(name):
    """IMAGE and pose of an example person."""
    picture = torch.from_numpy(np.array(Image.open(EXAMPLES / f"{name}.png").convert("RGB"))) / 255
    return picture[None], load_pose_file(EXAMPLES / f"{name}_source.json")[0]


def seen_from_the_front():
    """The example people whose faces can be seen."""
    names = sorted(path.name.removesuffix("_source.json") for path in EXAMPLES.glob("*_source.json"))
    found = [example(name) for name in names]
    return [
        (picture, pose) for picture, pose in found if keep_face(*[picture[0].movedim(-1, 0)] * 2, pose, pose)[1].any()
    ]


def test_it_is_core_s_picture_for_every_frame(pack):
    picture, pose = seen_from_the_front()[0]
    frame = to_keypoints(pose)[0]
    results = torch.rand(3, 96, 72, 3, generator=torch.Generator().manual_seed(0))
    found, share = run(pack, NODE, results, picture, [frame], [frame, EMPTY, frame])
    assert found.shape == results.shape and share.shape == (3, 96, 72)
    small = pose.resized(96, 72)
    for number in (0, 2):
        expected, part = keep_face(results[number].movedim(-1, 0), picture[0].movedim(-1, 0), pose, small)
        assert torch.equal(found[number], expected.movedim(0, -1)) and torch.equal(share[number], part)
        assert part.max() == 1
    assert torch.equal(found[1], results[1]) and not share[1].any()
    off, black = run(pack, NODE, results, picture, [frame], [frame], keep=False)
    assert off is results and not black.any() and black.shape == share.shape


def test_the_node_says_in_how_many(pack):
    picture, pose = seen_from_the_front()[0]
    frame = to_keypoints(pose)[0]
    kind = next(kind for kind in pack.nodes.NODES if kind.define_schema().node_id == NODE)
    results = picture.repeat(2, 1, 1, 1)
    for poses, text in (
        ([frame, EMPTY], "kept in 1 of 2 pictures. In the others"),
        ([frame], "kept in 2 of 2 pictures."),
    ):
        assert text in kind.execute(results, picture, [frame], poses).ui["text"][0]


def test_several_people_and_alpha(pack):
    picture, pose = seen_from_the_front()[0]
    one = to_keypoints(pose)[0]["people"][0]
    other = {"pose_keypoints_2d": [v + 60 * (n % 3 == 0) for n, v in enumerate(one["pose_keypoints_2d"])]}
    frame = {"people": [one, other], **CANVAS, "canvas_height": pose.height, "canvas_width": pose.width}
    with_alpha = torch.cat([picture, torch.rand_like(picture[..., :1])], -1)
    found, share = run(pack, NODE, with_alpha, picture, [frame], [frame])
    alone = run(pack, NODE, with_alpha, picture, [frame], [{**frame, "people": [one]}])[1]
    assert (share >= alone).all() and (share > alone).any()
    assert torch.equal(found[..., 3], with_alpha[..., 3])


def test_what_does_not_fit(pack, sources, frames):
    error = pack.reposedm_core.InputError
    with pytest.raises(error, match="source: it has 2 pictures and result 3"):
        run(pack, NODE, sources, sources[:2], frames[:1], frames[:1])
    with pytest.raises(error, match="pose: it has 2 frames and there are 3 pictures"):
        run(pack, NODE, sources, sources[:1], frames[:1], frames[:2])
    with pytest.raises(error, match="feather = 60"):
        run(pack, NODE, sources, sources[:1], frames[:1], frames[:1], feather=60)


def test_it_can_be_interrupted(pack, sources, frames):
    import comfy.model_management as management

    management.interrupt_current_processing()
    try:
        with pytest.raises(management.InterruptProcessingException):
            run(pack, NODE, sources, sources[:1], frames[:1], frames[:1])
    finally:
        management.interrupt_current_processing(False)
