"""Checks of a sweep's configs before any job starts, and the number of jobs that can run at the same time."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bnexp.config.checks import RunFailedError
from bnexp.config.schema import checkpoints, shape
from bnexp.runs.paths import RunPaths
from bnexp.stopping import Stop
from bnexp.sweep.engine import EngineDiedError
from bnexp.sweep.fork_server import ForkServer, complaint
from bnexp.sweep.options import Options
from bnexp.sweep.plan import Entry

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
        unstackable: shape of configs -> why jobs of this shape train alone.
    """

    slots: Sequence[Mapping[str, str]]
    unstackable: Mapping[str, str]


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
    if options.max_stack > 1:
        for reason in dict.fromkeys(reasons.values()):
            print(f"not stacked, jobs train one by one: {reason}", file=sys.stderr)
    possible = [entry for entry in todo if entry.state != "refused"]
    _tell_disk(possible, found["shapes"])
    threads = max((entry.config["threads"] for entry in possible), default=1)
    return Ready(slots(options, found["gpus"], threads), reasons)


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
    with tempfile.TemporaryDirectory(prefix="bnexp-") as folder:
        log = RunPaths(Path(folder)).output_log
        begun = [entry.state != "waiting" for entry in todo]
        shorter = [list(entry.shorter.values()) for entry in todo]
        jobs = {"configs": [entry.config for entry in todo], "begun": begun, "shorter": shorter}
        given = {**jobs, "elsewhere": elsewhere}
        server.revive()
        try:
            server.fork(0, "check", given, log=str(log), env={})
            server.load(_LATE)
            ended: list[tuple[int, int]] = []
            while not ended and not stop():
                ended = server.ended(0.1)
        except EngineDiedError:
            raise RunFailedError("the process that runs the jobs does not start; its messages are above") from None
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    if ended and ended[0][1] != 0:
        died = f"checking the jobs ended with code {ended[0][1]}: {' / '.join(lines[-3:])}"
        raise ValueError(complaint(lines) or died)
    return lines


def slots(options: Options, gpus: int, threads: int) -> list[Mapping[str, str]]:
    """Environment of each slot. ``jobs=auto``: a slot per ``threads`` cores, or ``slots_per_gpu`` slots per GPU."""
    if gpus == 0:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return [{}] * (max(1, cores // threads) if options.jobs == "auto" else options.jobs)
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    devices = names if len(names) >= gpus and names[0] else [str(index) for index in range(gpus)]
    devices = devices[:gpus]
    wanted = gpus * options.slots_per_gpu if options.jobs == "auto" else options.jobs
    return [{"CUDA_VISIBLE_DEVICES": devices[index % gpus]} for index in range(wanted)]
