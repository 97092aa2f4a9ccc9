"""The supervisor's side of the process that forks jobs (``worker.serve``)."""

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

Message = dict[str, Any]

# What is imported must start no threads, which a forked child would not have, and count GPUs without the driver.
_FORK_SAFE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


def complaint(lines: Sequence[str]) -> str | None:
    """The line with which a child has said what was wrong (``worker``)."""
    return next((line.removeprefix("bnexp: ") for line in reversed(lines) if line.startswith("bnexp: ")), None)


class ForkServerDiedError(Exception):
    """The process that forks jobs is gone, and all jobs with it."""


class ForkServer:
    """A process that has imported torch once and forks a fresh child for every task; itself it trains nothing.

    It begins when it is told to, or first asked for something, and again after its death. It and its children end when
    this process ends, however that happens: they see the connection close. Nothing in it has touched a GPU or started a
    thread, so that a forked child is as good as a new process, without the seconds of importing.
    """

    _process: subprocess.Popen[bytes] | None = None
    _connection: socket.socket
    _received = b""
    _was_asked = False

    def begin(self) -> None:
        """Begin now, beside what this process does next, if it has not yet."""
        self._process = self._process or self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        self._connection, theirs = socket.socketpair()
        self._received, self._was_asked = b"", False
        # The same path as here: a user's modules are found in the child as they are by a single run.
        serve = f"from bnexp.experiment.worker import serve; serve({theirs.fileno()})"
        # While it imports torch, it does not look at the connection.
        end = f"from bnexp.stopping import end_with_parent; end_with_parent({signal.SIGKILL:d})"
        alone = f"os.getppid() == {os.getpid()} or os._exit(1)"
        process = subprocess.Popen(
            [sys.executable, "-c", f"import os, sys; sys.path[:] = {sys.path!r}; {end}; {alone}; {serve}"],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=os.environ | _FORK_SAFE,
            start_new_session=True,
        )
        theirs.close()
        return process

    def close(self) -> None:
        """End it and whatever runs in it; returns when all are gone."""
        process, self._process = self._process, None
        if process is None:
            return
        self._connection.close()
        if not self._was_asked:  # it may still be importing, and nothing runs in it
            process.kill()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def revive(self) -> None:
        """Have it begin again with the next task if it has died since the last one; nothing runs in it now."""
        if self._process is not None and self._process.poll() is not None:
            self.close()

    def fork(self, task: int, call: str, given: Mapping[str, Any], *, log: str, env: Mapping[str, str]) -> None:
        """Start a child.

        Args:
            task: a number by which its end is told.
            call: a function of ``worker``.
            given: its arguments.
            log: the file that its output is appended to.
            env: environment variables for it alone.
        """
        self._send({"fork": task, "call": call, "given": given, "log": log, "env": env})

    def load(self, modules: Sequence[str]) -> None:
        """Have it import modules of libraries once, which its children would otherwise do one by one."""
        self._send({"import": list(modules)})

    def keep(self, data: Sequence[Mapping[str, Any]]) -> None:
        """Have it read data sets once for all children, those with these options and no others from now on."""
        self._send({"keep": list(data)})

    def signal(self, task: int, number: int) -> None:
        """Send a signal to a child, if it still runs: SIGKILL to all its processes, others to the first alone."""
        self._send({"signal": number, "task": task})

    def _send(self, message: Message) -> None:
        self.begin()
        self._was_asked = True
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.close()
            raise ForkServerDiedError from None

    def ended(self, timeout: float) -> list[tuple[int, int]]:
        """Children that have ended: pairs (task, exit code, or minus the signal that killed it).

        Args:
            timeout: seconds to wait for the first.

        Raises:
            ForkServerDiedError: it is gone.
        """
        if self._process is None or not select.select([self._connection], [], [], timeout)[0]:
            return []
        received = b""
        with contextlib.suppress(ConnectionError):
            received = self._connection.recv(1 << 16)
        if not received:
            self.close()
            raise ForkServerDiedError
        *lines, self._received = (self._received + received).split(b"\n")
        return [(message["task"], message["code"]) for message in map(json.loads, lines)]
