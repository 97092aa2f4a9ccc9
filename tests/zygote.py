"""Fork servers that need not import torch: forked from a process of the tests that has imported it.

The sweeps of this process, and of those that ``conftest.start`` begins, take their fork server from here; those of
other commands start one as always. It has the module path, folder, environment and output of the process that asks.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import cache

from bnexp.sweep import fork_server
from bnexp.sweep.fork_server import FORK_SAFE

_MOST = 1 << 20
_STARTED: list[subprocess.Popen[bytes]] = []  # keeps it from being collected


class Forked:
    """What a fork server's owner asks of its process; a pipe tells its number, and then its exit code."""

    def __init__(self, told: int) -> None:
        self._told, self.returncode = told, None
        number = os.read(told, 4)
        assert number, "the process that has imported torch is gone"  # kill(0) would end the tests themselves
        self.pid = int.from_bytes(number)

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.returncode = int(os.read(self._told, 9) or -signal.SIGKILL)
            os.close(self._told)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not select.select([self._told], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("fork server", timeout)
        return self.poll()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself, and nobody has told it yet
            if self.poll() is None:
                os.kill(self.pid, signal.SIGKILL)


@cache
def connection() -> socket.socket:
    """The connection to a process that imports torch, and ends with this one. The first call starts it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = f"import sys; sys.path[:] = {sys.path!r}; from zygote import main; main({theirs.fileno()})"
    _STARTED.append(
        subprocess.Popen([sys.executable, "-c", program], pass_fds=[theirs.fileno()], env=os.environ | FORK_SAFE)
    )
    theirs.close()
    return ours


def use(zygote: Callable[[], socket.socket] = connection) -> None:
    """Let the fork servers of this process come from the other end of a connection."""

    def spawn(served: socket.socket) -> Forked:
        told, tell = os.pipe()
        place = {"path": sys.path, "cwd": os.getcwd(), "environ": os.environ | FORK_SAFE}
        socket.send_fds(zygote(), [json.dumps(place).encode()], [served.fileno(), tell, 1, 2])
        os.close(tell)
        return Forked(told)

    fork_server.spawn = spawn


def main(descriptor: int) -> None:
    """Fork for each request, until the connection closes."""
    import bnexp.experiment.worker  # noqa: F401  the import that takes seconds

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    asked = socket.socket(fileno=descriptor)
    while True:
        place, descriptors, _, _ = socket.recv_fds(asked, _MOST, 4)
        if not place:
            return
        if not os.fork():
            asked.close()
            _mind(json.loads(place), *descriptors)
        for each in descriptors:
            os.close(each)


def _mind(place: dict, served: int, tell: int, out: int, err: int) -> None:
    """Fork a fork server, and tell its number and its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if not pid:
        os.close(tell)
        _serve(place, served, out, err)
    for each in (served, out, err):
        os.close(each)
    os.write(tell, pid.to_bytes(4))
    os.write(tell, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def _serve(place: dict, served: int, out: int, err: int) -> None:
    from bnexp.experiment.worker import serve

    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for own, inherited in ((1, out), (2, err)):
        os.dup2(inherited, own)
        os.close(inherited)
    os.chdir(place["cwd"])
    os.environ.clear()
    os.environ.update(place["environ"])
    sys.path[:] = place["path"]
    serve(served)
