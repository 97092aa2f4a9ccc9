"""What each norm costs: its time relative to that of `none` in the same place.

    python scripts/bench_norms.py [--rounds 15] [--threads 1] [--device cpu] [--json benchmarks/norms.json]

Three cases: a unit (linear map, norm, ReLU) on vectors and one on maps, forward and backward, and a training step of
LeNet on the digits by bnexp's own loop. The norms take turns; a ratio is that of times of the same round: processor
time on one thread of a CPU, so that other programs disturb less, elsewhere wall time. Every norm that is registered is
measured, with the options of its yaml; where one is undefined, the reason is noted. Prints a Markdown table;
`bnexp list norms` reads the JSON file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bnexp
from bnexp.config import compose
from bnexp.config.schema import TrainConfig
from bnexp.config.shipped import configs_folder
from bnexp.experiment.bench import interleaved, quartiles
from bnexp.experiment.choices import bind
from bnexp.experiment.dry_run import records
from bnexp.experiment.machine import pick_device
from bnexp.experiment.setup import build
from bnexp.models import Units
from bnexp.norms import NORMS, Norm
from bnexp.runs.provenance import provenance

ROOT = Path(__file__).parent.parent
CASES = {
    "vectors": "Linear(100, 100) on (256, 100), forward and backward",
    "maps": "Conv2d(16, 16, 3) on (128, 16, 14, 14), forward and backward",
    "lenet": "a training step of LeNet on (128, 1, 28, 28)",
}
BATCH = 128
# A round lasts so long, or a single call where that is longer; and what goes before the rounds.
SECONDS, WARM_UP = 0.02, 3

Way = Callable[[], object]


def config_of(norm: str, threads: int, device: str) -> TrainConfig:
    """The config of ``bnexp train norm=...``."""
    words = [f"norm={norm}", f"batch_size={BATCH}", f"threads={threads}", f"device={device}"]
    configs: list[TrainConfig] = []
    compose.run_hydra(lambda config: configs.append(compose.plain(config)), words, configs_folder())
    return configs[0]


def unit_of(config: TrainConfig, case: str) -> tuple[nn.Module, torch.Tensor]:
    """A unit and its input."""
    units = Units(bind(config).norm, config.activation, config.placement)
    torch.manual_seed(0)
    if case == "vectors":
        return units.linear(100, 100), torch.randn(256, 100)
    return units.conv(16, 16, 3, padding=1), torch.randn(128, 16, 14, 14)


def passes(config: TrainConfig, case: str) -> Way:
    """A forward and backward pass through a unit, its input needing a gradient too.

    Raises:
        ValueError: the norm is undefined there.
    """
    device = pick_device(config.device)
    unit, x = unit_of(config, case)
    unit, x = unit.to(device), x.to(device).requires_grad_()
    slope = torch.randn_like(unit(x))
    if any(isinstance(layer, Norm) and layer.skipped for layer in unit.modules()):
        raise ValueError("nothing is normalized there")

    def once() -> None:
        unit.zero_grad()
        x.grad = None
        unit(x).backward(slope)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return once


def steps(config: TrainConfig) -> Way:
    """A training step of bnexp's loop."""
    return records(build([config], stacked=False), BATCH, every=1, count=10**5).__next__


def way_of(config: TrainConfig, case: str) -> Way:
    """What is timed, warmed up."""
    way = steps(config) if case == "lenet" else passes(config, case)
    for _ in range(WARM_UP):
        way()
    return way


def several(way: Way) -> tuple[Way, int]:
    """As many calls as fill a round, and their number."""
    start = time.perf_counter()
    way()
    count = max(1, round(SECONDS / (time.perf_counter() - start)))

    def calls() -> None:
        for _ in range(count):
            way()

    return calls, count


def clock_for(threads: int, device: str) -> Callable[[], float]:
    """What tells the time there."""
    return time.process_time if threads == 1 and device == "cpu" else time.perf_counter


def measure(
    case: str, configs: Mapping[str, TrainConfig], rounds: int, clock: Callable[[], float]
) -> dict[str, dict[str, Any]]:
    """For each norm its milliseconds and its ratio to none, or the reason why there is none."""
    found: dict[str, dict[str, Any]] = {}
    ways: dict[str, tuple[Way, int]] = {}
    for name, config in configs.items():
        try:
            ways[name] = several(way_of(config, case))
        except ValueError as error:
            found[name] = {"reason": str(error)}
    rounded = interleaved({name: calls for name, (calls, _) in ways.items()}, rounds=rounds, clock=clock)
    times = {name: [each / ways[name][1] for each in seconds] for name, seconds in rounded.items()}
    for name, seconds in times.items():
        ratios = [own / none for own, none in zip(seconds, times["none"], strict=True)]
        spread = {"median": round(statistics.median(ratios), 3), "quartiles": [round(q, 3) for q in quartiles(ratios)]}
        found[name] = {"ms": round(1000 * statistics.median(seconds), 4), "ratio": spread}
    return found


def table(norms: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a norm a row, dearest in LeNet last."""

    def cell(measured: Mapping[str, Any]) -> str:
        if "reason" in measured:
            return "-"
        low, high = measured["ratio"]["quartiles"]
        return f"{measured['ratio']['median']:.2f} ({low:.2f} to {high:.2f})"

    def by_cost(name: str) -> float:
        return norms[name]["lenet"].get("ratio", {"median": float("inf")})["median"]

    rows = [f"| {name} | " + " | ".join(cell(norms[name][case]) for case in CASES) + " |" for name in norms]
    ordered = [row for _, row in sorted(zip(map(by_cost, norms), rows, strict=True))]
    return "\n".join([f"| norm | {' | '.join(CASES)} |", "| --- " * (len(CASES) + 1) + "|", *ordered])


def main() -> None:
    """Measure, write the file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "norms.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    configs = {name: config_of(name, given.threads, given.device) for name in NORMS}
    clock = clock_for(given.threads, given.device)
    found = {case: measure(case, configs, given.rounds, clock) for case in CASES}
    norms = {name: {case: found[case][name] for case in CASES} for name in configs}
    made_with = provenance(pick_device(given.device), given.threads)
    versions = {
        key: made_with[key] for key in ("torch", "python", "device", "device_name", "cpu_capability", "threads")
    }
    date = datetime.now(UTC).date().isoformat()
    facts = {
        "bnexp": bnexp.__version__,
        **versions,
        "date": date,
        "rounds": given.rounds,
        "clock": clock.__name__,
        "cases": CASES,
    }
    given.json.write_text(json.dumps({**facts, "norms": norms}, indent=1) + "\n", encoding="utf-8")
    print(f"Time relative to none: median (quartiles) of {given.rounds} rounds on {given.device}\n")
    print(table(norms))


if __name__ == "__main__":
    main()
