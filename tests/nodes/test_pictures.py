"""Pictures and masks as ComfyUI's own nodes hand them over: every kind of file, values that overshoot, any mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch.nn.functional as F
from PIL import Image

from reposedm_core import RePoseDMPipeline
from reposedm_core.images import to_image, to_mask
from tests.fixtures import graphs
from tests.fixtures.graphs import Run, node
from workflows.comfy_server import ROOT

FILES = ROOT / "tests" / "fixtures" / "pictures"
EXAMPLES = ROOT / "workflows" / "examples"


@pytest.fixture
def load_image(pack, tmp_path, monkeypatch):
    """Load Image of the host: IMAGE and MASK of a file."""
    import folder_paths

    import nodes

    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    return lambda path: nodes.LoadImage().load_image(path.name)


@pytest.mark.parametrize(
    "kind", ["grey 16 bits.png", "grey 16 bits.tiff", "LA.png", "RGBA.png", "P.png", "L.png", "1.png"]
)
def test_a_file_is_what_load_image_shows(load_image, tmp_path, kind):
    """In the Python API, as a picture and, of grey ones, as a mask; Load Image rounds grey of 8 bits in its own way."""
    ramp = np.linspace(0, 1, 64 * 48).reshape(48, 64)
    path = tmp_path / kind
    if kind.startswith("grey"):
        Image.fromarray((ramp * 65535).round().astype(np.uint16)).save(path)
    else:
        colours = np.stack([ramp, ramp[::-1], ramp.T.reshape(48, 64), ramp[:, ::-1]], -1)
        picture = Image.fromarray((colours * 255).round().astype(np.uint8))
        (picture.convert("RGB") if path.stem == "P" else picture).convert(path.stem).save(path)
    image, _ = load_image(path)
    found = to_image(path).movedim(1, -1) / 2 + 0.5
    assert found.shape == image.shape and (found - image).abs().max() < 1 / 255
    if (image[..., :1] == image).all():
        assert (to_mask(path)[:, 0] - image[..., 0]).abs().max() < 1 / 255


def enlarged():
    """The line art four times as large, as Upscale Image By makes it with bicubic."""
    return F.interpolate(to_image(FILES / "line_art.png") / 2 + 0.5, scale_factor=4, mode="bicubic")


def test_graph_of_pictures_and_masks_that_overshoot(comfy):
    """Enlarged by the stock node: as source, as garment, as mask, to be estimated, and behind poses."""
    graph = {
        "load": graphs.shipped(),
        "example": node("RePoseDMExample", example="red_trousers"),
        "file": node("LoadImage", image=comfy.upload_image(FILES / "line_art.png")),
        "large": node("ImageScaleBy", image=["file", 0], upscale_method="bicubic", scale_by=4.0),
        "align": graphs.align(["large", 0], ["example", 1]),
        "mask": node("ImageToMask", image=["large", 0], channel="red"),
        "dress": graphs.dress(["example", 2], ["large", 0], ["mask", 0], pose=["example", 1], steps=1),
        "find": node("RePoseDMEstimatePose", pose_estimator=["load", 3], image=["large", 0], threshold=0.1),
        "judge": node("RePoseDMPoseAccuracy", pose=["example", 1], wanted_pose=["example", 1], image=["large", 0]),
        "save": node("RePoseDMSavePose", pose=["example", 1], filename_prefix="overshoot"),
        "aligned": graphs.show("align", 3),
        "dressed": graphs.show("dress"),
        "overlay": graphs.show("judge", 5),
    }
    run = Run(comfy, graph)
    shown = {key: run.pictures(key)[0] / 255 for key in ("aligned", "dressed", "overlay")}
    large = enlarged()
    assert large.min() < -0.3 and large.max() > 1.25
    pipeline, pose = RePoseDMPipeline.from_pretrained(), EXAMPLES / "red_trousers_pose.json"
    plain = large.clamp(0, 1)
    result = pipeline.dress(
        EXAMPLES / "red_trousers_target.png",
        plain,
        plain[0, 0],
        pose,
        seed=1,
        steps=1,
        guidance_scale=1.25,
        field_strength=0.0,
        feather=0,
    )
    aligned = pipeline(plain, pose, steps=1, field_strength=0.0).aligned
    for key, expected in (("aligned", aligned), ("dressed", result.image)):
        assert np.abs(shown[key] - expected[0].movedim(0, -1).numpy()).max() < 1.5 / 255, key
    assert shown["overlay"].shape == (*large.shape[-2:], 3)
