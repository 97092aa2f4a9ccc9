"""Ctrl-C and SIGTERM: the first signal asks the run to save and stop, the second ends the process at once."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SET_PDEATHSIG = 1


class Stop:
    """True after a signal has asked to stop. The signal handler only sets a flag, so it never interrupts a step.

    The run asks this object first after its first step. Before that there is nothing to save, so a signal ends the
    program at once, even while it reads data or builds the model.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._asked = False

    def __call__(self) -> bool:
        """True after the first signal."""
        self._asked = True
        return self._number is not None

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self._number or 0)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch signals inside the with block."""
        heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
        before = {number: signal.signal(number, self._note) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self._number = number
        if not self._asked:
            raise SystemExit(self.exit_code)
        for each in _SIGNALS:
            if signal.getsignal(each) == self._note:
                signal.signal(each, signal.SIG_DFL)


def end_with_parent(number: int) -> None:
    """Have the system send this process a signal when its parent ends; 0 for none. Only Linux can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, number)
