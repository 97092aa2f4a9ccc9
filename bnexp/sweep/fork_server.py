"""The supervisor's connection to the fork server (``worker.serve``)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bnexp.stopping import ending_with_this_process
from bnexp.sweep.engine import EngineDiedError

Message = dict[str, Any]

# The imports must start no threads, because a forked child would not have them, and must count GPUs without the driver.
FORK_SAFE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


def complaint(lines: Sequence[str]) -> str | None:
    """The last error line that a child of the fork server has printed (``worker``), or None."""
    return next((line.removeprefix("bnexp: ") for line in reversed(lines) if line.startswith("bnexp: ")), None)


def spawn(connection: socket.socket) -> subprocess.Popen[bytes]:
    """Start a process that imports torch and serves the other end of a connection."""
    # The same module path as here, so that jobs of a sweep find a user's modules where a single run finds them.
    serve = f"from bnexp.experiment.worker import serve; serve({connection.fileno()})"
    # While it imports torch, it does not look at the connection.
    end = ending_with_this_process(signal.SIGKILL)
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {end}; {serve}"],
        pass_fds=[connection.fileno()],
        stdin=subprocess.DEVNULL,
        env=os.environ | FORK_SAFE,
        start_new_session=True,
    )


class ForkServer:
    """Imports torch once and forks one child per job. Trains nothing itself.

    Starts on ``begin()`` or the first request, and restarts if it was killed. It and its children end when this process
    ends for any reason, because they see the connection close. The fork server never touches a GPU and starts no
    threads, so a forked child works like a new process, without the seconds that importing takes.
    """

    _process: subprocess.Popen[bytes] | None = None
    _connection: socket.socket
    _leaders: dict[int, int]  # running task -> its process, which leads a group of processes
    _received = b""
    _ended: list[tuple[int, int]]  # children whose end is known, and was not asked for yet
    _was_asked = False

    def begin(self) -> None:
        """Start the fork server if it is not running; it imports while this process goes on."""
        self._process = self._process or self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        self._connection, theirs = socket.socketpair()
        self._received, self._ended, self._was_asked = b"", [], False
        self._leaders = {}
        with theirs:
            return spawn(theirs)

    def close(self) -> None:
        """End the fork server and everything that runs in it; returns when all these processes are gone."""
        process, self._process = self._process, None
        if process is None:
            return
        self._connection.close()
        if not self._was_asked:  # it may still be importing, and no job runs in it
            process.kill()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.returncode:  # it was killed: its children died with it, but not what they had started
            for pid in self._leaders.values():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)

    def revive(self) -> None:
        """If the fork server has died, let the next request start it again; call this only while no job runs in it."""
        if self._process is not None and self._process.poll() is not None:
            self.close()

    def fork(self, task: int, call: str, given: Mapping[str, Any], *, log: str, env: Mapping[str, str]) -> None:
        """Start a child.

        Args:
            task: a number that identifies the child when ``ended`` reports it.
            call: a task of ``worker``: train, check or measure.
            given: the arguments of the task.
            log: the file that the child's output is appended to.
            env: environment variables for this child alone.
        """
        self._send({"fork": task, "call": call, "given": given, "log": log, "env": env})

    def load(self, modules: Sequence[str]) -> None:
        """Import library modules in the fork server once, so that its children need not import them."""
        self._send({"import": list(modules)})

    def keep(self, data: Sequence[Mapping[str, Any]]) -> None:
        """Let the fork server keep exactly the data sets with these options in memory, for all its children."""
        self._send({"keep": list(data)})

    def signal(self, task: int, number: int) -> None:
        """Send a signal to a child, if it still runs: SIGKILL to all its processes, others to the child alone."""
        self._send({"signal": number, "task": task})

    def _send(self, message: Message) -> None:
        self.begin()
        self._was_asked = True
        left = json.dumps(message).encode() + b"\n"
        while left:
            # Both ends would wait for ever if neither read what the other one says.
            readable, writable, _ = select.select([self._connection], [self._connection], [])
            if readable:
                self._receive()
            if writable:
                left = left[self._sent(left) :]

    def _sent(self, data: bytes) -> int:
        try:
            return self._connection.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:
            self.close()
            raise EngineDiedError from None

    def ended(self, timeout: float) -> list[tuple[int, int]]:
        """The children that have ended: pairs (task, exit code, or minus the number of the signal that killed it).

        Args:
            timeout: seconds to wait for the first child to end.

        Raises:
            EngineDiedError: the fork server is dead.
        """
        if self._process is None:
            return []
        if not self._ended and select.select([self._connection], [], [], timeout)[0]:
            self._receive()
        found, self._ended = self._ended, []
        return found

    def _receive(self) -> None:
        """Take what the fork server says.

        Raises:
            EngineDiedError: it is dead.
        """
        received = b""
        with contextlib.suppress(ConnectionError):
            received = self._connection.recv(1 << 16)
        if not received:
            self.close()
            raise EngineDiedError
        *lines, self._received = (self._received + received).split(b"\n")
        self._ended += [end for line in lines for end in self._noted(json.loads(line))]

    def _noted(self, message: Message) -> list[tuple[int, int]]:
        """Keep in mind which processes run; returns the end that a message tells, if it tells one."""
        if "pid" in message:
            self._leaders[message["task"]] = message["pid"]
            return []
        self._leaders.pop(message["task"], None)
        return [(message["task"], message["code"])]
