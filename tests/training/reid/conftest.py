"""The Market-1501 fixture, the people set that is prepared of it, and the smallest network that timm has."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.preparation.conftest import market  # noqa: F401  (a fixture)
from training import prepare
from training.reid.network import Recipe


@pytest.fixture
def prepared(market: Path, tmp_path: Path) -> Path:  # noqa: F811
    """The fixture's people set, at the size of the tiny checkpoints."""
    out = tmp_path / "market set"
    arguments = ["market1501", "--root", str(market), "--out", str(out), "--size", "64x48", "--workers", "1"]
    assert prepare.main(arguments) == 0
    return out


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe("test_resnet", height=32, width=16, steps=4, people=3, each=2, save_every=2)
