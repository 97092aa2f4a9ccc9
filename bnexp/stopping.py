"""Ctrl-C and SIGTERM: the first signal asks the run to save and stop, the second ends the process at once."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

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


def ending_with_this_process(number: int) -> str:
    """The beginning of a program (for ``python -c``) that the system sends a signal when this process ends."""
    tied = f"from bnexp.stopping import end_with_parent; end_with_parent({number:d})"
    return f"{tied}; import os; os.getppid() == {os.getpid()} or os._exit(1)"  # this process may have ended by then


class Interrupts:
    """Ctrl-C waits from the beginning of the with block to ``let_through``, while a child process is being started.

    Otherwise it could come after the child's start and before anybody knows the child.
    """

    def __init__(self) -> None:
        self._heard: list[tuple[int, FrameType | None]] = []
        self._before: Any = None

    def __enter__(self) -> Self:
        """Begin; other threads than the main one hear no signals."""
        if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
            self._before = signal.signal(signal.SIGINT, lambda *heard: self._heard.append(heard))
        return self

    def let_through(self) -> None:
        """End the wait; an interrupt that has come takes its course."""
        before, self._before = self._before, None
        if before is None:
            return
        signal.signal(signal.SIGINT, before)
        for heard in self._heard:
            before(*heard)

    def __exit__(self, *error: object) -> None:
        """End the wait, if the start has failed."""
        self.let_through()
