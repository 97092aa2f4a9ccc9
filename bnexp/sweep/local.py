"""The engine of this machine: a child of the fork server for each task, and a slot for each child."""

from __future__ import annotations

import signal
from collections.abc import Collection, Mapping, Sequence, Set
from pathlib import Path

from bnexp.sweep.engine import End, EngineDiedError, News, Task, printed, size
from bnexp.sweep.fork_server import ForkServer


class Local:
    """Runs tasks in children of the fork server, as many at once as there are slots.

    Args:
        server: forks the processes.
        slots: environment variables for each process that may run at the same time, one mapping per process.
    """

    name = ""
    survives = False

    def __init__(self, server: ForkServer, slots: Sequence[Mapping[str, str]]) -> None:
        self._server, self._slots = server, slots
        self._forget()

    def _forget(self) -> None:
        """Know of no running task: number -> its slot, its log and where its output begins in it."""
        self._free = list(reversed(range(len(self._slots))))
        self._running: dict[int, tuple[int, Path, int]] = {}

    def begin(self, threads: int) -> None:
        """Do nothing: the fork server starts with the first request."""

    def room(self) -> int:
        """The number of free slots."""
        return len(self._free)

    def submit(self, tasks: Sequence[Task]) -> dict[int, str]:
        """Fork a child for each task; a later command cannot find them.

        Raises:
            EngineDiedError: the fork server is dead.
        """
        for task in tasks:
            slot = self._free.pop()
            self._running[task.number] = slot, task.log, size(task.log)
            try:
                self._server.fork(task.number, "train", task.given, log=str(task.log), env=self._slots[slot])
            except EngineDiedError:
                self._forget()
                raise
        return {}

    def alive(self, tickets: Collection[str]) -> Set[str]:
        """None: the children of an earlier command have ended with it."""
        return set()

    def attach(self, number: int, ticket: str, sweep: Path) -> None:
        """Never called, see ``alive``."""
        raise AssertionError

    def poll(self, timeout_s: float) -> News:
        """The children that have ended; they start as soon as they are submitted.

        Raises:
            EngineDiedError: the fork server is dead.
        """
        try:
            ended = self._server.ended(timeout_s)
        except EngineDiedError:
            self._forget()
            raise
        return News(ended=[self._end(number, code) for number, code in ended])

    def _end(self, number: int, code: int) -> End:
        slot, log, start = self._running.pop(number)
        self._free.append(slot)
        return End(number, code, printed(log, start))

    def cancel(self, numbers: Collection[int], *, by_force: bool = False) -> None:
        """Send SIGTERM, or SIGKILL."""
        for number in numbers:
            self._server.signal(number, signal.SIGKILL if by_force else signal.SIGTERM)

    def close(self) -> None:
        """Do nothing: whoever made the fork server closes it."""
