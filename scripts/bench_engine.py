"""What a sweep of many jobs costs in bookkeeping: a simulated engine ends every job at once, and nothing is trained.

    python scripts/bench_engine.py [--jobs 10000]

Prints the bytes of sweep.json, the memory of the supervisor, and its seconds of CPU time.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from bnexp.config import compose
from bnexp.config.schema import config_hash
from bnexp.config.shipped import configs_folder
from bnexp.runs import json_file, run_json
from bnexp.runs.paths import RunPaths
from bnexp.sweep.engine import End, News, Task
from bnexp.sweep.options import options
from bnexp.sweep.plan import Plan, entries
from bnexp.sweep.plan import read as read_plan
from bnexp.sweep.preflight import Ready
from bnexp.sweep.stacking import Stacking
from bnexp.sweep.supervisor import Supervisor

_AT_ONCE = 64


class Simulated:
    """Takes all tasks, and ends 64 of them in each poll; each leaves a run.json, as a real job does."""

    name = "Simulated"
    survives = True

    def __init__(self) -> None:
        self._waiting: list[Task] = []

    def begin(self, threads: int) -> None:
        """Do nothing."""

    def room(self) -> int:
        """As many as there are."""
        return 10**9

    def submit(self, tasks: Sequence[Task]) -> dict[int, str]:
        """Keep the tasks."""
        self._waiting += tasks
        return {task.number: f"1_{task.number}" for task in tasks}

    def alive(self, tickets: Collection[str]) -> Collection[str]:
        """None."""
        return ()

    def attach(self, number: int, ticket: str, sweep: Path) -> None:
        """Never called."""
        raise AssertionError

    def poll(self, timeout_s: float) -> News:
        """End some tasks."""
        now, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
        for task in now:
            (job,) = task.given["jobs"]
            facts = {key: job[key] for key in ("name", "config", "overrides")}
            more = {"config_hash": config_hash(job["config"]), "status": "finished", "final": {"test/accuracy": 0.5}}
            text = json_file.text({"format": run_json.FORMAT, **facts, **more}, signed=True)
            RunPaths(Path(job["folder"])).run_json.write_bytes(text)  # not the supervisor's work: so as fast as it goes
        numbers = [task.number for task in now]
        return News(numbers, [End(number, 0) for number in numbers])

    def cancel(self, numbers: Collection[int], *, by_force: bool = False) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def main() -> None:
    """Carry out a sweep of the wanted number of jobs, and print its cost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    jobs = parser.parse_args().jobs
    (config,) = compose.compose_all([["device=cpu"]], configs_folder())
    given = options(compose.launcher("local", configs_folder()))
    with tempfile.TemporaryDirectory() as folder:
        words = [([f"seed={seed}"], config | {"seed": seed}) for seed in range(jobs)]
        plan = Plan(Path(folder), [], given, entries(words))
        before, begun = _megabytes(), time.process_time()
        Supervisor(
            plan, plan.entries, Ready([], Stacking(plan.options)), compose.notes, lambda: False, Simulated()
        ).run()  # type: ignore[arg-type]
        carried = time.process_time()
        read_plan(Path(folder)).refresh()
        size = (Path(folder) / "sweep.json").stat().st_size
        print(f"{jobs} jobs: sweep.json {size / 2**20:.1f} MiB; memory {before:.0f} -> {_megabytes():.0f} MiB")
        print(f"CPU: {carried - begun:.1f} s to carry out, {time.process_time() - carried:.1f} s to read and refresh")


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    main()
