"""A tiny generated set of people and an untrained checkpoint for it, made once for all tests of the training."""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from reposedm_core.checkpoint import save_model
from reposedm_core.config import (
    AlignerConfig,
    AutoencoderConfig,
    DecoderConfig,
    DenoiserConfig,
    FieldConfig,
    ModelConfig,
    to_dict,
)
from reposedm_core.networks import PARTS, parts_of
from reposedm_core.pose import coco_to_openpose, draw_joints
from training.engine.settings import load_settings, model_of
from training.synthetic import generate
from training.train import CONFIGS

HEIGHT, WIDTH = 64, 48


@pytest.fixture(scope="session")
def processes():
    """Starts Python processes that have imported the training already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.train", "training.stages.vae", "matplotlib.figure"])
    return Processes(context)


class Processes:
    """Processes whose path is that of the training: ComfyUI, which the tests of the nodes put on this one's, has a
    package `tests` of its own, in which the functions of these tests are not found."""

    def __init__(self, context: multiprocessing.context.BaseContext):
        self.context = context

    def start(self, target: Callable[..., object], *args: object) -> multiprocessing.process.BaseProcess:
        """Run `target(*args)` in a process of its own."""
        process = self.context.Process(target=target, args=args)
        own = [entry for entry in vars(sys)["path"] if not (Path(entry) / "tests" / "__init__.py").is_file()]
        with mock.patch.object(sys, "path", own):
            process.start()
        return process


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people, one of them in the test split."""
    return generated(tmp_path_factory.mktemp("people"), 2)


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people, one of whom trains, one validates and one tests."""
    return generated(tmp_path_factory.mktemp("people"), 3)


def generated(out: Path, identities: int) -> Path:
    """A set of synthetic people with masks and correspondence."""
    pytest.importorskip("anny", reason="the synthetic people need anny")
    size = {"height": HEIGHT, "width": WIDTH}
    generate.generate(out, identities=identities, poses=3, seed=1, workers=1, correspondence=True, cell=2, **size)
    return out


@pytest.fixture(scope="session")
def second_config() -> ModelConfig:
    """The second generation as `make train-tiny` trains it, in place of the smaller one of the other tests."""
    return model_of(load_settings(CONFIGS / "tiny-256.yaml", []))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny checkpoint; every weight is random, so that every condition has an influence."""
    config = ModelConfig(
        name="tiny",
        height=HEIGHT,
        width=WIDTH,
        steps=2,
        autoencoder=AutoencoderConfig(widths=(8, 8, 16)),
        aligner=AlignerConfig(kernels=(0, 3), radius=1, channels=16, dim=16, heads=2, height=HEIGHT, width=WIDTH),
        denoiser=DenoiserConfig(
            block_channels=(16, 32), layers=1, heads_dim=16, context_dim=16, height=HEIGHT // 8, width=WIDTH // 8
        ),
        field=FieldConfig(1.0, 0.0, 1.0),
    )
    return untrained(config, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def weights_256(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the second generation: all networks but the decoders at half the size."""
    config = ModelConfig(
        name="tiny-256",
        height=HEIGHT,
        width=WIDTH,
        steps=2,
        autoencoder=AutoencoderConfig(stride=16, widths=(8, 8, 16)),
        aligner=AlignerConfig(
            kind="matching",
            kernels=(0, 3, 3),
            channels=16,
            dim=16,
            heads=2,
            height=HEIGHT // 2,
            width=WIDTH // 2,
            shrink=2,
        ),
        denoiser=DenoiserConfig(
            block_channels=(16, 32), layers=1, heads_dim=16, context_dim=16, height=HEIGHT // 16, width=WIDTH // 16
        ),
        decoder=DecoderConfig("reference", widths=(16, 16)),
        field=FieldConfig(1.0, 0.0, 1.0),
    )
    return untrained(config, tmp_path_factory.mktemp("weights"))


def untrained(config: ModelConfig, folder: Path) -> Path:
    """A checkpoint of `config`, every weight random, those of each part whatever the others are."""
    networks = {}
    for name in parts_of(config):
        torch.manual_seed(0)
        networks[name] = PARTS[name](getattr(config, name))
        for parameter in networks[name].parameters():
            parameter.data.add_(0.03 * torch.randn_like(parameter))
    path = folder / f"{config.name}.safetensors"
    save_model(path, networks, to_dict(config))
    return path


@pytest.fixture(scope="session")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A people set of stick figures, three pictures each of eight people, of whom one validates and one tests."""
    root, rng, people, poses = tmp_path_factory.mktemp("figures"), np.random.default_rng(0), 8, 3
    count = people * poses
    joints = np.concatenate(
        [rng.uniform((4, 4), (WIDTH - 4, HEIGHT - 4), (count, 17, 2)), np.full((count, 17, 1), 2.0)], -1
    ).astype(np.float32)
    openpose = coco_to_openpose(joints)
    drawn = draw_joints(openpose, HEIGHT, WIDTH).movedim(1, -1).numpy()
    grey = rng.integers(30, 220, (people, 1, 1, 1, 3)).repeat(poses, 1).reshape(count, 1, 1, 3)
    label = np.repeat(np.arange(people), poses)
    arrays = {
        "pictures": np.where(drawn.any(-1, keepdims=True), drawn, grey).astype(np.uint8),
        "joints": joints,
        "openpose": openpose,
        "identity": label,
        "split": np.select([label == 1, label == 0], [1, 2]).astype(np.uint8),
        "done": np.ones(count, np.uint8),
        "garments": np.full((count, HEIGHT, WIDTH), 3, np.uint8),
    }
    for name, value in arrays.items():
        np.save(root / f"{name}.npy", value)
    (root / "dataset.json").write_text(
        json.dumps({"format": "people set", "version": 2, "name": "stick figures", "height": HEIGHT, "width": WIDTH})
    )
    return root
