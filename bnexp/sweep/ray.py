"""Ray, on this machine or a running cluster: each task is a remote function that starts the task's process."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Collection, Iterable, Sequence, Set
from pathlib import Path
from typing import Any

from bnexp.sweep.engine import End, News, Task
from bnexp.sweep.node import Work, work
from bnexp.sweep.options import Options, ray_options

# Seconds for a cluster to answer at all; Ray itself waits longer, and then ends the process that asked.
_ANSWER_S = 5.0


class Started:
    """An actor that collects which tasks have started, because Ray itself does not tell."""

    def __init__(self) -> None:
        self._numbers: list[int] = []

    def note(self, number: int) -> None:
        """Note that a task has started."""
        self._numbers.append(number)

    def taken(self) -> list[int]:
        """The tasks that have started since the last call."""
        numbers, self._numbers = self._numbers, []
        return numbers


def carried(work: Work, number: int, started: Any) -> tuple[int, list[str]]:
    """Run a task in a worker of Ray."""
    started.note.remote(number)
    return work()


class Ray:
    """Hands tasks to Ray.

    Args:
        given: the sweep's options.
    """

    name = "Ray"
    survives = False

    def __init__(self, given: Options) -> None:
        self._given, self._own = given, ray_options(given)
        self._running: dict[Any, int] = {}

    def begin(self, threads: int) -> None:
        """See ``Engine``."""
        cpus = self._own.remote.num_cpus
        if cpus is not None and 1 <= cpus < threads:
            raise ValueError(f"hydra.launcher.ray.remote.num_cpus={cpus:g}: fewer than threads={threads}; leave it out")
        address = self._own.init.address
        _require_answer(address)
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        own: dict[str, Any] = {} if address else {"include_dashboard": self._own.init.include_dashboard}
        if "PYTHONPATH" in os.environ:  # modules are searched where they are here
            places = os.pathsep.join(map(os.path.abspath, os.environ["PYTHONPATH"].split(os.pathsep)))
            own["runtime_env"] = {"env_vars": {"PYTHONPATH": places}}
        try:
            ray.init(address=address or "local", **quiet, **own)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise ValueError(f"hydra.launcher.ray.init.address={address}: {_first_line(error)}") from None
        self._ray = ray
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        self._started = ray.remote(Started).options(num_cpus=0, scheduling_strategy=here).remote()

    def room(self) -> int:
        """See ``Engine``."""
        return 10**9 if self._given.jobs == "auto" else self._given.jobs - len(self._running)

    def submit(self, tasks: Sequence[Task]) -> dict[int, str]:
        """See ``Engine``: a task ends with this process, so no later command needs to find it."""
        for task in tasks:
            gpus = self._gpus(task)
            cpus = self._own.remote.num_cpus
            function = self._ray.remote(carried).options(
                num_cpus=task.threads if cpus is None else cpus,
                num_gpus=gpus,
                max_retries=self._own.remote.max_retries,
            )
            carries = work(task, self._given.grace_s, needs_gpu=gpus > 0 and task.device != "cpu")
            self._running[function.remote(carries, task.number, self._started)] = task.number
        self._warn(max(self._gpus(task) for task in tasks))
        return {}

    def _gpus(self, task: Task) -> float:
        given = self._own.remote.num_gpus
        if given is not None:
            return given
        shared = self._given.slots_per_gpu
        return 1 / (1 if shared == "auto" else shared) if task.device == "cuda" else 0.0

    def _warn(self, gpus: float) -> None:
        if gpus > 0 and not any(node["Alive"] and node["Resources"].get("GPU", 0) for node in self._ray.nodes()):
            print("no node of this Ray cluster has a GPU; the jobs wait until one joins", file=sys.stderr)

    def alive(self, tickets: Collection[str]) -> Set[str]:
        """None: the tasks of an earlier command have ended with it."""
        return set()

    def attach(self, number: int, ticket: str, sweep: Path) -> None:
        """Never called, see ``alive``."""
        raise AssertionError

    def poll(self, timeout_s: float) -> News:
        """See ``Engine``."""
        if not self._running:
            time.sleep(timeout_s)
            return News()
        running = list(self._running)
        done, _ = self._ray.wait(running, num_returns=len(running), timeout=timeout_s, fetch_local=False)
        started: list[int] = []
        with contextlib.suppress(self._ray.exceptions.RayError):  # its node has died, and nobody else notes starts
            started = self._ray.get(self._started.taken.remote(), timeout=timeout_s)
        known = set(self._running.values())
        return News([number for number in started if number in known], ended=list(self._ends(done)))

    def _ends(self, done: Iterable[Any]) -> Iterable[End]:
        for reference in done:
            number = self._running.pop(reference)
            try:
                code, lines = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                yield End(number, 1, (), self._reason(error))
            else:
                yield End(number, code, lines)

    def _reason(self, error: Exception) -> str:
        if isinstance(error, self._ray.exceptions.TaskCancelledError):
            return "cancelled"
        if isinstance(error, self._ray.exceptions.OutOfMemoryError):
            return "killed by Ray: its node has too little memory"
        if isinstance(error, self._ray.exceptions.WorkerCrashedError):
            return "its worker of Ray was killed (out of memory?)"
        if isinstance(error, self._ray.exceptions.RayTaskError):
            return str(error).strip().splitlines()[-1]
        return f"{type(error).__name__}: {_first_line(error)}"

    def cancel(self, numbers: Collection[int], *, by_force: bool = False) -> None:
        """See ``Engine``: a task that still waits is gone at once."""
        wanted = set(numbers)
        for reference in [each for each, number in self._running.items() if number in wanted]:
            self._ray.cancel(reference, force=by_force)

    def close(self) -> None:
        """Disconnect, and end a Ray that was started for this sweep."""
        if hasattr(self, "_ray"):
            self._ray.shutdown()


def _require_answer(address: str | None) -> None:
    """Refuse a cluster at which nobody answers."""
    host, _, port = (address or "").rpartition(":")
    if not host or "://" in (address or ""):
        return
    try:
        socket.create_connection((host, int(port)), _ANSWER_S).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"hydra.launcher.ray.init.address={address}: no Ray cluster answers there ({reason})"
        ) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
