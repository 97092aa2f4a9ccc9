"""Time ``bnexp runs`` and ``bnexp show`` over many run folders: ``python scripts/bench_runs.py [--folders 1000]``.

The folders are those of bench_compare.py. Prints the median seconds of five calls, each in a new process with
Python's start, and of ``bnexp --version``, which is the start alone.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_compare import fill, trained
from checkout import environment


def seconds(words: list[str], place: Path) -> float:
    """The median seconds of a command."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        command = [sys.executable, "-m", "bnexp", *words]
        ended = subprocess.run(command, cwd=place, check=True, capture_output=True, env=environment(), text=True)
        times.append(time.perf_counter() - start)
        if words != ["--version"] and "norm" not in ended.stdout:
            raise SystemExit(f"no run was read: {ended.stdout}{ended.stderr}")
    return statistics.median(times)


def main() -> None:
    """Make the folders, and say what each command takes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folders", type=int, default=1000)
    folders = parser.parse_args().folders
    with tempfile.TemporaryDirectory() as place:
        fill(Path(place) / "outputs", trained(Path(place) / "template"), folders)
        for words in (["--version"], ["runs"], ["runs", "--json"], ["show"]):
            print(f"bnexp {' '.join(words):12} {folders} runs  {seconds(words, Path(place)):.2f} s")


if __name__ == "__main__":
    main()
