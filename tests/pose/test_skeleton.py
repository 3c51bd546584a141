from __future__ import annotations

import pytest

from reposedm_core.pose import skeleton


def _mirrored(name: str) -> str:
    return name.replace("left", "?").replace("right", "left").replace("?", "right")


@pytest.mark.parametrize(
    ("names", "flip"),
    [(skeleton.OPENPOSE18, skeleton.OPENPOSE_FLIP), (skeleton.COCO17, skeleton.COCO_FLIP)],
    ids=["openpose", "coco"],
)
def test_flip_swaps_left_and_right(names: tuple, flip: tuple) -> None:
    assert [names[i] for i in flip] == [_mirrored(name) for name in names]


def test_orders_name_the_same_joints() -> None:
    assert set(skeleton.OPENPOSE18) - set(skeleton.COCO17) == {"neck"}
    assert [skeleton.OPENPOSE18[i] for i in skeleton.OPENPOSE_TO_COCO] == list(skeleton.COCO17)
    assert [i for i in skeleton.COCO_TO_OPENPOSE if i is None] == [None]


def test_cardinality() -> None:
    assert len(skeleton.OPENPOSE_LIMBS) == 17 and len(skeleton.OPENPOSE_COLOURS) == 18
    assert len(set(skeleton.OPENPOSE_COLOURS)) == 18
    assert len(skeleton.HAND_LIMBS) == 20 and len(skeleton.COCO_SIGMAS) == 17
    assert 8 not in skeleton.BODY25_TO_OPENPOSE and len(set(skeleton.BODY25_TO_OPENPOSE)) == 18


def test_limbs_connect_every_joint_once() -> None:
    # 17 limbs over 18 joints that reach all of them from the neck are a tree.
    reached = {skeleton.NECK}
    for _ in range(18):
        reached |= {j for limb in skeleton.OPENPOSE_LIMBS for j in limb if reached & set(limb)}
    assert reached == set(range(18))
    assert all({a, b} in [set(limb) for limb in skeleton.COCO_LIMBS] for a, b in ((5, 7), (6, 8), (13, 15)))


def test_sigmas_are_symmetric() -> None:
    assert [skeleton.COCO_SIGMAS[i] for i in skeleton.COCO_FLIP] == list(skeleton.COCO_SIGMAS)
