"""What tests of stages of the second generation share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def networks(second_config, shaken):
    """Random everywhere, one build for a module."""
    return shaken(second_config)
