"""Cases, and the processes that work on them: a case that crashes, hangs or spoils the GPU costs itself alone."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bnexp.stopping import end_with_parent

# A row of a table; ``fault`` says what is wrong, if anything is.
Row = dict[str, Any]
# After an error with one of these words, the process that met it may be unable to use the GPU.
_SPOILT = ("cuda", "cusolver", "cublas", "cudnn", "accelerator")


@dataclass(frozen=True)
class Case:
    """One call in another process.

    Attributes:
        name: what is checked or measured, for the reader.
        call: module and function, ``on_gpu.rates:population``; it returns rows.
        given: the function's keywords.
        limit: seconds after which the process is killed.
        fresh: in a process that has done nothing yet.
    """

    name: str
    call: str
    given: Mapping[str, Any]
    limit: float = 120.0
    fresh: bool = False


@dataclass
class _Worker:
    """A process, its connection, and the case that it works on."""

    process: BaseProcess
    connection: Connection
    case: Case | None = None
    since: float = 0.0

    def give(self, case: Case) -> None:
        """Tell it a case; if it dies before it has heard it, there will be no answer."""
        self.case, self.since = case, time.monotonic()
        with suppress(OSError):
            self.connection.send((case.call, dict(case.given)))

    def late(self) -> bool:
        return self.case is not None and time.monotonic() - self.since > self.case.limit

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


@dataclass
class Workers:
    """Processes that stay for many cases, since importing torch and starting CUDA takes seconds.

    Args:
        count: processes.
        fresh: start them anew (spawn), as CUDA needs; else they are forked.
        log: file that gets what they print.
        modules: what they import first.
    """

    count: int
    fresh: bool
    log: Path
    modules: Sequence[str] = ()
    _free: list[_Worker] = field(default_factory=list)

    def __enter__(self) -> Workers:
        self._free = [self._started() for _ in range(self.count)]
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._free:
            worker.end()

    def _started(self) -> _Worker:
        context = multiprocessing.get_context("spawn" if self.fresh else "fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, str(self.log), self.modules), daemon=True)  # type: ignore[attr-defined]
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def run(self, cases: Sequence[Case], *, at_once: int, until: float) -> Iterator[tuple[Case, list[Row] | None]]:
        """Work on cases, ``at_once`` at a time; yields each with its rows, in the order in which they end.

        Cases that are not done at the time ``until`` (of ``time.monotonic``) are yielded with None.
        """
        left, busy = deque(cases), list[_Worker]()
        while left or busy:
            while left and self._free and len(busy) < at_once and time.monotonic() < until:
                if left[0].fresh or not self._free[-1].process.is_alive():
                    self._replace(self._free.pop())
                busy.append(self._free.pop())
                busy[-1].give(left.popleft())
            if time.monotonic() >= until:
                break
            ready = wait([each.connection for each in busy], timeout=0.2)
            for worker in [each for each in busy if each.connection in ready or each.late()]:
                busy.remove(worker)
                assert worker.case is not None
                yield worker.case, self._answer(worker, in_time=worker.connection in ready)
        for worker in busy:
            assert worker.case is not None
            self._replace(worker)
            yield worker.case, None
        yield from ((case, None) for case in left)

    def _answer(self, worker: _Worker, *, in_time: bool) -> list[Row]:
        """The rows of a case that has ended; another process takes the place of one that is dead or spoilt."""
        assert worker.case is not None
        name = {"case": worker.case.name}
        if not in_time:
            self._replace(worker)
            return [name | {"fault": f"not done after {worker.case.limit:g} s; killed"}]
        try:
            rows, fault = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            self._replace(worker)
            return [name | {"fault": f"its process died (exit code {worker.process.exitcode}); see {self.log.name}"}]
        if fault and any(word in fault.lower() for word in _SPOILT):
            self._replace(worker)
        else:
            self._free.append(worker)
        return rows if fault is None else [name | {"fault": fault}]

    def _replace(self, worker: _Worker) -> None:
        worker.end()
        self._free.append(self._started())


def _serve(connection: Connection, log: str, modules: Sequence[str]) -> None:
    """Answer calls until the connection ends, or the process that asks."""
    end_with_parent(signal.SIGKILL)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for module in modules:  # before the first case, which has a time limit
        importlib.import_module(module)
    while True:
        call, given = connection.recv()
        module, _, function = call.partition(":")
        try:
            rows, fault = getattr(importlib.import_module(module), function)(**given), None
        except Exception as error:
            traceback.print_exc()
            rows, fault = [], f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        connection.send((rows, fault))
