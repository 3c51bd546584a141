"""POSE_KEYPOINT data, as ComfyUI nodes and OpenPose files exchange it, to `Pose` and back.

What is read: one frame (a dict) or a list of frames, as Python data or as JSON text, with `people` and,
if known, `canvas_width` and `canvas_height`. A person's parts are flat or nested lists or arrays of
x, y, score (or x, y); bodies have 18 (OpenPose), 25 (BODY_25) or 17 (COCO) points, faces 68 or 70, hands
21. What is written: pixels, 18/70/21/21 points, zeros for what is absent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from .keypoints import MAX_CANVAS, Pose, coco_to_openpose
from .skeleton import BODY25_TO_OPENPOSE

_BODY, _FACE, _LEFT_HAND, _RIGHT_HAND = "body", "face", "left hand", "right hand"
# Part -> its keys (old OpenPose files lack "_2d", COCO says "keypoints") and possible numbers of points.
_PARTS = {
    _BODY: (("pose_keypoints_2d", "pose_keypoints", "keypoints"), (18, 25, 17)),
    _FACE: (("face_keypoints_2d", "face_keypoints"), (70, 68)),
    _LEFT_HAND: (("hand_left_keypoints_2d", "hand_left_keypoints"), (21,)),
    _RIGHT_HAND: (("hand_right_keypoints_2d", "hand_right_keypoints"), (21,)),
}
_SIZES = {_BODY: 18, _FACE: 70, _LEFT_HAND: 21, _RIGHT_HAND: 21}
_NO_CANVAS = 1, 1
_REMEDY = "give a pose as OpenPose, DWPose or SDPose write it: an object with a 'people' list"


def load_pose_file(path: str | PathLike, threshold: float = 0.1) -> list[Pose]:
    """Read a JSON file, a Pose a frame; see `parse_keypoints`. InputError if it cannot be read."""
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(
            f"{path.name}: the file cannot be read ({error.strerror}): check its path."
        ) from error
    except ValueError as error:
        raise InputError(f"{path.name}: this is no text file: {_REMEDY}, saved as JSON.") from error
    return load_pose_text(text, path.name, threshold)


def load_pose_text(text: str, source: str = "pose", threshold: float = 0.1) -> list[Pose]:
    """Read JSON text, a Pose a frame; see `parse_keypoints`. InputError if it is no JSON."""
    try:
        data = json.loads(text.removeprefix("\ufeff"))
    except RecursionError as error:
        raise InputError(f"{source}: this JSON is nested too deeply to be a pose: {_REMEDY}.") from error
    except ValueError as error:
        raise InputError(f"{source}: this is no JSON ({error}): {_REMEDY}.") from error
    if isinstance(data, str):
        raise InputError(f"{source}: this JSON is a text, not a pose: {_REMEDY}.")
    return parse_keypoints(data, source, threshold)


def parse_keypoints(
    data: Any, source: str = "pose", threshold: float = 0.1, allow_nobody: bool = False
) -> list[Pose]:
    """Read POSE_KEYPOINT data in any of its variants.

    Rules, where the variants leave something open:

    - A point is absent if its score is below `threshold`, if it is None or not finite, or if it lies exactly
      on (0, 0) or (-1, -1), which are how formats write "not found". Scores above 1 become 1.
    - A part (all bodies of a frame, all faces, ...) is in 0..1 coordinates if most of its points lie within
      1.5 of the origin on both axes, and is then scaled by the canvas. Parts are judged on their own, because
      editors mix them.
    - A canvas size that is missing or 0 is inferred for pixel coordinates: the smallest that holds every
      point and leaves as much room to the right and below as there is to the left and above. With 0..1
      coordinates it cannot be inferred, which is an error.
    - People without a body joint are left out. A frame without people stays, with none, so that frames keep
      their numbers, as long as one frame has somebody; if its canvas is missing it has that of the first such frame.

    Args:
        data: a frame, a list of frames, JSON text, an array of joints (18 or 25 or 17, 2 or 3) or
            (P, 18 or 25 or 17, 2 or 3), a `Pose` or a list of them (returned as they are).
        source: what to call the input in messages.
        threshold: lowest score of a point that is kept; 0 keeps all that have a score.
        allow_nobody: frames may all be empty; otherwise that is an error.

    Returns:
        One `Pose` a frame.

    Raises:
        InputError: no JSON, no pose, nobody in it, an animal pose, a wrong number of points, a canvas without
            area or of more than 32768 pixels a side.
    """
    if isinstance(data, (str, bytes, bytearray)):
        text = data if isinstance(data, str) else bytes(data).decode("utf-8", "replace")
        return load_pose_text(text, source, threshold)
    if isinstance(data, (np.ndarray, torch.Tensor)):
        people = data[None] if data.ndim == 2 else data
        if people.ndim != 3:
            raise InputError(
                f"{source}: joints of shape {tuple(data.shape)} are no pose: (people, points, 3) is."
            )
        data = {"people": [{"pose_keypoints_2d": person} for person in people]}
    poses = [
        frame if isinstance(frame, Pose) else _parse_frame(frame, source, threshold)
        for frame in _frames(data, source)
    ]
    # a frame without people and size has the canvas of the others
    size = next(((pose.height, pose.width) for pose in poses if len(pose.joints)), None)
    poses = [Pose(pose.joints, *size) if size and not len(pose.joints) and (pose.height, pose.width) == _NO_CANVAS
             else pose for pose in poses]
    if not poses or not (allow_nobody or any(len(pose.joints) for pose in poses)):
        raise InputError(f"{source}: there is nobody in this pose: give one in which a body was detected.")
    return poses


def one_pose(pose: Any, name: str = "pose") -> Pose:
    """The one person that counts: the first who has a body joint, in the first frame with such a person.

    Args:
        pose: a `Pose`, POSE_KEYPOINT data (see `parse_keypoints`), or the path of a JSON file.
        name: what to call it in messages.

    Returns:
        The frame with that person alone.

    Raises:
        InputError: nobody is in it.
    """
    if isinstance(pose, Pose):
        frames = [pose]
    else:
        frames = load_pose_file(pose) if isinstance(pose, (str, PathLike)) else parse_keypoints(pose, name)
    for frame in frames:
        seen = (frame.joints[..., 2] > 0).any(1)
        if seen.any():
            return frame.select(int(seen.argmax()))
    raise InputError(f"{name}: nobody is in it (no body joint was found); give a pose with at least one person.")


def to_keypoints(poses: Pose | Iterable[Pose]) -> list[dict[str, Any]]:
    """POSE_KEYPOINT frames in pixels, plain Python numbers, 18/70/21/21 points, zeros for what is absent.

    A point that lies exactly where formats write "not found" is moved by a hundredth of a pixel.
    """
    frames = []
    for pose in [poses] if isinstance(poses, Pose) else poses:
        parts = {
            "pose_keypoints_2d": pose.joints,
            "face_keypoints_2d": pose.face,
            "hand_left_keypoints_2d": pose.left_hand,
            "hand_right_keypoints_2d": pose.right_hand,
        }
        parts = {key: _off_nowhere(part) for key, part in parts.items()}
        people = [
            {key: part[person].reshape(-1).tolist() for key, part in parts.items()}
            for person in range(len(pose.joints))
        ]
        frames.append({"people": people, "canvas_height": int(pose.height), "canvas_width": int(pose.width)})
    return frames


def _off_nowhere(points: np.ndarray) -> np.ndarray:
    x, y, score = np.moveaxis(points, -1, 0)
    hit = (score > 0) & (x == y) & ((x == 0) | (x == -1))
    return points + hit[..., None] * np.array([0.01, 0, 0], np.float32) if hit.any() else points


def _frames(data: Any, source: str, depth: int = 0) -> list[Any]:
    """A frame or nested lists of frames, as one list."""
    if isinstance(data, (dict, Pose)):
        return [data]
    if not isinstance(data, (list, tuple)) or depth > 2:
        raise InputError(f"{source}: this is no pose: {_REMEDY}.")
    return [frame for item in data for frame in _frames(item, source, depth + 1)]


def _parse_frame(frame: dict, source: str, threshold: float) -> Pose:
    people = _plain(frame.get("people"))
    if frame.get("version") == "ap10k" or _plain(frame.get("animals")) or ("animals" in frame and not people):
        raise InputError(f"{source}: this is an animal pose: only people can be posed, {_REMEDY}.")
    if "people" not in frame:
        raise InputError(f"{source}: this JSON is no pose, it has no 'people' list: {_REMEDY}.")
    people = [] if people is None else people
    if not isinstance(people, list):
        raise InputError(f"{source}: 'people' is no list: {_REMEDY}.")
    parsed = []
    for number, person in enumerate(people):
        if person is None:
            continue
        if not isinstance(person, dict):
            raise InputError(f"{source}: person {number} has no 'pose_keypoints_2d' list: {_REMEDY}.")
        parts = {part: _parse_part(person, part, f"{source}: person {number}", threshold) for part in _PARTS}
        if parts[_BODY][:, 2].any():
            parsed.append(parts)
    stacked = {part: np.array([p[part] for p in parsed]).reshape(-1, _SIZES[part], 3) for part in _PARTS}
    height, width = _canvas(frame, stacked, source)
    for points in stacked.values():
        if _is_normalised(points):
            points[..., :2] *= (width, height)
    return Pose(stacked[_BODY], height, width, stacked[_FACE], stacked[_LEFT_HAND], stacked[_RIGHT_HAND])


def _parse_part(person: dict, part: str, source: str, threshold: float) -> np.ndarray:
    """One part of one person, (18, 70 or 21, 3) float64 in the file's own coordinates, absent points zero."""
    keys, counts = _PARTS[part]
    value = next((person[key] for key in keys if person.get(key) is not None), None)
    rows = _rows(value, part, counts, source)
    if not rows:
        return np.zeros((_SIZES[part], 3))
    points = np.array([row if len(row) == 3 else [*row, 1.0] for row in rows])
    x, y, score = points.T
    nowhere = ((x == 0) & (y == 0)) | ((x == -1) & (y == -1))
    # Beyond this a float32 picture position means nothing, and a product with the canvas could overflow.
    usable = (np.abs(points) < 1e9).all(-1) & ~nowhere & (score > 0) & (score >= threshold)
    points = np.where(usable[:, None], points, 0)
    points[:, 2] = np.minimum(points[:, 2], 1)
    if part == _BODY and len(points) == 17:
        return coco_to_openpose(points)
    if part == _BODY and len(points) == 25:
        return points[list(BODY25_TO_OPENPOSE)]
    return np.concatenate([points, np.zeros((_SIZES[part] - len(points), 3))])


def _rows(value: Any, part: str, counts: tuple[int, ...], source: str) -> list[list[float]]:
    """Flat or nested points as rows of 2 or 3 numbers (NaN where one is None); empty for an absent part."""
    value = _plain(value)
    if value is None or value == []:
        return []
    if not isinstance(value, list):
        raise InputError(f"{source} has a {part} that is no list of numbers: correct it.")
    value = [_plain(item) for item in value]
    size = next((len(item) for item in value if isinstance(item, list)), 0)
    if size:  # nested: a point a row, None for an absent one
        rows = [[None] * size if item is None else item for item in value]
    else:
        size = 3 if len(value) % 3 == 0 and len(value) // 3 in counts else 2
        rows = [value[i : i + size] for i in range(0, len(value), size)]
    complete = all(isinstance(row, list) and len(row) == size for row in rows)
    if len(rows) not in counts or size not in (2, 3) or not complete:
        wanted = " or ".join(str(count) for count in sorted(counts))
        raise InputError(
            f"{source} has a {part} of {len(value)} values, which is not {wanted} points of x, y, score: "
            f"only OpenPose and COCO people can be read, convert or remove this part."
        )
    try:
        return [[math.nan if number is None else float(number) for number in row] for row in rows]
    except OverflowError as error:
        raise InputError(f"{source} has a {part} with a number that is too large: correct it.") from error
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{source} has a {part} with something in it that is no number: correct it."
        ) from error


def _plain(value: Any) -> Any:
    """Arrays, tensors and tuples as lists."""
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _is_normalised(points: np.ndarray) -> bool:
    visible = points[points[..., 2] > 0]
    return bool(len(visible)) and float(np.median(np.abs(visible[:, :2]).max(1))) <= 1.5


def _canvas(frame: dict, parts: dict[str, np.ndarray], source: str) -> tuple[int, int]:
    """Height and width in pixels: the frame's own, else inferred from points in pixels."""
    sizes = [_plain(frame.get(f"canvas_{side}")) for side in ("height", "width")]
    if all(sizes):
        try:
            height, width = (round(float(size)) for size in sizes)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{source}: canvas_width and canvas_height must be numbers of pixels."
            ) from error
    else:
        visible = [points[points[..., 2] > 0] for points in parts.values()]
        if any(_is_normalised(points) for points in parts.values()):
            raise InputError(
                f"{source}: the coordinates are in 0..1 and the canvas size is missing: "
                "add canvas_width and canvas_height."
            )
        points = np.concatenate(visible)
        if not len(points):
            return _NO_CANVAS
        low, high = points[:, :2].min(0), points[:, :2].max(0)
        width, height = (max(1, math.ceil(side)) for side in high + np.maximum(low, 0))
    if not (0 < height <= MAX_CANVAS and 0 < width <= MAX_CANVAS):
        raise InputError(
            f"{source}: the canvas is {width}x{height}: 1 to {MAX_CANVAS} pixels a side are allowed."
        )
    return height, width
