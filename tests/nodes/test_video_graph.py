"""Frames of a video in, frames of a video out: ComfyUI's own video nodes around the pose tools, in a real ComfyUI."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from tests.fixtures import graphs
from tests.fixtures.graphs import Run, node
from workflows.comfy_server import ROOT

FRAMES, FPS = 6, 12
EXAMPLE = ROOT / "workflows" / "examples" / "lime_top.png"


@pytest.fixture
def video(tmp_path):
    """The example person, who goes to the right by three pixels a frame and is gone in one."""
    import av

    picture = np.asarray(Image.open(EXAMPLE).convert("RGB"))
    path = tmp_path / "walk.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt, stream.options = *picture.shape[:2], "yuv420p", {"crf": "10"}
        for number in range(FRAMES):
            moved = np.roll(picture, 3 * number, 1)
            moved = np.full_like(moved, picture[0, 0]) if number == 3 else moved
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(moved), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_a_video_goes_through_the_pose_tools(comfy, video):
    """Poses of its frames, smoothed, its gap filled, move the person of a picture; the results are a video again."""
    import av

    comfy.upload_image(video)

    own = {"source_pose": ["example", 4]}
    moved = {"source": ["example", 0], "pose": ["retarget", 0], **own}
    graph = {
        "file": node("LoadVideo", file=video.name),
        "frames": node("GetVideoComponents", video=["file", 0]),
        "loader": graphs.shipped(),
        "found": node(
            "RePoseDMEstimatePose", pose_estimator=["loader", 3], image=["frames", 0], threshold=0.1, people=1
        ),
        "smooth": node(
            "RePoseDMSmoothPoses", pose=["found", 0], smoothing=2.0, fast_moves=1.0, fill_gaps=4, one_person=True
        ),
        "example": node("RePoseDMExample", example="teal_trousers"),
        "retarget": node(
            "RePoseDMRetargetPose", pose=["smooth", 0], take="proportions", keep="feet", measure="all frames", **own
        ),
        "warp": node("RePoseDMSkeletonWarp", output_size="source", output_height=1024, **moved),
        "face": node("RePoseDMKeepFace", result=["warp", 0], keep=True, feather=25.0, match_colours=1.0, **moved),
        "video": node("CreateVideo", images=["face", 0], fps=["frames", 2]),
        "save": node("SaveVideo", video=["video", 0], filename_prefix="moved", format="mp4", codec="h264"),
        "raw": node("PreviewAny", source=["found", 0]),
        "text": node("PreviewAny", source=["smooth", 0]),
    }
    run = Run(comfy, graph)
    raw, smooth = (run.text(key).count("pose_keypoints_2d") for key in ("raw", "text"))
    assert raw == FRAMES - 1 and smooth == FRAMES, "nobody is in the fourth frame; there the pose is filled in"
    assert f"of {FRAMES} pictures" in run.text("face")
    (made,) = comfy.output.glob("moved*.mp4")
    with av.open(str(made)) as container:
        assert container.streams.video[0].average_rate == FPS
        pictures = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(pictures) == FRAMES and pictures[0].shape == (256, 192, 3)
    # the person of the picture goes to the right, through the frame in which nobody was
    differs = [np.abs(picture - pictures[0]).max(-1) > 60 for picture in pictures]
    assert all(one.sum() < other.sum() for one, other in itertools.pairwise(differs))
