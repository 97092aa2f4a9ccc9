"""The processes of a sweep: a server that forks, and what its children do. Imported in these processes only."""

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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bnexp.config.checks import RunFailedError
from bnexp.config.schema import TrainConfig, from_dict
from bnexp.data import keep
from bnexp.experiment.check import check_sweep
from bnexp.experiment.display import console
from bnexp.experiment.dry_run import members_that_fit
from bnexp.experiment.job import Job, already_done, import_modules
from bnexp.experiment.machine import pick_device
from bnexp.experiment.run import StorageFailedError, run
from bnexp.norms import NORMS
from bnexp.runs import checkpoint, provenance
from bnexp.stopping import Stop, end_with_parent

# Exit codes of a child beside 0, 1 and 2: the disk is full (sysexits.h, EX_IOERR).
STORAGE_FAILED = 74


def serve(descriptor: int) -> None:
    """Fork a child whenever a message asks for one, tell when it has ended, and end all when the peer is gone."""
    provenance.code()
    _warm_up()
    server = _Server(socket.socket(fileno=descriptor))
    end_with_parent(0)  # from here on it sees the connection close, and ends what its children have started, too
    try:
        server.run()
    finally:
        server.end_all()
        os._exit(0)  # what libraries have to say at an ordinary end interests nobody


def _warm_up() -> None:
    """What the libraries of a CPU set up for the first convolution and product, once for all children; no thread."""
    torch.conv2d(torch.zeros(2, 1, 5, 5), torch.zeros(1, 1, 3, 3))
    torch.mm(torch.zeros(2, 2), torch.zeros(2, 2))


class _Server:
    """Children by process id, and the connection over which they are asked for."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        self._children: dict[int, int] = {}
        self._awake, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        gc.freeze()  # what is here stays, and is not copied into each child by the collector's marks

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
            self._children[self._fork(message)] = message["fork"]
        elif "signal" in message:
            self._signal(message["task"], message["signal"])
        else:
            for module in message.get("import", ()):
                with contextlib.suppress(ImportError):  # a part of a module that is named like one
                    importlib.import_module(module)
            if "keep" in message:
                with contextlib.suppress(ValueError, OSError):  # whoever needs them will say so
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
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (self._connection.fileno(), self._awake, self._wake):
                os.close(descriptor)
            _settle_in(server, message["log"], message["env"])
            with console():
                code = _call(message["call"], message["given"])
        except OSError:  # also of a print
            code = STORAGE_FAILED
            traceback.print_exc()
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        """Tell of children that have ended, and end what they have left behind."""
        for pid in list(self._children):
            # Seen but not yet collected, so that the number of its process group is still its own.
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            _end_group(pid)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            self._connection.sendall(json.dumps({"task": self._children.pop(pid), "code": code}).encode() + b"\n")

    def end_all(self) -> None:
        for pid in self._children:
            _end_group(pid)


def _end_group(pid: int) -> None:
    """Kill a child and all that it has started."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _settle_in(server: int, log: str, env: Mapping[str, str]) -> None:
    """Make a forked child a process of its own: session, output, environment, and an end with its parent's."""
    os.setsid()
    end_with_parent(signal.SIGKILL)
    if os.getppid() != server:  # it died before the line above
        os._exit(1)
    if not os.path.isdir(os.path.dirname(log)):  # whoever has asked for this child is gone
        os._exit(1)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.update(env)
    faulthandler.enable()


def _call(name: str, given: Mapping[str, Any]) -> int:
    """Do a task; the exit code, with a last line that says what went wrong."""
    try:
        return _TASKS[name](**given)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except ValueError as error:
        print(f"bnexp: {error}")
        return 2
    except (StorageFailedError, OSError) as error:
        print(f"bnexp: {error}")
        return STORAGE_FAILED
    except RunFailedError as error:
        print(f"bnexp: {error}")
        return 1


def train(jobs: Sequence[Mapping[str, Any]], executor: str, slots: int) -> int:
    """Do one job, or several that can train as one population; how each ended is in its run.json.

    Args:
        jobs: what ``Job`` takes.
        executor: of ``Options``.
        slots: jobs that share a GPU.
    """
    stop = Stop()
    with stop.listening():
        todo = [_job(job) for job in jobs]
        import_modules(todo[0].config.imports)
        todo = [job for job in todo if already_done(job) is None]
        for group in _by_step(todo) if len(todo) > 1 else [todo]:
            for part in _parts(group, executor, slots):
                _run(part, stop, executor)
    return stop.exit_code if stop() else 0


def _parts(group: Sequence[Job], executor: str, slots: int) -> list[Sequence[Job]]:
    """The members that train at once: all of them, or as many as a GPU has memory for."""
    if len(group) < 3 or not _stacked(executor, group[0].config):
        return [group]
    on_gpu = pick_device(group[0].config.device).type == "cuda"
    most = members_that_fit([job.config for job in group], slots) if on_gpu else None
    if most is None or most >= len(group):
        return [group]
    count = -(-len(group) // most)
    parts = [group[len(group) * part // count : len(group) * (part + 1) // count] for part in range(count)]
    sizes = ", ".join(str(len(part)) for part in parts)
    print(f"{len(group)} members at once are too many for the memory; one after another {sizes}")
    return parts


def _run(group: Sequence[Job], stop: Stop, executor: str) -> None:
    """Run jobs as one population, or in halves where they are too many for the device's memory."""
    if not group or stop():
        return
    try:
        run(group, stop=stop, stacked=_stacked(executor, group[0].config))
        return
    except torch.OutOfMemoryError:
        if len(group) == 1:
            raise
    # Behind the handler, so that nothing of the larger population is alive.
    half = len(group) // 2
    print(f"{len(group)} members at once are too many for the memory; going on with {half} and {len(group) - half}")
    for part in (group[:half], group[half:]):
        for jobs in _by_step([job for job in part if already_done(job) is None]):
            _run(jobs, stop, executor)


def _job(given: Mapping[str, Any]) -> Job:
    own: dict[str, Any] = {"config": from_dict(given["config"]), "folder": Path(given["folder"])}
    return Job(**{**given, **own})


def _by_step(jobs: Sequence[Job]) -> list[list[Job]]:
    """Members of a population move in step: those whose checkpoints stand at different ones train one after another."""
    groups: dict[int, list[Job]] = {}
    for job in jobs:
        state = checkpoint.load(job.folder)
        groups.setdefault(state["step"] if state else 0, []).append(job)
    return list(groups.values())


def _stacked(executor: str, config: TrainConfig) -> bool:
    name = config.norm["name"]
    able = NORMS.capabilities(name).stacks
    if executor == "auto":
        on_gpu = config.device.startswith("cuda") or (config.device == "auto" and torch.cuda.is_available())
        return able and on_gpu
    if executor == "stacked" and not able:
        raise ValueError(f"hydra.launcher.executor=stacked: norm={name} has no rule for members; use one_by_one")
    return executor == "stacked"


_TASKS: Mapping[str, Callable[..., int]] = {"train": train, "check": check_sweep}
