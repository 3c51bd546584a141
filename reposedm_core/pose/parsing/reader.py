"""POSE_KEYPOINT data and files to `Pose`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ..keypoints import Pose
from ..limits import check_people, no_tick
from .files import read_file, read_text
from .formats import read_frames
from .sequence import Frame, Note, Sequence

_log = logging.getLogger("reposedm_core").warning


def load_pose_file(path: str | PathLike, threshold: float = 0.1, **reading: Any) -> list[Pose]:
    """Read a file, or a folder of a file per frame: a Pose per frame; see `parse_keypoints` for `reading`.

    Files are JSON or JSON lines in UTF-8, UTF-16 or Latin-1, packed with gzip or not. Those of a folder are taken in
    the order of the numbers in their names.

    Raises:
        InputError: it cannot be read, or see `parse_keypoints`.
    """
    return parse_keypoints(read_file(path), Path(path).name, threshold, **reading)


def load_pose_text(text: str, source: str = "pose", threshold: float = 0.1, **reading: Any) -> list[Pose]:
    """Read JSON text or JSON lines, a Pose per frame; see `parse_keypoints`. InputError if it is neither."""
    return parse_keypoints(read_text(text, source), source, threshold, **reading)


def parse_keypoints(
    data: Any,
    source: str = "pose",
    threshold: float = 0.1,
    allow_nobody: bool = False,
    *,
    picture: tuple[int, int] | None = None,
    height: int = 0,
    width: int = 0,
    note: Note | None = None,
    tick: Callable[[], object] = no_tick,
) -> list[Pose]:
    """Read poses in any of `formats.FORMATS`, with bodies in any of the orders of `bodies.BODIES`.

    Rules, where the formats leave something open:

    - A point is absent if its score is below `threshold`, if it is None or not finite, or if it lies exactly
      on (0, 0) or (-1, -1), which are how formats write "not found". Scores above 1 become 1.
    - A part of a person is in 0..1 coordinates if most of its points lie within 1.5 of the origin on both axes (or
      within 4, where others of its frame are in 0..1), and is then scaled by the canvas. Editors mix parts and people.
    - A canvas is `canvas_width` and `canvas_height`, `image_width` and `image_height`, `width` and `height`, or
      `image_size`. A frame that tells none has that of the first frame that does. Where none does, one is guessed for
      the whole sequence (`canvas.guess_canvas`), which `Pose.guessed` tells; of 0..1 coordinates that is an error.
    - A part that cannot be read is left out, a body that cannot be read leaves out the person; `note` tells of it.
    - People without a body joint are left out. A frame without people stays, with none, so that frames keep their
      numbers, as long as one frame has somebody.

    Args:
        data: a frame, a list of frames, JSON text, an array of joints (K, 2 or 3) or (P, K, 2 or 3) of one of the
            orders, a `Pose` or a list of them (returned as they are, but for `picture`).
        source: what to call the input in messages.
        threshold: lowest score of a point that is kept; 0 keeps all that have a score.
        allow_nobody: frames may all be empty; otherwise that is an error.
        picture: height and width of the picture that the poses belong to; its size is the canvas where that would be a
            guess.
        height, width: of the canvas in pixels, in place of what the data tell; 0 leaves it to them.
        note: called with a text for each kind of thing that was left out, and for a guess. By default they are logged.
        tick: called for every frame; it may raise, to stop.

    Returns:
        One `Pose` per frame.

    Raises:
        InputError: no JSON, no pose, nobody in it, an animal pose, a wrong number of points, a canvas without
            area or of more than 32768 pixels a side, too many people.
    """
    if isinstance(data, (str, bytes, bytearray)):
        data = read_text(data if isinstance(data, str) else bytes(data).decode("utf-8", "replace"), source)
    if isinstance(data, (np.ndarray, torch.Tensor)):
        people = data[None] if data.ndim == 2 else data
        if people.ndim != 3:
            raise InputError(f"{source}: joints of shape {tuple(data.shape)} are no pose: (people, points, 3) is.")
        data = {"people": [{"pose_keypoints_2d": person} for person in people]}
    frames = read_frames(data, source)
    sequence = Sequence(source, threshold, picture, (height, width), note or _log, tick)
    parsed = [frame if isinstance(frame, Pose) else sequence.frame(i, frame) for i, frame in enumerate(frames)]
    raw = [frame for frame in parsed if isinstance(frame, Frame)]
    sequence.split_bodies(raw)
    sequence.find_canvases(raw)
    poses = [sequence.pose(frame) for frame in parsed]
    if not any(len(pose.joints) for pose in poses):
        sequence.refuse(frames)
        if not (poses and allow_nobody):
            raise InputError(f"{source}: there is nobody in this pose: give one in which a body was detected.")
    check_people(source, [len(pose.joints) for pose in poses])
    sequence.tell()
    return poses


def one_pose(pose: Any, name: str = "pose", picture: tuple[int, int] | None = None) -> Pose:
    """The one person that counts: the first who has a body joint, in the first frame with such a person.

    Args:
        pose: a `Pose`, POSE_KEYPOINT data (see `parse_keypoints`), or the path of a JSON file.
        name: what to call it in messages.
        picture: height and width of the picture that the pose belongs to, see `parse_keypoints`.

    Returns:
        The frame with that person alone.

    Raises:
        InputError: nobody is in it.
    """
    if isinstance(pose, (str, PathLike)):
        frames = load_pose_file(pose, picture=picture)
    else:
        frames = parse_keypoints(pose, name, allow_nobody=isinstance(pose, Pose), picture=picture)
    for frame in frames:
        seen = (frame.joints[..., 2] > 0).any(1)
        if seen.any():
            return frame.select(int(seen.argmax()))
    raise InputError(f"{name}: nobody is in it (no body joint was found); give a pose with at least one person.")
