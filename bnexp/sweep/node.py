"""What an engine carries to a node: it starts the task's process there, and ends it when the engine says so.

Imports no torch, and nothing of Hydra. The process itself is ``experiment.worker.on_node``; it is another process than
the engine's, so that its death is an exit code and not the end of the engine's worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnexp.runs.paths import SweepPaths
from bnexp.stopping import ending_with_this_process
from bnexp.sweep.engine import Task, printed, size

SHARED = "engines need a folder that all nodes share"
# Seconds between looks at the process.
_TICK_S = 0.1
# Seconds after which a file that another machine has written is seen on a network file system.
SEEN_S = 60.0
# SLURM sends SIGUSR2 to all processes of a task before its time is over; ``Work.save`` decides then.
_PROGRAM = """
import signal, sys
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
sys.path[:] = {path!r}
{tied}
from bnexp.experiment.worker import on_node
on_node()
"""


@dataclass
class Work:
    """A task as it travels; calling it on a node runs the task there.

    Attributes:
        given: the arguments of ``experiment.worker.train``.
        log, sweep: see ``Task``; relative to ``cwd``.
        cwd: the folder in which the sweep was started. Every path of a job means on the node what it means there.
        grace_s: seconds between asking the process to save and killing it.
    """

    given: Mapping[str, Any]
    log: str
    sweep: str
    cwd: str
    grace_s: float
    _process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> tuple[int, list[str]]:
        """Run the task; returns the exit code (see ``End``) and the last lines that it printed."""
        fault = self._fault()
        if fault is not None:
            return 2, [f"bnexp: {fault}"]
        log = Path(self.cwd, self.log)
        start = size(log)
        with log.open("ab") as output:
            self._process = self._started(output)
        try:
            while not self._ended():
                time.sleep(_TICK_S)
        finally:
            self.save()
        return self._process.wait(), printed(log, start)

    def _fault(self) -> str | None:
        """Why this node cannot run the task, or None."""
        host = socket.gethostname()
        if not os.path.isdir(self.cwd):
            return f"{host} has no folder {self.cwd}, in which the sweep was started; {SHARED}"
        if not seen(SweepPaths(Path(self.cwd, self.sweep)).sweep_json):
            return f"{host} does not see {self.sweep}; {SHARED}"
        return None

    def _started(self, output: Any) -> subprocess.Popen[bytes]:
        program = _PROGRAM.format(path=sys.path, tied=ending_with_this_process(signal.SIGKILL))
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=self.cwd, stdin=subprocess.PIPE, stdout=output, stderr=output
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(json.dumps(self.given).encode())
        return process

    def _ended(self) -> bool:
        # Popen.wait holds a lock, and an engine's signal handler may call ``save`` in the middle of it.
        assert self._process is not None
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # it has been waited for, perhaps by another thread a moment ago
            return True

    def save(self) -> None:
        """Ask the process to save and end, and kill it if it does not; nothing if it has ended."""
        if self._process is None or self._ended():
            return
        for number, wait_s in ((signal.SIGTERM, self.grace_s), (signal.SIGKILL, SEEN_S)):
            with contextlib.suppress(ProcessLookupError):  # as in _ended
                os.kill(self._process.pid, number)
            end = time.monotonic() + wait_s
            while not self._ended() and time.monotonic() < end:
                time.sleep(_TICK_S)
            if self._ended():
                return

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_process": None}


def work(task: Task, grace_s: float, *, needs_gpu: bool) -> Work:
    """The task as it travels.

    Args:
        task: the task.
        grace_s: see ``Work``.
        needs_gpu: a GPU is asked for, so that the task fails on a node that gives it none.
    """
    given = {**task.given, "needs_gpu": needs_gpu}
    return Work(given, str(task.log), str(task.sweep), os.getcwd(), grace_s)


def seen(path: Path, wait_s: float = 10.0) -> bool:
    """Whether there is such a file; waits for one that another machine has just written."""
    end = time.monotonic() + wait_s
    while not path.exists():
        if time.monotonic() > end:
            return False
        with contextlib.suppress(OSError):
            os.listdir(path.parent)  # a network file system then asks its server
        time.sleep(_TICK_S)
    return True
