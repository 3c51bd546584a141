"""What a configuration may say: each `__post_init__` of one is made of these checks.

They are given the dataclass and, by the names of its fields, what is allowed; the message names class and field. Upper
ends are far beyond every sensible network. They are there so that a damaged file asks for no months of building.
"""

from __future__ import annotations

from typing import Any

from .errors import InputError, quoted


def wrong(config: Any, name: str, what: str) -> InputError:
    """The error that says what is wrong with a field: "AlignerConfig.dim = 20: must be divisible by 8."."""
    return InputError(f"{type(config).__name__}.{name} = {quoted(getattr(config, name))}: {what}.")


def check_ranges(config: Any, **ranges: tuple[float, float]) -> None:
    """Raise an `InputError` unless each number, or each of a tuple's, is in its range; both ends are, NaN never is."""
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if not all(least <= item <= most for item in (value if isinstance(value, tuple) else (value,))):
            raise wrong(config, name, f"must be {least} to {most}")


def check_counts(config: Any, **counts: tuple[int, int]) -> None:
    """Raise an `InputError` unless each tuple has as many values as it may have, both ends included."""
    for name, (least, most) in counts.items():
        if not least <= len(getattr(config, name)) <= most:
            raise wrong(
                config, name, f"must be {least} values" if least == most else f"must be {least} to {most} values"
            )


def check_known(config: Any, **known: tuple[str, ...]) -> None:
    """Raise an `InputError` unless each text is one of those known."""
    for name, words in known.items():
        if getattr(config, name) not in words:
            raise wrong(config, name, f"known are {', '.join(words)}")


def check_multiples(config: Any, **factors: int) -> None:
    """Raise an `InputError` unless each whole number, or each of a tuple's, is a multiple of its factor."""
    for name, factor in factors.items():
        value = getattr(config, name)
        if any(item % factor for item in (value if isinstance(value, tuple) else (value,))):
            raise wrong(config, name, f"must be divisible by {factor}")
