"""The wall time of a 16-job LeNet sweep, by `hydra/launcher=local` and by Hydra's basic launcher; that of a short job.

    python scripts/bench_sweep.py [--rounds 3] [--epochs 3]

Both run the same jobs on digits at 28x28. Basic is Hydra as it comes (its sweeper, its launcher, all jobs in one
process) with as many threads as torch takes by default; local is bnexp's default, a process of one thread a core. The
two take turns; the medians over the rounds are printed, and their ratio. Start-up and the check of the jobs count.

A short job trains a small perceptron for one step and evaluates it, one job at a time: what it takes is the difference
of two sweeps, so that start-up is left out. What its loop takes, evaluation and checkpoint included, is in its
run.json; the rest is the sweep's own: forking, checking, building, opening and closing files, ending.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from checkout import environment

# Jobs of the two sweeps whose difference is measured.
FEW, MANY = 4, 44
PROGRAM = "import sys; from bnexp.cli.main import main; sys.exit(main())"


def ways(epochs: int) -> dict[str, list[str]]:
    """Command lines by name."""
    jobs = ["train", "-m", "norm=none,bn", "seed=range(8)", f"epochs={epochs}"]
    default_threads = len(os.sched_getaffinity(0))
    basic = ["hydra/launcher=basic", "hydra/sweeper=basic", f"threads={default_threads}"]
    return {"basic": [*jobs, *basic], "local": jobs}


def seconds(words: list[str]) -> tuple[float, list[float]]:
    """Run a sweep in a fresh folder; its wall time, and that of each run's loop."""
    users = {key: value for key, value in environment().items() if key != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", PROGRAM, *words, f"hydra.sweep.dir={folder}/sweep"],
            env=users,
            cwd=folder,
            check=True,
            capture_output=True,
        )
        took = time.perf_counter() - start
        runs = [json.loads(path.read_text()) for path in Path(folder).glob("sweep/*/run.json")]
        assert {run["status"] for run in runs} == {"finished"}
    return took, [run["seconds"] for run in runs]


def short_job(rounds: int) -> tuple[float, float]:
    """Milliseconds of a short job in a sweep, and of its loop: medians."""
    jobs = [
        "train",
        "-m",
        "model=mlp",
        "model.depth=1",
        "norm=bn",
        "data.size=null",
        "steps=1",
        "hydra.launcher.jobs=1",
    ]
    took, loops = [], []
    for _ in range(rounds):
        few, _ = seconds([*jobs, f"seed=range({FEW})"])
        many, found = seconds([*jobs, f"seed=range({MANY})"])
        took.append((many - few) / (MANY - FEW))
        loops += found
    return 1000 * statistics.median(took), 1000 * statistics.median(loops)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    took: dict[str, list[float]] = {"basic": [], "local": []}
    for number in range(given.rounds):
        order = list(ways(given.epochs).items())
        for name, words in order if number % 2 == 0 else reversed(order):
            took[name].append(seconds(words)[0])
            print(f"round {number + 1}  {name:6} {took[name][-1]:7.1f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in took.items()}
    print(f"median: basic {medians['basic']:.1f} s, local {medians['local']:.1f} s")
    print(f"local takes {medians['local'] / medians['basic']:.2f} of the time of basic")
    job, loop = short_job(given.rounds)
    print(f"a job of one step takes {job:.0f} ms, of which its loop takes {loop:.0f} ms")


if __name__ == "__main__":
    main()
