"""A comparison as a document: tables and notes for people, one table and facts for machines."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bnexp.compare.blocks import Cell, Document, Items, Table
from bnexp.compare.cells import BLANK, decimals, duration, fixed, number, probability
from bnexp.compare.statistics import FEWEST
from bnexp.compare.working import on_validation
from bnexp.runs.arms import Arm
from bnexp.runs.collect import Setting, Skip, short, show

# The facts about an arm: column -> value at full precision, ``None`` where there is no value.
Row = dict[str, Any]
# What a head says of the intervals below it.
_INTERVAL = "± 95 %"


@dataclass
class Comparison:
    """Arms, and a row of facts about each, in the same order.

    Attributes:
        metric: the compared metric.
        key: the setting that was chosen on validation (several are joined by commas), or an empty string.
        baseline: the arm that the others are paired with, as typed, or an empty string.
        skips: folders that could not be used.
        notes: sentences to be read with the numbers.
    """

    metric: str
    key: str = ""
    baseline: str = ""
    arms: Sequence[Arm] = ()
    rows: Sequence[Row] = ()
    skips: Sequence[Skip] = ()
    notes: list[str] = field(default_factory=list)


def document(comparison: Comparison) -> Document:
    """Tables and notes, a table with a row an arm, and everything as plain Python."""
    notes = [Items(comparison.notes)] if comparison.notes else []
    return Document([*tables(comparison), *notes], _records(comparison), _facts(comparison))


def tables(comparison: Comparison) -> list[Table]:
    """The tables for people: levels, then paired differences and chosen values where they were asked for."""
    shown = [_levels(comparison)]
    if comparison.baseline and comparison.arms:
        shown.append(_differences(comparison))
    if comparison.key and comparison.arms:
        shown.append(_choices(comparison))
    return [table for table in shown if table.rows]


def _levels(comparison: Comparison) -> Table:
    digits = _digits(comparison.rows, "")
    chance = ["at chance"] if any(row["at_chance"] for row in comparison.rows) else []
    header = [
        "n",
        f"{comparison.metric} {_spread(comparison.rows, 'n', _INTERVAL)}",
        "sd",
        "best",
        *chance,
        "diverged",
        "failed",
        "time",
    ]
    rows = [
        [
            number(row["n"], 0),
            _level(row, "", digits, arm.values(comparison.metric)),
            number(row["sd"], digits),
            number(row["best"], digits),
            *([_share(row, "at_chance")] if chance else []),
            _share(row, "diverged"),
            number(row["failed"], 0),
            duration(row["seconds"]),
        ]
        for arm, row in zip(comparison.arms, comparison.rows, strict=True)
    ]
    return _table(f"{comparison.metric} at the last step", comparison.arms, header, rows)


def _share(row: Row, name: str) -> Cell:
    """How many of the runs with a result have a property."""
    return Cell(BLANK if row[name] is None else f"{row[name]}/{row['diverged'] + row['finished']}", row[name])


def _differences(comparison: Comparison) -> Table:
    rows = zip(comparison.arms, comparison.rows, strict=True)
    pairs = [(arm, row) for arm, row in rows if row["baseline"] not in (None, arm.label)]
    digits = _digits([row for _, row in pairs], "difference_", "pairs")
    several = len({row["baseline"] for _, row in pairs}) > 1
    interval = _spread([row for _, row in pairs], "pairs", "95 % interval")
    header = [*(["against"] if several else []), "pairs", "difference", interval, "d_z", "p", "p (Holm)"]
    arms = {arm.label: arm for arm in comparison.arms}
    cells = [
        [
            *([Cell(row["baseline"], row["baseline"])] if several else []),
            number(row["pairs"], 0),
            _difference(row, digits),
            _differing(row, digits, _few_differences(arm, arms[row["baseline"]], row, comparison.metric)),
            number(row["d_z"], 2),
            probability(row["p"]),
            probability(row["p_holm"]),
        ]
        for arm, row in pairs
    ]
    return _table(f"Differences to {comparison.baseline}, seed by seed", [arm for arm, _ in pairs], header, cells)


def _choices(comparison: Comparison) -> Table:
    key = short(comparison.key)
    digits = _digits(comparison.rows, "validation_")
    rates = "largest_working" in comparison.rows[0]
    by = on_validation(comparison.metric)
    header = [
        key,
        f"{by} {_spread(comparison.rows, 'n', _INTERVAL)}",
        "where",
        "grid",
        *(["largest working"] if rates else []),
    ]
    rows = [
        [
            Cell(BLANK) if row["validation_mean"] is None else _setting(row["chosen"]),
            _level(row, "validation_", digits, arm.values(by)),
            Cell(BLANK if row["edge"] is None else row["edge"] or "inside", row["edge"] or ""),
            Cell(_brief(row["grid"]), row["grid"]),
            *([_working(row)] if rates else []),
        ]
        for arm, row in zip(comparison.arms, comparison.rows, strict=True)
    ]
    return _table(f"{key} chosen by {by}", comparison.arms, header, rows)


def _spread(rows: Iterable[Row], count: str, interval: str) -> str:
    """What stands beside means: the interval, or the seeds' values where all rows have few."""
    counts = [row[count] for row in rows if row[count]]
    return "(by seed)" if counts and max(counts) < FEWEST else interval


# So many values that were tried are told one by one.
_MOST_TRIED = 8


def _brief(grid: str) -> str:
    """The values that were tried; of many, the ends."""
    values = grid.split(" ")
    return grid if len(values) <= _MOST_TRIED else f"{values[0]} ... {values[-1]} ({len(values)} values)"


def _table(title: str, arms: Sequence[Arm], header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    """A table that begins with the settings in which the arms differ; all cells of a row link to the arm's runs."""
    keys = swept(arms)
    named = [_settings(arm, keys) or [Cell(arm.label, arm.label)] for arm in arms]
    header = [*(list(map(short, keys)) or ["arm"]), *header]
    linked = [
        [replace(cell, link=f"#{anchor(arm)}") for cell in (*name, *row)]
        for arm, name, row in zip(arms, named, rows, strict=True)
    ]
    return Table(header, linked, title)


def anchor(arm: Arm) -> str:
    """The anchor of an arm's first run in a page: a checksum, since a label may hold characters that anchors cannot."""
    return f"arm-{zlib.crc32(arm.label.encode()):08x}"


def swept(arms: Iterable[Arm]) -> list[str]:
    """The settings in which the arms differ, in order."""
    return list(dict.fromkeys(key for arm in arms for key in arm.settings))


def _digits(rows: Iterable[Row], prefix: str, count: str = "n") -> int:
    """Decimals for a column of intervals, by the median of their widths; four where there is no interval.

    An interval that they would hide has more of its own, see ``_own``.
    """
    shown = [row for row in rows if row[prefix + "low"] is not None and row[count] >= FEWEST]
    halves = sorted(max(_halves(row, prefix)) for row in shown)
    return decimals(halves[len(halves) // 2] if halves else 0.0, 4)


def _level(row: Row, prefix: str, digits: int, values: Mapping[int, float]) -> Cell:
    """A mean with its interval, or with the values where they are few."""
    mean, low, high = (row[prefix + name] for name in ("mean", "low", "high"))
    if low is None:
        return number(mean, digits)
    digits = _own(row, prefix, digits)
    cell = fixed(mean, digits)
    if len(values) < FEWEST:
        return Cell(f"{cell.text} ({_listed(values.values(), digits)})", mean)
    if is_cut(row, prefix):
        return Cell(f"{cell.text} [{_listed((low, high), digits)}]", mean)
    return Cell(f"{cell.text} ± {fixed(high - mean, digits).text}", mean)


def _own(row: Row, prefix: str, digits: int) -> int:
    """The decimals of a column, or more for an interval that is narrower than half the last one of them."""
    half = max(_halves(row, prefix))
    return digits if round(half, digits) else max(digits, decimals(half, digits))


def is_cut(row: Row, prefix: str = "") -> bool:
    """Whether an interval ends where its metric's values do, so that its mean is not in its middle."""
    if row[prefix + "low"] is None:
        return False
    below, above = _halves(row, prefix)
    return not math.isclose(below, above, abs_tol=1e-9 * abs(row[prefix + "mean"]))


def _halves(row: Row, prefix: str) -> tuple[float, float]:
    """How far an interval reaches below its mean and above it."""
    mean = row[prefix + "mean"]
    return mean - row[prefix + "low"], row[prefix + "high"] - mean


def _difference(row: Row, digits: int) -> Cell:
    mean = row["difference_mean"]
    if row["difference_low"] is None:
        return number(mean, digits, sign="+")
    return fixed(mean, _own(row, "difference_", digits), sign="+")


def _few_differences(arm: Arm, baseline: Arm, row: Row, metric: str) -> Sequence[float]:
    """The differences themselves, if they are so few that they are shown."""
    return arm.matched(baseline, metric).differences if row["pairs"] < FEWEST else ()


def _differing(row: Row, digits: int, differences: Sequence[float]) -> Cell:
    """The interval of the mean difference, or the differences where they are few."""
    low, high = row["difference_low"], row["difference_high"]
    if low is None:
        return Cell(BLANK)
    digits = _own(row, "difference_", digits)
    if row["pairs"] < FEWEST:
        return Cell(_listed(differences, digits, "+"), low)
    return Cell(f"[{_listed((low, high), digits, '+')}]", low)


def _listed(values: Iterable[float], digits: int, sign: str = "") -> str:
    return ", ".join(fixed(value, digits, sign).text for value in values)


def _settings(arm: Arm, keys: Iterable[str]) -> list[Cell]:
    return [_setting(arm.settings[key]) if key in arm.settings else Cell(BLANK) for key in keys]


def _setting(value: Setting) -> Cell:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(show(value), value if number else show(value))


def _working(row: Row) -> Cell:
    """The largest learning rate that works, with ≥ if it is the end of the grid, so that no larger one was tried."""
    if row["works_to_the_end"] is None:
        return Cell(BLANK, "")
    if row["largest_working"] is None:
        return Cell("no value", "")
    cell = _setting(row["largest_working"])
    return Cell(f"≥ {cell.text}" if row["works_to_the_end"] else cell.text, cell.value)


def _records(comparison: Comparison) -> Table:
    """A row an arm, at full precision."""
    keys = swept(comparison.arms)
    columns = comparison.rows[0] if comparison.rows else ()
    rows = [
        [
            Cell(arm.label, arm.label),
            *_settings(arm, keys),
            *(Cell(show(value), value) for value in row.values()),
        ]
        for arm, row in zip(comparison.arms, comparison.rows, strict=True)
    ]
    return Table(["arm", *map(short, keys), *columns], rows)


def _facts(comparison: Comparison) -> dict[str, Any]:
    arms = [
        {"arm": arm.label, "settings": dict(arm.settings), "values": arm.values(comparison.metric), **row}
        for arm, row in zip(comparison.arms, comparison.rows, strict=True)
    ]
    return {
        "metric": comparison.metric,
        "baseline": comparison.baseline or None,
        "best": short(comparison.key) or None,
        "arms": arms,
        "skipped": [{"folder": str(skip.folder), "reason": skip.reason} for skip in comparison.skips],
        "notes": comparison.notes,
    }
