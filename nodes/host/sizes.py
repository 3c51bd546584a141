"""The widgets of a result's size, and what they ask for."""

from __future__ import annotations

import logging

from comfy_api.latest import io
from torch import Tensor

from ...reposedm_core.full_size import MODEL, SOURCE, View, view
from ...reposedm_core.pose.limits import check_pixels
from .images import frames_of
from .poses import show_text
from .sockets import LoadedAligner

HEIGHT = "height"
"""The size of results that the widget output_height says, beside those that have a name."""


def size_inputs() -> list:
    """The widgets of a result's size."""
    return [
        io.Int.Input(
            side,
            default=0,
            min=0,
            max=4096,
            step=8,
            tooltip=f"{side.capitalize()} of the result in pixels, divisible by 8, or by 16 where the model's "
            "cells are that large; 0 is what the model was trained at, the only size at which it "
            "was measured.",
        )
        for side in ("width", "height")
    ]


def output_inputs(choices: tuple[str, ...] = (MODEL, SOURCE, HEIGHT)) -> list:
    """The widgets of the size at which pictures and masks come out."""
    model = "model is width and height above; " if MODEL in choices else ""
    return [
        io.Combo.Input(
            "output_size",
            options=list(choices),
            default=choices[0],
            optional=True,
            tooltip=f"Size of the pictures and masks that come out: {model}source is the picture's own size; height "
            "is output_height. What is copied is then read from the picture at its own resolution.",
        ),
        io.Int.Input(
            "output_height",
            default=1024,
            min=16,
            max=8192,
            step=8,
            optional=True,
            tooltip="With output_size = height: pixels from top to bottom; the width follows, divisible by 8.",
        ),
    ]


def untrained(node: type[io.ComfyNode], name: str, aligner: LoadedAligner, height: int, width: int) -> str:
    """What the node shows and the log says of a size that the model was not trained at; "" where it was."""
    trained = aligner.config.height, aligner.config.width
    if (height, width) == trained:
        return ""
    note = (
        f"Warning: this model was trained at {trained[1]} × {trained[0]} and is to work at {width} × {height}: expect "
        "noise and stick limbs. For larger pictures leave width and height 0 and set output_size."
    )
    logging.warning("%s: %s", name, note)
    show_text(node, note)
    return note


def view_of(output: str, height: int, picture: Tensor, frame: tuple[int, int], results: int) -> View | None:
    """What the widgets of `output_inputs` ask for of results that are put into an IMAGE; None is the networks' frame.

    Raises:
        InputError: the pictures are too many, or too large.
    """
    rows, columns = frames_of(picture)[0].shape[1:3]
    found = view(height if output == HEIGHT else output, (rows, columns), frame)
    if found is not None:
        check_pixels("output_size", results, *found.size)
    return found
