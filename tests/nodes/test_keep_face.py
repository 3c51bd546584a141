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
        ([frame, EMPTY], "kept in 1 of 2 pictures. In the others a pose shows nobody"),
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


def test_everybody_gets_his_own_face(pack):
    """By the ids over all frames, as Retarget Pose does: where the first has left, the second does not get his face."""
    picture, pose = seen_from_the_front()[0]
    canvas = {"canvas_height": pose.height, "canvas_width": pose.width}

    def somebody(who, right=0, turned=False):
        points = pose.joints[0].copy()
        points[:, 0] += right
        if turned:  # seen from the side: this face cannot be kept
            points[[14, 15], 0] = points[0, 0]
        return {"pose_keypoints_2d": points.flatten().tolist(), **({} if who is None else {"person_id": [who]})}

    def kept(source_frame, *people):
        frames = [{"people": list(each), **canvas} for each in people]
        results = picture.repeat(len(frames), 1, 1, 1) / 2
        share = run(pack, NODE, results, picture, [{"people": source_frame, **canvas}], frames)[1]
        return [bool(each.any()) for each in share]

    front, side = (somebody(0), somebody(1, 60, turned=True)), (somebody(0, turned=True), somebody(1, 60))
    # the second person's source is seen from the side: alone in a frame she does not get the first one's face
    second = somebody(1)
    assert kept(front, front, [second], [somebody(0)]) == [True, False, True]
    assert kept(side, side, [somebody(0)], [somebody(1, 60)]) == [True, False, True]
    # without ids by the place
    assert kept([{**each, "person_id": [-1]} for each in front], [somebody(None)]) == [True]


@pytest.mark.parametrize("node", [NODE, "RePoseDMPasteBack"])
def test_grey_pictures_come_out_with_three_channels(pack, node):
    picture, pose = seen_from_the_front()[0]
    frame = to_keypoints(pose)
    grey = picture[..., :1].repeat(2, 1, 1, 1) / 2
    inputs = (grey, picture, frame, frame) if node == NODE else (grey, picture.repeat(2, 1, 1, 1))
    found, expected = (run(pack, node, each, *inputs[1:])[0] for each in (grey, grey.repeat(1, 1, 1, 3)))
    assert found.shape[-1] == 3 and torch.equal(found, expected) and not torch.equal(found, grey.expand_as(found))
    with pytest.raises(pack.reposedm_core.InputError, match=r"(result|picture): a picture of shape .*, 2\)"):
        run(pack, node, grey.repeat(1, 1, 1, 2), *inputs[1:])


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
