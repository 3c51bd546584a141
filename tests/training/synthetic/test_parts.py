"""Parts of the synthetic people: prints, captured motion, backgrounds, lights, who is drawn."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("anny", reason="the synthetic people need anny")

from scipy.spatial.transform import Rotation

from training.synthetic import materials, motion, patterns, prints
from training.synthetic.backgrounds import KINDS, Background, render_background
from training.synthetic.body import PART_BODY, PART_TIGHTS, ZONE_HEAD, ZONE_TORSO, load_body
from training.synthetic.lights import Shadow, sample_light
from training.synthetic.poses import sample_pose
from training.synthetic.render import sample_identity


def _picture(cells: np.ndarray) -> list[str]:
    return ["".join(".#o"[cell] for cell in row) for row in cells]


def test_letters_are_seven_cells_high_and_five_wide() -> None:
    assert _picture(prints.bitmap_of("T1").astype(int)) == [
        "#####...#..", "..#....##..", "..#.....#..", "..#.....#..", "..#.....#..", "..#.....#..", "..#....###.",
    ]  # fmt: skip
    assert len({prints.bitmap_of(letter).tobytes() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"}) == 35
    assert np.array_equal(prints.bitmap_of("O"), prints.bitmap_of("0")), "these two alone look the same"


def test_shapes_differ_and_lines_are_centred() -> None:
    shapes = [prints.print_of_shape(shape) for shape in prints.SHAPES]
    assert len({shape.tobytes() for shape in shapes}) == len(prints.SHAPES)
    assert all(0.08 < shape.mean() < 0.65 for shape in shapes)
    for cells in (prints.print_of_lines(["AB", "HI"]), prints.print_of_lines(["HOW"], ground=True)):
        rows, columns = np.nonzero(cells)
        assert abs(rows.mean() + 0.5 - prints.ROWS / 2) < 1.5 and abs(columns.mean() + 0.5 - prints.COLUMNS / 2) < 1.5
    assert 2 in prints.print_of_lines(["A"], ground=True) and 2 not in prints.print_of_lines(["A"])


@pytest.mark.parametrize(("back", "y"), [(0, -0.12), (1, 0.06)])
def test_a_print_can_be_read_on_chest_and_back(back: int, y: float) -> None:
    """Rest points of the torso in the order in which somebody before, or behind, the person sees them."""
    look = sample_identity(1, 0).look
    style = look.style.copy()
    style[[materials.OPEN_FRONT, materials.SCARF, materials.BELT, materials.CONTRAST_SLEEVES]] = 0
    style[materials.SKIRT_KIND], style[materials.WAIST], style[materials.TRIM] = materials.NO_SKIRT, 0.05, -1
    style[[materials.MIDRIFF, materials.YOKE, materials.COLLAR]] = -9, 9, 0.575
    style[materials.NECK_KIND], style[materials.TOP_PATTERN] = materials.NECK_ROUND, 0
    cells = np.zeros((2, prints.ROWS, prints.COLUMNS), np.uint8)
    cells[back] = prints.print_of_lines(["R2"])
    place = np.array([[0, 0.36, 0.015]] * 2, np.float32)
    seen = np.zeros((prints.ROWS, prints.COLUMNS), int)
    for row, column in np.ndindex(*seen.shape):
        across = (column + 0.5 - prints.COLUMNS / 2) * 0.015
        x, z = (-across if back else across), 0.36 - (row + 0.5 - prints.ROWS / 2) * 0.015
        if abs(x) < 0.14:
            found = materials.material(PART_TIGHTS, ZONE_TORSO, x, y, z, style, cells, place)
            assert found[0] == materials.LABEL_TOP
            seen[row, column] = found[1] == materials.LOGO
    assert _picture(seen) == _picture(cells[back])


def test_every_kind_of_print_is_drawn_and_fits_on_the_chest() -> None:
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(200):
        cells, size, (x, z), kind = prints.sample_print(rng)
        kinds.add(kind)
        rows, columns = np.nonzero(cells)
        if size > 0:
            assert abs(x + (columns.max() + 1 - prints.COLUMNS / 2) * size) < 0.15
            bottom, top = (z + (prints.ROWS / 2 - row) * size for row in (rows.max() + 1, rows.min()))
            assert bottom > 0.22 and top < 0.5
        else:
            assert kind == "none" and not len(rows)
    assert kinds == set(prints.KINDS)


PHENOTYPE = dict.fromkeys(("gender", "age", "muscle", "weight", "height", "proportions"), 0.6)


def _joints(vectors: np.ndarray) -> np.ndarray:
    body = load_body()
    pose = motion.retarget(vectors, body.bones, body.limbs).astype(np.float32)
    return body.pose(PHENOTYPE, pose[None])[1][0]


def test_no_rotation_is_standing_with_arms_and_legs_straight_down() -> None:
    joints = _joints(np.zeros((13, 3)))
    for upper, lower in ((5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16)):
        limb = joints[lower] - joints[upper]
        assert -limb[2] / np.linalg.norm(limb) > 0.985


def test_knees_bend_backwards_elbows_forwards_and_a_raised_arm_is_raised() -> None:
    frame = [0.0] * 4 + [1.0, 0, 0, 0] * 3  # root, chest, neck
    frame += [1.0, 0, 0, 0, -1.0, 1, 0, 0, 0, 1, 0, 0, 0, 1.0] * 2  # a leg with its knee, an arm with its elbow
    joints = _joints(motion.convert(frame))  # y is backwards
    assert (joints[[15, 16], 1] > joints[[13, 14], 1] + 0.2).all()
    assert (joints[[9, 10], 1] < joints[[7, 8], 1] - 0.1).all()
    vectors = np.zeros((13, 3))
    vectors[motion.JOINTS.index("shoulder.L")] = [0, -np.pi / 2, 0]
    assert abs(_joints(vectors)[9, 2] - _joints(vectors)[5, 2]) < 0.1


def test_a_mirrored_pose_is_the_pose_in_a_mirror() -> None:
    vectors = motion.frames()[100]
    assert np.array_equal(motion.mirrored(motion.mirrored(vectors)), vectors)
    there, here = _joints(motion.mirrored(vectors)), _joints(vectors)
    swap = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    assert np.abs(there - here[swap] * [-1, 1, 1]).max() < 0.01


def test_turn_is_taken_out_and_the_lean_is_left() -> None:
    lean = Rotation.from_euler("x", 20, degrees=True)
    turned = Rotation.from_euler("z", 130, degrees=True) * lean
    assert np.allclose(motion.without_turn(turned.as_rotvec()), lean.as_rotvec(), atol=1e-9)


def test_frames_upside_down_or_seen_before_are_left_out() -> None:
    stand = [0.0] * 4 + [1.0, 0, 0, 0] * 3 + [1.0, 0, 0, 0, 0.0, 1, 0, 0, 0, 1, 0, 0, 0, 0.0] * 2
    head_down, kneel = list(stand), list(stand)
    head_down[4:8] = [0, 0, 0, 1]
    kneel[20] = -1.2
    found = motion.extract(iter([("a", [stand, stand, head_down, kneel]), ("b", [stand])]))
    assert found["clip"].tolist() == [0, 0, 1] and found["names"].tolist() == ["a", "b"]


def test_the_motion_file_is_small_and_says_whose_it_is() -> None:
    assert motion.FILE.stat().st_size < 150 * 1024
    assert motion.frames().shape[1:] == (13, 3) and len(motion.frames()) > 300
    notice = motion.FILE.with_name("motions.LICENSE.txt").read_text()
    assert "zlib license" in notice and "altered" in notice and "This notice may not be removed" in notice


def test_poses_come_from_all_kinds_and_show_backs() -> None:
    body, rng = load_body(), np.random.default_rng(0)
    drawn = [sample_pose(rng, body.bones, body.limbs) for _ in range(150)]
    assert len({kind for _, _, kind in drawn}) == 5
    backs = np.mean([abs(yaw) > 110 for _, yaw, _ in drawn])
    assert 0.08 < backs < 0.3
    for pose, _, _ in drawn:
        assert np.allclose(pose @ pose.transpose(0, 2, 1), np.eye(3), atol=1e-5) and (np.linalg.det(pose) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_background_is_the_same_picture_at_any_resolution(kind: str) -> None:
    rng = np.random.default_rng(3)
    background = Background(
        kind, np.array([[0.9, 0.2, 0.1], [0.1, 0.3, 0.8], [0.2, 0.9, 0.3]]), 0.7, 0.1, 0.8,
        rng.standard_normal((2, 9, 7)), 0.02, 5,
    )  # fmt: skip
    small, large = render_background(background, 64, 48), render_background(background, 192, 144)
    assert np.abs(large[1::3, 1::3] - small).mean() < 0.02  # the pixels with the same centres
    assert large.min() >= 0 and large.max() <= 1
    assert (large.std((0, 1)).max() > 0.05) == (kind != "plain")


@pytest.mark.parametrize("kind", ["leaves", "clutter"])
def test_clutter_has_contrast_at_every_size_and_depends_on_its_seed(kind: str) -> None:
    flat = np.zeros((2, 9, 7))
    one, two = (render_background(Background(kind, np.zeros((3, 3)), 0.7, 0.1, 0.0, flat, 0.0, seed), 128, 96)
                for seed in (1, 2))  # fmt: skip
    assert np.abs(one - two).mean() > 0.05
    for size in (1, 4, 16):  # means of blocks still differ
        blocks = one.reshape(128 // size, size, 96 // size, size, 3).mean((1, 3))
        assert np.abs(np.diff(blocks, axis=0)).mean() > 0.01


def test_a_band_of_hair_goes_from_ear_to_ear_and_leaves_the_top_bald() -> None:
    bands = [person.look for person in (sample_identity(1, i) for i in range(120)) if person.words["hair"] == "band"]
    assert len(bands) > 2
    for look in bands:
        style = look.style.copy()
        style[[materials.HAT, materials.BEARD]] = 0

        def shown(x: float, y: float, z: float, style=style, look=look) -> int:
            return materials.material(PART_BODY, ZONE_HEAD, x, y, z, style, look.prints, look.place)[0]

        for top in ((0, -0.06, 0.85), (0, 0, 0.84), (0.05, -0.03, 0.83), (0, -0.13, 0.80), (0.04, -0.12, 0.79)):
            assert shown(*top) == materials.LABEL_SKIN, top
        for round_the_back in ((0.07, 0.005, 0.72), (-0.07, 0.005, 0.72), (0, 0.07, 0.72), (0.05, 0.05, 0.72)):
            assert shown(*round_the_back) == materials.LABEL_HAIR, round_the_back
        assert shown(0, -0.14, 0.70) == materials.LABEL_SKIN, "the face"


def test_a_print_of_leaves_has_five_tones_of_three_colours() -> None:
    places = np.random.default_rng(0).uniform(-0.3, 0.3, (400, 3))
    tones = [patterns.cloth(patterns.LEAVES, 0.05, ZONE_TORSO, False, *place) for place in places]
    assert set(tones) == {0, 0.5, 1, 1.5, 2} and np.bincount(np.multiply(tones, 2).astype(int)).min() > 40
    step = [patterns.cloth(patterns.LEAVES, 0.05, ZONE_TORSO, False, *(place + 0.001)) for place in places]
    assert np.mean(np.equal(tones, step)) > 0.9, "cells, not grains"
    found = {materials._dyed(3, 1, 2, 4, tone)[1:] for tone in tones}
    assert found == {(1, 2, 0), (1, 2, 0.5), (1, 2, 1), (2, 4, 0.5), (2, 4, 1)}


@pytest.mark.parametrize("axes", [None, (0.2, 0.1)])
def test_a_shadow_is_the_same_at_any_resolution_and_has_a_soft_edge(axes: tuple[float, float] | None) -> None:
    shadow = Shadow(np.array([0.05, -0.1]), None if axes is None else np.array(axes), 0.7, 0.08, 0.6)
    small, large = shadow.left(64, 48), shadow.left(192, 144)
    assert np.abs(large[1::3, 1::3] - small).max() < 1e-3
    assert abs(small.min() - 0.4) < 1e-3 and small.max() == 1 and ((small > 0.45) & (small < 0.95)).mean() > 0.01
    assert abs(small[25, 27] - (0.7 if axes is None else 0.4)) < 0.05, "the line itself, or the middle of the blob"


def test_some_people_stand_in_hard_light() -> None:
    suns = [sample_identity(1, i).sun for i in range(200)]
    hard = [sun for sun in suns if sun.hard]
    assert 30 < len(hard) < 70
    assert all(0.25 <= sun.ambient <= 0.45 and sun.direct > 0.5 for sun in hard)
    assert all(0.5 <= sun.ambient <= 0.64 and sun.direct < 0.55 for sun in suns if not sun.hard)
    sides = np.degrees([np.arctan2(sun.towards[0], -sun.towards[1]) for sun in hard])
    assert sides.min() < -90 and sides.max() > 90 and (np.abs(sides) < 45).sum() > 5
    rng = np.random.default_rng(0)
    assert 0.1 < np.mean([sample_light(rng, suns[0]).shadow is not None for _ in range(500)]) < 0.2


def test_light_varies_around_the_persons_own() -> None:
    sun = next(sun for sun in (sample_identity(1, i).sun for i in range(20)) if not sun.hard)
    rng = np.random.default_rng(0)
    lights = [sample_light(rng, sun) for _ in range(50)]
    towards = np.stack([light.towards for light in lights])
    assert np.allclose(np.linalg.norm(towards, axis=1), 1, atol=1e-6) and (towards[:, 1] < 0).all()
    mean = towards.mean(0) / np.linalg.norm(towards.mean(0))
    angles = np.degrees(np.arccos((towards @ mean).clip(-1, 1)))
    assert angles.mean() > 5 and angles.max() < 45
    full = np.stack([light.ambient + light.direct for light in lights])
    assert full.std(0).min() > 0.01 and full.min() > 0.8 and full.max() < 1.25


def test_children_are_small_and_dresses_one_garment() -> None:
    people = [sample_identity(1, i) for i in range(120)]
    child = [person for person in people if person.words["age"] == "child"]
    assert 5 < len(child) < 40 and all(person.stature < 0.79 for person in child)
    identity_pose = np.tile(np.eye(3), (1, len(load_body().bones), 1, 1))
    assert load_body().pose(child[0].phenotype, identity_pose)[2] < 1.75
    for person in people:
        dress = person.look.style[materials.SKIRT_KIND] == materials.DRESS
        assert dress == (person.words["lower"] == "dress")
