"""Time ``bnexp compare`` over many run folders: ``python scripts/bench_compare.py [RUN_FOLDER] [--folders 10000]``.

The folders are copies of one run with other settings and results; one in fifty is broken, foreign or unfinished.
Without a run folder a short run is trained. Prints seconds and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bnexp
from bnexp.cli.compare import main as compare
from bnexp.runs.run_json import FORMAT

NORMS = ("none", "bn", "ln", "in", "gn")
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
DAMAGE: tuple[Callable[[str], str], ...] = (
    lambda text: "",
    lambda text: text[: len(text) // 2],
    lambda text: '{"some": "other program"}',
    lambda text: text.replace(f'"format": {FORMAT}', '"format": 99'),
    lambda text: text.replace('"finished"', '"running"'),
)


def trained(folder: Path) -> Path:
    """A short run, made in a process of its own."""
    words = ("model=mlp", "model.depth=1", "norm=bn", "steps=20", "eval_every=10", "device=cpu")
    return bnexp.train(*words, f"hydra.run.dir={folder}").folder


def varied(run: dict[str, Any], index: int) -> dict[str, Any]:
    """The run as it might have come out with another norm, learning rate and seed."""
    config = json.loads(json.dumps(run["config"]))
    norm, rate, seed = index % 5, index // 5 % 5, index // 25
    config["norm"]["name"], config["optim"]["lr"], config["seed"] = NORMS[norm], RATES[rate], seed
    accuracy = 0.95 + 0.01 * norm - 0.004 * rate + random.Random(index).gauss(0, 0.003)
    final = {"test/accuracy": accuracy, "validation/accuracy": accuracy - 0.01}
    name = f"norm={NORMS[norm]},optim.lr={RATES[rate]},seed={seed}"
    identity = hashlib.sha256(name.encode()).hexdigest()[:16]
    run = {key: value for key, value in run.items() if key != "digest"}  # that of the run that is copied
    return {**run, "name": name, "config": config, "config_hash": identity, "final": final, "best": {}}


def fill(root: Path, template: Path, folders: int) -> None:
    """Write copies of a run folder below the root."""
    run, metrics = json.loads((template / "run.json").read_text()), (template / "metrics.csv").read_text()
    for index in range(folders):
        folder = root / f"sweep{index // 1000:03d}" / f"{index:05d}"
        (folder / ".hydra").mkdir(parents=True)
        text = json.dumps(varied(run, index), indent=1)
        (folder / "run.json").write_text(DAMAGE[index // 50 % len(DAMAGE)](text) if index % 50 == 49 else text)
        (folder / "metrics.csv").write_text(metrics)


def timed(arguments: list[str]) -> tuple[float, str]:
    """Seconds of one call, and what it printed."""
    printed = io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(printed):
        compare(arguments)
    return time.perf_counter() - start, printed.getvalue()


def main() -> None:
    """Make the folders, compare them plainly and with everything, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--folders", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = f"{place}/runs"
        fill(Path(root), options.run or trained(Path(place) / "template"), options.folders)
        everything = ["--best", "optim.lr", "--baseline", "norm=bn", "--html", f"{root}/page.html", "--figures", root]
        for name, arguments in {"plain": [], "again": [], "everything": everything}.items():
            seconds, printed = timed([root, *arguments])
            if not all(f"{norm} " in printed for norm in NORMS):
                raise SystemExit(f"the folders were not compared: {printed}")
            digest = hashlib.sha256(printed.encode()).hexdigest()[:8]
            print(f"{name:<10} {options.folders} folders  {seconds:6.2f} s  output {digest}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
