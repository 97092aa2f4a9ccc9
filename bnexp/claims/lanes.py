"""Several pieces of work at once, each in a process of its own, so that one computes while another waits for its end.

A claim's sweeps come one after another, and at the end of each some cores have nothing to do. A lane does one claim
after another with its share of the cores.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from bnexp.config.checks import RunFailedError
from bnexp.config.own_code import told
from bnexp.stopping import Stop, end_with_parent

Task = TypeVar("Task")
Answer = TypeVar("Answer")
# Processes that are forked have all that this one has imported and composed.
_FORK = multiprocessing.get_context("fork")
_TICK_S = 0.2
# Seconds that lanes have to save and end.
_SAVE_S = 60.0


class _Lane:
    """A process that does what it is sent.

    Args:
        work: (task, number of the lane) -> answer; in the lane's process.
        close: called in that process at its end.
        number: of the lane.
        others: ends of other lanes' connections, which a forked process must close to let these lanes see their end.
    """

    def __init__(
        self, work: Callable[[Any, int], Any], close: Callable[[], None], number: int, others: Sequence[Connection]
    ) -> None:
        self.connection, theirs = _FORK.Pipe()
        self.task: Any = None
        self._asked_to_stop = False
        closed = [self.connection, *others]
        self.process = _FORK.Process(target=_serve, args=(work, close, number, theirs, closed, os.getpid()))
        self.process.start()
        theirs.close()

    def begin(self, task: Any) -> None:
        self.task = task
        self.connection.send(task)

    def finish(self) -> Any:
        """What the task has come to; None if the process has died.

        Raises:
            Exception: what the task has raised.
        """
        self.task = None
        try:
            answer, error = self.connection.recv()
        except (EOFError, ConnectionError):
            return None
        if error is not None:
            raise error
        return answer

    def stop(self) -> None:
        """Let the process save and end what it does, once: a second signal would end it at once."""
        if self.task is not None and not self._asked_to_stop:
            self._asked_to_stop = True
            self.process.terminate()

    def end(self) -> None:
        """Let the process end, after it has saved if it works."""
        self.connection.close()
        self.stop()
        self.process.join(_SAVE_S)
        self.process.kill()
        self.process.join()


def _serve(
    work: Callable[[Any, int], Any],
    close: Callable[[], None],
    number: int,
    own: Connection,
    others: Sequence[Connection],
    parent: int,
) -> None:
    """Do tasks until the connection is closed. Signals come from the parent alone, which also takes this one along."""
    os.setsid()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        return
    for other in others:
        other.close()
    with contextlib.closing(own), contextlib.suppress(EOFError, ConnectionError):  # the parent has gone on
        while True:
            own.send(_done(work, own.recv(), number))
    close()


def _done(work: Callable[[Any, int], Any], task: Any, number: int) -> tuple[Any, Exception | None]:
    try:
        return work(task, number), None
    except (ValueError, OSError, RunFailedError) as error:
        return None, error
    except Exception as error:
        traceback.print_exc()
        return None, RunFailedError(told(error))


def side_by_side(
    work: Callable[[Task, int], Answer], close: Callable[[], None], tasks: Sequence[Task], lanes: int, stop: Stop
) -> Iterator[tuple[Task, Answer]]:
    """Do tasks in several processes; yields pairs (task, answer) as they end.

    Args:
        work: (task, number of the lane) -> answer.
        close: called in each process at its end.
        tasks: in the order in which they begin.
        lanes: processes.
        stop: when it is true, no further task begins, and those that run get a SIGTERM.

    Raises:
        Exception: what a task has raised; the other ones are stopped.
        RunFailedError: a process was killed.
    """
    waiting, made = deque(tasks), list[_Lane]()
    try:
        for number in range(min(lanes, len(tasks))):
            made.append(_Lane(work, close, number, [lane.connection for lane in made]))
            made[-1].begin(waiting.popleft())
        while busy := {lane.connection: lane for lane in made if lane.task is not None}:
            if stop():
                for lane in busy.values():
                    lane.stop()
            for ready in wait(list(busy), _TICK_S):
                lane = busy[ready]  # type: ignore[index]
                task, answer = lane.task, lane.finish()
                if answer is not None:
                    yield task, answer
                elif not stop():
                    raise RunFailedError("a process was killed (out of memory?); the same command goes on")
                if waiting and not stop():
                    lane.begin(waiting.popleft())
    finally:
        for lane in made:
            lane.end()
