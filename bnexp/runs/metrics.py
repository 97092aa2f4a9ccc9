"""``metrics.csv`` read back."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from bnexp.runs.collect import (
    FINITE,
)


def curve(folder: Path, metric: str) -> dict[int, float]:
    """Step -> finite value from ``metrics.csv``; a step written twice counts as last written.

    A last line without its end may be torn inside a number, and is not read.
    """
    try:
        text = (folder / "metrics.csv").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    header, *lines = text[: text.rfind("\n") + 1].splitlines() or [""]
    points = csv.DictReader([header, *(line for line in lines if f",{metric}," in line)])
    return dict(filter(None, (_point(row, metric) for row in points)))


def _point(row: Mapping[str, str], metric: str) -> tuple[int, float] | None:
    try:
        step, value = int(row["step"]), float(row["value"])
    except (KeyError, ValueError, TypeError):
        return None
    return (step, value) if row["metric"] == metric and abs(value) < FINITE else None
