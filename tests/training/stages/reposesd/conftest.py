"""A small Stable Diffusion 2.1 on disk, a pose estimator and a captioned set, for RePoseSD's training."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from reposedm_core import PRESETS
from reposedm_core.checkpoint import save_model
from reposedm_core.config import EstimatorConfig, FieldConfig, to_dict
from reposedm_core.estimator import HigherHRNet
from training.engine.settings import RePoseSDSettings
from training.stages.reposesd.latent_cache import MOST_PEOPLE
from training.stages.reposesd.stage import RePoseSDStage
from training.train_tiny import write_stable_diffusion

HEIGHT, WIDTH = 64, 48
CPU = torch.device("cpu")
PRESET = replace(PRESETS["sd21"], field=FieldConfig(training=0.0))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A Stable Diffusion 2.1 of few channels as diffusers saves it; it predicts v, as the one of 768 pixels does."""
    from diffusers import DDIMScheduler

    root = tmp_path_factory.mktemp("stable-diffusion")
    write_stable_diffusion(root)
    text = root / "text_encoder" / "config.json"
    text.write_text(json.dumps({**json.loads(text.read_text()), "hidden_act": "gelu"}))
    DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type="v_prediction"
    ).save_pretrained(root / "scheduler")
    return root


@pytest.fixture(scope="session")
def estimator(tmp_path_factory):
    """File of a small estimator that sees joints everywhere."""
    config = EstimatorConfig(stem=8, bottleneck=8, channels=(8, 16), modules=(1,), blocks=1, deconv_channels=8)
    torch.manual_seed(0)
    network = HigherHRNet(config)
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    for layer in network.final_layers:
        layer.bias.data.add_(0.3)
    path = tmp_path_factory.mktemp("estimator") / "estimator.safetensors"
    save_model(path, {"estimator": network}, to_dict(config), dtype=torch.float32)
    return path


@pytest.fixture(scope="session")
def crowd(tmp_path_factory):
    """A captioned set of larger pictures with one to ten people in them, as `prepare.py` lists it."""
    root, rng, lines = tmp_path_factory.mktemp("crowd"), np.random.default_rng(0), []
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (90, 80, 3), np.uint8)).save(root / f"{number}.png")
        people = (1, 2, MOST_PEOPLE + 2)[number % 3]
        joints = np.concatenate([rng.uniform(8, 72, (people, 17, 2)), np.ones((people, 17, 1))], -1).tolist()
        line = {
            "image": f"{number}.png",
            "caption": f"people {'abcdef'[number]}",
            "height": 90,
            "width": 80,
            "split": "val" if number == 5 else "train",
            "joints": joints,
        }
        lines.append(json.dumps(line) + "\n")
    (root / "captions.jsonl").write_text("".join(lines))
    np.save(root / "offsets.npy", np.cumsum([0, *map(len, lines)]))
    np.save(root / "split.npy", np.array([0, 0, 0, 0, 0, 1], np.uint8))
    (root / "dataset.json").write_text(
        json.dumps(
            {
                "format": "captioned set",
                "version": 1,
                "name": "crowd",
                "images": str(root),
                "height": HEIGHT,
                "width": WIDTH,
            }
        )
    )
    return root


def stage_of(folder, root, out, config=PRESET, **settings):
    known = {"steps": 3, "batch": 2, "lr": 1e-3, "warmup": 0, "workers": 0, "start": str(folder), **settings}
    return RePoseSDStage(config, RePoseSDSettings(**known), root, out, {}, CPU)


def prepared(*arguments, **settings):
    stage = stage_of(*arguments, **settings)
    stage.prepare(True)
    return stage


def started(stage):
    module = stage.build()
    stage.initialise(module)
    return module


def same(a, b):
    return all(torch.equal(value, b[key]) for key, value in a.items())
