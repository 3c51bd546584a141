"""Garment Transfer: the picture of `RePoseDMPipeline.dress`, what it leaves alone, and what it cannot use."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from reposedm_core import PRESETS, RePoseDMPipeline
from reposedm_core.networks import SHIPPED
from reposedm_core.pose import load_pose_file, to_keypoints
from reposedm_core.presets import SHIPPED_PRESET
from tests.fixtures import graphs
from tests.fixtures.graphs import Run, node
from workflows.comfy_server import ROOT

EXAMPLES = ROOT / "workflows" / "examples"
POSE = EXAMPLES / "red_trousers_pose.json"
SETTINGS = {
    "seed": 3,
    "steps": 3,
    "cfg": 1.5,
    "sampler_name": "ddim",
    "scheduler": "simple",
    "feather": 2,
    "width": 0,
    "height": 0,
}


MODEL = PRESETS[SHIPPED_PRESET]
SIZE = MODEL.height, MODEL.width


def picture(name):
    """An example at the shipped model's size, at which it letterboxes nothing, as IMAGE."""
    resized = Image.open(EXAMPLES / name).convert("RGB").resize(SIZE[::-1])
    return torch.from_numpy(np.array(resized))[None].float() / 255


REFERENCE, GARMENT = picture("red_trousers_target.png"), picture("lime_top.png")


@pytest.fixture(scope="module")
def pose():
    return to_keypoints([load_pose_file(POSE)[0].resized(*SIZE)])


@pytest.fixture(scope="module")
def mask(pose):
    """Shoulders to hips of the reference, as a MASK (1, H, W)."""
    joints = np.reshape(pose[0]["people"][0]["pose_keypoints_2d"], (18, 3))
    drawn = Image.new("L", SIZE[::-1])
    ImageDraw.Draw(drawn).polygon([tuple(joints[joint, :2]) for joint in (2, 5, 11, 8)], fill=255)
    return torch.from_numpy(np.array(drawn))[None].float() / 255


@pytest.fixture(scope="module")
def host(pack, tiny):
    return pack.nodes.loaders.load_checkpoint(tiny)


@pytest.fixture
def dress(pack, host, mask):
    """image, aligned, mask and latent of the node."""

    def run(pose=None, reference=REFERENCE, garment=GARMENT, mask=mask, host=host, **changed):
        with torch.inference_mode():
            return pack.nodes.garment_transfer.GarmentTransfer.execute(
                host[0], host[1], host[2], reference, garment, mask, pose=pose, **{**SETTINGS, **changed}
            ).args

    return run


@pytest.mark.parametrize(
    ("sampler", "cfg", "size", "feather"),
    [("ddim", 1.5, (0, 0), 2), ("ancestral", 1.5, (0, 0), 0), ("ddim", 1.0, (72, 56), 3)],
)
def test_same_picture_as_dress(pack, tiny, dress, pose, mask, sampler, cfg, size, feather):
    """To 1e-5 of the latent's largest value, with two garments at once."""
    garments = torch.cat([GARMENT, picture("teal_trousers.png")])
    name = sampler if sampler == "ddim" else pack.nodes.sampler.LEARNED
    image, aligned, share, latent = dress(
        pose, garment=garments, sampler_name=name, cfg=cfg, height=size[0], width=size[1], feather=feather
    )
    height, width = (side or None for side in size)
    expected = RePoseDMPipeline.from_pretrained(tiny).dress(
        REFERENCE,
        garments,
        mask,
        POSE,
        seed=3,
        steps=3,
        guidance_scale=cfg,
        field_strength=0.0,
        feather=feather,
        sampler=sampler,
        height=height,
        width=width,
    )
    assert (latent["samples"] - expected.latent).abs().max() < 1e-5 * expected.latent.abs().max()
    for found, right in ((image, expected.image), (aligned, expected.aligned)):
        assert found.shape == right.movedim(1, -1).shape
        assert (found.movedim(-1, 1) - right).abs().max() < 1e-5
    outside = expected.mask[0, 0] == 0
    assert share.shape == (1, *outside.shape) and torch.equal(share[0] == 0, outside)
    assert torch.equal(image[:, outside], expected.reference.movedim(1, -1)[:, outside])


def test_around_the_mask_the_reference_s_own_pixels_stay(pack, pose, mask, dress):
    """At the reference's own size, bit for bit, and inside the mask it is another picture."""
    shipped = pack.nodes.loaders.load_checkpoint(SHIPPED)
    image = dress(pose, host=shipped, steps=4, cfg=1.25)[0]
    outside = mask[0] == 0
    saved = (image[0].numpy() * 255).round().astype(int)
    assert np.array_equal(saved[outside], (REFERENCE[0].numpy() * 255).round().astype(int)[outside])
    inner = -torch.nn.functional.max_pool2d(-mask[None], 7, 1, 3)[0, 0] == 1
    green = image[0, inner].mean(0) - REFERENCE[0, inner].mean(0)
    assert inner.sum() > 50 and green[1] > 0.15, "lime on what was dark red"


def test_without_a_pose_the_estimator_finds_it(pack, host, dress, pose, mask):
    shipped = pack.nodes.loaders.load_checkpoint(SHIPPED)
    settings = {"host": shipped, "steps": 1}
    found, own = dress(None, pose_estimator=shipped[3], **settings), dress(None, **settings)
    assert torch.equal(found[0], own[0]), "the aligner carries the checkpoint's own"
    expected = RePoseDMPipeline.from_pretrained().dress(
        REFERENCE, GARMENT, mask, seed=3, steps=1, guidance_scale=1.5, field_strength=0.0
    )
    assert (found[0].movedim(-1, 1) - expected.image).abs().max() < 1e-4


def test_guidance_of_the_model_comes_before_the_mask(pack, host, dress, pose, mask):
    """What guides the model counts inside the mask, and outside the reference stays."""
    guided = host[0].clone()
    guided.set_model_sampler_post_cfg_function(lambda args: args["denoised"] + 1)
    plain, moved = dress(pose), dress(pose, host=(guided, *host[1:]))
    cells = torch.nn.functional.max_pool2d(torch.nn.functional.interpolate(mask[None], (64, 48)), 8)[0, 0] == 0
    kept = torch.nn.functional.max_pool2d((plain[2] > 0).float()[None], 8)[0, 0] == 0
    assert (kept <= cells).all() and kept.any()
    assert torch.allclose(moved[3]["samples"][..., kept], plain[3]["samples"][..., kept], atol=1e-4)
    assert not torch.allclose(moved[3]["samples"][..., ~kept], plain[3]["samples"][..., ~kept], atol=0.1)
    assert len(host[0].model_options.get("sampler_post_cfg_function", [])) == 0, "the model itself stays as it is"


def test_previews_and_an_interruption_within_a_step(pack, host, dress, pose, monkeypatch):
    import comfy.model_management as management
    import comfy.utils

    shown = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: shown.append((value, total)))
    dress(pose)
    # The host leaves out messages that follow one another too quickly.
    assert shown[0] == (1, 3) and shown[-1] == (3, 3)
    unet, done = host[0].model.diffusion_model.denoiser.unet, []
    handles = [
        unet.conv_in.register_forward_hook(lambda *_: management.interrupt_current_processing()),
        unet.register_forward_hook(lambda *_: done.append(1)),
    ]
    try:
        with pytest.raises(management.InterruptProcessingException):
            dress(pose)
    finally:
        management.interrupt_current_processing(False)
        for handle in handles:
            handle.remove()
    assert not done


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mask": torch.zeros(1, 64, 64)}, "mask: it is black everywhere.*Paint white where it goes.*Garment Mask"),
        ({"mask": torch.full((1, 128, 96), float("inf"))}, "mask has shape .* values that are not numbers"),
        ({"mask": torch.linspace(-1, 1, 96).expand(1, 128, 96)}, "mask has shape .* values from -1 to 1; expected 0"),
        ({"mask": torch.ones(96)}, r"mask has shape \(96,\); expected \(height, width\)"),
        ({"reference": REFERENCE.expand(3, -1, -1, -1)}, "reference: it holds 3 pictures; dress one at a time"),
        ({"reference": REFERENCE * float("nan")}, "reference: the picture has values that are not numbers"),
        ({"garment": GARMENT * float("nan")}, "garment: the picture has values that are not numbers"),
        ({"width": 50, "height": 64}, "width × height = 50 × 64"),
        ({"pose": [{"people": [], "canvas_width": 96, "canvas_height": 128}]}, "nobody"),
    ],
)
def test_what_cannot_be_used_is_told(pack, dress, pose, changed, message):
    with pytest.raises(pack.reposedm_core.InputError, match=message):
        dress(**{"pose": pose, **changed})


def test_masks_of_a_batch_are_taken_in_turn_and_of_any_size(dress, pose, mask):
    """As ComfyUI's own nodes do with a mask of another size: bilinear, to the reference's."""
    from comfy_extras.nodes_mask import composite

    garments = torch.cat([GARMENT, picture("teal_trousers.png"), GARMENT])
    small = torch.nn.functional.interpolate(mask[None], (50, 40), mode="bicubic")[0]
    assert small.min() < 0 and small.max() > 1, "bicubic overshoots"
    masks = torch.cat([small, torch.ones_like(small)])
    image, _, shares, _ = dress(pose, garment=garments, mask=masks, feather=0)
    assert shares.shape == (2, 64, 48) and (shares[1] == 1).all()
    stretched = composite(torch.zeros(1, 1, *SIZE), torch.ones(1, 1, *SIZE), 0, 0, small.clamp(0, 1), 1)[0]
    for index, own in enumerate((stretched, torch.ones(1, *SIZE), stretched)):
        alone, _, share, _ = dress(pose, garment=garments, mask=own, feather=0)
        assert (image[index] - alone[index]).abs().max() < 1e-5
        assert torch.allclose(share[0], shares[index % 2], atol=1e-6)
    assert dress(pose, mask=masks)[2].shape == (1, 64, 48), "one garment uses one mask"


@pytest.mark.parametrize("rows", [3, 4])
def test_a_mask_and_a_picture_of_a_few_rows_or_columns(dress, pose, rows):
    tall, wide = torch.rand(1, 90, rows, 3), torch.rand(1, rows, 90, 3)
    for odd in (tall, wide):
        found = dress(pose, reference=odd, mask=torch.ones(2, *odd.shape[1:3]), garment=odd.expand(2, -1, -1, -1))
        assert found[0].shape == (2, 64, 48, 3) and torch.equal(found[0], found[0].clamp(0, 1))


def test_networks_of_another_kind_are_told(pack, host, dress, pose):
    import comfy.model_base
    import comfy.model_patcher
    import comfy.sd
    import comfy.supported_models

    with pytest.raises(pack.reposedm_core.InputError, match="vae: this is no VAE of RePoseDM"):
        dress(pose, host=(host[0], comfy.sd.VAE(sd={}), host[2]))
    stock = comfy.model_base.BaseModel(comfy.supported_models.SD15({"disable_unet_model_creation": True}))
    cpu = torch.device("cpu")
    with pytest.raises(pack.reposedm_core.InputError, match="model: this is no RePoseDM"):
        dress(pose, host=(comfy.model_patcher.ModelPatcher(stock, cpu, cpu), *host[1:]))


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (2, 3)])
def test_references_and_garments_of_odd_sizes(dress, pose, size):
    odd = torch.rand(1, *size, 3)
    assert dress(pose, garment=odd)[0].isfinite().all()
    image = dress(pose, reference=odd, mask=torch.ones(1, *size))[0]
    assert image.shape == (1, 64, 48, 3) and image.isfinite().all()


def test_of_twenty_people_the_first_counts(dress, pose):
    crowd = [
        {
            **pose[0],
            "people": pose[0]["people"]
            + to_keypoints(load_pose_file(EXAMPLES / "lime_top_pose.json"))[0]["people"] * 19,
        }
    ]
    assert torch.equal(dress(crowd)[0], dress(pose)[0])


def test_graph_in_the_server(comfy):
    """Widgets and sockets through ComfyUI's own validation; the ancestral sampler, several sources and the flow too."""
    name = "red_trousers"
    graph = {
        "load": graphs.shipped(),
        "person": node("RePoseDMExample", example=name),
        "clothes": node("RePoseDMExample", example="lime_top"),
        "mask": node("SolidMask", value=1.0, width=192, height=256),
        "dress": graphs.dress(
            ["person", 2],
            ["clothes", 0],
            ["mask", 0],
            pose_estimator=["load", 3],
            sampler_name="ancestral (learned variance)",
            feather=2,
        ),
        "both": node("ImageBatch", image1=["person", 0], image2=["person", 2]),
        "align": graphs.align(["both", 0], ["person", 1], sources="all of one person"),
        "image": graphs.show("dress"),
        "aligned": graphs.show("dress", 1),
        "person aligned": graphs.show("align", 3),
        "flow": graphs.show("align", 5),
    }
    run = Run(comfy, graph)
    shown = {key: run.pictures(key) for key in ("image", "aligned", "person aligned", "flow")}
    assert [len(pictures) for pictures in shown.values()] == [1, 1, 1, 2]
    image = shown["image"][0] / 255
    expected = (
        RePoseDMPipeline.from_pretrained()
        .dress(
            EXAMPLES / f"{name}_target.png",
            EXAMPLES / "lime_top.png",
            torch.ones(256, 192),
            seed=1,
            steps=2,
            guidance_scale=1.25,
            field_strength=0.0,
            sampler="ancestral",
        )
        .image[0]
        .movedim(0, -1)
        .numpy()
    )
    assert np.abs(image - expected).max() < 1.5 / 255
