"""Widgets that a link feeds hold what another node sent; here it is seen to be of the type that the schema says."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import operator
from typing import Any

from comfy_api.latest import io

from ...reposedm_core import InputError
from ...reposedm_core.errors import quoted, shortened


def checked(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """Make `execute` of a node look at its texts, choices and numbers first; returns the node.

    ComfyUI checks what is typed into a widget, NaN apart, and nothing that comes through a link of any type. What a
    choice may be is left to the node where its own `validate_inputs` sees to it, as to files.
    """
    run = node.execute.__func__
    signature, own = inspect.signature(run), inspect.signature(node.validate_inputs).parameters

    @functools.wraps(run)
    def execute(cls: type[io.ComfyNode], *values: Any, **others: Any) -> io.NodeOutput:
        given = signature.bind(cls, *values, **others).arguments
        for item in cls.define_schema().inputs:
            if item.id in given:
                check(item, given[item.id], chosen=item.id not in own)
        return run(cls, *values, **others)

    node.execute = classmethod(execute)
    return node


def check(item: io.Input, value: Any, chosen: bool) -> None:
    """Raise an `InputError` that names the input unless the value is a text, a choice, or a number in its range.

    `chosen`: a choice has to be one of those in the schema.
    """
    name = item.display_name or item.id
    if isinstance(item, (io.String.Input, io.Combo.Input)) and not isinstance(value, str):
        raise InputError(f"{name} = {quoted(value)}: must be a text, not a {type(value).__name__}.")
    if isinstance(item, io.Combo.Input) and chosen and value not in item.options:
        raise InputError(
            f"{name} = {quoted(value)}: must be one of {shortened(', '.join(map(str, item.options)), 400)}."
        )
    if isinstance(item, io.Int.Input):
        try:
            operator.index(value)
        except TypeError:
            raise InputError(
                f"{name} = {quoted(value)}: must be a whole number, not a {type(value).__name__}."
            ) from None
    if isinstance(item, io.Float.Input) and not (isinstance(value, numbers.Real) and math.isfinite(value)):
        raise InputError(f"{name} = {quoted(value)}: must be a finite number.")
    if isinstance(item, (io.Int.Input, io.Float.Input)):
        least, most = (bound if bound is not None else value for bound in (item.min, item.max))
        if not least <= value <= most:
            raise InputError(f"{name} = {quoted(value)}: must be {least} to {most}.")


def check_span(start: float, end: float) -> None:
    """Raise an `InputError` where a part of the sampling begins after its end."""
    if start > end:
        raise InputError(
            f"start_percent = {start:g} is behind end_percent = {end:g}: nothing lies between; swap them, or set "
            "them to 0 and 1 for the whole sampling."
        )
