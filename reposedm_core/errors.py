"""The one exception that a user's input can cause, and how its messages quote that input."""

from __future__ import annotations

import reprlib

QUOTED, MESSAGE = 100, 1200
"""Most characters of a quotation, and of a whole message."""

_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxstring, _repr.maxother, _repr.maxlong = 3, QUOTED, QUOTED, QUOTED
_repr.maxlist = _repr.maxtuple = _repr.maxdict = _repr.maxset = 12


class InputError(ValueError):
    """Bad user input: an unreadable file, a pose with nobody in it, a checkpoint of another kind.

    The message is written for the person who gave the input: what is wrong, which input, how to fix it.
    Nodes and command-line tools show it as it is, without a traceback. It can be shown anywhere: what it quotes may
    hold halves of characters, which are escaped, and may be long, whereupon the middle of the message is left out.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(shortened(message, MESSAGE))


def quoted(value: object, most: int = QUOTED) -> str:
    """`value` of any type as Python writes it, for a message: never longer than `most`, however large it is."""
    try:
        text = _repr.repr(value)
    except ValueError:  # a number of more digits than Python writes
        text = f"a {type(value).__name__}"
    return shortened(text, most)


def shortened(text: object, most: int = QUOTED) -> str:
    """A name or a reason for a message: what is longer than `most` loses its middle, halves of characters are escaped.

    Halves are lone surrogates, which no encoding takes: file names that are no UTF-8 and broken JSON text have them.
    """
    text = str(text)
    if len(text) > most:
        tail = most // 3
        text = f"{text[: most - tail - 1]}…{text[-tail:]}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
