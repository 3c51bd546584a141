"""Where files lie: checkpoints, the shipped examples, and poses in ComfyUI's input folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import folder_paths

from ...reposedm_core import InputError
from ...reposedm_core.errors import quoted
from ...reposedm_core.files import reason
from ...reposedm_core.garments import SHIPPED_PARSER
from ...reposedm_core.networks import SHIPPED
from ...reposedm_core.pose import is_pose_file
from ...reposedm_core.pose import pose_files as files_of_poses

MODELS = "reposedm"
"""Name of the model folder: models/reposedm, and the weights that come with the pack."""

EXAMPLES = Path(__file__).parent.parent.parent / "workflows" / "examples"


def register_folders() -> None:
    """Make ComfyUI search models/reposedm, then the shipped weights, for .safetensors files."""
    folder_paths.add_model_folder_path(MODELS, os.path.join(folder_paths.models_dir, MODELS), is_default=True)
    folder_paths.add_model_folder_path(MODELS, str(SHIPPED.parent))
    folder_paths.folder_names_and_paths[MODELS][1].add(".safetensors")


def checkpoint_names(*folders: str) -> list[str]:
    """Files of these model folders, or of models/reposedm with the shipped ones; not the garment parser, which is no
    model to choose."""
    names = [name for folder in folders or (MODELS,) for name in folder_paths.get_filename_list(folder)]
    return [name for name in names if name != SHIPPED_PARSER.name]


def checkpoint_path(name: str, *folders: str) -> Path:
    """Path of a file in the first of these model folders (or in models/reposedm) that lists it.

    Raises:
        InputError: they do not list it; a path that leads out of them is never in the list.
    """
    for folder in folders or (MODELS,):
        if name in folder_paths.get_filename_list(folder):
            path = folder_paths.get_full_path(folder, name)
            if path is None:
                raise InputError(
                    f"checkpoint: {quoted(name)} is a link to a file that is gone; put it back, or "
                    "choose another of the list."
                )
            return Path(path)
    places = " or ".join(f"models/{folder}" for folder in folders or (MODELS,))
    raise InputError(
        f"checkpoint: there is no file {quoted(name)} in {places}; put it there, press R to refresh, and "
        "choose it from the list."
    )


def last_change(path: Path, pattern: str = "*") -> int:
    """When a file, or one of those of a folder that fit the pattern, last changed; 0 for what is gone."""
    times = [0]
    for file in (path, *(path.glob(pattern) if path.is_dir() else ())):
        with contextlib.suppress(OSError):  # deleted just now, or a link to nothing: who reads it says so
            times.append(file.stat().st_mtime_ns)
    return max(times)


def pose_files() -> list[str]:
    """Pose files in ComfyUI's input folder and below it, by name; folders that hold two or more end in a slash.

    Linked folders are part of it.
    """
    root, found, seen = folder_paths.get_input_directory(), [], set()
    for folder, inner, files in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen:  # a link to a folder that this one lies in would never end
            inner.clear()
            continue
        seen.add(os.path.realpath(folder))
        names = [name for name in files if is_pose_file(name) and os.path.isfile(os.path.join(folder, name))]
        place = Path(folder).relative_to(root)
        found += [(place / name).as_posix() for name in names]
        if len(names) > 1 and place.name:
            found.append(f"{place.as_posix()}/")
    return sorted(found)


def pose_path(name: str) -> Path:
    """Path of a pose file, or of a folder of them, in the input folder.

    Raises:
        InputError: there is none of that name, or the name leads out of the folder.
    """
    if name not in pose_files():
        raise InputError(
            f"file: there is no pose file {quoted(name)} in ComfyUI's input folder; copy the JSON file "
            "there and choose it from the list, or paste its text."
        )
    return Path(folder_paths.get_input_directory()) / name


def pose_state(name: str) -> bytes:
    """What changes when a pose file does, or one in a folder of them.

    Raises:
        InputError: see `pose_path`.
    """
    path = pose_path(name)
    if not path.is_dir():
        return path.read_bytes()
    return repr([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files_of_poses(path)]).encode()


def output_path(prefix: str, ending: str, width: int, height: int) -> tuple[Path, str]:
    """Path of a new file in ComfyUI's output folder, numbered as Save Image numbers, and its subfolder, made if needed.

    Raises:
        InputError: the prefix leads out of the folder, or is no name that a file can have.
    """
    root = os.path.realpath(folder_paths.get_output_directory())
    wanted = os.path.normpath(prefix)
    try:
        # before ComfyUI looks at it, which would log an error about images
        inside = os.path.commonpath([root, os.path.realpath(os.path.join(root, wanted))]) == root
        if inside and "\0" not in prefix and os.path.basename(wanted).strip("."):
            folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root, width, height)
        else:
            raise ValueError("it is no name below the output folder")
    except (OSError, ValueError) as error:
        raise InputError(
            f"filename_prefix: no file can be called {quoted(prefix)} ({reason(error)}); use a name such as poses/pose."
        ) from error
    return Path(folder) / f"{name}_{counter:05}_{ending}", Path(subfolder).as_posix().removeprefix(".")


def example_names() -> list[str]:
    """Names of the examples, by their name_pose.json; its other files lie beside it."""
    return sorted(path.name.removesuffix("_pose.json") for path in EXAMPLES.glob("*_pose.json"))


def problem(resolve: Callable[..., Path], name: str | None, *folders: str) -> bool | str:
    """For a node's `validate_inputs`: True if `resolve(name, *folders)` finds the file, else what is wrong.

    A name that another node supplies (None here) is resolved when the node runs.
    """
    if name is not None and not isinstance(name, str):
        return f"{quoted(name)} is no name of a file; choose one of the list."
    try:
        return name is None or bool(resolve(name, *folders))
    except InputError as error:
        return str(error).partition(": ")[2]  # ComfyUI puts the input's name in front itself
