"""The formats that poses come in. Each is read as frames of OpenPose: objects with `people`, and perhaps their size.

`FORMATS` is the table of them all; the help page of Load Pose has the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ...errors import InputError
from ..keypoints import Pose
from .canvas import inherited, tells_size_alone
from .points import plain

REMEDY = "give a pose as OpenPose, DWPose or SDPose write it: an object with a 'people' list"
_DEPTH = 6

# Keys of MediaPipe's landmarks, as Python, JavaScript and the Tasks API spell them.
_LANDMARKS = {
    "pose_keypoints_2d": ("pose_landmarks", "poseLandmarks"),
    "face_keypoints_2d": ("face_landmarks", "faceLandmarks"),
    "hand_left_keypoints_2d": ("left_hand_landmarks", "leftHandLandmarks"),
    "hand_right_keypoints_2d": ("right_hand_landmarks", "rightHandLandmarks"),
}


@dataclass(frozen=True)
class Format:
    """One of them.

    Attributes:
        name: as the help page has it.
        sign: how it is recognised, in words for that page.
        matches: whether an object or a list is of this format.
        read: what lies in it: frames, or things that are read as formats in turn.
    """

    name: str
    sign: str
    matches: Callable[[Any], bool]
    read: Callable[[Any], Iterable[Any]]


def read_frames(data: Any, source: str) -> list[dict | Pose]:
    """All frames in data of any of `FORMATS`, nested lists of them too; an empty object for an empty frame.

    Raises:
        InputError: something that is no pose, by the number of the frame that it would be.
    """
    frames: list[dict | Pose] = []
    if data is None:
        raise InputError(f"{source}: this is no pose: {REMEDY}.")
    _collect(data, source, frames, 0)
    return frames


def _collect(data: Any, source: str, frames: list[dict | Pose], depth: int) -> None:
    data = plain(data)
    if isinstance(data, Pose):
        frames.append(data)
        return
    if depth and (data is None or data == [] or (isinstance(data, dict) and tells_size_alone(data))):
        frames.append(data or {})
        return
    if depth > _DEPTH or not isinstance(data, (dict, list)):
        raise InputError(f"{_at(source, frames, depth)}: this is no pose: {REMEDY}.")
    found = next((each for each in FORMATS if each.matches(data)), None)
    if found is OPENPOSE and isinstance(data, dict):
        frames.append(data)
    elif found is not None:
        for inner in found.read(data):
            _collect(
                inherited(inner, data) if isinstance(inner, dict) and isinstance(data, dict) else inner,
                source,
                frames,
                depth + 1,
            )
    elif isinstance(data, list):
        for inner in data:
            _collect(inner, source, frames, depth + 1)
    elif data:
        raise InputError(f"{_at(source, frames, depth)}: this is no pose, its JSON has no 'people' list: {REMEDY}.")
    else:
        frames.append({})


def _at(source: str, frames: list, depth: int) -> str:
    return f"{source}: frame {len(frames)}" if depth else source


def _has(*keys: str) -> Callable[[Any], bool]:
    return lambda data: isinstance(data, dict) and any(key in data for key in keys)


def _people(data: Any) -> bool:
    """A list of objects that are a person each, as estimators write them."""
    return (
        isinstance(data, list)
        and bool(data)
        and all(
            isinstance(each, dict)
            and isinstance(plain(each.get("keypoints")), list)
            and not any(key in each for key in ("people", "instances", "width", "canvas_width"))
            for each in data
        )
    )


def _by_image(data: Any) -> bool:
    return _people(data) and all("image_id" in each for each in data)


def _read_by_image(data: list[dict]) -> Iterable[dict]:
    images: dict[Any, list[dict]] = {}
    for person in data:
        images.setdefault(repr(person["image_id"]), []).append(person)
    return [{"people": people} for people in images.values()]


def _by_file(data: Any) -> bool:
    return (
        isinstance(data, dict)
        and bool(data)
        and all(_has("people", "bodies")(each) or _people(each) for each in data.values())
    )


def _listed(value: Any) -> list:
    """What a list or an object holds; anything else by itself, which then is no pose."""
    value = plain(value)
    return (
        []
        if value is None
        else list(value.values())
        if isinstance(value, dict)
        else (value if isinstance(value, list) else [value])
    )


def _several(points: Any) -> bool:
    """Lists of points of several people, not one person's."""
    for _ in range(2):
        points = plain(points)
        points = points[0] if isinstance(points, list) and points else None
    return isinstance(plain(points), (list, dict))


def _read_editor(data: dict) -> Iterable[dict]:
    keypoints = data["keypoints"]
    people = [{"keypoints": person} for person in plain(keypoints)] if _several(keypoints) else [data]
    return [{"people": people}]


def _read_bodies(data: dict) -> Iterable[dict]:
    return [
        {
            "people": [
                {**body, "keypoints": body.get("joints")} if isinstance(body, dict) else body
                for body in _listed(data["bodies"])
            ]
        }
    ]


def _read_instances(data: dict) -> Iterable[Any]:
    """A frame of instances, or what has frames of them in it."""
    inner = plain(next(data[key] for key in ("instances", "instance_info", "predictions") if key in data))
    return [{"people": inner or []}] if not inner or _people(inner) else _listed(inner)


def _read_landmarks(data: dict) -> Iterable[dict]:
    parts = {part: plain(next((data[key] for key in keys if key in data), None)) for part, keys in _LANDMARKS.items()}
    parts = {part: value.get("landmark") if isinstance(value, dict) else value for part, value in parts.items()}
    bodies = parts["pose_keypoints_2d"]
    if _several(bodies):  # only the body of one person comes with hands and face
        return [{"people": [{"pose_keypoints_2d": body} for body in bodies]}]
    return [{"people": [parts]}]


OPENPOSE = Format(
    "OpenPose, DWPose, SDPose, and every POSE_KEYPOINT",
    "an object with `people`",
    _has("people", "animals"),
    lambda data: [data],
)
FORMATS = (
    OPENPOSE,
    Format("frames", "an object with `frames`, a list", _has("frames"), lambda data: _listed(data["frames"])),
    Format(
        "AlphaPose, a list",
        "a list of objects with `image_id` and `keypoints`; a frame for each image",
        _by_image,
        _read_by_image,
    ),
    Format("AlphaPose, bodies", "an object with `bodies`, each with `joints`", _has("bodies"), _read_bodies),
    Format(
        "AlphaPose, by file",
        "an object whose keys are names of pictures, each with `people`, `bodies` or a list of people",
        _by_file,
        lambda data: data.values(),
    ),
    Format(
        "mmpose",
        "an object with `instances`, `instance_info` or `predictions`, or a list of people with "
        "`keypoints` and `keypoint_scores`",
        lambda data: _has("instances", "instance_info", "predictions")(data) or _people(data),
        lambda data: [{"people": data}] if isinstance(data, list) else _read_instances(data),
    ),
    Format(
        "MediaPipe",
        "an object with `pose_landmarks`, perhaps `left_hand_landmarks` and `right_hand_landmarks`",
        _has(*_LANDMARKS["pose_keypoints_2d"]),
        _read_landmarks,
    ),
    Format(
        "openpose-editor",
        "an object with `keypoints`, the points of one person or lists of them",
        _has("keypoints"),
        _read_editor,
    ),
)
"""All formats, in the order in which they are tried. Files of any of them may be JSON or JSON lines."""
