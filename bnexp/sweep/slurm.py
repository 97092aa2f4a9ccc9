"""SLURM: submitit writes the batch files and queues timed-out tasks again; squeue says which tasks wait and run.

The result of a task is a small JSON file, because a pickled one would run code when it is read.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence, Set
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from bnexp.config.checks import RunFailedError
from bnexp.runs.storage import write_atomically
from bnexp.sweep.engine import End, News, Task
from bnexp.sweep.node import SEEN_S, Work, work
from bnexp.sweep.options import Options, slurm_options

Item = TypeVar("Item")
# Between two calls of squeue pass at least so many seconds, and so many times what the call took.
_POLL_S, _POLL_SHARE = 2.0, 20.0
# An array may have more tasks than SLURM's default allows only where SLURM says so.
_ARRAY = 1001
# Tasks that one scancel is given.
_AT_ONCE = 500
# What SLURM calls the end of a task that its process could not tell -> our words.
_STATES = {
    "CANCELLED": "cancelled",
    "OUT_OF_MEMORY": "killed by SLURM: out of memory (hydra.launcher.mem_gb)",
    "NODE_FAIL": "its node failed",
    "TIMEOUT": "ended by SLURM's time limit before it could save",
    "PREEMPTED": "preempted",
    "BOOT_FAIL": "its node did not start",
    "DEADLINE": "not started before SLURM's deadline",
}
# States of a task that squeue may miss for a moment, while SLURM queues it again.
_ALIVE = ("PENDING", "RUNNING", "REQUEUED", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED")


class SlurmWork:
    """A task on a node of SLURM: writes its end into the folder that submitit has for it."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self) -> None:
        """Run the task."""
        end = _end_file(self._folder())
        end.unlink(missing_ok=True)  # of the time before it was queued again
        code, lines = self.work()
        _write(end, {"code": code, "lines": lines})

    def checkpoint(self) -> Any:
        """Called by submitit when the time limit comes, or a task of a higher priority: save, and go on later."""
        import submitit

        self.work.save()
        _write(_end_file(self._folder()), {"code": 1, "lines": [], "reason": "time"})
        return submitit.helpers.DelayedSubmission(self)

    def _folder(self) -> Path:
        import submitit

        return Path(submitit.JobEnvironment().paths.folder)


def _end_file(folder: Path) -> Path:
    return folder / "end.json"


def _write(path: Path, end: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(end).encode())


class Slurm:
    """Hands tasks to SLURM, those with equal needs as one array.

    Args:
        given: the sweep's options.
    """

    name = "SLURM"
    survives = True

    def __init__(self, given: Options) -> None:
        self._given, self._own = given, slurm_options(given)
        self._tickets: dict[int, tuple[str, Path]] = {}
        self._started: set[int] = set()
        self._gone: dict[int, float] = {}
        self._next_poll = 0.0

    def begin(self, threads: int) -> None:
        """See ``Engine``."""
        for command in ("sbatch", "srun", "squeue", "scontrol", "scancel"):
            if shutil.which(command) is None:
                raise ValueError(
                    f"hydra/launcher=slurm: there is no {command} on this machine; start it on a login node"
                )
        if self._own.cpus_per_task is not None and self._own.cpus_per_task < threads:
            raise ValueError(
                f"hydra.launcher.cpus_per_task={self._own.cpus_per_task}: fewer than threads={threads}; "
                "leave it out to have as many"
            )
        logging.getLogger("submitit").setLevel(logging.CRITICAL)  # its errors are raised, too
        self._largest = _largest_array()

    def room(self) -> int:
        """See ``Engine``."""
        most: int = 10**9 if self._given.jobs == "auto" else self._given.jobs
        left = most - len(self._tickets)
        return left if left >= most / 2 else 0  # arrays of some length, not one task at a time

    def submit(self, tasks: Sequence[Task]) -> dict[int, str]:
        """See ``Engine``."""
        found: dict[int, str] = {}
        try:
            for alike in _arrays(tasks, self._largest):
                found |= self._submit_array(alike)
        except Exception as error:
            self.cancel(found)
            self._tickets = {number: each for number, each in self._tickets.items() if number not in found}
            raise RunFailedError(f"SLURM: {_reason(error)}") from None
        return found

    def _submit_array(self, tasks: Sequence[Task]) -> dict[int, str]:
        folder = _folder(tasks[0].sweep)
        executor = self._executor(folder, tasks[0])
        needs_gpu = (self._gpus(tasks[0]) > 0 or self._gres_has_gpu()) and tasks[0].device != "cpu"
        grace_s = max(self._own.signal_delay_s - 15.0, 5.0)
        with executor.batch():
            jobs = [executor.submit(SlurmWork(work(task, grace_s, needs_gpu=needs_gpu))) for task in tasks]
        found = {task.number: str(job.job_id) for task, job in zip(tasks, jobs, strict=True)}
        self._tickets |= {number: (ticket, folder) for number, ticket in found.items()}
        return found

    def _executor(self, folder: Path, task: Task) -> Any:
        import submitit

        own = self._own
        kept = ("partition", "account", "qos", "constraint", "exclude", "comment", "gres", "mem_per_cpu", "setup")
        asked = {name: getattr(own, name) for name in (*kept, "additional_parameters")}
        asked |= {"gpus_per_node": self._gpus(task), "mem": own.mem_gb and f"{round(own.mem_gb * 1024)}M"}
        executor = submitit.SlurmExecutor(folder / "%j", max_num_timeout=own.max_num_timeout, max_pickle_size_gb=100.0)
        executor.update_parameters(
            job_name="bnexp",
            time=own.timeout_min,
            signal_delay_s=own.signal_delay_s,
            cpus_per_task=own.cpus_per_task or task.threads,
            array_parallelism=own.array_parallelism,
            **{name: value for name, value in asked.items() if value},
        )
        return executor

    def _gpus(self, task: Task) -> int:
        given = self._own.gpus_per_node
        return int(task.device == "cuda" and not self._gres_has_gpu()) if given is None else given

    def _gres_has_gpu(self) -> bool:
        return "gpu" in (self._own.gres or "")

    def alive(self, tickets: Collection[str]) -> Set[str]:
        """See ``Engine``."""
        if not tickets:
            return set()
        states = _queue()
        if states is None:
            raise ValueError("SLURM: squeue does not answer; try again later")
        return states.keys() & set(tickets)

    def attach(self, number: int, ticket: str, sweep: Path) -> None:
        """See ``Engine``."""
        self._tickets[number] = ticket, _folder(sweep)

    def poll(self, timeout_s: float) -> News:
        """See ``Engine``."""
        if time.monotonic() < self._next_poll:
            time.sleep(timeout_s)
            return News()
        before = time.monotonic()
        states = _queue()
        self._next_poll = time.monotonic() + max(_POLL_S, _POLL_SHARE * (time.monotonic() - before))
        return News() if states is None else self._news(states)

    def _news(self, states: dict[str, str]) -> News:
        """Compare the queue with what was known."""
        alive = {number: states[ticket] for number, (ticket, _) in self._tickets.items() if ticket in states}
        running = {number for number, state in alive.items() if state == "RUNNING"}
        waiting = {number for number, state in alive.items() if state == "PENDING"}
        started, requeued = sorted(running - self._started), sorted(waiting & self._started)
        self._started = (self._started | running) - waiting
        self._gone = {
            number: self._gone.get(number, time.monotonic()) for number in self._tickets.keys() - alive.keys()
        }
        ended = [end for number in list(self._gone) if (end := self._ended(number)) is not None]
        for end in ended:
            del self._tickets[end.number], self._gone[end.number]
        return News(started, requeued, ended)

    def _ended(self, number: int) -> End | None:
        """How a task ended that is no longer in the queue; None while its file may still be on the way."""
        ticket, folder = self._tickets[number]
        said = _said(folder / ticket)
        if said is not None and said["code"] == 0:
            return End(number, 0, said["lines"])
        state = _state(ticket)
        on_the_way = said is None and state in ("COMPLETED", "UNKNOWN")
        if state in _ALIVE or (on_the_way and time.monotonic() - self._gone[number] < SEEN_S):
            return None
        log = folder / ticket / f"{ticket}_0_log.err"
        if said is None:
            return End(number, 1, (), _STATES.get(state, f"ended without a word (SLURM: {state.lower()})"), log)
        if said.get("reason") == "time" and state != "CANCELLED":
            limits = f"{self._own.max_num_timeout + 1} time limits of {self._own.timeout_min} min"
            return End(number, 1, (), f"not finished after {limits}; its checkpoint is kept", log)
        return End(number, said["code"], said["lines"], _STATES.get(state), log)

    def cancel(self, numbers: Collection[int], *, by_force: bool = False) -> None:
        """See ``Engine``."""
        tickets = [self._tickets[number][0] for number in numbers if number in self._tickets]
        for some in _parts(tickets, _AT_ONCE):
            _answer(["scancel", *(["--signal=KILL"] if by_force else []), *some])

    def close(self) -> None:
        """See ``Engine``: SLURM keeps its tasks."""


def _folder(sweep: Path) -> Path:
    """Where submitit keeps its files: a folder per task, named by its ticket."""
    return Path(os.path.abspath(sweep), ".submitit")


def _arrays(tasks: Sequence[Task], largest: int) -> Iterator[Sequence[Task]]:
    """Tasks that can be one array: their needs are equal, and SLURM allows so many."""
    needs = sorted(tasks, key=_needs)
    for _, alike in groupby(needs, _needs):
        yield from _parts(list(alike), largest)


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _needs(task: Task) -> tuple[str, int]:
    return task.device, task.threads


def _largest_array() -> int:
    answer = _answer(["scontrol", "show", "config"]) or ""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer, re.MULTILINE)
    return max(1, int(found[1])) if found else _ARRAY


def _queue() -> dict[str, str] | None:
    """Ticket -> state of everything that this user has in the queue; None if SLURM does not answer."""
    answer = _answer(["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i %T"])
    if answer is None:
        return None
    return dict(line.split() for line in answer.splitlines() if len(line.split()) == 2)


def _state(ticket: str) -> str:
    """What SLURM calls the end of a task: from its controller, which forgets it soon, or from its accounting."""
    found = re.search(r"\bJobState=(\w+)", _answer(["scontrol", "show", "job", "-o", ticket]) or "")
    if found:
        return found[1]
    answer = _answer(["sacct", "-X", "--noheader", "--parsable2", "--format=State", "-j", ticket]) or ""
    return next(iter(answer.split()), "UNKNOWN")


def _answer(command: Sequence[str]) -> str | None:
    """What a command of SLURM prints; None if it fails."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return None


def _said(folder: Path) -> dict[str, Any] | None:
    """What a task wrote when it ended, or None."""
    with contextlib.suppress(OSError):
        os.listdir(folder)  # a network file system then asks its server
    try:
        said = json.loads(_end_file(folder).read_bytes())
        return said if isinstance(said["code"], int) and isinstance(said["lines"], list) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _reason(error: Exception) -> str:
    """The last line of an error that submitit has raised; sbatch wrote it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if "sbatch: error:" in line]
    return (said or lines or [type(error).__name__])[-1].removeprefix("sbatch: error: ")
