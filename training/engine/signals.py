"""Ctrl-C and a friendly kill end a run cleanly, from its first moment on; between two steps, with its state saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(Exception):
    """A stage ended before its last step; its state is saved, and the same command goes on.

    Attributes:
        number: of the signal that ended it, 0 for a time limit.
    """

    def __init__(self, message: str, number: int = 0):
        super().__init__(message)
        self.number = number


class Interrupted(KeyboardInterrupt):
    """A signal came where there is no step to finish; what was saved before is whole.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__("Interrupted; run the same command again to go on from what is saved.")
        self.number = number


class Interrupts:
    """While it is open, a first SIGINT or SIGTERM is noted in `number`; a second one acts as without it.

    One that is open inside another takes over what that one has noted, and hands on what came too late for it.

    Args:
        at_once: raise `Interrupted` where the signal comes, instead of leaving it to whoever reads `number`.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, at_once: bool = False) -> None:
        self.at_once, self.number = at_once, 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python catches no signals
            with held():
                self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
            outer = [getattr(handler, "__self__", None) for handler in self._before.values()]
            noted = next((each.number for each in outer if isinstance(each, Interrupts)), 0)
            self.number = noted
            if noted and self.at_once:
                self._restore()
                raise Interrupted(noted)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        self._restore()
        if kind is None and self.number and self._before:  # it came too late for whoever reads `number`
            signal.raise_signal(self.number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _note(self, number: int, _: object = None) -> None:
        if self.number:
            self._restore()
            signal.raise_signal(number)
            return
        self.number = number
        if self.at_once:
            raise Interrupted(number)


@contextmanager
def held() -> Iterator[None]:
    """Signals that come meanwhile are delivered at its end; a process that is forked in it inherits that they are
    held, and has time to say what it does about them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, Interrupts.SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
