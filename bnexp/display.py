"""What a person sees of a run while it goes on: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from bnexp.record import Record

# What is shown of a record: tag -> its short name in the bar.
_SHOWN = {
    "train/loss": "loss",
    "train/accuracy": "accuracy",
    "test/accuracy": "test",
    "test/accuracy_precise": "precise",
}

log = logging.getLogger(__name__)


class Display:
    """How the first member of a population stands.

    Args:
        name: of the run.
        done: steps of earlier sessions.
        total: steps of the run.
    """

    def __init__(self, name: str, done: int, total: int) -> None:
        self.bar: tqdm[Any] = tqdm(total=total, initial=done, desc=name, unit="step", disable=None, dynamic_ncols=True)
        self._latest: dict[str, str] = {}

    def show(self, record: Record) -> None:
        """Bring the display up to a record; an evaluation is a line where there is no bar, and in train.log."""
        self._latest |= {tag: f"{values[0]:.4f}" for tag, values in record.values.items() if tag in _SHOWN}
        numbers = {tag: self._latest[tag] for tag in _SHOWN if tag in self._latest}
        self.bar.set_postfix({_SHOWN[tag]: number for tag, number in numbers.items()}, refresh=False)
        self.bar.update(record.step - self.bar.n)
        if "test/accuracy" in record.values:
            text = "  ".join(f"{tag} {number}" for tag, number in numbers.items())
            level = logging.INFO if self.bar.disable else logging.DEBUG
            log.log(level, "epoch %.4g  step %d  %s", record.epoch, record.step, text)


class _Console(logging.StreamHandler[Any]):
    """Messages on stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
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
