"""Ctrl-C and a friendly kill end a run between two steps, with its state saved."""

from __future__ import annotations

import signal
import threading


class Stopped(Exception):
    """A stage ended before its last step; its state is saved, and the same command goes on.

    Attributes:
        number: of the signal that ended it, 0 for a time limit.
    """

    def __init__(self, message: str, number: int = 0):
        super().__init__(message)
        self.number = number


class Interrupts:
    """While it is open, a first SIGINT or SIGTERM is only noted in `number`; a second one acts as ever."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():      # elsewhere Python catches no signals
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _) -> None:
        self.number = number
        for each, handler in self._before.items():
            signal.signal(each, handler)
