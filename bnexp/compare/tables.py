"""A comparison as tables of text, and those as plain text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import textwrap
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bnexp.runs.arms import Arm
from bnexp.runs.collect import Setting, Skip, short, show

WIDTH = 100
BLANK = "-"

# What is known of an arm: column -> value at full precision, ``None`` where there is none.
Row = dict[str, Any]


@dataclass
class Comparison:
    """What there is to show: arms, and what is known of each, in the arms' order.

    Attributes:
        key: the setting that was chosen on validation, or an empty string.
        baseline: the arm that the others are paired with, as typed, or an empty string.
    """

    metric: str
    key: str = ""
    baseline: str = ""
    arms: Sequence[Arm] = ()
    rows: Sequence[Row] = ()
    skips: Sequence[Skip] = ()
    notes: list[str] = field(default_factory=list)


class Cell(NamedTuple):
    """A table's cell: what is read, what it sorts by (numbers stand right), where it leads, and what leads to it."""

    text: str
    value: float | str | None = None
    link: str = ""
    anchor: str = ""


@dataclass(frozen=True)
class Table:
    """A titled table of cells."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def tables(comparison: Comparison) -> list[Table]:
    """The tables for people: levels, then paired differences and chosen values where they were asked for."""
    shown = [_levels(comparison)]
    if comparison.baseline and comparison.arms:
        shown.append(_differences(comparison))
    if comparison.key and comparison.arms:
        shown.append(_choices(comparison))
    return shown


def _levels(comparison: Comparison) -> Table:
    digits = _digits(comparison.rows, "")
    header = ["n", f"{comparison.metric} ± 95 %", "sd", "best", "diverged", "failed", "time"]
    rows = [
        [
            number(row["n"], 0),
            _plus_minus(row, "", digits),
            number(row["sd"], digits),
            number(row["best"], digits),
            Cell(f"{row['diverged']}/{row['diverged'] + row['finished']}", row["diverged"]),
            number(row["failed"], 0),
            duration(row["seconds"]),
        ]
        for row in comparison.rows
    ]
    return _table(f"{comparison.metric} at the last step", comparison.arms, header, rows)


def _differences(comparison: Comparison) -> Table:
    rows = zip(comparison.arms, comparison.rows, strict=True)
    pairs = [(arm, row) for arm, row in rows if row["baseline"] not in (None, arm.label)]
    digits = _digits([row for _, row in pairs], "difference_")
    several = len({row["baseline"] for _, row in pairs}) > 1
    header = [*(["against"] if several else []), "pairs", "difference", "95 % interval", "d_z", "p", "p (Holm)"]
    cells = [
        [
            *([Cell(row["baseline"], row["baseline"])] if several else []),
            number(row["pairs"], 0),
            number(row["difference_mean"], digits, sign="+"),
            _range(row, "difference_", digits),
            number(row["d_z"], 2),
            _probability(row["p"]),
            _probability(row["p_holm"]),
        ]
        for _, row in pairs
    ]
    return _table(f"Differences to {comparison.baseline}, seed by seed", [arm for arm, _ in pairs], header, cells)


def _choices(comparison: Comparison) -> Table:
    key = short(comparison.key)
    digits = _digits(comparison.rows, "validation_")
    stable = "largest_stable" in comparison.rows[0]
    header = [key, "validation ± 95 %", "where", "grid", *(["largest stable"] if stable else [])]
    rows = [
        [
            _setting(row["chosen"]),
            _plus_minus(row, "validation_", digits),
            Cell(BLANK if row["edge"] is None else row["edge"] or "inside", row["edge"] or ""),
            Cell(row["grid"], row["grid"]),
            *([_stable(row)] if stable else []),
        ]
        for row in comparison.rows
    ]
    return _table(f"{key} chosen on validation", comparison.arms, header, rows)


def _table(title: str, arms: Sequence[Arm], header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    """A table whose first columns are the settings that set the arms apart; every number leads to the arm's runs."""
    keys = swept(arms)
    named = [
        [Cell(BLANK) if key not in arm.settings else _setting(arm.settings[key]) for key in keys]
        or [Cell(arm.label, arm.label)]
        for arm in arms
    ]
    header = [*(list(map(short, keys)) or ["arm"]), *header]
    linked = [
        [cell._replace(link=f"#{anchor(arm)}") for cell in (*name, *row)]
        for arm, name, row in zip(arms, named, rows, strict=True)
    ]
    return Table(title, header, linked)


def anchor(arm: Arm) -> str:
    """Where the runs of an arm begin in a page; a label may hold anything, its checksum may not."""
    return f"arm-{zlib.crc32(arm.label.encode()):08x}"


def swept(arms: Iterable[Arm]) -> list[str]:
    """The settings that set the arms apart, in order."""
    return list(dict.fromkeys(key for arm in arms for key in arm.settings))


def _digits(rows: Iterable[Row], prefix: str) -> int:
    """Decimals that give the typical interval two significant digits; four where there is no interval."""
    halves = sorted(row[prefix + "high"] - row[prefix + "mean"] for row in rows if row[prefix + "high"] is not None)
    half = halves[len(halves) // 2] if halves else 0.0
    return min(6, max(0, 1 - math.floor(math.log10(half)))) if half > 0 else 4


def number(value: float | None, digits: int, sign: str = "") -> Cell:
    """A number with fixed decimals, unless it is huge."""
    if value is None:
        return Cell(BLANK)
    return Cell(f"{value:{sign}.{digits}f}" if abs(value) < 1e6 else f"{value:{sign}.3g}", value)


def _plus_minus(row: Row, prefix: str, digits: int) -> Cell:
    mean, high = row[prefix + "mean"], row[prefix + "high"]
    cell = number(mean, digits)
    return cell if high is None else Cell(f"{cell.text} ± {number(high - mean, digits).text}", mean)


def _range(row: Row, prefix: str, digits: int) -> Cell:
    low, high = row[prefix + "low"], row[prefix + "high"]
    if low is None:
        return Cell(BLANK)
    return Cell(f"[{number(low, digits, '+').text}, {number(high, digits, '+').text}]", low)


def _probability(p: float | None) -> Cell:
    if p is None:
        return Cell(BLANK)
    return Cell("< 0.0001" if p < 0.0001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}", p)


def duration(seconds: float | None) -> Cell:
    """Seconds in the unit that suits them."""
    if seconds is None:
        return Cell(BLANK)
    size, unit = next((size, unit) for size, unit in ((3600, "h"), (60, "min"), (0, "s")) if seconds >= 2 * size)
    amount = seconds / (size or 1)
    return Cell(f"{amount:.1f} {unit}" if amount >= 1 else f"{amount:.2g} {unit}", seconds)


def _setting(value: Setting) -> Cell:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(show(value), value if number else show(value))


def _stable(row: Row) -> Cell:
    """The largest stable learning rate; no larger one was tried where it stands at the end of the grid."""
    if row["largest_stable"] is None:
        return Cell(BLANK if row["grid"] == "" else "none", "")
    cell = _setting(row["largest_stable"])
    return Cell(f"≥ {cell.text}" if row["stable_to_the_end"] else cell.text, cell.value)


def as_text(comparison: Comparison) -> str:
    """Aligned columns for a terminal, then the notes."""
    blocks = [_aligned(table) for table in tables(comparison) if table.rows]
    notes = [textwrap.fill(note, WIDTH, subsequent_indent="  ", break_long_words=False) for note in comparison.notes]
    return "\n\n".join([*blocks, "\n".join(notes)]).rstrip() + "\n"


def _aligned(table: Table) -> str:
    columns = list(zip(table.header, *([cell.text for cell in row] for row in table.rows), strict=True))
    right = [flush_right(table, index) for index in range(len(table.header))]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(
            text.rjust(width) if flush else text.ljust(width)
            for text, width, flush in zip(line, widths, right, strict=True)
        )
        for line in zip(*columns, strict=True)
    ]
    return "\n".join([table.title, lines[0].rstrip(), "-" * len(lines[0]), *(line.rstrip() for line in lines[1:])])


def flush_right(table: Table, index: int) -> bool:
    """Whether a column holds numbers and so is flush right."""
    values = [row[index].value for row in table.rows if row[index].value is not None]
    return bool(values) and not any(isinstance(value, str) for value in values)


def as_markdown(comparison: Comparison) -> str:
    """The same tables and notes for a README or a pull request."""
    blocks = [_piped(table) for table in tables(comparison) if table.rows]
    notes = "\n".join(f"- {_escaped(note)}" for note in comparison.notes)
    return "\n\n".join(filter(None, [*blocks, notes])) + "\n"


def _piped(table: Table) -> str:
    rules = ["---:" if flush_right(table, index) else "---" for index in range(len(table.header))]
    lines = [table.header, rules, *([cell.text for cell in row] for row in table.rows)]
    return "\n".join(
        [f"**{_escaped(table.title)}**", "", *("| " + " | ".join(map(_escaped, line)) + " |" for line in lines)]
    )


def _escaped(text: str) -> str:
    return re.sub(r"([|*_<`\\])", r"\\\1", text)


def as_csv(comparison: Comparison) -> str:
    """A row an arm, at full precision, empty where there is no value."""
    keys = swept(comparison.arms)
    columns = [*map(short, keys), *(comparison.rows[0] if comparison.rows else ())]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["arm", *columns])
    for arm, row in zip(comparison.arms, comparison.rows, strict=True):
        settings = [show(arm.settings[key]) if key in arm.settings else "" for key in keys]
        writer.writerow([arm.label, *settings, *row.values()])
    return file.getvalue()


def as_json(comparison: Comparison) -> str:
    """Everything, at full precision; ``null`` where there is no value."""
    arms = [
        {"arm": arm.label, "settings": dict(arm.settings), "values": arm.values(comparison.metric), **row}
        for arm, row in zip(comparison.arms, comparison.rows, strict=True)
    ]
    document = {
        "metric": comparison.metric,
        "baseline": comparison.baseline or None,
        "best": short(comparison.key) or None,
        "arms": arms,
        "skipped": [{"folder": str(skip.folder), "reason": skip.reason} for skip in comparison.skips],
        "notes": comparison.notes,
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


FORMATS = {"table": as_text, "csv": as_csv, "json": as_json, "markdown": as_markdown}
