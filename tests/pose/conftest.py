from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def person() -> np.ndarray:
    """A standing person, OpenPose-18 in pixels of a 128x96 picture, facing the camera."""
    points = [
        (48, 18), (48, 30), (38, 30), (32, 45), (30, 60), (58, 30), (64, 45), (66, 60), (42, 62), (40, 88),
        (38, 112), (54, 62), (56, 88), (58, 112), (45, 15), (51, 15), (41, 17), (55, 17),
    ]  # fmt: skip
    return np.array([(x, y, 1) for x, y in points], np.float32)
