"""What a sweep of many jobs costs in bookkeeping: a simulated engine ends every job at once, and nothing is trained.

    python scripts/bench_engine.py [--jobs 10000]

Runs the whole commands, ``bnexp train -m ...`` and ``bnexp resume``. Prints the bytes of sweep.json, the memory of the
process that supervises and of the one that checks the configs, and seconds of CPU time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import sys
import tempfile
import time
from collections.abc import Collection, Sequence, Set
from pathlib import Path

from bnexp.cli import hydra_plugins
from bnexp.cli.main import main as bnexp
from bnexp.config.schema import config_hash
from bnexp.runs import json_file, run_json
from bnexp.runs.paths import RunPaths, SweepPaths
from bnexp.sweep import carry_out
from bnexp.sweep.engine import End, News, Task

_AT_ONCE = 64


class Simulated:
    """Takes all tasks, and ends 64 of them in each poll; each leaves a run.json, as a real job does."""

    name = "Simulated"
    survives = True

    def __init__(self) -> None:
        self._waiting: list[Task] = []
        self.began: float | None = None

    def begin(self, threads: int) -> None:
        """Do nothing."""

    def room(self) -> int:
        """As many as there are."""
        return 10**9

    def submit(self, tasks: Sequence[Task]) -> dict[int, str]:
        """Keep the tasks, and the time of the first."""
        self.began = _cpu() if self.began is None else self.began
        self._waiting += tasks
        return {task.number: f"1_{task.number}" for task in tasks}

    def alive(self, tickets: Collection[str]) -> Set[str]:
        """None."""
        return set()

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
        return News(numbers, ended=[End(number, 0) for number in numbers])

    def cancel(self, numbers: Collection[int], *, by_force: bool = False) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def main() -> None:
    """Carry out a sweep of the wanted number of jobs, resume it, and print what both cost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    jobs = parser.parse_args().jobs
    hydra_plugins._LIBRARIES.clear()  # submitit need not be installed
    engine = Simulated()
    carry_out.ENGINES["slurm"] = lambda given: engine
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "s")
        words = ("hydra/launcher=slurm", "device=cpu", f"seed=range({jobs})", f"hydra.sweep.dir={folder}")
        start, trained = _cpu(), _seconds("train", "-m", *words)
        supervisor, checker = (_megabytes(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        resumed = _seconds("resume", str(folder))
        size = SweepPaths(folder).sweep_json.stat().st_size / 2**20
    print(f"{jobs} jobs: sweep.json {size:.1f} MiB; memory: supervisor {supervisor:.0f} MiB, checks {checker:.0f} MiB")
    assert engine.began is not None
    first = engine.began - start
    print(
        f"CPU time: {first:.0f} s until the first tasks are with the engine, {trained:.0f} s until the sweep has ended"
    )
    print(f"CPU time of bnexp resume, which finds every job finished: {resumed:.0f} s")


def _seconds(*words: str) -> float:
    """CPU seconds of a command and of its children; what it prints is dropped."""
    before, sys.argv = _cpu(), ["bnexp", *words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = bnexp()
    assert code == 0, said.getvalue()
    return _cpu() - before


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _megabytes(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 2**10


if __name__ == "__main__":
    main()
