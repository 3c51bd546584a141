"""What is seen of a stage while it trains: the progress line, the log, trackers, sample sheets, learning curves."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image
from tqdm import tqdm

from reposedm_core.files import write_bytes, write_picture


class Journal:
    """The record of one stage, `log`, which is kept in its state and goes on in the next run.

    Attributes:
        log: {"step", "examples", "seconds" of training, "history": an entry each `every` steps with the means
            since the last one, pictures per second and the share of time spent waiting for data, "validations": an
            entry each, "validation": the last}.
    """

    def __init__(
        self, name: str, steps: int, examples: int, log: dict, accelerator: Accelerator, out: Path, every: int
    ):
        self.name, self.steps, self.examples, self.log = name, steps, examples, log
        self.accelerator, self.out, self.every = accelerator, out, every
        start = log["step"]
        self.bar = tqdm(
            total=steps,
            initial=start,
            desc=name,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            disable=not accelerator.is_main_process,
        )
        self._began = self._mark = time.monotonic()
        self._reset()

    def _reset(self) -> None:
        self._values: dict[str, list[float]] = {}  # not every step gives every one
        self._count, self._waited, self._spent = 0, 0.0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around fetching the examples of a step: the time is counted as waiting for data."""
        self._mark = begun = time.monotonic()
        yield
        self._waited += time.monotonic() - begun

    @property
    def minutes(self) -> float:
        """Since this run began."""
        return (time.monotonic() - self._began) / 60

    def step(self, values: dict[str, float]) -> None:
        """A step is over; `values` are its scalars."""
        now = time.monotonic()
        self._spent += now - self._mark
        self.log["step"] += 1
        self.log["examples"] += self.examples
        self.log["seconds"] = round(self.log["seconds"] + now - self._mark, 3)
        for key, value in values.items():
            self._values.setdefault(key, []).append(value)
        self._count += 1
        self.bar.set_postfix_str(
            f"{self._rate():.1f} pictures/s, waiting {self._share():.0%}, loss {values['loss']:.4f}", refresh=False
        )
        self.bar.update()
        if self._count == self.every or self.log["step"] == self.steps:
            self._enter()

    def _rate(self) -> float:
        return self._count * self.examples / max(self._spent, 1e-9)

    def _share(self) -> float:
        return self._waited / max(self._spent, 1e-9)

    def _enter(self) -> None:
        means = {key: sum(values) / len(values) for key, values in self._values.items()}
        entry = {
            "step": self.log["step"],
            "seconds": round(self.log["seconds"], 1),
            **means,
            "pictures_per_second": round(self._rate(), 2),
            "waiting": round(self._share(), 4),
        }
        self.log["history"].append(entry)
        self.say(
            f"{self.name} {entry['step']}/{self.steps} {self._rate():.1f} pictures/s, waiting "
            f"{self._share():.0%}, " + " ".join(f"{key} {value:.4g}" for key, value in means.items())
        )
        self.track({key: value for key, value in entry.items() if key not in ("step", "seconds")})
        self._reset()

    def say(self, text: str) -> None:
        """One line, above the progress line."""
        if self.accelerator.is_main_process:
            self.bar.write(text)
            sys.stdout.flush()

    def track(self, values: dict[str, float]) -> None:
        """Scalars to the trackers."""
        self.accelerator.log({f"{self.name}/{key}": value for key, value in values.items()}, step=self.log["step"])

    def validated(self, values: dict[str, float], sheet: Image.Image | None) -> None:
        """Keep the measures, and the sheet as out/samples/STAGE-STEP.jpg."""
        step = self.log["step"]
        if values:
            self.log["validations"] = [
                *(entry for entry in self.log["validations"] if entry["step"] < step),
                {"step": step, **values},
            ]
            self.log["validation"] = values
            self.say(
                f"{self.name} validation at {step}: " + " ".join(f"{key} {value:.4g}" for key, value in values.items())
            )
            self.track({f"validation/{key}": value for key, value in values.items()})
        if sheet is not None:
            write_picture(self.out / "samples" / f"{self.name}-{step:07d}.jpg", sheet.convert("RGB"), quality=92)
            for tracker in self.accelerator.trackers:
                if hasattr(tracker, "log_images"):
                    layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                    pixels = np.asarray(sheet.convert("RGB"))[None]
                    tracker.log_images({f"{self.name}/sheet": pixels}, step=step, **layout)

    def close(self) -> None:
        """The progress line is done."""
        self.bar.close()


def empty_log() -> dict:
    """The log of a stage that has not begun."""
    return {"step": 0, "examples": 0, "seconds": 0.0, "history": [], "validations": []}


def draw_curves(name: str, log: dict, path: Path) -> None:
    """The learning curves of a stage as a picture: what was logged and validated, over the steps, one small plot each.

    Args:
        log: see `Journal`. path: PNG file to write.
    """
    from matplotlib.figure import Figure

    columns: dict[str, tuple[list[int], list[float]]] = {}
    for prefix, entries in (("", log["history"]), ("validation: ", log["validations"])):
        for entry in entries:
            for key, value in entry.items():
                if key not in ("step", "seconds", "waiting", "pictures_per_second"):
                    steps, values = columns.setdefault(prefix + key, ([], []))
                    steps.append(entry["step"])
                    values.append(value)
    if not columns:
        return
    wide = min(3, len(columns))
    high = -(-len(columns) // wide)
    figure = Figure(figsize=(4 * wide, 2.6 * high))
    figure.suptitle(
        f"{name}: {log['examples']:,} examples, {log['seconds'] / 3600:.2f} h", y=1 - 0.1 / (2.6 * high), va="top"
    )
    # Fixed places: measuring the labels would take as long as drawing them.
    inches = {"left": 0.5, "right": 4 * wide - 0.1, "bottom": 0.45, "top": 2.6 * high - 0.6}
    sizes = {"left": 4 * wide, "right": 4 * wide, "bottom": 2.6 * high, "top": 2.6 * high}
    places = {side: inches[side] / sizes[side] for side in inches} | {"wspace": 0.2, "hspace": 0.5}
    plots = figure.subplots(high, wide, squeeze=False, gridspec_kw=places).flat
    for axes, (key, (steps, values)) in zip(plots, columns.items(), strict=False):
        axes.plot(steps, values, marker="." if len(steps) < 30 else None, linewidth=1)
        axes.set_title(key, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(nbins=4)
        axes.grid(alpha=0.3)
        if min(values) > 0 and max(values) > 10 * min(values):
            axes.set_yscale("log")
    for axes in list(figure.axes)[len(columns) :]:
        axes.remove()
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_bytes(path, buffer.getvalue())
