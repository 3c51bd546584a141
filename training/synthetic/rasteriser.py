"""A small software rasteriser: pinhole projection, z-buffer, visibility and exact dense correspondence.

Everything is compiled with numba and works on one picture; a process is one worker, so there are no threads
in here. Screen coordinates are pixels, pixel (row y, column x) has its centre at (x + 0.5, y + 0.5).
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

CAMERA_DISTANCE = 3.2  # the camera is at (0, -3.2, 0) and looks along +y, z up
EMPTY = -1  # face index of a pixel that shows the background
COVERED = 1e3  # rest coordinates of a pixel where somebody else stands in front: far from every point of a body


@nb.njit(cache=True, fastmath=True)
def project(points, scale, height, width):
    """Perspective projection: points (N, 3) → (N, 3) float32 of pixel x, pixel y and depth.

    `scale` is the focal length in picture heights.
    """
    screen = np.empty(points.shape, np.float32)
    for n in range(points.shape[0]):
        depth = points[n, 1] + CAMERA_DISTANCE
        screen[n, 0] = points[n, 0] / depth * scale * height + 0.5 * width
        screen[n, 1] = -points[n, 2] / depth * scale * height + 0.5 * height
        screen[n, 2] = depth
    return screen


@nb.njit(cache=True, fastmath=True)
def bounds(points):
    """Lowest and highest coordinates (2, 3) float32 of points (N, 3), and the picture half extents (2,) of unit focal
    length, |x / depth| and |z / depth| at most, of the points moved so that the middle of the bounds is the origin."""
    box = np.empty((2, 3), np.float32)
    for c in range(3):
        box[0, c] = box[1, c] = points[0, c]
    for n in range(points.shape[0]):
        for c in range(3):
            box[0, c], box[1, c] = min(box[0, c], points[n, c]), max(box[1, c], points[n, c])
    x, y, z = 0.5 * (box[0, 0] + box[1, 0]), 0.5 * (box[0, 1] + box[1, 1]), 0.5 * (box[0, 2] + box[1, 2])
    extent = np.zeros(2, np.float32)
    for n in range(points.shape[0]):
        depth = points[n, 1] - y + CAMERA_DISTANCE
        extent[0] = max(extent[0], abs(points[n, 0] - x) / depth)
        extent[1] = max(extent[1], abs(points[n, 2] - z) / depth)
    return box, extent


@nb.njit(cache=True, fastmath=True)
def shrink(picture, factor):
    """Mean over blocks, (H·f, W·f, 3) float32 in [0, 1] → (H, W, 3) uint8."""
    height, width = picture.shape[0] // factor, picture.shape[1] // factor
    out = np.empty((height, width, 3), np.uint8)
    for y in range(height):
        for x in range(width):
            for c in range(3):
                total = np.float32(0)
                for i in range(factor):
                    for j in range(factor):
                        total += picture[factor * y + i, factor * x + j, c]
                out[y, x, c] = np.uint8(min(max(total / (factor * factor) * 255 + 0.5, 0), 255))
    return out


@nb.njit(cache=True, fastmath=True)
def majority(labels, factor, count):
    """Downsample labels (H·f, W·f) below `count` → (H, W) uint8: 0 where that is over half, else the commonest."""
    height, width = labels.shape[0] // factor, labels.shape[1] // factor
    out = np.zeros((height, width), np.uint8)
    votes = np.zeros(count, np.int64)
    for y in range(height):
        for x in range(width):
            votes[:] = 0
            for i in range(factor):
                for j in range(factor):
                    votes[labels[factor * y + i, factor * x + j]] += 1
            if 2 * votes[0] <= factor * factor:
                out[y, x] = 1 + np.argmax(votes[1:])
    return out


@nb.njit(cache=True, fastmath=True)
def vertex_normals(points, faces, keep):
    """Area-weighted vertex normals (not normalised) of the kept faces: (N, 3) float32."""
    normals = np.zeros(points.shape, np.float32)
    for f in range(faces.shape[0]):
        if not keep[f]:
            continue
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, az = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2]
        bx, by, bz = points[k, 0] - points[i, 0], points[k, 1] - points[i, 1], points[k, 2] - points[i, 2]
        nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        for v in (i, j, k):
            normals[v, 0] += nx
            normals[v, 1] += ny
            normals[v, 2] += nz
    return normals


@nb.njit(cache=True, fastmath=True)
def inflate(points, normals, amount):
    """Move each point by amount (N,) along its normal (any length): (N, 3) float32."""
    moved = points.copy()
    for n in range(points.shape[0]):
        if amount[n] == 0:
            continue
        x, y, z = normals[n, 0], normals[n, 1], normals[n, 2]
        factor = amount[n] / (math.sqrt(x * x + y * y + z * z) + 1e-12)
        moved[n, 0] += factor * x
        moved[n, 1] += factor * y
        moved[n, 2] += factor * z
    return moved


@nb.njit(cache=True, fastmath=True)
def rasterise(screen, faces, keep, part, clip, rest, height, width):
    """Which triangle each pixel shows.

    screen (N, 3) from `project`; keep (F,) bool; part (F,) numbers the mesh's parts. clip (parts, 4) float32
    cuts an open shell along exact lines: of part p only rest points with clip[p, 0] < z < clip[p, 1], y > clip[p, 2]
    and |x| < clip[p, 3] are drawn; clip[p, 0] = -inf leaves the part uncut. Returns face (height, width) int32 (EMPTY
    where none), the barycentric weights of the triangle's second and third corner (height, width, 2) and the
    depth (height, width), float32. Of the cut parts, which are open surfaces, both sides
    are drawn, of the others the outer one.
    """
    face = np.full((height, width), EMPTY, np.int32)
    bary = np.zeros((height, width, 2), np.float32)
    depth = np.full((height, width), np.float32(1e30), np.float32)
    for f in range(faces.shape[0]):
        if not keep[f]:
            continue
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        x0, y0, z0 = screen[i, 0], screen[i, 1], screen[i, 2]
        x1, y1, z1 = screen[j, 0], screen[j, 1], screen[j, 2]
        x2, y2, z2 = screen[k, 0], screen[k, 1], screen[k, 2]
        first_x = max(int(math.ceil(min(x0, x1, x2) - 0.5)), 0)
        last_x = min(int(math.floor(max(x0, x1, x2) - 0.5)), width - 1)
        first_y = max(int(math.ceil(min(y0, y1, y2) - 0.5)), 0)
        last_y = min(int(math.floor(max(y0, y1, y2) - 0.5)), height - 1)
        if first_x > last_x or first_y > last_y:
            continue
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        p = part[f]
        cut = clip[p, 0] > -1e9
        if abs(area) < 1e-12 or (area > 0 and not cut):
            continue
        for y in range(first_y, last_y + 1):
            for x in range(first_x, last_x + 1):
                px, py = np.float32(x + 0.5), np.float32(y + 0.5)
                w1 = ((px - x0) * (y2 - y0) - (x2 - x0) * (py - y0)) / area
                w2 = ((x1 - x0) * (py - y0) - (px - x0) * (y1 - y0)) / area
                w0 = 1 - w1 - w2
                if w0 < 0 or w1 < 0 or w2 < 0:
                    continue
                z = w0 * z0 + w1 * z1 + w2 * z2
                if z >= depth[y, x]:
                    continue
                if cut:
                    rest_x = w0 * rest[i, 0] + w1 * rest[j, 0] + w2 * rest[k, 0]
                    rest_y = w0 * rest[i, 1] + w1 * rest[j, 1] + w2 * rest[k, 1]
                    rest_z = w0 * rest[i, 2] + w1 * rest[j, 2] + w2 * rest[k, 2]
                    outside = rest_z <= clip[p, 0] or rest_z >= clip[p, 1] or rest_y <= clip[p, 2]
                    if outside or abs(rest_x) >= clip[p, 3]:
                        continue
                depth[y, x] = z
                face[y, x] = f
                bary[y, x, 0] = w1
                bary[y, x, 1] = w2
    return face, bary, depth


@nb.njit(cache=True, fastmath=True)
def interpolate(values, faces, face, bary):
    """Per-vertex values (N, 3) at every pixel: (height, width, 3) float32, zero on the background."""
    height, width = face.shape
    out = np.zeros((height, width, 3), np.float32)
    for y in range(height):
        for x in range(width):
            f = face[y, x]
            if f == EMPTY:
                continue
            w1, w2 = bary[y, x, 0], bary[y, x, 1]
            for c in range(3):
                out[y, x, c] = (
                    (1 - w1 - w2) * values[faces[f, 0], c] + w1 * values[faces[f, 1], c] + w2 * values[faces[f, 2], c]
                )
    return out


@nb.njit(cache=True, fastmath=True)
def correspondence(
    target_face,
    target_bary,
    faces,
    rest,
    source_screen,
    source_face,
    source_rest,
    source_depth,
    rest_slack,
    depth_slack,
):
    """Where each target cell's surface point lies in the source picture, and whether it can be seen there.

    target_face (h, w), target_bary (h, w, 2): the target rasterised at cell resolution. source_screen (N, 3):
    the source's projected vertices at the resolution of source_face (H, W), source_rest (H, W, 3),
    source_depth (H, W). Returns flow (h, w, 2) float32, absolute sampling positions (x, y) in grid_sample's
    coordinates with align_corners=False (-1 … 1 across the picture, clipped to ±2), zero on the background,
    and visibility (h, w) uint8: 0 background, 1 hidden in (or outside) the source, 2 visible. A point is
    visible when the source pixel it falls on shows nearly the same rest position at nearly the same depth.
    """
    h, w = target_face.shape
    height, width = source_face.shape
    flow = np.zeros((h, w, 2), np.float32)
    visible = np.zeros((h, w), np.uint8)
    for y in range(h):
        for x in range(w):
            f = target_face[y, x]
            if f == EMPTY:
                continue
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            w1, w2 = target_bary[y, x, 0], target_bary[y, x, 1]
            w0 = 1 - w1 - w2
            px = w0 * source_screen[i, 0] + w1 * source_screen[j, 0] + w2 * source_screen[k, 0]
            py = w0 * source_screen[i, 1] + w1 * source_screen[j, 1] + w2 * source_screen[k, 1]
            pz = w0 * source_screen[i, 2] + w1 * source_screen[j, 2] + w2 * source_screen[k, 2]
            flow[y, x, 0] = min(max(px / width * 2 - 1, -2), 2)
            flow[y, x, 1] = min(max(py / height * 2 - 1, -2), 2)
            visible[y, x] = 1
            column, row = int(math.floor(px)), int(math.floor(py))
            if column < 0 or row < 0 or column >= width or row >= height or source_face[row, column] == EMPTY:
                continue
            distance = 0.0
            for c in range(3):
                point = w0 * rest[i, c] + w1 * rest[j, c] + w2 * rest[k, c]
                distance += abs(point - source_rest[row, column, c])
            if distance < rest_slack and abs(pz - source_depth[row, column]) < depth_slack:
                visible[y, x] = 2
    return flow, visible


@nb.njit(cache=True, fastmath=True)
def joint_visibility(joints, screen, rest_joints, radius, face, rest):
    """COCO-style joints of one picture: (J, 3) of x, y in pixels of `face` and 0 outside, 1 hidden, 2 seen.

    screen (J, 3) projected joints, rest_joints (J, 3), radius (J,): a joint is visible when the surface seen
    at it lies within `radius` of the joint in rest coordinates (its own limb), or when nothing covers it.
    """
    height, width = face.shape
    for n in range(screen.shape[0]):
        x, y = screen[n, 0], screen[n, 1]
        joints[n, 0], joints[n, 1] = x, y
        if x < 0 or y < 0 or x >= width or y >= height:
            joints[n, 2] = 0
            continue
        joints[n, 2] = 2
        row, column = int(y), int(x)
        if face[row, column] == EMPTY:
            continue
        squared = 0.0
        for c in range(3):
            squared += (rest[row, column, c] - rest_joints[n, c]) ** 2
        if squared > radius[n] ** 2:
            joints[n, 2] = 1
    return joints
