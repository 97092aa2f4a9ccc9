"""The numbers behind the verdicts as one CSV: a row for each test, regime, side of its contrast and seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bnexp.claims.result import Result
from bnexp.compare.blocks import Cell, Document, Table
from bnexp.compare.data import as_csv
from bnexp.runs.storage import write_atomically

NAME = "seeds.csv"
_HEADER = ["claim", "profile", "regime", "test", "side", "seed", "value", "difference"]


def write(folder: Path, results: Sequence[Result]) -> Path:
    """Write ``seeds.csv`` at full precision, and return its path.

    ``value`` is that of the side, empty where a seed has none. ``difference`` is the weighted sum of all sides on the
    test's scale, the number that is judged; it stands beside every side of its seed.
    """
    rows = [row for result in results for row in _rows(result)]
    path, table = folder / NAME, Table(_HEADER, rows)
    write_atomically(path, as_csv(Document([table], table)).encode())
    return path


def _rows(result: Result) -> Iterator[list[str | Cell]]:
    for test in result.tests:
        for side, numbers in test.sides.items():
            for seed, value in numbers.values.items():
                difference = test.differences.get(seed)
                names: list[str | Cell] = [result.claim, result.profile, test.regime, test.test, side]
                yield [*names, Cell(seed, int(seed)), _number(value), _number(difference)]


def _number(value: float | None) -> Cell:
    return Cell("" if value is None else repr(value), value)
