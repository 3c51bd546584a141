"""Signals inside this process: who hears of them, in which order, and who comes too late."""

from __future__ import annotations

import os
import signal

import pytest

from training.engine.signals import Interrupted, Interrupts, held

pytestmark = pytest.mark.processes

SIGNALS = pytest.mark.parametrize("number", Interrupts.SIGNALS)


@pytest.fixture(autouse=True)
def handlers():
    """Every test leaves the signals' handlers as they were."""
    before = [signal.getsignal(number) for number in Interrupts.SIGNALS]
    yield
    assert [signal.getsignal(number) for number in Interrupts.SIGNALS] == before


@SIGNALS
def test_a_signal_is_noted_or_raised_where_it_comes(number):
    with Interrupts() as interrupts:
        signal.raise_signal(number)
        assert interrupts.number == number
        interrupts.number = 0  # dealt with
    with pytest.raises(Interrupted, match="run the same command again") as raised, Interrupts(at_once=True):
        signal.raise_signal(number)
    assert raised.value.number == number


@SIGNALS
def test_what_came_before_is_raised_at_once(number):
    with Interrupts() as first:
        signal.raise_signal(number)
        with pytest.raises(Interrupted) as raised, Interrupts(at_once=True):
            pytest.fail("it goes on")
        assert raised.value.number == number
        with Interrupts() as second:
            assert second.number == number
            first.number = second.number = 0  # dealt with


@SIGNALS
def test_what_came_too_late_is_handed_on(number):
    with pytest.raises(Interrupted) as raised, Interrupts(at_once=True), Interrupts():
        signal.raise_signal(number)
    assert raised.value.number == number


@SIGNALS
@pytest.mark.parametrize("second", Interrupts.SIGNALS)
def test_a_second_signal_goes_to_who_was_there_before(number, second):
    def twice():
        signal.raise_signal(number)
        signal.raise_signal(second)

    with pytest.raises(Interrupted) as raised, Interrupts(at_once=True), Interrupts():
        twice()
    assert raised.value.number == second


def test_a_forked_process_starts_with_signals_held():
    """A loader's worker, until it has said that it leaves them to the trainer."""
    read, write = os.pipe()
    with held():
        child = os.fork()
        if child == 0:
            os.read(read, 1)  # by now the signal is there
            for number in Interrupts.SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            os._exit(7)
    os.kill(child, signal.SIGTERM)
    os.write(write, b".")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
