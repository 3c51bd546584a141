"""LAION-Human: pictures of LAION-Aesthetics with people, their captions and estimated poses (HumanSD)."""

from __future__ import annotations

from pathlib import Path

from training.preparation.captioning import CaptionedAdapter, Captions, read_mapping
from training.preparation.plan import Shares, Skip, need


class LaionHuman(CaptionedAdapter):
    """`Aesthetics_Human`, with the mapping file of HumanSD; it has no split but training."""

    name = "laion_human"
    title = "LAION-Human"
    licence = "HumanSD's form (non-commercial research); every picture has the licence of its own page."

    def plan(self, root: Path, shares: Shares) -> Captions:
        skipped: list[Skip] = []
        items = read_mapping(root, need(root, "mapping_file_training.json"), "train", shares.val, skipped)
        return Captions(items, skipped)
