"""The page's own search leads from the words of an artist to the node that does it."""

from __future__ import annotations

import pytest

from tests.fixtures.waiting import frames

pytestmark = pytest.mark.browser

WANTED = {
    "animate": "Interpolate Poses",
    "animation": "Interpolate Poses",
    "pose video": "Interpolate Poses",
    "jitter": "Smooth Poses",
    "flicker": "Smooth Poses",
    "face restore": "Keep Face",
    "try on": "Garment Transfer",
    "tryon": "Garment Transfer",
    "outfit": "Garment Transfer",
    "clothes mask": "Garment Mask",
    "garment": "Garment Mask",
    "segmentation": "Garment Mask",
    "person mask": "Garment Mask",
    "mannequin": "Pose Editor",
    "character": "Recurrent Pose Aligner",
    "reference": "Recurrent Pose Aligner",
    "openpose": "Load Pose",
    "pose": "Pose Editor",
}
# Names of the results of this pack, whose badge the page makes of its folder's name.
FOUND = """() => [...document.querySelectorAll("[data-testid=result-item]")]
    .filter(item => item.textContent.includes("RePoseDM"))
    .map(item => item.querySelector("span.truncate").textContent)"""


@pytest.fixture(scope="module")
def search(tab):
    """Words → names of the nodes of this pack that the page finds, best first."""
    page = tab.page
    page.evaluate("() => window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    box = page.locator("input[aria-controls=results-list]")

    def find(words: str) -> list[str]:
        box.fill(words)
        frames(page)
        return page.evaluate(FOUND)

    return find


@pytest.mark.parametrize(("words", "node"), WANTED.items())
def test_leads_to_the_node(search, words, node):
    assert node in search(words)[:2]


def test_measuring_is_not_what_pose_leads_to_first(search):
    assert "Compare Poses" not in search("pose")[:3]
