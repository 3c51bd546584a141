"""The one exception that a user's input can cause."""

from __future__ import annotations


class InputError(ValueError):
    """Bad user input: an unreadable file, a pose with nobody in it, a checkpoint of another kind.

    The message is written for the person who gave the input: what is wrong, which input, how to mend it.
    Nodes and command-line tools show it as it is, without a traceback.
    """
