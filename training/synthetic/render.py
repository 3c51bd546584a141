"""One identity, completely: K pictures with joints, masks, garment labels and, on request, all K × K correspondences.

    person(seed, identity)  →  view(k): pose, camera, light, perhaps a second person  →  draw

Every random number comes from (seed, identity) or (seed, identity, picture), so a picture depends neither on the
number of pictures nor on what else is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from reposedm_core.pose import coco_to_openpose
from training.synthetic import materials, rasteriser
from training.synthetic.backgrounds import render_background
from training.synthetic.body import Body
from training.synthetic.lights import UNLIT, Light, sample_light
from training.synthetic.person import BLACK, Person, sample_person
from training.synthetic.poses import KINDS, X, Y, rotation, sample_pose

SUPERSAMPLING = 2
_BODY_VERTICES = 13380  # the skin itself; the shells must not decide the framing
# How near (rest units) the surface seen at a joint must be for it to be visible: about a limb's radius.
# Five points of the face, then shoulders, elbows, wrists, hips, knees, ankles.
_JOINT_RADIUS = np.array([0.05] * 5 + [0.15] * 2 + [0.09] * 2 + [0.07] * 2 + [0.17] * 2 + [0.13] * 2 + [0.1] * 2, "f4")
REST_SLACK, DEPTH_SLACK = 0.06, 0.04  # rest units: a few source pixels


@dataclass(frozen=True)
class Figure:
    """A posed person in camera space: vertices (V, 3) without clothes and COCO-17 joints (17, 3), float32."""

    person: Person
    vertices: np.ndarray
    joints: np.ndarray


@dataclass(frozen=True)
class View:
    """What one picture shows: the person, perhaps a second one, the focal length in picture heights, and the light;
    yaw in degrees and kind of pose, for the card."""

    figure: Figure
    other: Figure | None
    focal: np.float32
    light: Light
    yaw: float
    kind: str


class Garb:
    """The mesh of a dressed person: which triangles there are, where the shells end, how far the clothes stand off."""

    def __init__(self, body: Body, person: Person):
        style = person.look.style
        self.mesh, self.clip = body.mesh, materials.shell_clip(style)
        self.shown, self.loose = materials.shown_faces(body.mesh, style), materials.looseness(body.mesh, style)


class Dressed:
    """A figure with its clothes on: vertices and normals (V, 3) float32, ready to be rasterised at any resolution."""

    def __init__(self, figure: Figure, garb: Garb):
        self.figure, self.garb = figure, garb
        self.normals = rasteriser.vertex_normals(figure.vertices, garb.mesh.faces, garb.shown)
        self.vertices = rasteriser.inflate(figure.vertices, self.normals, garb.loose)

    def rasterise(self, focal: np.float32, height: int, width: int) -> tuple[np.ndarray, ...]:
        """screen (V, 3), face (H, W), bary (H, W, 2), depth (H, W), as in `rasteriser`."""
        mesh, screen = self.garb.mesh, rasteriser.project(self.vertices, focal, height, width)
        return screen, *rasteriser.rasterise(
            screen, mesh.faces, self.garb.shown, mesh.part, self.garb.clip, mesh.rest, height, width
        )

    def paint(
        self, picture: np.ndarray, face: np.ndarray, bary: np.ndarray, light: Light
    ) -> tuple[np.ndarray, np.ndarray]:
        """Paint into `picture` (H, W, 3), in place; garment labels (H, W) uint8 and rest coordinates (H, W, 3)."""
        mesh, look = self.garb.mesh, self.figure.person.look
        rest = rasteriser.interpolate(mesh.rest, mesh.faces, face, bary)
        normals = rasteriser.interpolate(self.normals, mesh.faces, face, bary)
        labels = materials.paint(
            picture, face, rest, normals, mesh.part, mesh.zone, *look, light.towards, light.ambient, light.direct
        )
        if light.shadow is not None:  # on the person only: the background is the same in all pictures
            left = np.where(face == rasteriser.EMPTY, np.float32(1), light.shadow.left(*face.shape))
            picture *= left[..., None]
        return labels, rest


def sample_identity(seed: int, identity: int) -> Person:
    """Person number `identity` of the data set `seed`."""
    return sample_person(np.random.default_rng([seed, identity]))


def sample_views(
    body: Body, seed: int, identity: int, poses: int, second_person: float = 0.0, aspect: float = 0.75
) -> list[View]:
    """The first `poses` views of a person; aspect: width by height of the pictures."""
    person = sample_identity(seed, identity)
    generators = [np.random.default_rng([seed, identity, 1 + k]) for k in range(poses)]
    drawn = [sample_pose(rng, body.bones, body.limbs) for rng in generators]
    vertices, joints, stature = body.pose(person.phenotype, np.stack([pose for pose, _, _ in drawn]))
    views = []
    for k, rng in enumerate(generators):
        camera = rng.uniform(-1, 1, 5)
        tilt = (rotation(Y, 3 * camera[4]) @ rotation(X, 8 * camera[0])).astype(np.float32)
        scale = person.stature * rasteriser.CAMERA_DISTANCE / stature
        figure, focal = _frame(person, vertices[k] @ tilt.T, joints[k] @ tilt.T, scale, camera, aspect)
        light = sample_light(rng, person.sun)
        crowd = np.random.default_rng([seed, identity, 1 + k, 1])  # of its own: the share does not change the person
        other = _beside(body, crowd, figure, tilt) if crowd.random() < second_person else None
        views.append(View(figure, other, focal, light, drawn[k][1], drawn[k][2]))
    return views


def _frame(
    person: Person, vertices: np.ndarray, joints: np.ndarray, scale: float, camera: np.ndarray, aspect: float
) -> tuple[Figure, np.float32]:
    """Centre a posed and tilted body; the focal length (in picture heights) keeps it within the picture."""
    box, extent = rasteriser.bounds(vertices[:_BODY_VERTICES])
    centre, extent = 0.5 * (box[0] + box[1]), 2 * extent
    vertices, joints = vertices - centre, joints - centre
    scale *= 1 + 0.05 * camera[1]
    scale = min(scale, 0.95 / extent[1], 1.05 * aspect / extent[0])
    spare = np.maximum(np.array([aspect, 1.0]) - scale * extent, 0)  # picture heights left beside the person
    offset = camera[2:4] * np.minimum(0.4 * spare, 0.05) * rasteriser.CAMERA_DISTANCE / scale
    offset = np.array([offset[0], 0, offset[1]], np.float32)
    figure = Figure(person, (vertices + offset).astype(np.float32), (joints + offset).astype(np.float32))
    return figure, np.float32(scale)


def _beside(body: Body, rng: np.random.Generator, figure: Figure, tilt: np.ndarray) -> Figure:
    """A second person on the same ground, beside the first: three in four partly behind, the others partly in front."""
    person = sample_person(rng)
    pose, _, _ = sample_pose(rng, body.bones, body.limbs)
    vertices, joints, _ = body.pose(person.phenotype, pose[None])
    vertices, joints = vertices[0] @ tilt.T, joints[0] @ tilt.T
    mine, first = (rasteriser.bounds(points[:_BODY_VERTICES])[0] for points in (vertices, figure.vertices))
    behind = rng.random() < 0.75
    place = 0.5 * (first[0] + first[1])
    place[0] += rng.choice([-1, 1]) * (rng.uniform(0.22, 0.55) if behind else rng.uniform(0.38, 0.6))
    place[1] += rng.uniform(0.35, 0.9) if behind else rng.uniform(-0.5, -0.3)
    offset = place - 0.5 * (mine[0] + mine[1])
    offset[2] = first[0, 2] - mine[0, 2]
    return Figure(person, (vertices + offset).astype(np.float32), (joints + offset).astype(np.float32))


def render_identity(
    body: Body,
    seed: int,
    identity: int,
    poses: int,
    height: int = 256,
    width: int = 192,
    correspondence: bool = False,
    second_person: float = 0.0,
    cell: int = 4,
    lit: bool = True,
) -> dict[str, np.ndarray]:
    """Render identity number `identity` of the data set `seed`.

    Args:
        poses: number of pictures K; height, width: of the pictures in pixels, divisible by `cell`.
        correspondence: with flow, visibility and surface.
        second_person: share of the pictures with a second person in them, in [0, 1]; with `others` if above 0.
        cell: side of a cell of the correspondence, in pixels.
        lit: False gives the colours themselves on black, without light (for checks).

    Returns:
        K rows of the arrays of `generate.layout`, all but `identity`, `split` and `done`.
    """
    views = sample_views(body, seed, identity, poses, second_person, width / height)
    person, s = views[0].figure.person, SUPERSAMPLING
    garb = Garb(body, person)
    background = render_background(person.background if lit else BLACK, height * s, width * s)
    figures = [Dressed(view.figure, garb) for view in views]
    others = [None if view.other is None else Dressed(view.other, Garb(body, view.other.person)) for view in views]
    rows = []
    for view, figure, other in zip(views, figures, others, strict=True):
        light = view.light if lit else UNLIT
        rows.append(draw(body, figure, other, view.focal, light, background.copy(), height, width))
    names = ["pictures", "joints", "openpose", "masks", "garments", *(["others"] if second_person > 0 else [])]
    result: dict[str, np.ndarray] = {name: np.stack([row[name] for row in rows]) for name in names}
    result["views"] = np.array([[view.yaw, list(KINDS).index(view.kind)] for view in views], np.float32)
    if correspondence:
        cells = (height // cell, width // cell)
        result["flow"] = np.empty((poses, poses, *cells, 2), np.float16)
        result["visibility"] = np.empty((poses, poses, *cells), np.uint8)
        result["surface"] = np.empty((poses, *cells, 3), np.float16)
        for j, view in enumerate(views):
            target = target_cells(figures[j], others[j], view.focal, cells)
            result["surface"][j] = rasteriser.interpolate(body.mesh.rest, body.mesh.faces, *target)
            for i, row in enumerate(rows):
                asked = (*target, body.mesh.faces, body.mesh.rest, *row["source"], REST_SLACK, DEPTH_SLACK)
                result["flow"][i, j], result["visibility"][i, j] = rasteriser.correspondence(*asked)
    return result


def draw(
    body: Body, figure: Dressed, other: Dressed | None, focal: np.float32, light: Light, picture: np.ndarray,
    height: int, width: int,
) -> dict[str, Any]:  # fmt: skip
    """One picture's row of every array; `picture` is the background, supersampled, and is painted over.

    `source` is what `rasteriser.correspondence` asks of a source picture.
    """
    s = SUPERSAMPLING
    fine = (height * s, width * s)
    screen, face, bary, depth = figure.rasterise(focal, *fine)
    covered, masks, others = None, np.zeros((height, width), np.uint8), np.zeros((17, 3), np.float32)
    if other is not None:
        _, face2, bary2, depth2 = other.rasterise(focal, *fine)
        covered = depth2 < depth  # the second person stands in front of the first
        hidden = (depth <= depth2) & (face >= 0)  # or the other way round
        face2, face = np.where(hidden, rasteriser.EMPTY, face2), np.where(covered, rasteriser.EMPTY, face)
        labels, rest = other.paint(picture, face2, bary2, light)
        masks[rasteriser.majority(labels, s, len(materials.LABELS)) > 0] = 2
        others = _joints(body, other, focal, face2, rest, hidden)
    labels, rest = figure.paint(picture, face, bary, light)
    garments = rasteriser.majority(labels, s, len(materials.LABELS))
    masks[garments > 0] = 1
    joints = _joints(body, figure, focal, face, rest, covered)
    return {
        "pictures": rasteriser.shrink(picture, s),
        "joints": joints,
        "openpose": coco_to_openpose(joints),
        "masks": masks,
        "garments": garments,
        "others": others,
        "source": (screen, face, rest, depth),
    }


def _joints(
    body: Body, figure: Dressed, focal: np.float32, face: np.ndarray, rest: np.ndarray, covered: np.ndarray | None
) -> np.ndarray:
    """COCO-17 joints of the picture (17, 3), seen where neither the body nor somebody else (`covered`) hides them."""
    if covered is not None:
        face, rest = np.where(covered, 0, face), np.where(covered[..., None], np.float32(rasteriser.COVERED), rest)
    flat = rasteriser.project(figure.figure.joints, focal, *face.shape)
    found = np.empty((17, 3), np.float32)
    rasteriser.joint_visibility(found, flat, body.mesh.joints, _JOINT_RADIUS, face, rest)
    return found / np.array([SUPERSAMPLING, SUPERSAMPLING, 1], np.float32)


def target_cells(
    figure: Dressed, other: Dressed | None, focal: np.float32, cells: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Face and bary of the target at the correspondence's resolution, without what the second person covers."""
    _, face, bary, depth = figure.rasterise(focal, *cells)
    if other is not None:
        face = np.where(other.rasterise(focal, *cells)[3] < depth, rasteriser.EMPTY, face)
    return face, bary
