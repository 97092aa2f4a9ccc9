"""Ctrl-C and SIGTERM: the first asks the run to save and stop, the second ends the process at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Whether a signal has asked to stop; the handler only notes it, so that no step is torn."""

    def __init__(self) -> None:
        self._number: int | None = None

    def __call__(self) -> bool:
        """True from the first signal on."""
        return self._number is not None

    @property
    def exit_code(self) -> int:
        """128 and the signal's number: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self._number or 0)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch signals inside the with block."""
        before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self._number = number
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
