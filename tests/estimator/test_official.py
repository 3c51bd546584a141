"""Public HigherHRNet weights: layout, loading, and the official network's own numbers."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from reposedm_core.errors import InputError
from reposedm_core.estimator import HigherHRNet, read_official
from reposedm_core.estimator.folding import fold_batch_norms
from reposedm_core.estimator.official import config_of, from_official
from reposedm_core.presets import ESTIMATORS
from tests.field.conftest import MICRO

FIXTURES = Path(__file__).parents[1] / "fixtures" / "higherhrnet"


def fill(key: str, shape: list[int]) -> torch.Tensor:
    """The rule of the fixture's README."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    if key.endswith("running_var"):
        return 1 + 0.1 * noise.abs()
    if "bn" in key.split(".")[-2] or noise.ndim == 1:
        return 1 + 0.1 * noise if key.endswith("weight") else 0.1 * noise
    return 0.5 * noise * (1 / (shape[1] * shape[2] * shape[3])) ** 0.5


@pytest.fixture(scope="module")
def official_state() -> dict[str, torch.Tensor]:
    layout = json.loads((FIXTURES / "w32_keys.json").read_text())
    return {key: fill(key, shape) for key, shape in layout.items()}


def flat_state(estimator: HigherHRNet) -> dict[str, torch.Tensor]:
    """Weights of an estimator in the official, flat layout."""
    return {key.removeprefix("trunk."): value for key, value in estimator.state_dict().items()}


def mmpose_key(key: str) -> str:
    return ("keypoint_head." if key.startswith(("final_layers", "deconv_layers")) else "backbone.") + key


def micro_pair() -> tuple[HigherHRNet, HigherHRNet, torch.Tensor]:
    torch.manual_seed(0)
    return HigherHRNet(MICRO).eval(), HigherHRNet(MICRO).eval(), torch.randn(1, 3, 32, 32)


@pytest.mark.parametrize("folded", [False, True], ids=["as loaded", "as the field computes it"])
def test_parity_with_the_official_network(tmp_path, official_state, folded):
    save_file(official_state, tmp_path / "w32.safetensors")
    estimator = HigherHRNet(replace(ESTIMATORS["w32"], normalise="none")).eval()
    estimator.load_state_dict(read_official(tmp_path / "w32.safetensors").state_dict())
    if folded:
        estimator = fold_batch_norms(estimator)
    y, x = torch.linspace(0, 1, 128)[:, None], torch.linspace(0, 1, 96)[None]
    channels = [torch.sin(7 * x + 3 * y), torch.cos(5 * x * y + 1), torch.sin(11 * y - 2 * x)]
    picture = torch.stack(channels)[None]
    with torch.no_grad():
        output = estimator(picture)
    expected = np.load(FIXTURES / "w32_outputs.npz")
    quarter = torch.cat([output.heatmaps_quarter, output.tags_quarter], 1)[0].numpy()
    half = output.heatmaps_half[0, :, ::2, ::2].numpy()
    np.testing.assert_allclose(quarter, expected["heatmaps_tags_quarter"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(half, expected["heatmaps_half"], atol=1e-4, rtol=0)


def test_layout_is_the_official_one(official_state):
    own = flat_state(HigherHRNet(ESTIMATORS["w32"], device="meta"))
    assert {key: own[key].shape for key in own} == {key: value.shape for key, value in official_state.items()}


def w48_shape(key: str, shape: torch.Size) -> tuple[int, ...]:
    """W48's shape of a W32 tensor: branches are half as wide again, the stem and stage 1 (64, 256) and the joints' 17
    heat maps and 17 tags stay; the transposed convolution reads a branch and both."""
    if key.startswith(("conv", "bn", "layer1.")):
        return tuple(shape)
    stays = {17, 34} | ({256} if key.startswith("transition1.") else set())
    if key == "deconv_layers.0.0.0.weight":
        return (48 + 34, 48, *shape[2:])
    channels = 1 if len(shape) == 1 else 2
    return (*(n if n in stays else n * 3 // 2 for n in shape[:channels]), *shape[channels:])


def test_w48_loads_an_official_state_dict(tmp_path, official_state):
    """W48 differs from W32 in the width of its branches only: the same keys, other shapes."""
    value = {key: zlib.crc32(key.encode()) % 10_000 for key in official_state}
    state = {
        key: torch.full(w48_shape(key, tensor.shape), value[key], dtype=tensor.dtype)
        for key, tensor in official_state.items()
    }
    assert state["stage4.2.branches.3.3.conv2.weight"].shape == (384, 384, 3, 3)
    assert state["transition1.0.0.weight"].shape == (48, 256, 3, 3)
    save_file(state, tmp_path / "w48.safetensors")
    estimator = read_official(tmp_path / "w48.safetensors")
    assert estimator.config == ESTIMATORS["w48"]
    own = flat_state(estimator)
    assert own.keys() == state.keys()
    assert all((own[key] == value[key]).all() for key in own)


def test_w32_mmpose_names_are_the_official_ones(official_state):
    own = HigherHRNet(ESTIMATORS["w32"], device="meta").state_dict()
    assert {from_official(mmpose_key(key)) for key in official_state} == own.keys()
    assert len(own) == len(official_state)


def mmpose1_key(key: str) -> str:
    return mmpose_key(key).replace("keypoint_head.", "head.")


RENAMES = {"official": str, "parallel": lambda key: "module." + key, "mmpose": mmpose_key, "mmpose 1": mmpose1_key}


@pytest.mark.parametrize("rename", RENAMES.values(), ids=RENAMES.keys())
@pytest.mark.parametrize("form", ["pth", "nested", "safetensors"])
def test_accepts_every_public_form(tmp_path, rename, form):
    source, other, picture = micro_pair()
    state = {rename(key): value for key, value in flat_state(source).items()}
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if form == "nested" else state, path)
    assert not torch.equal(other(picture).heatmaps_half, source(picture).heatmaps_half)
    assert torch.equal(read_official(path)(picture).heatmaps_half, source(picture).heatmaps_half)


def test_mismatch_names_the_keys(tmp_path):
    source, _, _ = micro_pair()
    state = flat_state(source)
    del state["final_layers.1.bias"]
    state["layer9.weight"] = torch.zeros(1)
    state["conv2.weight"] = torch.zeros(5, 3, 3, 3)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(InputError) as error:
        read_official(tmp_path / "weights.pth")
    shapes = f"conv2.weight: file (5, 3, 3, 3), network {tuple(source.state_dict()['trunk.conv2.weight'].shape)}"
    for part in ("weights.pth", "final_layers.1.bias", "layer9.weight", shapes):
        assert part in str(error.value)


def test_unreadable_files(tmp_path):
    for name in ("noise.pth", "noise.safetensors"):
        (tmp_path / name).write_bytes(b"this is no checkpoint")
        with pytest.raises(InputError, match=f"{name}: not a readable weights file"):
            read_official(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        read_official(tmp_path / "absent.pth")


def test_pickled_code_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"conv1.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(InputError, match=r"trap\.pth"):
        read_official(tmp_path / "trap.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("rename", RENAMES.values(), ids=RENAMES.keys())
@pytest.mark.parametrize("kind", ["w32", "w48", "mini"])
def test_sizes_are_read_off_the_weights(kind, rename):
    config = replace(ESTIMATORS[kind], sigma=2.0)
    state = {rename(key): value for key, value in flat_state(HigherHRNet(config, device="meta")).items()}
    assert config_of(state) == config
    assert config_of(state, udp=True) == replace(config, udp=True)


@pytest.mark.parametrize(
    ("name", "udp", "expected"),
    [
        ("higher_hrnet32_coco_512x512.pth", None, False),
        ("higher_hrnet32_coco_512x512_udp-8cc64794.pth", None, True),
        ("weights.pth", True, True),
        ("weights_udp.pth", False, False),
    ],
)
def test_any_width_is_read_from_its_file(tmp_path, name, udp, expected):
    source, _, picture = micro_pair()
    torch.save(
        {"state_dict": {mmpose_key(key): value for key, value in flat_state(source).items()}, "meta": {"epoch": 300}},
        tmp_path / name,
    )
    found = read_official(tmp_path / name, udp)
    assert (found.config.udp, found.config.sigma, found.config.channels) == (expected, 2.0, MICRO.channels)
    assert not found.training and not any(weight.requires_grad for weight in found.parameters())
    assert torch.equal(found(picture).heatmaps_half, source(picture).heatmaps_half)


def other_joints(state):
    return {
        key: value[:28]
        if key.startswith("final_layers.0.")
        else value[:14]
        if key.startswith("final_layers.1.")
        else value
        for key, value in state.items()
    }


def without(*starts):
    return lambda state: {key: value for key, value in state.items() if not key.startswith(starts)}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (other_joints, r"it has 14 joints and 14 tags; choose a HigherHRNet for COCO's 17"),
        (without("deconv_layers.", "final_layers.1."), "heat maps of one resolution, as a plain HRNet"),
        (without("final_layers."), "not the weights of a HigherHRNet; choose"),
        (without("stage2.", "transition1."), "no HigherHRNet has such sizes"),
        (lambda state: {"a": torch.zeros(2)}, "not the weights of a HigherHRNet; choose"),
        (lambda state: {**state, "conv1.weight": torch.zeros(())}, "not the weights of a HigherHRNet; choose"),
    ],
)
def test_other_networks_are_refused(tmp_path, change, problem):
    torch.save(change(flat_state(micro_pair()[0])), tmp_path / "other.pth")
    with pytest.raises(InputError, match=problem):
        read_official(tmp_path / "other.pth")
