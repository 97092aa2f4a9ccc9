"""Shows the progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bnexp.config.names import shortened
from bnexp.record import Record

# The measures of a line: tag -> its name there. A line has 80 columns.
_SHOWN = {
    "train/loss": "loss",
    "train/accuracy": "accuracy",
    "test/accuracy": "test",
    "test/accuracy_precise": "precise",
}
# Those of the bar, and its form: besides the name and the bar itself it takes 58 columns.
_IN_BAR = ("train/loss", "test/accuracy")
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {remaining} left, {rate_fmt}{postfix}"
_BESIDE_NAME = 58 + 6
# Seconds of training after which the time left is estimated, and how long it must be to be told.
_FIRST_S, _LONG_S = 2.0, 60.0

log = logging.getLogger(__name__)


class RunDisplay:
    """Shows the state of a population's members: the bar shows the first member, and each member has its own log line.

    Args:
        name: name of the run.
        done: steps of earlier sessions.
        total: steps of the run.
        folders: one per member; each line carries its member's folder, so that it reaches only the train.log there.
    """

    def __init__(self, name: str, done: int, total: int, folders: Sequence[Path]) -> None:
        self.bar: tqdm[Any] = tqdm(
            desc=shortened(name, max(8, shutil.get_terminal_size().columns - _BESIDE_NAME)),
            total=total,
            initial=done,
            unit="step",
            bar_format=_BAR,
            dynamic_ncols=True,
            disable=None,  # where stderr is no terminal
        )
        self._latest: dict[Path, dict[str, str]] = {folder: {} for folder in folders}
        self._first: tuple[float, int] | None = None  # the time and the step of the first record
        self._estimated = False

    def show(self, record: Record) -> None:
        """Show a record. An evaluation is also a line, in train.log too."""
        for row, latest in enumerate(self._latest.values()):
            latest |= {tag: f"{values[row]:.4f}" for tag, values in record.values.items() if tag in _SHOWN}
        first = next(iter(self._latest.values()))
        self.bar.set_postfix_str(", ".join(f"{_SHOWN[tag]} {first[tag]}" for tag in _IN_BAR if tag in first), False)
        self.bar.update(record.step - self.bar.n)
        if "test/accuracy" in record.values:
            for folder, latest in self._latest.items():
                self._say(record, folder, "  ".join(f"{_SHOWN[tag]} {latest[tag]}" for tag in _SHOWN if tag in latest))
        self._estimate(record.step)

    def _say(self, record: Record, folder: Path, numbers: str) -> None:
        which = f"{folder.name}  " if len(self._latest) > 1 else ""
        line = f"{which}epoch {record.epoch:.4g}  step {record.step}  {numbers}"
        log.info("%s", line, extra={"folder": folder})

    def _estimate(self, step: int) -> None:
        """Tell once how long a long run will take, by the speed between its first record and a later one."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, step
        elapsed, done = now - self._first[0], step - self._first[1]
        if self._estimated or elapsed < _FIRST_S or not done:
            return
        self._estimated, left_s = True, (int(self.bar.total) - step) * elapsed / done
        if left_s > _LONG_S:
            log.info("about %s to go, at %.3g steps a second", _roughly(left_s), done / elapsed)


def _roughly(seconds: float) -> str:
    """``3 minutes``, ``2.5 hours``, ``4.2 days``."""
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} minutes"
    return f"{minutes / 60:.1f} hours" if minutes < 48 * 60 else f"{minutes / 60 / 24:.1f} days"


class _Console(logging.StreamHandler[Any]):
    """Writes messages to stderr, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):  # stderr may be closed; the run and train.log go on without it
            tqdm.write(self.format(record), file=self.stream)


@contextlib.contextmanager
def console() -> Iterator[None]:
    """Show the package's messages inside the with block, one line each."""
    logger, handler = logging.getLogger("bnexp"), _Console()
    level, propagate = logger.level, logger.propagate
    handler.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
