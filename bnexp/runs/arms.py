"""Groups runs into arms: runs of an arm have the same settings, except the seed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bnexp.config.schema import role
from bnexp.runs.collect import Run, Setting, short, show

_ABSENT = object()
# The text of a setting that a run does not have.
ABSENT = "-"
# A seed, and the values of the settings that an arm pools.
_Cell = tuple[Any, ...]


@dataclass(frozen=True)
class Arm:
    """Runs that differ only in the seed (or that agree in the settings of ``--by``); ``settings`` tell arms apart."""

    settings: Mapping[str, Setting]
    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """The settings that tell this arm from the others, written as on the command line."""
        return ",".join(f"{short(key)}={show(value)}" for key, value in self.settings.items()) or "all runs"

    def value(self, run: Run, metric: str) -> float | None:
        """A run's result; a diverged one has the score of guessing only if the arm's finished runs have the metric."""
        return run.value(metric) if self._counts(run, metric) else None

    def best_value(self, run: Run, metric: str) -> float | None:
        """A run's best value over the steps; of a diverged one as ``value``."""
        return run.best_value(metric) if run.usable and self._counts(run, metric) else None

    def _counts(self, run: Run, metric: str) -> bool:
        return run.status == "finished" or self._measured is None or metric in self._measured

    @cached_property
    def _measured(self) -> set[str] | None:
        """The metrics of the finished runs; None where none has finished."""
        finished = [run.final for run in self.runs if run.status == "finished"]
        return {tag for final in finished for tag in final} if finished else None

    @cached_property
    def by_seed(self) -> dict[int, list[Run]]:
        """The runs that have a result, by seed."""
        seeds: defaultdict[int, list[Run]] = defaultdict(list)
        for run in self.runs:
            if run.usable:
                seeds[run.seed].append(run)
        return dict(sorted(seeds.items()))

    def values(self, metric: str) -> dict[int, float]:
        """Seed -> mean over the seed's runs: the seed is the unit of replication, also if an arm pools settings."""
        values = {seed: known(self.value(run, metric) for run in runs) for seed, runs in self.by_seed.items()}
        return {seed: _mean(some) for seed, some in values.items() if some}

    def matched(self, other: Arm, metric: str) -> Matched:
        """The values of this arm and of another over what both have: seeds, and values of the settings they pool."""
        keys = self._varying_in_either(other)
        mine, theirs = self._by_cell(keys, metric), other._by_cell(keys, metric)
        common = mine.keys() & theirs.keys()
        seeds = {seed for seed, *_ in mine} & {seed for seed, *_ in theirs}
        unmatched = sum(seed in seeds for seed, *_ in mine.keys() ^ theirs.keys())
        return Matched(_by_seed(mine, common), _by_seed(theirs, common), unmatched)

    def _varying_in_either(self, other: Arm) -> list[str]:
        """The settings that both arms know, and in which the runs of one of the two differ."""
        mine, theirs = [run.settings for run in self.runs], [run.settings for run in other.runs]
        shared = [key for key in compared(mine) if any(key in some for some in theirs)]
        return list(dict.fromkeys([*differing(shared, mine), *differing(shared, theirs)]))

    def _by_cell(self, keys: Sequence[str], metric: str) -> dict[_Cell, float]:
        cells: defaultdict[_Cell, list[float]] = defaultdict(list)
        for seed, runs in self.by_seed.items():
            for run in runs:
                if (value := self.value(run, metric)) is not None:
                    cells[seed, *(run.settings.get(key, _ABSENT) for key in keys)].append(value)
        return {cell: _mean(values) for cell, values in cells.items()}

    @cached_property
    def pooled(self) -> list[str]:
        """The compared settings in which the arm's runs differ, without options that differ as their group does."""
        settings = [run.settings for run in self.runs]
        return telling(compared(settings), settings)

    def count(self, *statuses: str) -> int:
        """Number of runs that ended with one of these statuses."""
        return sum(run.status in statuses for run in self.runs)


@dataclass(frozen=True)
class Matched:
    """The values of two arms, seed by seed, over equal values of the settings that one of them pools.

    Attributes:
        mine, theirs: seed -> mean of the arm's and of the other's values; the same seeds.
        unmatched: values, of seeds that both arms have, without a counterpart in the other arm.
    """

    mine: Mapping[int, float]
    theirs: Mapping[int, float]
    unmatched: int

    @property
    def differences(self) -> list[float]:
        """Mine minus theirs, by seed."""
        return [mine - self.theirs[seed] for seed, mine in self.mine.items()]


def _by_seed(cells: Mapping[_Cell, float], common: Collection[_Cell]) -> dict[int, float]:
    seeds: defaultdict[int, list[float]] = defaultdict(list)
    for cell, value in cells.items():
        if cell in common:
            seeds[cell[0]].append(value)
    return {seed: _mean(values) for seed, values in seeds.items()}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def known(values: Iterable[float | None]) -> list[float]:
    """The values that are not None."""
    return [value for value in values if value is not None]


def group(runs: Sequence[Run], by: Sequence[str] = (), without: Collection[str] = ()) -> list[Arm]:
    """Group runs with equal settings: equal in ``by`` if given, else in all compared settings except ``without``.

    With a group's name, ``without`` leaves out the options that differ as the name does.
    """
    settings = [run.settings for run in runs]
    keys = list(by) or [key for key in compared(settings) if not (key in without or _implied(key, without, settings))]
    members: defaultdict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        members[tuple(run.settings.get(key, _ABSENT) for key in keys)].append(run)
    firsts = [some[0].settings for some in members.values()]
    apart = (differing(keys, firsts) or keys) if by else telling(keys, firsts)
    arms = [Arm(_told(apart, some[0].settings), tuple(some)) for some in members.values()]
    return sorted(arms, key=lambda arm: [natural(arm.settings.get(key)) for key in apart])


def _told(keys: Sequence[str], settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Those of the settings that there are; if there are none, the first one as absent."""
    return {key: settings[key] for key in keys if key in settings} or dict.fromkeys(keys[:1], ABSENT)


def compared(settings: Iterable[Mapping[str, Setting]]) -> list[str]:
    """The settings of some runs by which runs are compared."""
    return [key for key in dict.fromkeys(key for some in settings for key in some) if role(key).compared]


def differing(keys: Iterable[str], settings: Sequence[Mapping[str, Setting]]) -> list[str]:
    """The keys that do not have the same value in all settings."""
    return [key for key in keys if len({some.get(key, _ABSENT) for some in settings}) > 1]


def telling(keys: Iterable[str], settings: Sequence[Mapping[str, Setting]]) -> list[str]:
    """The differing keys, except options that differ only because their group's name differs."""
    apart = differing(keys, settings)
    return [key for key in apart if not _implied(key, apart, settings)]


def _implied(key: str, apart: Collection[str], settings: Sequence[Mapping[str, Setting]]) -> bool:
    """True if an option differs only because its group's name does (norm.groups between norm=gn and norm=bn)."""
    name = key.rpartition(".")[0] + ".name"
    if key == name or name not in apart:
        return False
    pairs = {(some.get(name, _ABSENT), some.get(key, _ABSENT)) for some in settings}
    return len(pairs) == len({value for value, _ in pairs})


def natural(value: Setting) -> tuple[int, float, str]:
    """A sort key: numbers by size, then words in alphabetical order."""
    if isinstance(value, int | float):
        return (0, float(value), "")
    return (1, 0.0, show(value))
