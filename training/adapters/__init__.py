"""Adapters of public sets, by the name that `training/prepare.py` takes."""

from __future__ import annotations

from training.adapters.deepfashion import DeepFashion
from training.adapters.folder import Folder
from training.adapters.human_art import HumanArt
from training.adapters.laion_human import LaionHuman
from training.adapters.market1501 import Market1501
from training.adapters.video import Video

ADAPTERS = {adapter.name: adapter for adapter in (DeepFashion, Market1501, LaionHuman, HumanArt, Folder, Video)}
