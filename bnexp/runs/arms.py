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
# A seed, and the values of the settings that an arm pools.
Cell = tuple[Any, ...]


@dataclass(frozen=True)
class Arm:
    """Runs that differ only in the seed (or that agree in the settings of ``--by``); ``settings`` tell arms apart."""

    settings: Mapping[str, Setting]
    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """The settings that tell this arm from the others, written as on the command line."""
        return ",".join(f"{short(key)}={show(value)}" for key, value in self.settings.items()) or "all runs"

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
        values = {seed: known(run.value(metric) for run in runs) for seed, runs in self.by_seed.items()}
        return {seed: _mean(some) for seed, some in values.items() if some}

    def matched(self, other: Arm, metric: str) -> Matched:
        """The values of this arm and of another over what both have: seeds, and values of the settings they pool."""
        keys = self._pooled_with(other)
        mine, theirs = self._by_cell(keys, metric), other._by_cell(keys, metric)
        common = mine.keys() & theirs.keys()
        seeds = {seed for seed, *_ in common}
        return Matched(
            _by_seed(mine, common),
            _by_seed(theirs, common),
            keys,
            sum(seed in seeds for seed, *_ in mine.keys() ^ theirs.keys()),
        )

    def _pooled_with(self, other: Arm) -> tuple[str, ...]:
        """The settings that one of the two arms pools and all runs of both have."""
        runs = [*self.runs, *other.runs]
        pooled = dict.fromkeys([*self.pooled, *other.pooled])
        return tuple(key for key in pooled if all(key in run.settings for run in runs))

    def _by_cell(self, keys: Sequence[str], metric: str) -> dict[Cell, float]:
        cells: defaultdict[Cell, list[float]] = defaultdict(list)
        for seed, runs in self.by_seed.items():
            for run in runs:
                if (value := run.value(metric)) is not None:
                    cells[seed, *(run.settings[key] for key in keys)].append(value)
        return {cell: _mean(values) for cell, values in cells.items()}

    @cached_property
    def pooled(self) -> tuple[str, ...]:
        """The compared settings in which the arm's runs differ."""
        settings = [run.settings for run in self.runs]
        return tuple(key for key in telling(settings[0], settings) if role(key).compared)

    def count(self, *statuses: str) -> int:
        """Number of runs that ended with one of these statuses."""
        return sum(run.status in statuses for run in self.runs)


@dataclass(frozen=True)
class Matched:
    """The values of two arms, seed by seed, over equal values of the settings that one of them pools.

    Attributes:
        mine, theirs: seed -> mean of the arm's and of the other's values; the same seeds.
        keys: the settings that are pooled.
        unmatched: values of these seeds that have no counterpart in the other arm.
    """

    mine: Mapping[int, float]
    theirs: Mapping[int, float]
    keys: Sequence[str]
    unmatched: int

    @property
    def differences(self) -> list[float]:
        """Mine minus theirs, by seed."""
        return [mine - self.theirs[seed] for seed, mine in self.mine.items()]


def _by_seed(cells: Mapping[Cell, float], common: Collection[Cell]) -> dict[int, float]:
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
    """Group runs with equal settings: equal in ``by`` if given, else in all compared settings except ``without``."""
    keys = list(by) or [
        key
        for key in dict.fromkeys(key for run in runs for key in run.settings)
        if role(key).compared and key not in without
    ]
    members: defaultdict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        members[tuple(run.settings.get(key, _ABSENT) for key in keys)].append(run)
    firsts = [some[0].settings for some in members.values()]
    apart = (differing(keys, firsts) or keys) if by else telling(keys, firsts)
    arms = [
        Arm({key: some[0].settings[key] for key in apart if key in some[0].settings}, tuple(some))
        for some in members.values()
    ]
    return sorted(arms, key=lambda arm: [natural(arm.settings.get(key)) for key in apart])


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
