"""Measuring: interleaved timings, peak memory, call counts, and the machine they were taken on."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

SHORTEST = 0.01
"""Seconds a sample lasts at least: faster functions are called several times a sample."""


def largest_resident() -> int:
    """Bytes of the largest resident set that this process has had."""
    import resource  # not on Windows

    return (1 if sys.platform == "darwin" else 1024) * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def synchronise(device: torch.device) -> None:
    """Wait for what `device` still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Timings:
    """Seconds a call of every side, one value a round: {side: [...]}; the sides of a round ran after each other."""

    samples: dict[str, list[float]]

    def median(self, side: str) -> float:
        """Median seconds a call."""
        return statistics.median(self.samples[side])

    def ratio(self, over: str, under: str) -> tuple[float, tuple[float, float]]:
        """Median of the rounds' ratios, and their quartiles (the extremes, of fewer than four rounds)."""
        ratios = [a / b for a, b in zip(self.samples[over], self.samples[under], strict=True)]
        return statistics.median(ratios), spread(ratios)

    def milliseconds(self) -> dict[str, float]:
        """Medians of all sides, for the record."""
        return {side: 1e3 * self.median(side) for side in self.samples}


def spread(values: list[float]) -> tuple[float, float]:
    """Lower and upper quartile, or the extremes of fewer than four values."""
    if len(values) < 4:
        return min(values), max(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


@dataclass(frozen=True)
class Effort:
    """How long a comparison goes on.

    Attributes:
        seconds: after which no new round begins.
        rounds, least: most and fewest rounds, whatever the seconds.
        clock: of the samples, in seconds. `time.process_time` counts the processors' work for this process, so that
            with one thread other processes do not count.
    """

    seconds: float = 6.0
    rounds: int = 15
    least: int = 3
    clock: Callable[[], float] = time.perf_counter

    def compare(self, device: torch.device, sides: dict[str, Callable[[], object]]) -> Timings:
        """Time every side once a round, A B A B …, so that a busy machine slows all sides alike.

        The warm-up call of each side also tells how often to call it in a sample.
        """
        calls = {}
        for side, function in sides.items():
            function()
            calls[side] = max(1, round(SHORTEST / max(self._time(function, 1, device), 1e-7))) if self.least > 1 else 1
        samples: dict[str, list[float]] = {side: [] for side in sides}
        begun = time.perf_counter()
        for done in range(self.rounds):
            if done >= self.least and time.perf_counter() - begun > self.seconds:
                break
            for side, function in sides.items():
                samples[side].append(self._time(function, calls[side], device))
        return Timings(samples)

    def _time(self, function: Callable[[], object], calls: int, device: torch.device) -> float:
        """Seconds a call."""
        synchronise(device)
        begun = self.clock()
        for _ in range(calls):
            function()
        synchronise(device)
        return (self.clock() - begun) / calls


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """Largest sum of memory that one call holds at a time beyond what was held before it, its result included."""
    if device.type == "cuda":
        synchronise(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before
    with (
        _quiet(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile,
    ):
        kept = function()
    del kept
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@contextmanager
def _quiet() -> Iterator[None]:
    """The profiler's library writes to the standard error of the process; not into the table's progress."""
    kept, silence = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(silence)


@contextmanager
def counted(modules: list[nn.Module]) -> Iterator[list[int]]:
    """While it is open, every call of one of the modules appends the batch size of its first argument."""
    batches: list[int] = []
    hooks = [m.register_forward_pre_hook(lambda _, given: batches.append(len(given[0]))) for m in modules]
    try:
        yield batches
    finally:
        for hook in hooks:
            hook.remove()


def machine(device: torch.device) -> dict[str, object]:
    """What the numbers were measured on."""
    facts: dict[str, object] = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ram_gib": _ram(),
        "load": _load(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(device),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _load() -> float | None:
    """Processes that ran or waited, on average over the last minute: above `cores` is a busy machine."""
    try:
        return round(os.getloadavg()[0], 1)
    except (AttributeError, OSError):  # not everywhere
        return None


def _ram() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # not everywhere
        return None
