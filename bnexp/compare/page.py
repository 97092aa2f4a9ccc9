"""A comparison as one HTML file."""

from __future__ import annotations

import html
import os
import string
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from bnexp.compare import figures
from bnexp.compare.tables import Cell, Comparison, Table, anchor, duration, flush_right, number, swept, tables
from bnexp.runs.arms import Arm
from bnexp.runs.collect import Run, short, show

_HERE = Path(__file__)


def write(path: Path, comparison: Comparison) -> None:
    """One HTML file that needs nothing but itself: sortable tables, inline figures, links to the run folders."""
    drawn = figures.inline(comparison.arms, comparison.metric)
    content = string.Template(_HERE.with_name("page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(_title(comparison)),
        lead=html.escape(_lead(comparison)),
        style=_HERE.with_name("page.css").read_text(encoding="utf-8"),
        script=_HERE.with_name("page.js").read_text(encoding="utf-8"),
        tables="\n".join(_html_table(table) for table in tables(comparison) if table.rows),
        figures="\n".join(f"<figure>{svg}<figcaption>{html.escape(text)}</figcaption></figure>" for text, svg in drawn),
        notes="\n".join(f"<li>{html.escape(note)}</li>" for note in comparison.notes),
        runs=_html_table(_runs(comparison, path.parent)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8", errors="backslashreplace")


def _title(comparison: Comparison) -> str:
    keys = ", ".join(map(short, swept(comparison.arms)))
    return f"{comparison.metric} by {keys}" if keys else comparison.metric


def _lead(comparison: Comparison) -> str:
    runs = sum(len(arm.runs) for arm in comparison.arms)
    facts = [f"{runs} runs in {len(comparison.arms)} arms"]
    facts += [f"differences to {comparison.baseline}"] if comparison.baseline else []
    facts += [f"{short(comparison.key)} chosen on validation"] if comparison.key else []
    return " · ".join(facts)


def _runs(comparison: Comparison, here: Path) -> Table:
    rows = [
        [
            Cell(show(run.name), show(run.name), _link(run, here), anchor(arm) if first else ""),
            Cell(arm.label, arm.label),
            number(run.seed, 0),
            Cell(run.status, run.status),
            number(run.value(comparison.metric), 4),
            number(run.best_value(comparison.metric) if run.usable else None, 4),
            duration(run.seconds),
        ]
        for arm in comparison.arms
        for first, run in _in_order(arm)
    ]
    return Table("Runs", ["run", "arm", "seed", "status", comparison.metric, "best", "time"], rows)


def _in_order(arm: Arm) -> Iterator[tuple[bool, Run]]:
    """The runs by seed, each with whether it is the first."""
    runs = sorted(arm.runs, key=lambda run: (run.seed, run.folder))
    return ((number == 0, run) for number, run in enumerate(runs))


def _link(run: Run, here: Path) -> str:
    """The run's folder as seen from the page; quoted, so that no name can be taken for a scheme."""
    return urllib.parse.quote(os.fsencode(os.path.relpath(run.folder, here))) + "/"


def _html_table(table: Table) -> str:
    sides = ["number" if flush_right(table, index) else "word" for index in range(len(table.header))]
    head = "".join(
        f'<th scope="col" class="{side}" aria-sort="none"><button type="button">{html.escape(name)}</button></th>'
        for name, side in zip(table.header, sides, strict=True)
    )
    body = "\n".join(
        "<tr>" + "".join(_html_cell(cell, side) for cell, side in zip(row, sides, strict=True)) + "</tr>"
        for row in table.rows
    )
    title = html.escape(table.title)
    return (
        f'<section><h2>{title}</h2><div class="scroll" role="region" aria-label="{title}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div></section>"
    )


def _html_cell(cell: Cell, side: str) -> str:
    key = "" if cell.value is None else html.escape(str(cell.value))
    text = html.escape(cell.text)
    shown = f'<a href="{html.escape(cell.link)}">{text}</a>' if cell.link else text
    name = f' id="{cell.anchor}"' if cell.anchor else ""
    return f'<td class="{side}" data-sort="{key}"{name}>{shown}</td>'
