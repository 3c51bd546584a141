"""What the tests of the workflows share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


def pytest_generate_tests(metafunc):
    """A test with a `workflow_path` runs once for every shipped workflow."""
    if "workflow_path" in metafunc.fixturenames:
        assert WORKFLOWS, "there is no workflow in workflows/"
        metafunc.parametrize("workflow_path", WORKFLOWS, ids=lambda path: path.stem)


@pytest.fixture(scope="session")
def schemas(comfy):
    """`/object_info` of the running ComfyUI."""
    return comfy.object_info()
