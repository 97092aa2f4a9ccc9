"""A document for machines: CSV and JSON at full precision."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from bnexp.compare.blocks import Document, Table


def as_csv(document: Document) -> str:
    """The document's table; empty where there is no value. No text is a formula to a spreadsheet."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(inert, document.table.header))
    writer.writerows([inert(cell.value) for cell in row] for row in document.table.records)
    return file.getvalue()


def inert(value: float | str | None) -> float | str | None:
    """Text that a spreadsheet would compute, with an apostrophe before it, by which it takes it as text."""
    return f"'{value}" if isinstance(value, str) and value.lstrip().startswith(("=", "+", "@", "-")) else value


def as_json(document: Document) -> str:
    """The document's facts, or its table as a list of objects; ``null`` where there is no value."""
    facts = records(document.table) if document.facts is None else document.facts
    return json.dumps(facts, indent=1, allow_nan=False) + "\n"


def records(table: Table) -> list[dict[str, Any]]:
    """The rows as dicts: column -> value."""
    return [dict(zip(table.header, (cell.value for cell in row), strict=True)) for row in table.records]
