"""Checks of a sweep's configs before any job starts, and the number of jobs that can run at the same time."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnexp.config.checks import RunFailedError
from bnexp.config.schema import checkpoints, shape
from bnexp.memory import SHARE
from bnexp.runs.paths import RunPaths
from bnexp.stopping import Stop
from bnexp.sweep.engine import EngineDiedError
from bnexp.sweep.fork_server import ForkServer, complaint
from bnexp.sweep.options import Options
from bnexp.sweep.plan import Entry
from bnexp.sweep.stacking import Stacking

# Modules that torch imports in the first backward pass and save, and TensorBoard for hyperparameters. Importing them in
# the fork server saves each job some milliseconds; none starts a thread or uses a GPU.
_LATE = (
    *("torch.fx.experimental._constant_symnode", "torch.nested._internal.nested_tensor", "torch.utils._device"),
    *("torch.utils.serialization.config", "multiprocessing.synchronize"),
    *("tensorboard.plugins.hparams.api_pb2", "tensorboard.plugins.hparams.plugin_data_pb2"),
    "tensorboard.plugins.hparams.metadata",
)
# So many bytes of checkpoints are worth a line.
_LARGE = 2**30


@dataclass(frozen=True)
class Ready:
    """The result of a preflight: the configs are checked, and the sweep can start.

    Attributes:
        slots: environment variables for each process that may run at the same time, one mapping per process.
        stacking: which jobs train as one population.
        per_gpu: processes that share a GPU.
    """

    slots: Sequence[Mapping[str, str]]
    stacking: Stacking
    per_gpu: int = 1


def preflight(server: ForkServer, todo: Sequence[Entry], options: Options, stop: Stop) -> Ready | None:
    """Check the jobs in a child process, and find out where they can run; None if a signal stopped the check.

    The state of those that cannot run becomes ``refused``.

    Raises:
        ValueError: a config is wrong, or a file that it reads or imports, unless such jobs are to be skipped.
        RunFailedError: the fork server does not start.
    """
    for entry in todo:
        if entry.state == "refused":  # what it lacked may be there now
            entry.state, entry.reason = "waiting", None
    lines = _checked(server, todo, stop, elsewhere=options.engine != "local")
    if stop():
        return None
    *remarks, answer = lines
    for remark in dict.fromkeys(remarks):
        print(remark, file=sys.stderr)
    found = json.loads(answer)
    _refuse(todo, {int(number): reason for number, reason in found["faults"].items()}, skip=options.skip_invalid)
    # An import may start the GPU driver, which does not survive a fork.
    if found["gpus"] == 0 and options.engine == "local":
        server.load(found["modules"])
        server.keep(found["data"])
    reasons = {key: each["unstackable"] for key, each in found["shapes"].items() if each["unstackable"]}
    possible = [entry for entry in todo if entry.state != "refused"]
    _tell_disk(possible, found["shapes"])
    threads = max((entry.config["threads"] for entry in possible), default=1)
    stacking = Stacking(options, found["gpus"], _at_once(options, found["gpus"], threads), reasons)
    for reason in dict.fromkeys(filter(None, map(stacking.reason, possible))):
        print(f"not stacked, jobs train one by one: {reason}", file=sys.stderr)
    largest = max(possible, key=lambda entry: found["shapes"][shape(entry.config)]["operations"], default=None)
    groups, gpus = stacking.groups(possible), found["gpus"]
    per_gpu = _asked(options, gpus)
    if per_gpu is None and largest and len(groups) > gpus:
        per_gpu = _sharing(groups, largest, server, stop, gpus=gpus, threads=threads)
    per_gpu = per_gpu or 1
    share = min(per_gpu, -(-len(groups) // gpus)) if gpus else 1
    return Ready(slots(options, gpus, threads, per_gpu), stacking, max(1, share))


def operations(server: ForkServer, jobs: Sequence[Entry], stop: Stop) -> list[int | str]:
    """The operations of each job's training (``check.Size``), counted on blank models on the CPU.

    In their place stands why a job cannot run.

    Raises:
        RunFailedError: the fork server does not start.
    """
    *_, answer = _checked(server, jobs, stop, elsewhere=True)
    found = json.loads(answer)
    faults = {int(number): reason for number, reason in found["faults"].items()}
    sizes = [found["shapes"].get(shape(entry.config), {}) for entry in jobs]
    return [faults.get(number) or size["operations"] * size["steps"] for number, size in enumerate(sizes)]


def _tell_disk(todo: Sequence[Entry], shapes: Mapping[str, Mapping[str, int]]) -> None:
    """Say how much disk the checkpoints of a large sweep take."""
    kept = [checkpoints(entry.config) for entry in todo]
    saved = [shapes[shape(entry.config)]["saved"] for entry in todo]
    total = sum(copies * nbytes for copies, nbytes in zip(kept, saved, strict=True))
    if total > _LARGE:
        best = " beside the two best" if any(entry.config.get("checkpoint_best") for entry in todo) else ""
        less = f"checkpoint_keep=last keeps one a job{best}, checkpoint_keep=none none"
        print(f"checkpoints of {len(todo)} jobs: {total / 2**30:.1f} GiB; {less}", file=sys.stderr)


def _refuse(todo: Sequence[Entry], faults: Mapping[int, str], *, skip: bool) -> None:
    """Enter which jobs cannot run, and why.

    Raises:
        ValueError: there are some, and they are not to be skipped. What is wrong with all jobs alike is told as of one.
    """
    for number, reason in faults.items():
        todo[number].state, todo[number].reason = "refused", reason
    have_trained = any(todo[number].shorter for number in faults)
    if not faults or (skip and not have_trained):
        return
    reasons = list(faults.values())
    if len(faults) == len(todo) and len(set(reasons)) == 1:
        raise ValueError(reasons[0])
    others = f"; {len(faults) - 1} more cannot run" if len(faults) > 1 else ""
    hint = "; hydra.sweeper.skip_invalid=true runs the rest" if len(faults) < len(todo) and not have_trained else ""
    raise ValueError(f"job {todo[min(faults)].name}: {faults[min(faults)]}{others}{hint}")


def _checked(server: ForkServer, todo: Sequence[Entry], stop: Stop, *, elsewhere: bool) -> list[str]:
    """The lines that the child printed while it checked the jobs.

    Raises:
        ValueError, RunFailedError: see ``preflight``.
    """
    begun = [entry.state != "waiting" for entry in todo]
    shorter = [list(entry.shorter.values()) for entry in todo]
    jobs = {"configs": [entry.config for entry in todo], "begun": begun, "shorter": shorter}
    server.revive()
    code, lines = _said(server, "check", {**jobs, "elsewhere": elsewhere}, stop)
    if code:
        died = f"checking the jobs ended with code {code}: {' / '.join(lines[-3:])}"
        raise ValueError(complaint(lines) or died)
    return lines


def _said(server: ForkServer, call: str, given: Mapping[str, Any], stop: Stop) -> tuple[int | None, list[str]]:
    """Exit code (None if it was stopped) of a child of the fork server, and the lines that it printed.

    Raises:
        RunFailedError: the fork server does not start.
    """
    with tempfile.TemporaryDirectory(prefix="bnexp-") as folder:
        log = RunPaths(Path(folder)).output_log
        try:
            server.fork(0, call, given, log=str(log), env={})
            server.load(_LATE)
            ended: list[tuple[int, int]] = []
            while not ended and not stop():
                ended = server.ended(0.1)
        except EngineDiedError:
            raise RunFailedError("the process that runs the jobs does not start; its messages are above") from None
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return ended[0][1] if ended else None, lines


def _sharing(
    groups: Sequence[Sequence[Entry]], largest: Entry, server: ForkServer, stop: Stop, *, gpus: int, threads: int
) -> int:
    """How many processes share a GPU: as many as its memory holds of the largest job, and no more than CPU cores.

    A stack fills a GPU by itself.
    """
    share = max(1, cores() // threads // gpus)
    if share == 1 or any(len(group) > 1 for group in groups):
        return 1
    code, lines = _said(server, "measure", {"config": largest.config}, stop)
    if code != 0:
        why = complaint(lines) or (lines or ["stopped"])[-1]
        more = "hydra.launcher.slots_per_gpu=N lets N share it"
        print(f"one job a GPU, because what a job needs cannot be measured ({why}); {more}", file=sys.stderr)
        return 1
    found = json.loads(lines[-1])
    many = processes_fitting(found["job"], found["free"], cores=share, jobs=-(-len(groups) // gpus))
    needs = f"a job needs {found['job'] / 2**30:.1f} of {found['free'] / 2**30:.1f} GiB, {share} cores a GPU"
    print(f"{many} jobs share a GPU ({needs}); hydra.launcher.slots_per_gpu sets it", file=sys.stderr)
    return many


def _asked(options: Options, gpus: int) -> int | None:
    """How many processes may share a GPU, by the settings; None where they leave it open."""
    if gpus and options.engine == "local" and options.jobs != "auto":
        return -(-options.jobs // gpus)
    if options.slots_per_gpu != "auto":
        return options.slots_per_gpu
    return None if gpus else 1


def processes_fitting(job: int, free: int, *, cores: int, jobs: int) -> int:
    """Processes that share a GPU, at least 1.

    Args:
        job: bytes that a process needs on it.
        free: bytes that are free on it.
        cores: CPU cores for the processes.
        jobs: that there are for it.
    """
    return max(1, min(int(SHARE * free) // job, cores, jobs))


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _at_once(options: Options, gpus: int, threads: int) -> int:
    """Stacks that compute at the same time: one a GPU, or one for ``threads`` cores; an engine gets them undivided."""
    if options.engine != "local":
        return 1
    most = gpus or max(1, cores() // threads)
    return most if options.jobs == "auto" else min(most, options.jobs)


def slots(options: Options, gpus: int, threads: int, per_gpu: int) -> list[Mapping[str, str]]:
    """Environment of each slot. ``jobs=auto``: a slot per ``threads`` cores, or ``per_gpu`` slots per GPU."""
    if gpus == 0:
        return [{}] * (max(1, cores() // threads) if options.jobs == "auto" else options.jobs)
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    devices = names if len(names) >= gpus and names[0] else [str(index) for index in range(gpus)]
    devices = devices[:gpus]
    wanted = gpus * per_gpu if options.jobs == "auto" else options.jobs
    return [{"CUDA_VISIBLE_DEVICES": devices[index % gpus]} for index in range(wanted)]
