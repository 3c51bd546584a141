"""One identity, completely: K pictures with joints, masks, garment labels and all K × K correspondences."""

from __future__ import annotations

import numpy as np

from training.data import materials, rasteriser
from training.data.body import Body
from training.data.people import Person, render_background, sample_person
from training.data.poses import X, rotation, sample_pose

SUPERSAMPLING = 2
_BODY_VERTICES = 13380  # the skin itself; the shells must not decide the framing
# How near (rest units) the surface seen at a joint must be for it to be visible: about a limb's radius.
# Five points of the face, then shoulders, elbows, wrists, hips, knees, ankles.
_JOINT_RADIUS = np.array(
    [0.05] * 5 + [0.15] * 2 + [0.09] * 2 + [0.07] * 2 + [0.17] * 2 + [0.13] * 2 + [0.1] * 2, "f4"
)
_REST_SLACK, _DEPTH_SLACK = 0.06, 0.04  # rest units: a few source pixels


def render_identity(
    body: Body, seed: int, identity: int, poses: int, height: int = 128, width: int = 96
) -> dict[str, np.ndarray]:
    """Render identity number `identity` of the data set `seed`.

    Returns pictures (K, H, W, 3) uint8, joints (K, 17, 3) float32, masks and garments (K, H, W) uint8, flow
    (K, K, H/2, W/2, 2) float16 and visibility (K, K, H/2, W/2) uint8. Depends on nothing but its arguments.
    """
    rng = np.random.default_rng([seed, identity])
    person = sample_person(rng)
    rotations, cameras = [], []
    for _ in range(poses):
        rotations.append(sample_pose(rng, body.bones))
        cameras.append(rng.uniform(-1, 1, 6))
    vertices, joints, stature = body.pose(person.phenotype, np.stack(rotations))
    views = [
        _frame(
            vertices[k],
            joints[k],
            person.stature * rasteriser.CAMERA_DISTANCE / stature,
            cameras[k],
            height,
            width,
        )
        for k in range(poses)
    ]
    return _draw(body, person, views, cameras, height, width)


def _frame(
    vertices: np.ndarray, joints: np.ndarray, scale: float, camera: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Centre and tilt a posed body; the focal length (in picture heights) keeps it within the picture."""
    tilt = rotation(X, 8 * camera[0]).astype(np.float32)
    vertices, joints = vertices @ tilt.T, joints @ tilt.T
    skin = vertices[:_BODY_VERTICES]
    centre = 0.5 * (skin.max(0) + skin.min(0))
    vertices, joints = vertices - centre, joints - centre
    near = vertices[:_BODY_VERTICES, 1:2] + rasteriser.CAMERA_DISTANCE
    extent = 2 * np.abs(vertices[:_BODY_VERTICES, [0, 2]] / near).max(0)
    scale *= 1 + 0.05 * camera[1]
    scale = min(scale, 0.95 / extent[1], 1.05 * width / height / extent[0])
    spare = np.maximum(
        np.array([width / height, 1.0]) - scale * extent, 0
    )  # picture heights left beside the person
    offset = camera[2:4] * np.minimum(0.4 * spare, 0.05) * rasteriser.CAMERA_DISTANCE / scale
    offset = np.array([offset[0], 0, offset[1]], np.float32)
    return (vertices + offset).astype(np.float32), (joints + offset).astype(np.float32), np.float32(scale)


def _draw(
    body: Body, person: Person, views: list, cameras: list[np.ndarray], height: int, width: int
) -> dict[str, np.ndarray]:
    mesh, poses, s = body.mesh, len(views), SUPERSAMPLING
    fine = (height * s, width * s)
    cells = (height // 2, width // 2)
    shown, clip = materials.shown_faces(mesh, person.style), materials.shell_clip(person.style)
    loose = materials.looseness(mesh, person.style)
    background = render_background(person.background, *fine)
    result = {
        "pictures": np.empty((poses, height, width, 3), np.uint8),
        "joints": np.empty((poses, 17, 3), np.float32),
        "masks": np.empty((poses, height, width), np.uint8),
        "garments": np.empty((poses, height, width), np.uint8),
        "flow": np.empty((poses, poses, *cells, 2), np.float16),
        "visibility": np.empty((poses, poses, *cells), np.uint8),
    }
    sources, targets = [], []
    for k, (vertices, joints, scale) in enumerate(views):
        normals = rasteriser.vertex_normals(vertices, mesh.faces, shown)
        vertices = rasteriser.inflate(vertices, normals, loose)
        screen = rasteriser.project(vertices, scale, *fine)
        face, bary, depth = rasteriser.rasterise(screen, mesh.faces, shown, mesh.part, clip, mesh.rest, *fine)
        rest = rasteriser.interpolate(mesh.rest, mesh.faces, face, bary)
        light = np.array([person.light[0] + 0.35 * cameras[k][4], -1, person.light[1] + 0.2 * cameras[k][5]])
        light = (light / np.linalg.norm(light)).astype(np.float32)
        picture = background.copy()
        labels = materials.paint(
            picture, face, rest, rasteriser.interpolate(normals, mesh.faces, face, bary),
            mesh.part, mesh.zone, person.palette, person.style, light, person.ambient,
        )  # fmt: skip
        smooth = picture.reshape(height, s, width, s, 3).mean((1, 3))
        result["pictures"][k] = (smooth * 255 + 0.5).clip(0, 255).astype(np.uint8)
        result["garments"][k] = majority_label(labels, s)
        result["masks"][k] = result["garments"][k] > 0

        flat = rasteriser.project(joints, scale, *fine)
        found = rasteriser.joint_visibility(
            np.empty((17, 3), np.float32), flat, mesh.joints, _JOINT_RADIUS, face, rest
        )
        result["joints"][k] = found / np.array([s, s, 1], np.float32)
        sources.append((screen, face, rest, depth))
        coarse = rasteriser.project(vertices, scale, *cells)
        targets.append(
            rasteriser.rasterise(coarse, mesh.faces, shown, mesh.part, clip, mesh.rest, *cells)[:2]
        )

    for i, source in enumerate(sources):
        for j, target in enumerate(targets):
            result["flow"][i, j], result["visibility"][i, j] = rasteriser.correspondence(
                *target, mesh.faces, mesh.rest, *source, _REST_SLACK, _DEPTH_SLACK
            )
    return result


def majority_label(labels: np.ndarray, factor: int) -> np.ndarray:
    """Downsample labels (H·f, W·f) → (H, W): background where that is over half, else the commonest."""
    height, width = labels.shape[0] // factor, labels.shape[1] // factor
    blocks = labels.reshape(height, factor, width, factor)
    counts = np.stack([(blocks == value).sum((1, 3)) for value in range(materials.LABEL_OTHER + 1)])
    best = counts[1:].argmax(0) + 1
    return np.where(2 * counts[0] > factor * factor, 0, best).astype(np.uint8)
