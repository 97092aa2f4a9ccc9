"""``metrics.csv`` and ``timing.csv``: the only reader and writer of both.

A crash can leave a torn line. All readers skip a line without its line end, with too few cells, or with letters where a
number belongs.
"""

from __future__ import annotations

import csv
import functools
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from bnexp.config.checks import instead
from bnexp.config.extras import extra
from bnexp.runs import digest
from bnexp.runs.paths import RunPaths
from bnexp.runs.storage import write_atomically

METRICS_HEADER = ("step", "epoch", "metric", "value")
TIMING_HEADER = ("step", "seconds", "images_per_s")
# Larger values count as infinite, because sums of their squares would overflow.
FINITE = 1e100

Curve = dict[int, float]


def is_finite(value: object) -> TypeGuard[float]:
    """True if a value read from a file is a finite number (below ``FINITE``)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < FINITE


class Rows:
    """A csv file open for appending rows.

    Args:
        path: the file.
        header: names of its columns.
        after: on resuming, the step of the checkpoint: later rows and torn lines are removed. None starts a new file.

    Raises:
        ValueError: the existing file cannot be read.
    """

    def __init__(self, path: Path, header: Sequence[str], *, after: int | None) -> None:
        kept = [] if after is None else _kept(path, header, after)
        begun = _text([header, *kept])
        if after is None:
            path.write_bytes(begun)  # not atomic: nothing can get lost, and fsync takes time
        elif not path.exists() or path.read_bytes() != begun:
            write_atomically(path, begun)
        self._file = path.open("ab")
        self._prefix = digest.Prefix()
        self._prefix.add(begun)

    def append(self, *cells: object) -> None:
        """Write one row; it is durable after ``sync``."""
        line = _text([cells])
        self._file.write(line)
        self._prefix.add(line)

    @property
    def mark(self) -> digest.Mark:
        """By which all rows so far are known again."""
        return self._prefix.mark

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def points(folder: Path) -> Iterator[tuple[int, str, float]]:
    """(step, tag, value) of every row of a run's ``metrics.csv``, in the order written.

    Raises:
        OSError: the file cannot be read; a missing file has no points.
    """
    for step, _, tag, value in _all_rows(folder):
        yield int(step), tag, float(value)


@dataclass(frozen=True, repr=False)
class Columns:
    """``metrics.csv`` as columns: entry i of each belongs to row i.

    Attributes:
        step, epoch: when it was measured; an epoch may be a fraction.
        metric: the tag, such as test/accuracy.
        value: what was measured; nan and infinities too.
    """

    step: Sequence[int]
    epoch: Sequence[float]
    metric: Sequence[str]
    value: Sequence[float]

    def __len__(self) -> int:
        return len(self.step)

    def __repr__(self) -> str:
        return f"<{len(self)} values: {', '.join(dict.fromkeys(self.metric))}>"

    def curve(self, metric: str) -> Curve:
        """Step -> value of one metric.

        Raises:
            ValueError: the run has no such metric.
        """
        if self.metric and metric not in self.metric:
            raise ValueError(f"{metric}: the run has no such metric{instead(metric, self.metric)}")
        rows = zip(self.step, self.metric, self.value, strict=True)
        return {step: value for step, tag, value in rows if tag == metric}

    def to_pandas(self) -> Any:
        """The same as a pandas DataFrame.

        Raises:
            ValueError: pandas is not installed.
        """
        return extra("pandas", "pandas").DataFrame(vars(self))


def columns(folder: Path) -> Columns:
    """All rows of a run's ``metrics.csv`` in the order written; none where there is no file.

    Raises:
        OSError: the file cannot be read.
    """
    rows = [(int(step), float(epoch), tag, float(value)) for step, epoch, tag, value in _all_rows(folder)]
    return Columns(*(tuple(column) for column in zip(*rows, strict=True))) if rows else Columns((), (), (), ())


def _all_rows(folder: Path, of: str = "") -> Iterator[list[str]]:
    return _rows(RunPaths(folder).metrics, METRICS_HEADER, of)


def curve(folder: Path, metric: str) -> Curve:
    """Step -> finite value; the last row counts if a step was written twice. Empty if there is no file."""
    return {int(step): value for step, _, value in _finite_rows(folder, metric)}


def by_epoch(folder: Path, metric: str) -> Mapping[float, float]:
    """Epoch -> finite value, as ``curve``; an epoch may be a fraction."""
    return {float(epoch): value for _, epoch, value in _finite_rows(folder, metric)}


def _finite_rows(folder: Path, metric: str) -> list[tuple[str, str, float]]:
    """(step, epoch, value) of the rows of a metric; none where the file cannot be read."""
    try:
        rows = [(step, epoch, float(value)) for step, epoch, tag, value in _all_rows(folder, metric) if tag == metric]
    except OSError:
        return []
    return [row for row in rows if is_finite(row[2])]


def curves(folder: Path) -> Mapping[str, Curve]:
    """Tag -> step -> finite value, tags in the order of the file. The result is cached, because callers ask repeatedly.

    Raises:
        ValueError: the file is missing or cannot be read.
    """
    path = RunPaths(folder).metrics.absolute()
    try:
        return _curves(path.parent, path.stat().st_mtime_ns)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); delete its folder and run again") from None


@functools.lru_cache(maxsize=4096)
def _curves(folder: Path, changed: int) -> Mapping[str, Curve]:
    """The curves of the file that was written at the time ``changed`` (ns)."""
    found: dict[str, Curve] = {}
    for step, tag, value in points(folder):
        if is_finite(value):
            found.setdefault(tag, {})[step] = value
    return found


def timing(folder: Path) -> Iterator[tuple[int, float, float]]:
    """(step, seconds so far, images per second) of every row of a run's ``timing.csv``; none where there is no file."""
    for step, so_far, rate in _rows(RunPaths(folder).timing, TIMING_HEADER):
        yield int(step), float(so_far), float(rate)


def seconds(folder: Path, until: float = math.inf) -> float:
    """Seconds that a run has trained up to a step, from its ``timing.csv``; 0 if there is none."""
    return max((so_far for step, so_far, _ in timing(folder) if step <= until), default=0.0)


def trim(folder: Path, keep: Callable[[int, str], bool]) -> set[int]:
    """Remove points of a run, and the timing of steps that have none left.

    Args:
        folder: the run's folder.
        keep: (step, tag) -> whether the point stays.

    Returns:
        The steps that have a point.

    Raises:
        OSError: a file could not be written; it is unchanged.
    """
    paths = RunPaths(folder)
    kept = [row for row in _rows(paths.metrics, METRICS_HEADER) if keep(int(row[0]), row[2])]
    steps = {int(row[0]) for row in kept}
    timed = [row for row in _rows(paths.timing, TIMING_HEADER) if int(row[0]) in steps]
    write_atomically(paths.metrics, _text([METRICS_HEADER, *kept]))
    write_atomically(paths.timing, _text([TIMING_HEADER, *timed]))
    return steps


def _kept(path: Path, header: Sequence[str], after: int) -> list[list[str]]:
    try:
        return [row for row in _rows(path, header) if int(row[0]) <= after]
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); put it back, or delete its folder") from None


def _rows(path: Path, header: Sequence[str], holding: str = "") -> Iterator[list[str]]:
    """The cells of every whole row whose line contains the text ``holding``; nothing if there is no file."""
    if not path.exists():
        return
    with path.open(newline="\n", encoding="utf-8", errors="replace") as file:
        for line in file:
            if holding in line and line.endswith("\n") and _is_row(cells := _cells(line), header):
                yield cells


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line.rstrip("\r\n")]), [])
    except csv.Error:  # a cell of more than a hundred thousand letters
        return []


def _is_row(cells: Sequence[str], header: Sequence[str]) -> bool:
    try:
        for cell, name in zip(cells, header, strict=True):
            (str if name == "metric" else int if name == "step" else float)(cell)
    except ValueError:
        return False
    return True


def _text(rows: Iterable[Sequence[object]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()
