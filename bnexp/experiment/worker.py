"""The processes of a sweep: the fork server, and the jobs of its children. Only these processes import this file."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bnexp.config.checks import STORAGE_FAILED, RunFailedError
from bnexp.config.schema import from_dict
from bnexp.data import keep
from bnexp.experiment.check_sweep import check_sweep
from bnexp.experiment.display import console
from bnexp.experiment.dry_run import dry_run, forget, members_that_fit
from bnexp.experiment.folder import StorageFailedError, is_storage
from bnexp.experiment.imports import import_modules
from bnexp.experiment.job import Job, already_done
from bnexp.experiment.machine import is_out_of_memory, pick_device
from bnexp.experiment.run import run
from bnexp.memory import even_parts
from bnexp.runs import checkpoint, provenance
from bnexp.stopping import Stop, end_with_parent

# Bytes of a GPU that CUDA and its libraries take in each process, besides those that torch reserves.
_CONTEXT = 2**29


def serve(descriptor: int) -> None:
    """Fork a child for each request, report when it has ended, and kill all children when the connection closes."""
    provenance.code()
    _warm_up()
    server = _Server(socket.socket(fileno=descriptor))
    end_with_parent(0)  # from here on it sees the connection close, and ends what its children have started, too
    try:
        server.run()
    finally:
        server.end_all()
        os._exit(0)  # skips the libraries' exit handlers, whose messages interest nobody


def _warm_up() -> None:
    """Run a convolution and a product once, so that children inherit the libraries' set-up; starts no thread."""
    torch.conv2d(torch.zeros(2, 1, 5, 5), torch.zeros(1, 1, 3, 3))
    torch.mm(torch.zeros(2, 2), torch.zeros(2, 2))


class _Server:
    """The children by process id, and the connection that requests come in on."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        self._children: dict[int, int] = {}
        self._awake, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        gc.freeze()  # otherwise the collector's marks would copy these objects' memory pages into each child

    def run(self) -> None:
        while True:
            connection = self._connection.fileno()
            readable, _, _ = select.select([connection, self._awake], [], [])
            if self._awake in readable:
                os.read(self._awake, 1 << 12)
                self._reap()
            if connection in readable:
                received = self._connection.recv(1 << 16)
                if not received:
                    return
                *lines, self._received = (self._received + received).split(b"\n")
                for line in lines:
                    self._obey(json.loads(line))

    def _obey(self, message: Mapping[str, Any]) -> None:
        if "fork" in message:
            pid = self._fork(message)
            self._children[pid] = message["fork"]
            self._tell(message["fork"], pid=pid)
        elif "signal" in message:
            self._signal(message["task"], message["signal"])
        else:
            for module in message.get("import", ()):
                with contextlib.suppress(ImportError):  # may name an attribute of a module, not a module
                    importlib.import_module(module)
            if "keep" in message:
                with contextlib.suppress(ValueError, OSError):  # the job that needs the data will report the error
                    keep(message["keep"])
            gc.freeze()

    def _signal(self, task: int, number: int) -> None:
        for pid in [pid for pid, own in self._children.items() if own == task]:
            _end_group(pid) if number == signal.SIGKILL else os.kill(pid, number)

    def _fork(self, message: Mapping[str, Any]) -> int:
        server = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        with _ending_with_a_code() as end:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (self._connection.fileno(), self._awake, self._wake):
                os.close(descriptor)
            _settle_in(server, message["log"], message["env"])
            end.code = _call(message["call"], message["given"])
        raise AssertionError

    def _reap(self) -> None:
        """Report children that have ended, and kill the processes they left behind."""
        for pid in list(self._children):
            # The child is seen but not yet collected, so its process group's number cannot belong to another process.
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            _end_group(pid)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            self._tell(self._children.pop(pid), code=code)

    def _tell(self, task: int, **fact: int) -> None:
        self._connection.sendall(json.dumps({"task": task, **fact}).encode() + b"\n")

    def end_all(self) -> None:
        for pid in self._children:
            _end_group(pid)


@dataclass
class _Ending:
    code: int = 1


@contextlib.contextmanager
def _ending_with_a_code() -> Iterator[_Ending]:
    """End this process after the with block, whatever happens in it, with the code that the block has set."""
    end = _Ending()
    try:
        with console():
            yield end
    except OSError:  # also of a print
        end.code = STORAGE_FAILED
        traceback.print_exc()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(end.code)


def _end_group(pid: int) -> None:
    """Kill a child and all processes it started."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _settle_in(server: int, log: str, env: Mapping[str, str]) -> None:
    """Give a forked child its own session, output and environment, and let it die with the server."""
    os.setsid()
    end_with_parent(signal.SIGKILL)
    if os.getppid() != server:  # the server died before the line above
        os._exit(1)
    if not os.path.isdir(os.path.dirname(log)):  # the sweep that asked for this child is gone
        os._exit(1)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(env)


def on_node() -> None:
    """Run the task whose arguments stand on standard input; this process ends with its exit code."""
    with _ending_with_a_code() as end:
        end.code = _call("train", json.load(sys.stdin))


def _call(name: str, given: Mapping[str, Any]) -> int:
    """Run a task; returns the exit code, and prints an error as the last line."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    try:
        return _TASKS[name](**given)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except ValueError as error:
        print(f"bnexp: {error}")
        return 2
    except (RunFailedError, OSError) as error:
        print(f"bnexp: {error}")
        return STORAGE_FAILED if isinstance(error, StorageFailedError) or is_storage(error) else 1


def train(jobs: Sequence[Mapping[str, Any]], slots: int, needs_gpu: bool = False) -> int:
    """Train one job, or several jobs as one population; each run.json says how its run ended.

    Args:
        jobs: the arguments of ``Job``.
        slots: jobs that share a GPU.
        needs_gpu: an engine was asked for a GPU.

    Raises:
        ValueError: an error that the user can fix, or the engine has given no GPU.
    """
    if needs_gpu and not torch.cuda.is_available():
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise ValueError(f"a GPU was asked for, and {socket.gethostname()} gave none (CUDA_VISIBLE_DEVICES={given})")
    stop = Stop()
    with stop.listening():
        todo = [_job(job) for job in jobs]
        import_modules(todo[0].config.imports)
        todo = [job for job in todo if already_done(job) is None]
        for group in _by_step(todo) if len(todo) > 1 else [todo]:
            for part in _parts(group, slots):
                _run(part, stop)
    return stop.exit_code if stop() else 0


def _parts(group: list[Job], slots: int) -> list[list[Job]]:
    """The groups of members that train at once: all members, or as many as the GPU has memory for."""
    if len(group) < 3:
        return [group]
    on_gpu = pick_device(group[0].config.device).type == "cuda"
    most = members_that_fit([job.config for job in group], slots) if on_gpu else None
    if most is None or most >= len(group):
        return [group]
    parts = even_parts(group, most)
    sizes = ", ".join(str(len(part)) for part in parts)
    print(f"{len(group)} members at once do not fit into the memory; training groups of {sizes}, one after another")
    return parts


def _run(group: Sequence[Job], stop: Stop) -> None:
    """Run jobs as one population, or in halves if they do not fit into the device's memory."""
    if not group or stop():
        return
    forget()  # those that were trained before, or were too many
    try:
        run(group, stop=stop, stacked=len(group) > 1)
        return
    except (RuntimeError, MemoryError) as error:
        if len(group) == 1 or not is_out_of_memory(error):
            raise
    # Outside the except block, so that no reference to the larger population is alive.
    half = len(group) // 2
    print(f"{len(group)} members at once do not fit into the memory; going on with {half} and {len(group) - half}")
    for part in (group[:half], group[half:]):
        for jobs in _by_step([job for job in part if already_done(job) is None]):
            _run(jobs, stop)


def _job(given: Mapping[str, Any]) -> Job:
    own: dict[str, Any] = {"config": from_dict(given["config"]), "folder": Path(given["folder"])}
    return Job(**{**given, **own})


def _by_step(jobs: Sequence[Job]) -> list[list[Job]]:
    """Group jobs by the step of their checkpoint, because all members of a population train the same step at once."""
    groups: dict[int, list[Job]] = {}
    for job in jobs:
        state = checkpoint.load(job.folder)
        groups.setdefault(state["step"] if state else 0, []).append(job)
    return list(groups.values())


def measure(config: Mapping[str, Any]) -> int:
    """Print the bytes that a job needs on a GPU, and those that are free there, in JSON.

    Raises:
        ValueError: an error that the user can fix.
    """
    made = from_dict(config)
    import_modules(made.imports)
    device = pick_device(made.device)
    free, _ = torch.cuda.mem_get_info(device)
    dry_run([made])
    print(json.dumps({"job": _CONTEXT + torch.cuda.max_memory_reserved(device), "free": free}))
    return 0


_TASKS: Mapping[str, Callable[..., int]] = {"train": train, "check": check_sweep, "measure": measure}
