"""Everything that needs a GPU to be checked or measured, in one command, for a machine with one GPU and no network.

    python scripts/gpu.py [--only correct,populations] [--cases lenet] [--minutes 8] [--json FILE]
    python scripts/gpu.py --device cpu --smoke --json FILE  # tries the script: seconds, and no figure means anything

It needs torch, torchvision, hydra-core, matplotlib, scipy, tensorboard and tqdm. The sections, most important first:

  correct      every norm in three networks, eager, recorded, stacked and both, in fp64 against the CPU
  data         data sets that are prepared on the device against the CPU's, bit for bit
  runs         the norms in fp32, tf32, bf16 and fp16: recorded and stacked
  fp32         errors of CUDA's fp32, operator by operator, and layer by layer in trainings that leave the CPU's
  populations  images a second of bnexp's loop, beside a bare CUDA graph of one network
  kernels      own kernels beside torch's: batch norm, max pooling, convolutions of stacks, and updates
  tries        what it costs and brings to let cuDNN try kernels
  packing      a stack's convolutions by how many members share a dense group
  evaluation   evaluations over forward passes of the same images
  profile      the kernels of a step
  commands     wall seconds of whole commands, and where they go
  kill         a run and a stack, killed with SIGKILL and resumed: bit for bit the undisturbed ones
  compiling    the first steps of populations with compile=true, all at the same time
  compiled     the rates of these populations

Each case runs in another process, which is replaced if it dies or hangs. All rows go into the file while they come, on
a GPU by default into a new one in ``benchmarks/``. What is missing is named there from the beginning, and at the end:
when the minutes are over, or at Ctrl-C or SIGTERM. The exit code is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # this bnexp, also where another one is installed
from bench import chosen, table  # noqa: E402
from on_gpu import commands, exactness, fp32, own_kernels, rates  # noqa: E402
from on_gpu.machine import facts  # noqa: E402
from on_gpu.workers import Case, Row, Workers  # noqa: E402

# So many cases of a check run at the same time.
PROCESSES = 6


@dataclass(frozen=True)
class Place:
    """Where cases run, and with which files.

    Attributes:
        device: cuda or cpu.
        images: a folder of random images, in which cases write too.
        smoke: as little as possible of each section.
    """

    device: str
    images: Path
    smoke: bool

    @property
    def scope(self) -> rates.Scope:
        """How much is measured."""
        return rates.scope_of(self.device, self.images, smoke=self.smoke)


# Section -> its cases, and whether several of them run at the same time.
SECTIONS: dict[str, tuple[Callable[[Place], list[Case]], bool]] = {
    "correct": (lambda at: exactness.cases("exact", device=at.device, smoke=at.smoke), True),
    "data": (lambda at: exactness.data_cases(device=at.device, images=at.images), True),
    "runs": (lambda at: exactness.cases("formats", device=at.device, smoke=at.smoke), True),
    "fp32": (lambda at: fp32.cases(device=at.device, smoke=at.smoke), True),
    "populations": (lambda at: rates.population_cases(at.scope, smoke=at.smoke, compiled=False), False),
    "kernels": (lambda at: own_kernels.cases(at.scope, smoke=at.smoke), False),
    "tries": (lambda at: rates.trying_cases(at.scope, smoke=at.smoke), False),
    "packing": (lambda at: rates.packing_cases(at.scope, smoke=at.smoke), False),
    "evaluation": (lambda at: rates.few_cases("evaluation_rates", at.scope, smoke=at.smoke), False),
    "profile": (lambda at: rates.few_cases("profile", at.scope, smoke=at.smoke), False),
    "commands": (lambda at: commands.command_cases(device=at.device, images=at.images, smoke=at.smoke), False),
    "kill": (lambda at: commands.kill_cases(device=at.device, images=at.images, smoke=at.smoke), True),
    "compiling": (lambda at: rates.compiling_cases(at.scope, smoke=at.smoke), True),
    "compiled": (lambda at: rates.population_cases(at.scope, smoke=at.smoke, compiled=True), False),
}


def cell(value: object) -> str:
    """A number with three digits, or with thousands separated; a word without the sign that ends a column."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value).replace("|", "/")


def tables(rows: Sequence[Row]) -> str:
    """Markdown tables; rows with other columns begin another table."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(next(iter(row)) + str("fault" in row and len(row) == 2), []).append(row)
    found = []
    for group in groups.values():
        header = list(dict.fromkeys(name for row in group for name in row))
        found.append(table(header, [[cell(row.get(name)) for name in header] for row in group]))
    return "\n".join(found)


@dataclass
class Kept:
    """What has been found, and what is still missing; written to the file at each change, whole or not at all.

    Attributes:
        path: of the file.
        found: section -> its rows, after the facts of the machine.
        left_out: the cases that have not ended.
    """

    path: Path
    found: dict[str, Any]
    left_out: list[str]

    def add(self, section: str, case: Case, rows: list[Row]) -> None:
        """Add the rows of a case that has ended."""
        self.found.setdefault(section, []).extend(rows)
        self.left_out.remove(f"{section}: {case.name}")
        self.write()

    def write(self) -> None:
        """Write all that there is."""
        aside = self.path.with_suffix(".part")
        aside.write_text(json.dumps(self.found | {"left_out": self.left_out}, indent=1) + "\n", encoding="utf-8")
        aside.replace(self.path)

    def faults(self) -> list[str]:
        """The rows that say what is wrong."""
        sections = {name: rows for name, rows in self.found.items() if name in SECTIONS}
        return [f"{section}: {row}" for section, rows in sections.items() for row in rows if "fault" in row]


def measure(section: str, cases: Sequence[Case], workers: Workers, until: float, kept: Kept) -> None:
    """Run a section's cases."""
    at_once = workers.count if SECTIONS[section][1] else 1
    for case, found in workers.run(cases, at_once=at_once, until=until):
        if found is None:
            continue
        kept.add(section, case, found)
        faults = [row["fault"] for row in found if "fault" in row]
        print(f"{time.strftime('%H:%M:%S')} {section}: {case.name}: {'; '.join(faults) or 'done'}", flush=True)
    print(f"\n## {section}\n\n{tables(kept.found.get(section, []))}", flush=True)


def main() -> int:
    """Check and measure, print the tables, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--cases", default="", help="of the cases, those alone whose name has this in it")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args()
    if given.json is None and (given.smoke or given.device == "cpu"):
        parser.error("--json: which file? Figures that mean nothing are not kept beside the others")
    until = time.monotonic() + 60 * given.minutes
    sections = chosen(given.only, list(SECTIONS), "--only")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        at = Place(given.device, Path(folder), given.smoke)
        cases = {
            name: [case for case in of(at) if given.cases in case.name]
            for name, (of, _) in SECTIONS.items()
            if name in sections
        }
        if not any(cases.values()):
            parser.error(f"--cases={given.cases}: no case has this in its name")
        new = ROOT / "benchmarks" / f"gpu_{datetime.now(UTC):%Y-%m-%d_%H-%M-%S}.json"
        return run(cases, at, until, given.json or new)


def run(cases: Mapping[str, Sequence[Case]], at: Place, until: float, path: Path) -> int:
    """Run the cases of each section; returns the exit code."""
    found = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": facts(at.device)}
    print(json.dumps(found, indent=1), flush=True)
    kept = Kept(path, found, [f"{section}: {case.name}" for section, some in cases.items() for case in some])
    kept.write()
    count = PROCESSES if not at.smoke and any(SECTIONS[section][1] for section in cases) else 1
    try:
        with Workers(count, at.device == "cuda", path.with_suffix(".log"), ["on_gpu.exactness"]) as workers:
            rates.write(at.images, smoke=at.smoke)
            commands.write(at.images, smoke=at.smoke)
            for section, some in cases.items():
                measure(section, some, workers, until, kept)
    finally:
        print(f"\nleft out: {', '.join(kept.left_out) or 'nothing'}")
        print("\n".join([f"{len(kept.faults())} checks failed", *kept.faults()]), flush=True)
    return 1 if kept.faults() else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
