"""Damaged files of weights, and those that are not what they say: refused by name, with little time and memory."""

from __future__ import annotations

import json
import pickle
import resource
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from reposedm_core import InputError, load_networks
from reposedm_core.checkpoint import KEY, load_parts, read_header, read_weights, save_model
from reposedm_core.config import to_dict
from reposedm_core.diffusion.autoencoder import load_autoencoder
from reposedm_core.estimator import load_vitpose
from reposedm_core.estimator.load import load_estimator
from reposedm_core.networks import NETWORKS, build_networks
from reposedm_core.presets import PRESETS
from reposedm_core.reposesd.network import load_reposesd
from tests.estimator.test_load import flat, micro
from tests.estimator.test_vitpose import save_tiny
from tests.test_presets import small

DEEP = "[" * 100_000
"""JSON that is nested more deeply than Python reads."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small RePoseDM in a file."""
    path = tmp_path_factory.mktemp("damage") / "model.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = build_networks(small(PRESETS["mini"]))
    save_model(
        path, {part: getattr(networks, part) for part in NETWORKS}, to_dict(networks.config), dtype=torch.float32
    )
    return path


@pytest.fixture
def cheap():
    """The test takes no more than some seconds of computing and 1.5 GB of memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1.5 * 2**20
    assert time.process_time() - start < 60


def rewritten(path: Path, target: Path, header=lambda header: json.dumps(header), **weights: torch.Tensor) -> Path:
    """The file again, with other weights of these names, or with what `header` makes of its header."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    metadata[KEY] = header(json.loads(metadata[KEY]))
    save_file({**load_file(path), **weights}, target, metadata)
    return target


# -- headers

HEADERS = [
    lambda _: DEEP,
    lambda _: '{"a":' * 100_000,
    lambda _: "",
    lambda _: "3",
    lambda _: "null",
    lambda _: "[]",
    lambda _: "{}",
    *(
        lambda header, change=change: json.dumps({**header, **change})
        for change in (
            {"parts": "estimator"},
            {"parts": [1, 2]},
            {"parts": None},
            {"parts": {"estimator": 1}},
            {"config": [1]},
            {"config": None},
            {"kind": ["x" * 10**6]},
            {"kind": None},
            {"card": [1]},
        )
    ),
]
CONFIGS = [
    {"x" * 10**5: 1},
    {"denoiser": 7},
    {"denoiser": {"layers": 10**9}},
    {"aligner": {"heads": 0}},
    {"estimator": {"channels": [10**9, 1]}},
    {"height": 10**9},
    {"autoencoder": {"widths": []}},
    {"schedule": {"timesteps": 10**9}},
]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("load", [load_networks, load_estimator, load_parts, load_reposesd])
def test_a_damaged_header_is_refused(model, tmp_path, load, header):
    path = rewritten(model, tmp_path / "model.safetensors", header)
    with pytest.raises(InputError, match=r"model\.safetensors") as refused:
        load(path)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("change", CONFIGS, ids=lambda change: str(change)[:30])
@pytest.mark.parametrize("load", [load_networks, load_estimator])
def test_a_configuration_beyond_all_networks_is_refused(model, tmp_path, load, change, cheap):
    def changed(header):
        for name, value in change.items():
            own = header["config"].get(name)
            header["config"][name] = {**own, **value} if isinstance(own, dict) and isinstance(value, dict) else value
        return json.dumps(header)

    path = rewritten(model, tmp_path / "model.safetensors", changed)
    with pytest.raises(InputError, match=r"^model\.safetensors"):
        load(path)


@pytest.mark.parametrize(
    ("part", "sizes"),
    [
        ("denoiser", {"block_channels": [16384] * 4, "attention": [True] * 4, "heads_dim": 64, "norm_groups": 32}),
        ("aligner", {"dim": 16384, "heads": 2, "height": 8192, "width": 8192}),
        ("estimator", {"channels": [4096, 4096, 4096], "modules": [2, 2], "blocks": 8}),
        ("autoencoder", {"widths": [16384, 16384, 16384]}),
    ],
)
def test_a_network_larger_than_its_file_takes_no_memory(model, tmp_path, part, sizes, cheap):
    """Of hundreds of gigabytes, within the ranges of every single number."""
    path = rewritten(
        model,
        tmp_path / "model.safetensors",
        lambda header: json.dumps(
            {**header, "config": {**header["config"], part: {**header["config"][part], **sizes}}}
        ),
    )
    with pytest.raises(InputError, match=rf"model\.safetensors: {part} does not fit its network; .*of another shape"):
        load_networks(path)


def test_a_reposesd_that_holds_nothing_is_refused_before_it_is_built(tmp_path, cheap):
    """Its U-Net has 3.3 GB."""
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 8, 3, 3)}, tmp_path / "sd.safetensors")
    with pytest.raises(InputError, match=r"sd\.safetensors: U-Net does not fit its network; missing: .* more"):
        load_reposesd(tmp_path / "sd.safetensors")


# -- weights


def relabelled(kind: torch.dtype):
    """The bytes of floating numbers, or what is not 0 of them, under the name of another type."""
    return lambda value: value.bool() if kind == torch.bool else value.half().view(kind)


WRONG = {
    "NaN": lambda value: value * torch.nan,
    "one NaN": lambda value: (
        value.flatten().index_fill(0, torch.tensor(value.numel() - 1), torch.nan).view(value.shape)
    ),
    "infinity": lambda value: value + torch.inf,
    "half infinity": lambda value: value.half() - torch.inf,
    "I16": relabelled(torch.int16),
    "U16": relabelled(torch.uint16),
    "BOOL": relabelled(torch.bool),
}


@pytest.mark.parametrize("damage", WRONG)
@pytest.mark.parametrize(
    "key",
    [
        "autoencoder.basis",
        "autoencoder.decoder.0.bias",
        "aligner.position",
        "denoiser.unet.conv_in.weight",
        "estimator.final_layers.1.weight",
        "estimator.trunk.bn1.running_var",
    ],
)
def test_wrong_weights_are_refused_by_name(model, tmp_path, key, damage):
    value = WRONG[damage](load_file(model)[key])
    path = rewritten(model, tmp_path / "model.safetensors", **{key: value})
    part, _, name = key.partition(".")
    with pytest.raises(InputError, match=rf"^model\.safetensors: {part}.*\b{name}\b"):
        load_networks(path)
    if part == "estimator":
        with pytest.raises(InputError, match=rf"^model\.safetensors: estimator.*\b{name}\b"):
            load_estimator(path)


@pytest.mark.parametrize("damage", WRONG)
def test_wrong_weights_of_public_estimators_are_refused_by_name(tmp_path, damage):
    state = flat(micro())
    state["stage2.0.fuse_layers.0.1.0.weight"] = WRONG[damage](state["stage2.0.fuse_layers.0.1.0.weight"])
    torch.save({"state_dict": state}, tmp_path / "public.pth")
    with pytest.raises(InputError, match=r"public\.pth.* stage2\.0\.fuse_layers\.0\.1\.0\.weight"):
        load_estimator(tmp_path / "public.pth")


@pytest.mark.parametrize("damage", WRONG)
def test_wrong_weights_of_a_vitpose_are_refused_by_name(tmp_path, damage):
    save_tiny(tmp_path / "vitpose")
    path = tmp_path / "vitpose" / "model.safetensors"
    state = load_file(path)
    state["head.conv.bias"] = WRONG[damage](state["head.conv.bias"])
    save_file(state, path, {"format": "pt"})
    with pytest.raises(InputError, match=r"vitpose: .*head\.conv\.bias"):
        load_estimator(tmp_path / "vitpose")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("hidden_size", 10**9),
        ("hidden_size", 0),
        ("image_size", [10**9, 64]),
        ("image_size", "large"),
        ("patch_size", [0, 16]),
        ("num_attention_heads", -1),
        ("num_experts", 10**9),
        ("num_channels", 2.5),
        ("mlp_ratio", 10**9),
    ],
)
def test_numbers_of_a_vitpose_that_none_has_are_refused(tmp_path, name, value, cheap):
    save_tiny(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["backbone_config"][name] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"config\.json says {name} = "):
        load_vitpose(tmp_path)


def test_a_vitpose_larger_than_its_files_takes_no_memory(tmp_path, cheap):
    """Of 300 GB, within the ranges of every single number."""
    save_tiny(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["backbone_config"] |= {"hidden_size": 8192, "num_hidden_layers": 100}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json describes [\d,]+ weights, the files hold"):
        load_vitpose(tmp_path)


@pytest.mark.parametrize(
    "seen", [{"image_std": [0, 0, 0]}, {"image_mean": "grey"}, {"image_std": [0.2, None, 0.2]}, {"image_mean": [0.5]}]
)
def test_a_vitpose_whose_pictures_cannot_be_normalised_is_refused(tmp_path, seen):
    save_tiny(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(seen))
    with pytest.raises(InputError, match=rf"preprocessor_config\.json says {next(iter(seen))} = .*three numbers"):
        load_vitpose(tmp_path)


# -- pickles


def zipped(path: Path, size: int = 2 * 10**8) -> None:
    """A file of torch's format whose weights are packed: a thousand times its size when they are unpacked."""
    torch.save({"weight": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as file:
        entries = {entry.filename: file.read(entry) for entry in file.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items():
            file.writestr(name, content)
        with file.open("archive/data/0", "w") as packed:
            for _ in range(size // 10**7):
                packed.write(bytes(10**7))


def torn(path: Path) -> None:
    torch.save({"weight": torch.zeros(1000)}, path)
    content = bytearray(path.read_bytes())
    at = content.index(b"ctorch._utils")
    content[at : at + 30] = bytes(30)
    path.write_bytes(content)


class Large:
    """A pickle of some bytes that asks for a petabyte."""

    def __reduce__(self):
        return bytearray, (2**50,)


NOTHING = {
    "a list": lambda path: torch.save([torch.zeros(2)], path),
    "a number": lambda path: torch.save(3, path),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "none": lambda path: torch.save(None, path),
    "integer keys": lambda path: torch.save({1: torch.zeros(2), 2: torch.zeros(2)}, path),
    "a list of weights": lambda path: torch.save({"state_dict": [torch.zeros(2)]}, path),
    "an old pickle": lambda path: path.write_bytes(pickle.dumps([1, 2])),
    "a petabyte": lambda path: path.write_bytes(pickle.dumps(Large(), protocol=2)),
    "a torn pickle": torn,
    "no bytes": lambda path: path.write_bytes(b""),
    "a bomb": zipped,
    "another zip": lambda path: zipfile.ZipFile(path, "w").writestr("readme", "hello"),
    "half a file": lambda path: (
        torch.save({"a": torch.zeros(1000)}, path),
        path.write_bytes(path.read_bytes()[:1500]),
    ),
    "a sparse tensor": lambda path: torch.save({"a": torch.zeros(3, 3).to_sparse(), "b": torch.zeros(1)}, path),
    "a tensor without numbers": lambda path: torch.save({"a": torch.zeros(3, device="meta")}, path),
    "one number a million times": lambda path: torch.save({"a": torch.zeros(1).expand(2**22)}, path),
}
LOADERS = {
    "weights": read_weights,
    "estimator": load_estimator,
    "U-Net": load_reposesd,
    "autoencoder": lambda path: load_autoencoder(path, PRESETS["sd21"].autoencoder),
}


@pytest.mark.parametrize("kind", NOTHING)
@pytest.mark.parametrize("loader", LOADERS)
def test_pickles_without_weights_are_refused(tmp_path, kind, loader, cheap):
    path = tmp_path / "file.pt"
    NOTHING[kind](path)
    with pytest.raises(InputError, match=r"file\.pt.*(choose|[Dd]ownload)") as refused:
        LOADERS[loader](path)
    assert len(str(refused.value)) < 500
    if kind == "a bomb":
        assert path.stat().st_size < 5e5 and "times its size" in str(refused.value)


def test_an_inner_dictionary_of_another_name_is_read(tmp_path):
    torch.save({"params": {"a": torch.ones(2)}}, tmp_path / "file.pt")
    assert read_weights(tmp_path / "file.pt")["a"].sum() == 2


def test_a_whole_file_is_read(model):
    networks, parts = load_networks(model), load_parts(model)[0]
    for part in NETWORKS:
        assert all(torch.equal(value, parts[part][key]) for key, value in getattr(networks, part).state_dict().items())
    assert read_header(model)["parts"] == sorted(NETWORKS)
