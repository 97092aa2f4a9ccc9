"""Threads that write the files of runs: they wait for the disk most of the time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

log = logging.getLogger(__name__)

Made = TypeVar("Made")
# Threads for the members of a stack.
_MOST = 16


class Writers:
    """Writes for several members side by side; a context manager, which waits for all that is written.

    Args:
        ahead: ``later`` does not wait.
        begin: what each thread does first.
    """

    def __init__(self, *, ahead: bool, begin: Callable[[], None] | None = None) -> None:
        self._ahead, self._threads = ahead, ThreadPoolExecutor(_MOST, initializer=begin)
        self._pending: list[Future[None]] = []

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown()
        for each in self._pending:  # the training has failed; what it raised is told
            if (reason := each.exception()) is not None:
                log.warning("a checkpoint could not be written: %s", reason)

    def each(self, work: Callable[[int], Made], rows: Sequence[int]) -> list[Made]:
        """``work`` of each row, in threads if there are several.

        Raises:
            Exception: what the work of the first row that failed raised; no thread works any more then.
        """
        if len(rows) < 2:
            return [work(row) for row in rows]
        return _results([self._threads.submit(work, row) for row in rows])

    def later(self, work: Callable[[int], None], rows: Sequence[int]) -> None:
        """``work`` of each row, which the next ``wait`` waits for; at once if nothing is written ahead."""
        if self._ahead:
            self._pending += [self._threads.submit(work, row) for row in rows]
        else:
            self.each(work, rows)

    def wait(self) -> None:
        """Wait for what is to be done later.

        Raises:
            Exception: see ``each``.
        """
        pending, self._pending = self._pending, []
        _results(pending)


def _results(futures: Sequence[Future[Made]]) -> list[Made]:
    wait(futures)
    return [each.result() for each in futures]
