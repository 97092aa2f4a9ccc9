"""All tests and all runs of a report as CSV, at full precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bnexp.claims.report.reading import Reading
from bnexp.claims.result import TestResult
from bnexp.compare.blocks import Cell, Document, Table
from bnexp.compare.data import as_csv

_NUMBERS = ("threshold", "mean", "sd", "low", "high", "n", "d_z", "p", "mcnemar", "needed", "needed_for_delta")
_ROBUST = ("hodges_lehmann", "hodges_lehmann_low", "hodges_lehmann_high")


def write(folder: Path, readings: Sequence[Reading]) -> None:
    """Write ``tests.csv`` and ``runs.csv``."""
    header = ["claim", "regime", "test", "role", "claims", "scale", "metric", "verdict", "detail", *_NUMBERS, *_ROBUST]
    tests = [_row(one.result.claim, test) for one in readings for test in one.result.tests]
    runs = dict.fromkeys((one.result.claim, folder) for one in readings for folder in _runs(one))
    for name, table in (
        ("tests", Table(header, tests)),
        ("runs", Table(["claim", "folder"], [[claim, path] for claim, path in runs])),
    ):
        (folder / f"{name}.csv").write_text(as_csv(Document([], table)), encoding="utf-8")


def _row(claim: str, test: TestResult) -> list[str | Cell]:
    words = [claim, test.regime, test.test, test.role, test.claims, test.scale, test.metric, test.verdict, test.detail]
    robust = test.robust or [None] * len(_ROBUST)
    return [*words, *(Cell("", value) for value in [*(getattr(test, name) for name in _NUMBERS), *robust])]


def _runs(reading: Reading) -> list[str]:
    return [folder for test in reading.result.tests for side in test.sides.values() for folder in side.folders]
