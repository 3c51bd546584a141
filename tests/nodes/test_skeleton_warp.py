"""Skeleton Warp: core's pictures, batches, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from reposedm_core.pose import load_pose_file
from reposedm_core.skeleton_warp import warp_by_skeletons
from tests.nodes.guided import POSES
from tests.nodes.people import EMPTY, run

NODE = "RePoseDMSkeletonWarp"


def test_it_is_core_s_picture(pack, sources, frames):
    found = run(pack, NODE, sources[:1], frames[:1], frames[1:2])
    own, wanted = (load_pose_file(path)[0] for path in POSES[:2])
    expected = warp_by_skeletons(sources[0], own, wanted)
    for value, name in zip(found, ("aligned", "visibility", "flow", "person", "changed"), strict=True):
        assert torch.allclose(value[0], getattr(expected, name), atol=1e-5), name
    small = run(pack, NODE, sources[:1], frames[:1], frames[1:2], output_size="height", output_height=40)
    assert small[0].shape == (1, 40, 32, 3) and small[1].shape == (1, 40, 32)


def test_batches(pack, sources, frames):
    each = run(pack, NODE, sources, frames[:3], frames[1:4])
    alone = [run(pack, NODE, sources[n : n + 1], frames[n : n + 1], frames[n + 1 : n + 2]) for n in range(3)]
    for value, parts in zip(each, zip(*alone, strict=True), strict=True):
        assert torch.equal(value, torch.cat(parts))
    assert run(pack, NODE, sources[:1], frames[:1], frames)[0].shape[0] == len(frames)
    masks = torch.stack([torch.zeros(80, 64), torch.ones(80, 64), torch.zeros(80, 64)])
    masks[0, 0, 0] = 1  # where nobody is
    seen = run(pack, NODE, sources[:1], frames[:1], frames[:3], masks)[1]
    assert seen[0].max() == 0 and seen[1].max() == 1, "masks are taken in turn"
    assert torch.equal(seen[2], run(pack, NODE, sources[:1], frames[:1], frames[2:3])[1][0]), "nobody was found there"


def test_what_does_not_fit(pack, sources, frames):
    error = pack.reposedm_core.InputError
    with pytest.raises(error, match="pose: it has 2 frames and source 3 pictures"):
        run(pack, NODE, sources, frames[:1], frames[:2])
    with pytest.raises(error, match="source_pose: it has 2 frames and there are 3 pictures"):
        run(pack, NODE, sources, frames[:2], frames[:1])
    with pytest.raises(error, match=r"source_pose: nobody is in frame 1 \(counted from 0\)"):
        run(pack, NODE, sources[:2], [frames[0], EMPTY], frames[:1])
    with pytest.raises(error, match=r"mask: it is black.*leave it unconnected"):
        run(pack, NODE, sources[:1], frames[:1], frames[1:2], torch.zeros(1, 64, 64))
    with pytest.raises(error, match="pose: there is nobody"):
        run(pack, NODE, sources[:1], frames[:1], [EMPTY])


def test_it_can_be_interrupted(pack, sources, frames):
    import comfy.model_management as management

    management.interrupt_current_processing()
    try:
        with pytest.raises(management.InterruptProcessingException):
            run(pack, NODE, sources[:1], frames[:1], frames)
    finally:
        management.interrupt_current_processing(False)
