"""The interface of what carries a sweep's tasks: this machine (``local``), SLURM (``slurm``) or Ray (``ray``).

An engine starts processes somewhere and says how they ended. It knows no states of jobs: the supervisor decides what an
end means.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

# Of a log that may be long, the part that is searched for the last lines.
_LOG_END = 1 << 16


@dataclass(frozen=True)
class Task:
    """The work of one process: one job, or the members of a stack.

    Attributes:
        number: identifies the task in this sweep's process.
        given: the arguments of ``experiment.worker.train``.
        log: the file that its output is appended to.
        sweep: the sweep's folder.
        device: the ``device`` setting of its jobs.
        threads: CPU threads that it uses.
    """

    number: int
    given: Mapping[str, Any]
    log: Path
    sweep: Path
    device: str
    threads: int


@dataclass(frozen=True)
class End:
    """How a task has ended.

    Attributes:
        number: the task.
        code: exit code of its process, or minus the number of the signal that killed it.
        lines: what it printed, if the engine knows; empty lines are left out.
        reason: why the engine ended it before its process could (cancelled, say); None: the exit code says it all.
        log: the file in which the engine itself says what it did with the task, if there is one.
    """

    number: int
    code: int
    lines: Sequence[str] = ()
    reason: str | None = None
    log: Path | None = None


@dataclass(frozen=True)
class News:
    """What has happened since the last poll.

    Attributes:
        started: tasks whose processes have started.
        requeued: tasks that had started, and wait in the engine's queue again.
        ended: tasks that have ended.
    """

    started: Sequence[int] = ()
    requeued: Sequence[int] = ()
    ended: Sequence[End] = field(default_factory=list)


class EngineDiedError(Exception):
    """The engine is dead, and all its tasks with it; the next task that it gets starts it again."""


class Engine(Protocol):
    """Carries tasks.

    Attributes:
        name: for messages, such as ``SLURM``; empty for this machine.
        survives: whether its tasks go on when this process ends.
    """

    name: str
    survives: bool

    def begin(self, threads: int) -> None:
        """Connect to the engine, before any folder is made.

        Args:
            threads: the most threads that a task will use.

        Raises:
            ValueError: the engine does not answer, or its options do not suit the tasks.
        """

    def room(self) -> int:
        """How many more tasks it takes now."""

    def submit(self, tasks: Sequence[Task]) -> dict[int, str]:
        """Take tasks. Returns their names with the engine, by which a later command finds them; empty if it cannot.

        Raises:
            RunFailedError: the engine refuses a task; none of this call's tasks is with the engine.
            EngineDiedError: see there.
        """

    def alive(self, tickets: Collection[str]) -> Set[str]:
        """Which of the tasks of earlier commands, by their names with the engine, still wait or run.

        Raises:
            ValueError: the engine does not answer.
        """

    def attach(self, number: int, ticket: str, sweep: Path) -> None:
        """Take up a task of an earlier command of this sweep under a number of this one."""

    def poll(self, timeout_s: float) -> News:
        """What has happened; waits at most so many seconds if nothing has.

        Raises:
            EngineDiedError: see there.
        """

    def cancel(self, numbers: Collection[int], *, by_force: bool = False) -> None:
        """Ask tasks to save and end; by force, end them at once."""

    def close(self) -> None:
        """Let the engine go; tasks end unless the engine ``survives``."""


def size(log: Path) -> int:
    """Bytes of a log so far."""
    return log.stat().st_size if log.exists() else 0


def printed(log: Path, start: int) -> list[str]:
    """The last lines of a log from a position on, without empty lines."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, os.fstat(file.fileno()).st_size - _LOG_END))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()]


def ranges(tickets: Iterable[str]) -> str:
    """Names of tasks with an engine, shortened: ``20_[0-3,7], 21``."""
    arrays: dict[str, list[int]] = {}
    for ticket in tickets:
        array, _, index = ticket.partition("_")
        arrays.setdefault(array, []).extend([int(index)] if index else [])
    return ", ".join(f"{array}_[{_spans(sorted(own))}]" if own else array for array, own in arrays.items())


def _spans(numbers: Sequence[int]) -> str:
    """``0-3,7`` of 0, 1, 2, 3, 7: neighbours have the same distance from their places."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda each: each[1] - each[0])]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
