"""All runs' results as two tables that other programs read: a row a run, and a row a measured value."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnexp.compare.data import inert
from bnexp.config.extras import extra
from bnexp.runs import metrics
from bnexp.runs.collect import Run
from bnexp.runs.storage import write_atomically

# The table's columns about a run; then come its settings by dotted name, and its last values by metric.
_FACTS = ("folder", "name", "status", "started", "seconds", "step", "steps", "config_hash", "tags", "notes")
_LONG = ("folder", "step", "epoch", "metric", "value")

Table = Mapping[str, Sequence[Any]]


def write(folder: Path, runs: Sequence[Run], kind: str) -> list[Path]:
    """Write ``runs`` and ``metrics`` as csv or parquet; files of earlier exports are replaced.

    Returns:
        Paths of the two files.

    Raises:
        ValueError: a package for this kind is not installed.
        OSError: a file cannot be read or written.
    """
    to_bytes = {"csv": _csv, "parquet": _parquet}[kind]
    made = {folder / f"runs.{kind}": to_bytes(wide(runs)), folder / f"metrics.{kind}": to_bytes(long(runs))}
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in made.items():
        write_atomically(path, content)
    return list(made)


def wide(runs: Sequence[Run]) -> Table:
    """Column -> a value a run; None where a run has no such setting or metric. A column holds numbers or text."""
    settings = dict.fromkeys(key for run in runs for key in run.settings if key not in ("tags", "notes"))
    tags = dict.fromkeys(tag for run in runs for tag in run.final)
    facts = {key: [_fact(run, key) for run in runs] for key in _FACTS}
    given = {key: _alike([run.settings.get(key) for run in runs]) for key in settings}
    return {**facts, **given, **{tag: [run.final.get(tag) for run in runs] for tag in tags}}


def _fact(run: Run, key: str) -> Any:
    value = getattr(run, key)
    return " ".join(value) if key == "tags" else str(value) if key == "folder" else value


def _alike(values: Sequence[Any]) -> list[Any]:
    """The values, as text if only some of them are numbers; true and false are no numbers."""
    known = [value for value in values if value is not None]
    if all(type(value) in (int, float) for value in known) or all(type(value) is bool for value in known):
        return list(values)
    return [None if value is None else str(value) for value in values]


def long(runs: Sequence[Run]) -> Table:
    """The rows of all ``metrics.csv``, with the run's folder."""
    found: dict[str, list[Any]] = {name: [] for name in _LONG}
    for run in runs:
        columns = metrics.columns(run.folder)
        found["folder"] += [str(run.folder)] * len(columns)
        for name in _LONG[1:]:
            found[name] += getattr(columns, name)
    return found


def _csv(table: Table) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(map(inert, row) for row in zip(*table.values(), strict=True))
    return file.getvalue().encode()


def _parquet(table: Table) -> bytes:
    arrow, parquet = extra("pyarrow", "parquet"), extra("pyarrow.parquet", "parquet")
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.table({name: list(values) for name, values in table.items()}), sink)
    return bytes(sink.getvalue().to_pybytes())
