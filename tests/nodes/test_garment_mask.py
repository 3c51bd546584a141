"""Garment Mask with the weights that come with the pack: on people with exact masks, batches, poses, its own file."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
import torch.nn.functional as F

from reposedm_core.garments import SHIPPED_PARSER, ParserConfig, load_parser
from reposedm_core.images import to_image, to_mask
from reposedm_core.pose import load_pose_file, to_keypoints
from tests.nodes.people import run
from workflows.comfy_server import ROOT

MASK = "RePoseDMGarmentMask"
EXAMPLES = ROOT / "workflows" / "examples"
NAMES = sorted(path.name.removesuffix("_mask.png") for path in EXAMPLES.glob("*_mask.png"))


def example(name):
    """A person never trained on, as IMAGE, their clothes as MASK and their pose."""
    picture = to_image(EXAMPLES / f"{name}.png").add(1).div(2).movedim(1, -1)
    clothes = to_mask(EXAMPLES / f"{name}_mask.png")[:, 0]
    return picture, clothes, to_keypoints(load_pose_file(EXAMPLES / f"{name}_source.json"))


def overlap(found, truth):
    return float(torch.minimum(found, truth).sum() / torch.maximum(found, truth).sum())


@pytest.mark.parametrize("posed", [False, True], ids=["without a pose", "with one"])
def test_clothes_of_people_never_trained_on(pack, posed):
    found = []
    for name in NAMES:
        picture, clothes, pose = example(name)
        (mask,) = run(pack, MASK, picture, pose=pose if posed else None)
        assert mask.shape == clothes.shape and set(mask.unique().tolist()) == {0.0, 1.0}
        found.append(overlap(mask, clothes))
    assert min(found) > 0.7 and sum(found) / len(found) > 0.8, dict(zip(NAMES, found, strict=True))


def test_soft_masks_of_all_kinds_are_the_whole_person(pack):
    picture, clothes, _ = example("striped_shirt")

    def soft(what):
        return run(pack, MASK, picture, what, 0.0)[0]

    person = soft("whole person")
    singles = ("upper garment", "lower garment", "dress", "shoes", "accessories", "hair", "skin")
    assert set(pack.nodes.garment_mask.KINDS) == {"clothes", "whole person", *singles}
    parts = soft("upper garment") + soft("lower garment") + soft("dress")
    for whole, pieces in ((person, sum(soft(what) for what in singles)), (soft("clothes"), parts)):
        torch.testing.assert_close(whole, pieces, atol=1e-4, rtol=0)
    assert ((person > 0.02) & (person < 0.98)).any() and person[clothes > 0.5].mean() > 0.85


def test_a_larger_picture_gets_a_larger_mask_of_the_same(pack):
    picture, clothes, _ = example("teal_trousers")
    size = 4 * picture.shape[1], 4 * picture.shape[2]
    large = F.interpolate(picture.movedim(-1, 1), size, mode="bilinear", align_corners=False).movedim(1, -1)
    (mask,) = run(pack, MASK, large)
    assert mask.shape == (1, *size) and overlap(F.avg_pool2d(mask, 4), clothes) > 0.7


def test_a_batch_has_a_mask_a_picture_and_the_pose_says_whose(pack):
    (one, clothes, pose), (other, others, _) = example("striped_shirt"), example("lime_top")
    masks = run(pack, MASK, torch.cat([one, other]))[0]
    assert torch.equal(masks, torch.cat([run(pack, MASK, each)[0] for each in (one, other)]))
    width = one.shape[2]
    beside = torch.cat([one, other], 2)
    left = [{**pose[0], "canvas_width": 2 * width}]
    (mask,) = run(pack, MASK, beside, pose=left)
    assert overlap(mask[..., :width], clothes) > 0.7 and mask[..., width:].mean() < 0.1 * others.mean()
    error = pack.reposedm_core.InputError
    with pytest.raises(error, match="pose: it has 3 frames and there are 2 pictures"):
        run(pack, MASK, torch.cat([one, other]), pose=pose * 3)
    away = [{"people": [{"pose_keypoints_2d": [5000, 5000, 1] * 18}], "canvas_height": 256, "canvas_width": 192}]
    with pytest.raises(error, match="pose: no joint of its person lies inside the picture"):
        run(pack, MASK, one, pose=away)


def test_nothing_is_black_and_said(pack, caplog):
    grey = torch.full((1, 90, 70, 3), 0.5)
    with caplog.at_level(logging.WARNING):
        (mask,) = run(pack, MASK, grey)
    assert mask.shape == (1, 90, 70) and not mask.any()
    assert "Garment Mask: No clothes; nobody is seen." in caplog.messages
    trousers = example("teal_trousers")[0]
    with caplog.at_level(logging.WARNING):
        (mask,) = run(pack, MASK, torch.cat([trousers, trousers]), "dress")
    assert mask.mean() < 0.02
    if not mask[1].any():
        assert any("No dress in picture 1 (counted from 0); what is seen: " in text for text in caplog.messages)


def test_it_grows_and_fades(pack):
    picture, _, _ = example("blue_dress")
    plain, grown, faded = (run(pack, MASK, picture, **more)[0] for more in ({}, {"grow": 2.0}, {"feather": 4.0}))
    assert (grown >= plain).all() and grown.sum() > 1.1 * plain.sum()
    assert ((faded > 0) & (faded < 1)).any() and set(grown.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("size", [(16, 16), (3, 200), (40, 1000)])
def test_pictures_of_any_shape(pack, size):
    for channels in (1, 3, 4):
        (mask,) = run(pack, MASK, torch.rand(1, *size, channels), threshold=0.0)
        assert mask.shape == (1, *size) and mask.isfinite().all() and mask.min() >= 0 and mask.max() <= 1


def test_the_parser_is_no_model_to_choose_and_one_s_own_comes_first(pack, monkeypatch, tmp_path):
    import folder_paths

    nodes = pack.nodes
    folder = nodes.host.folders.MODELS
    assert SHIPPED_PARSER.name not in nodes.host.folders.checkpoint_names()
    assert SHIPPED_PARSER.name not in nodes.estimators.estimator_names()
    picture = example("striped_shirt")[0]
    before = run(pack, MASK, picture)[0]
    from reposedm_core.checkpoint import save_model
    from reposedm_core.config import to_dict

    network = load_parser()
    network.head.bias[network.config.labels.index("background")] += 100
    own = tmp_path / SHIPPED_PARSER.name
    save_model(own, {"parser": network}, to_dict(network.config))
    places = [str(tmp_path), str(SHIPPED_PARSER.parent)]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, folder, (places, {".safetensors"}))
    monkeypatch.delitem(folder_paths.filename_list_cache, folder, raising=False)
    assert before.any() and not run(pack, MASK, picture)[0].any()
    shutil.copy(SHIPPED_PARSER, own)
    folder_paths.filename_list_cache.pop(folder, None)
    assert torch.equal(run(pack, MASK, picture)[0], before), "a file that changed is read again"


def test_the_shipped_file_says_what_it_was_made_of():
    from reposedm_core.checkpoint import read_header

    header = read_header(SHIPPED_PARSER)
    assert header["config"]["labels"] == list(ParserConfig().labels)
    found = header["card"]["parser"]["validation"]
    assert min(found["top"], found["bottom"]) > 0.7 and found["miou posed"] > found["miou"] > 0.6
    assert SHIPPED_PARSER.stat().st_size < 2.5e6
