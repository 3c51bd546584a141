"""What a model file tells of how it was made."""

from __future__ import annotations

import json
from dataclasses import replace

import torch

from training.engine.model_card import make_card
from training.engine.settings import load_settings
from training.train import DEFAULT


def test_it_tells_the_names_of_files_and_no_folders(tmp_path):
    settings = load_settings(DEFAULT, ["cache=/home/me/cache", "parts=/home/me/parts"])
    settings = replace(settings, estimator=replace(settings.estimator, init="/home/me/estimator.safetensors"))
    change = {"step": 3, "changed": ["estimates: /home/me/a → /home/me/b", "lr: 0.001 → 0.002"]}
    log = {"step": 4, "examples": 8, "seconds": 1.0, "history": [], "validations": [], "changes": [change]}
    (tmp_path / "estimator.json").write_text(json.dumps(log))
    card = make_card(settings, tmp_path, torch.device("cpu"), ["estimator"])
    assert "/home" not in json.dumps(card) and str(tmp_path) not in json.dumps(card)
    assert card["settings"]["estimator"]["init"] == "estimator.safetensors" and card["settings"]["cache"] == "cache"
    assert card["estimator"]["changes"] == [{"step": 3, "changed": ["estimates: a → b", "lr: 0.001 → 0.002"]}]
