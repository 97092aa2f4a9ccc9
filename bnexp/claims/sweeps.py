"""The runs of a claim: composed, carried out as ordinary sweeps, and found again by their configs.

A claim's folder has up to three sweeps: ``before`` (runs that others start from), ``tune`` and ``runs``. Jobs are
identified by the hash of their config, so a changed declaration runs only the jobs that are new.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bnexp.claims.declaration import Regime
from bnexp.claims.design import Design, Point
from bnexp.claims.tuning import MOST_EXTENSIONS, Scores, TunedValue, beyond, choose
from bnexp.config import compose
from bnexp.config.compose import JobComposer
from bnexp.config.metrics import larger_is_better
from bnexp.config.names import run_name
from bnexp.config.schema import config_hash
from bnexp.runs.collect import Run, Setting, collect, newest, show
from bnexp.sweep import plan as plans
from bnexp.sweep.carry_out import Order, carry_out
from bnexp.sweep.fork_server import ForkServer
from bnexp.sweep.options import Options, options
from bnexp.sweep.plan import Entry

# A run's label and words; no words if the run that it starts from has failed.
Job = tuple[str, list[str] | None]
# (name in ``before``, seed) -> folder of a run that others start from.
Starts = Mapping[tuple[str, int], Path]


class StoppedError(Exception):
    """A signal or a full disk stopped the sweep; finished runs are kept. The argument is the exit code."""


@dataclass(frozen=True)
class Means:
    """What it takes to run claims.

    Attributes:
        composer: makes configs of words.
        server: forks the processes that train.
        processes: that train at the same time; auto means one per core, or as the GPUs allow.
        retry_failed: run failed jobs again.
    """

    composer: JobComposer
    server: ForkServer
    processes: int | Literal["auto"] = "auto"
    retry_failed: bool = False


@dataclass(frozen=True)
class Harvest:
    """The runs that a claim's sweeps brought in.

    Attributes:
        runs: (regime, point, seed) -> run; failed runs are missing.
        tuned: (regime, point) -> best value, for tuned regimes.
        failed: how many runs have no result.
        all: every run with a result, also those of ``before`` and ``tune``.
    """

    runs: Mapping[tuple[str, str, int], Run]
    tuned: Mapping[tuple[str, str], TunedValue]
    failed: int
    all: Sequence[Run]


def check(designs: Sequence[Design], composer: JobComposer) -> None:
    """Compose one run of each arm and regime, and every run that others start from.

    Raises:
        ValueError: a word of a claim is wrong, it tunes without validation images, two of its arms are the same, or no
            run needs a typed module.
    """
    samples = [(design, sample) for design in designs for sample in _samples(design)]
    try:
        composed = composer([sample.words for _, sample in samples])
    except ValueError:
        for design in designs:  # one by one, to name the claim
            _composed(design, [sample.words for sample in _samples(design)], composer)
        raise
    composer.require_needed()
    arms: dict[tuple[str, str, str], str] = {}
    for (design, sample), config in zip(samples, composed, strict=True):
        claim, regime = design.claim.id, design.regimes.get(sample.regime)
        if regime is None:  # a run that others start from
            continue
        if regime.tuned and not config["data"].get("validation"):
            raise ValueError(f"{claim}.regimes: tuning needs validation images (data.validation)")
        first = arms.setdefault((claim, sample.regime, config_hash(config)), sample.arm)
        if first != sample.arm:
            raise ValueError(f"{claim}.arms: {first} and {sample.arm} have the same settings; give one of them others")


@dataclass(frozen=True)
class _Sample:
    """A run of an arm in a regime, or of those that others start from (regime empty, arm the name in ``before``)."""

    regime: str
    arm: str
    words: list[str]


def _samples(design: Design) -> Iterator[_Sample]:
    """One run for each arm and regime, and every run that others start from."""
    for name in design.claim.before:
        yield _Sample("", name, design.words_before(name, 0))
    for point in {point.arm: point for point in design.points}.values():
        start = design.arms[point.arm].init_from
        from_run = [] if start is None else [f"init_from={start}"]  # the name, as the folder does not exist yet
        for name, regime in design.regimes.items():
            words = design.words(point, regime, next(iter(design.grid(regime, point.arm)), None), 0)
            yield _Sample(name, point.arm, [*words, *from_run])


def run(design: Design, folder: Path, means: Means) -> Harvest:
    """Run what is missing, in three sweeps one after another.

    Raises:
        ValueError: a run's config is wrong.
        StoppedError: a sweep was stopped before its end.
    """
    sweeps = Sweeps(design, folder, means)
    starts = sweeps.before()
    return sweeps.final(starts, sweeps.tune(starts))


class Sweeps:
    """Carries out the sweeps of a claim in its folder."""

    def __init__(self, design: Design, folder: Path, means: Means) -> None:
        self.design, self.folder, self.means = design, folder, means
        launcher = "stacked" if design.profile == "gpu" else "local"
        self.options = replace(_options(launcher, means.composer.configs), jobs=means.processes)
        self._made: list[Run] = []
        self._failed = 0

    def before(self) -> dict[tuple[str, int], Path]:
        """Run what others start from: (name, seed) -> folder."""
        design = self.design
        asked = itertools.product(design.claim.before, design.seeds_before)
        named = {(name, seed): design.words_before(name, seed) for name, seed in asked}
        runs = self._sweep("before", [(f"{name},seed={seed}", words) for (name, seed), words in named.items()])
        return {key: run.folder for key, run in zip(named, runs, strict=True) if run and run.status == "finished"}

    def tune(self, starts: Starts) -> dict[tuple[str, str], TunedValue]:
        """Run the grids of the tuned regimes, longer where the best value is on an edge: (regime, point) -> value."""
        design = self.design
        regimes = {name: regime for name, regime in design.regimes.items() if regime.tuned}
        missing: dict[tuple[str, Point], Sequence[Setting]] = {
            (name, point): design.grid(regime, point.arm) for name, regime in regimes.items() for point in design.points
        }
        scores: dict[tuple[str, Point], Scores] = {key: {} for key in missing}
        tuned: dict[tuple[str, Point], TunedValue] = {}
        for _ in range(1 if design.profile == "smoke" else 1 + MOST_EXTENSIONS):
            for key, found in self._scored(missing, starts).items():
                scores[key] = {**scores[key], **found}
                tuned[key] = choose(scores[key], larger_is_better(regimes[key[0]].metric))
            longer = {key: beyond(regimes[key[0]].key or "", tuned[key]) for key in missing}
            missing = {key: [value] for key, value in longer.items() if value is not None}
        return {(name, point.label): value for (name, point), value in tuned.items()}

    def _scored(
        self, grids: Mapping[tuple[str, Point], Sequence[Setting]], starts: Starts
    ) -> dict[tuple[str, Point], Scores]:
        """Run the values of grids with all tuning seeds: value -> metric of each seed."""
        regimes, seeds = self.design.regimes, self.design.tuning_seeds
        jobs = [
            self._job(point, regimes[name], value, seed, starts)
            for (name, point), values in grids.items()
            for value in values
            for seed in seeds
        ]
        runs = iter(self._sweep("tune", jobs))
        return {
            (name, point): {
                value: [made.value(regimes[name].metric) if (made := next(runs)) else None for _ in seeds]
                for value in values
            }
            for (name, point), values in grids.items()
        }

    def final(self, starts: Starts, tuned: Mapping[tuple[str, str], TunedValue]) -> Harvest:
        """Run the points with the seeds of the verdicts."""
        design = self.design
        asked = {}
        for name, regime in design.regimes.items():
            for point in design.points:
                value = tuned[name, point.label].chosen if regime.tuned else None
                for seed in design.seeds:
                    asked[name, point.label, seed] = self._job(point, regime, value, seed, starts)
        found = self._sweep("runs", list(asked.values()))
        runs = {key: run for key, run in zip(asked, found, strict=True) if run is not None}
        return Harvest(runs, tuned, self._failed, self._made)

    def _job(self, point: Point, regime: Regime, value: Setting, seed: int, starts: Starts) -> Job:
        """The label and words of a run."""
        tuned = f",{regime.key}={show(value)}" if regime.tuned else ""
        label, words = f"{point.label}{tuned},seed={seed}", self.design.words(point, regime, value, seed)
        name = self.design.arms[point.arm].init_from
        if name is None:
            return label, words
        start = starts.get((name, seed))
        return label, None if start is None else [*words, f"init_from='{start}'"]

    def _sweep(self, name: str, jobs: Sequence[Job]) -> list[Run | None]:
        """Carry out jobs; return their runs in the same order, None for a job without a result."""
        configs = iter(_composed(self.design, [words for _, words in jobs if words is not None], self.means.composer))
        tag = "smoke" if self.design.profile == "smoke" else "claim"
        entries = [None if words is None else _entry(label, words, next(configs), tag) for label, words in jobs]
        wanted = list({entry.config_hash: entry for entry in entries if entry is not None}.values())
        if not wanted:
            return [None] * len(entries)
        folder = self.folder / name
        self._carry_out(folder, wanted)
        found = {run.config_hash: run for run in newest(collect([folder])[0]) if run.usable}
        self._made += [found[entry.config_hash] for entry in wanted if entry.config_hash in found]
        self._failed += sum(entry is None or entry.config_hash not in found for entry in entries)
        return [None if entry is None else found.get(entry.config_hash) for entry in entries]

    def _carry_out(self, folder: Path, wanted: Sequence[Entry]) -> None:
        # A sweep prints its progress; standard output is for verdicts.
        with contextlib.redirect_stdout(sys.stderr):
            command = ["claim", "run", self.design.claim.id]
            order = Order(folder, wanted, command, self.options, retry_failed=self.means.retry_failed)
            code = carry_out(order, notes=compose.notes, server=self.means.server)
        if code and not _all_tried(folder, wanted):
            raise StoppedError(code)


@functools.cache
def _options(launcher: str, configs: Path) -> Options:
    return options(compose.launcher(launcher, configs))


def _all_tried(folder: Path, wanted: Sequence[Entry]) -> bool:
    """Whether each job has ended or failed. After a signal, or on a full disk, some have done neither."""
    asked = {entry.config_hash for entry in wanted}
    states = {entry.config_hash: entry.state for entry in plans.read(folder).entries}
    return all(states.get(mark) in (*plans.OVER, "failed") for mark in asked)


def _composed(design: Design, jobs: Sequence[Sequence[str]], composer: JobComposer) -> list[dict[str, Any]]:
    try:
        return composer(jobs)
    except ValueError as error:
        raise ValueError(f"claim {design.claim.id}: {error}") from None


def _entry(label: str, words: Sequence[str], config: dict[str, Any], tag: str) -> Entry:
    """A tagged job whose name ends in its config's hash, so that a changed declaration gets a new folder."""
    mark = config_hash(config)
    return Entry(f"{run_name([label])}-{mark[:8]}", [*words, f"tags=[{tag}]"], {**config, "tags": [tag]}, mark)
