"""Bad files among the models: no node is lost by them, they stay in the lists, and who chooses one is told why not."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.estimator.test_vitpose import save_tiny
from tests.nodes.test_reposesd_files import UNET, models  # noqa: F401, a fixture
from tests.test_damage import DEEP, NOTHING, WRONG

VAE, TEXT = "first_stage_model.", "cond_stage_model.model."
LONG, HALF = f"{'n' * 250}.pth", "half \udcff.safetensors"
"""Names as long as they may be, and with a byte that is no UTF-8."""

ESTIMATORS = {
    **dict.fromkeys(["deep", "deeper", "empty", "list", "bytes"], "its config.json cannot be read"),
    "deep.safetensors": "its RePoseDM header is damaged",
    "bare.safetensors": "not the weights of a Higher",
    "none.safetensors": "not a readable weights file",
    "none.pth": "not a readable weights file",
    HALF: "not a readable weights file",
    LONG: "not a readable weights file",
    "gone.safetensors": "no such file",
    "gone.pth": "no such file",
}
MODELS = {
    "deep.safetensors": "its RePoseDM header is damaged",
    "bare.safetensors": "it carries no RePoseDM header",
    "none.safetensors": "not a readable safetensors file",
    HALF: "not a readable safetensors file",
    "gone.safetensors": "link to a file that is gone",
}
STABLE = {
    "deep.safetensors": "no Stable Diffusion checkpoint",
    "bare.safetensors": "no Stable Diffusion checkpoint",
    "none.safetensors": "no readable weights file",
    HALF: "no readable weights file",
    "gone.safetensors": "link to a file that is gone",
    "pose/": r"unet/config\.json of pose cannot be read",
}
"""What is in models/reposedm that cannot be used, and what is said of it."""


@pytest.fixture
def junk(models, tiny):  # noqa: F811
    """models/reposedm with a sound file, a sound folder, and all that goes wrong there."""
    root = models / "reposedm"
    shutil.copy(tiny, root / "good.safetensors")
    save_tiny(root / "good")
    for name, text in {"deep": DEEP, "deeper": '{"a":' * 10**5, "empty": "", "list": "[]", "bytes": "\udcff"}.items():
        save_tiny(root / name)
        (root / name / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    for place in ("checkpoints", "diffusers", "reposedm"):
        folder = models / place / "pose" / "unet"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(DEEP)
    state = load_file(tiny)
    save_file(state, root / "deep.safetensors", {"reposedm": DEEP})
    save_file(state, root / "bare.safetensors")
    (root / "none.safetensors").write_bytes(b"")
    (root / "none.pth").write_bytes(b"")
    (root / "gone.safetensors").symlink_to(root / "nowhere")
    (root / "gone.pth").symlink_to(root / "nowhere")
    (root / "circle").symlink_to(root / "circle")
    os.close(os.open(os.fsencode(root) + b"/half \xff.safetensors", os.O_CREAT))
    (root / LONG).write_bytes(b"\x80")
    return root


def test_every_node_is_still_there(pack, junk):
    for node in pack.nodes.NODES:
        assert json.dumps(node.GET_NODE_INFO_V1()).encode()
    (estimators, *_) = pack.nodes.estimators.PoseEstimatorLoader.define_schema().inputs
    assert set(ESTIMATORS) | {"good", "good.safetensors"} <= set(estimators.options)
    (checkpoints,) = pack.nodes.loaders.RePoseDMLoader.define_schema().inputs
    assert set(MODELS) | {"good.safetensors"} <= set(checkpoints.options)
    (found,) = pack.nodes.reposesd.RePoseSDLoader.define_schema().inputs
    assert set(STABLE) | {"good.safetensors"} <= set(found.options)


def test_sound_files_beside_them_load(pack, junk):
    with torch.inference_mode():
        for name in ("good", "good.safetensors"):
            assert pack.nodes.estimators.PoseEstimatorLoader.execute(name).args[0].patcher
        assert pack.nodes.loaders.RePoseDMLoader.execute("good.safetensors").args[0].model


@pytest.mark.parametrize(
    ("loader", "name", "words"),
    [
        (loader, name, words)
        for loader, names in (
            ("estimators.PoseEstimatorLoader", ESTIMATORS),
            ("loaders.RePoseDMLoader", MODELS),
            ("reposesd.RePoseSDLoader", STABLE),
        )
        for name, words in names.items()
    ],
    ids=lambda text: text[:30].encode("ascii", "backslashreplace").decode(),
)
def test_who_chooses_one_is_told_why_not(pack, junk, loader, name, words):
    room, kind = loader.split(".")
    node = getattr(getattr(pack.nodes, room), kind)
    assert name in node.define_schema().inputs[0].options
    gone = "link to a file" in words
    assert (words in str(node.validate_inputs(name))) if gone else node.validate_inputs(name) is True
    if not gone:
        assert node.fingerprint_inputs(name) is not None
    with pytest.raises(pack.reposedm_core.InputError, match=words) as refused:
        node.execute(name)
    assert len(str(refused.value)) < 700 and str(refused.value).encode()


# -- RePoseSD Loader


@pytest.mark.parametrize("damage", WRONG)
@pytest.mark.parametrize(
    "key",
    [UNET + "input_blocks.0.0.bias", UNET + "out.2.weight", VAE + "taesd_encoder.0.weight", TEXT + "ln_final.bias"],
)
def test_wrong_weights_of_reposesd_are_refused_by_name(pack, models, reposesd_state, tiny_vae, key, damage):  # noqa: F811
    state = {
        **reposesd_state,
        **{VAE + name: value for name, value in tiny_vae.items()},
        TEXT + "ln_final.bias": torch.ones(1024),
    }
    save_file({**state, key: WRONG[damage](state[key])}, models / "checkpoints" / "sd.safetensors")
    with pytest.raises(pack.reposedm_core.InputError, match=rf"checkpoint: sd\.safetensors.*{key}"):
        pack.nodes.reposesd.RePoseSDLoader.execute("sd.safetensors")


@pytest.mark.parametrize("kind", NOTHING)
def test_pickles_without_weights_are_refused(pack, models, kind):  # noqa: F811
    NOTHING[kind](models / "checkpoints" / "file.pt")
    with pytest.raises(pack.reposedm_core.InputError, match=r"^checkpoint: Weights file\.pt: ") as refused:
        pack.nodes.reposesd.RePoseSDLoader.execute("file.pt")
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("input_blocks.0.0.weight", ()),
        ("input_blocks.0.0.weight", (64, 8)),
        ("input_blocks.1.0.in_layers.2.weight", (64, 7, 3, 3)),
        ("time_embed.0.weight", (0,)),
        ("out.0.bias", (63,)),
    ],
)
def test_weights_of_other_shapes_are_refused(pack, models, reposesd_state, key, shape):  # noqa: F811
    save_file({**reposesd_state, UNET + key: torch.zeros(shape)}, models / "checkpoints" / "sd.safetensors")
    with pytest.raises(pack.reposedm_core.InputError, match=r"^checkpoint: .*sd\.safetensors"):
        pack.nodes.reposesd.RePoseSDLoader.execute("sd.safetensors")


@pytest.mark.parametrize("key", ["taesd_encoder.0.weight", "taesd_decoder.1.weight"])
def test_a_vae_that_the_host_cannot_read_is_named(pack, models, reposesd_state, tiny_vae, key):  # noqa: F811
    vae = {VAE + name: value for name, value in tiny_vae.items()}
    save_file({**reposesd_state, **vae, VAE + key: torch.zeros(3)}, models / "checkpoints" / "sd.safetensors")
    with pytest.raises(pack.reposedm_core.InputError, match=r"checkpoint: the VAE of sd\.safetensors cannot be used"):
        pack.nodes.reposesd.RePoseSDLoader.execute("sd.safetensors")


def test_a_mask_of_the_text_encoder_may_be_infinite(pack, models, reposesd_state):  # noqa: F811
    state = {**reposesd_state, TEXT + "attn_mask": torch.full((3, 3), -torch.inf)}
    with torch.inference_mode():
        pack.nodes.reposesd.check_sound(state, "sd")
