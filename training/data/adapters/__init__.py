"""Adapters of public sets, by the name that `training/data/prepare.py` takes."""

from __future__ import annotations

from training.data.adapters.deepfashion import DeepFashion
from training.data.adapters.folder import Folder
from training.data.adapters.human_art import HumanArt
from training.data.adapters.laion_human import LaionHuman
from training.data.adapters.market1501 import Market1501
from training.data.adapters.video import Video

ADAPTERS = {adapter.name: adapter for adapter in (DeepFashion, Market1501, LaionHuman, HumanArt, Folder, Video)}
