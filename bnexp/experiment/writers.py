"""Threads that write the files of runs: they wait for the disk most of the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Made = TypeVar("Made")
# Threads for the members of a stack.
_MOST = 16


class Writers:
    """Writes for several members side by side; a context manager, which waits for all that is written.

    Args:
        ahead: ``later`` does not wait.
    """

    def __init__(self, *, ahead: bool) -> None:
        self._ahead, self._threads = ahead, ThreadPoolExecutor(_MOST)
        self._pending: list[Future[None]] = []

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown()

    def each(self, work: Callable[[int], Made], rows: Sequence[int]) -> list[Made]:
        """``work`` of each row, in threads if there are several."""
        if len(rows) < 2:
            return [work(row) for row in rows]
        return list(self._threads.map(work, rows))

    def later(self, work: Callable[[int], None], rows: Sequence[int]) -> None:
        """``work`` of each row, which the next ``wait`` waits for; at once if nothing is written ahead."""
        if self._ahead:
            self._pending += [self._threads.submit(work, row) for row in rows]
        else:
            self.each(work, rows)

    def wait(self) -> None:
        """Wait for what is to be done later.

        Raises:
            Exception: what the work raised.
        """
        pending, self._pending = self._pending, []
        for each in pending:
            each.result()
