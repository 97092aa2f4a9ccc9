"""Shows the progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bnexp.record import Record

# The measures shown: tag -> its short name in the bar.
_SHOWN = {
    "train/loss": "loss",
    "train/accuracy": "accuracy",
    "test/accuracy": "test",
    "test/accuracy_precise": "precise",
}

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
        self.bar: tqdm[Any] = tqdm(total=total, initial=done, desc=name, unit="step", disable=None, dynamic_ncols=True)
        self._latest: dict[Path, dict[str, str]] = {folder: {} for folder in folders}

    def show(self, record: Record) -> None:
        """Show a record. An evaluation is also a line in train.log, and on stderr if there is no bar."""
        for row, latest in enumerate(self._latest.values()):
            latest |= {tag: f"{values[row]:.4f}" for tag, values in record.values.items() if tag in _SHOWN}
        first = next(iter(self._latest.values()))
        self.bar.set_postfix({_SHOWN[tag]: first[tag] for tag in _SHOWN if tag in first}, refresh=False)
        self.bar.update(record.step - self.bar.n)
        if "test/accuracy" in record.values:
            for folder, latest in self._latest.items():
                self._say(record, folder, "  ".join(f"{tag} {latest[tag]}" for tag in _SHOWN if tag in latest))

    def _say(self, record: Record, folder: Path, numbers: str) -> None:
        level = logging.INFO if self.bar.disable else logging.DEBUG
        which = f"{folder.name}  " if len(self._latest) > 1 else ""
        line = f"{which}epoch {record.epoch:.4g}  step {record.step}  {numbers}"
        log.log(level, "%s", line, extra={"folder": folder})


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
