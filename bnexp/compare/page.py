"""A comparison as one HTML file."""

from __future__ import annotations

import html
import os
import string
from collections.abc import Iterator
from pathlib import Path

from bnexp.compare import figures
from bnexp.compare.blocks import Cell, Figure, Table
from bnexp.compare.cells import duration, number
from bnexp.compare.html import as_html, quoted
from bnexp.compare.tables import Comparison, anchor, swept, tables
from bnexp.config.metrics import title as in_words
from bnexp.runs.arms import Arm
from bnexp.runs.collect import Run, short, show
from bnexp.runs.storage import write_atomically

_HERE = Path(__file__)


def write(path: Path, comparison: Comparison) -> None:
    """Write one HTML file that loads no other file: sortable tables, inline figures, links to the run folders."""
    drawn = [Figure(svg, caption) for caption, svg in figures.inline(comparison)]
    content = string.Template(_HERE.with_name("page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(_title(comparison)),
        lead=html.escape(_lead(comparison)),
        style=style(),
        script=_HERE.with_name("page.js").read_text(encoding="utf-8"),
        tables=as_html(tables(comparison), sortable=True),
        figures=as_html(drawn),
        notes="\n".join(f"<li>{html.escape(note)}</li>" for note in comparison.notes),
        runs=as_html([_runs(comparison, path.parent)], sortable=True),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.encode("utf-8", "backslashreplace"))


def style() -> str:
    """The CSS that all pages share."""
    return _HERE.with_name("page.css").read_text(encoding="utf-8")


def _title(comparison: Comparison) -> str:
    keys = ", ".join(map(short, swept(comparison.arms)))
    words = in_words(comparison.metric)
    heading = f"{words[:1].upper()}{words[1:]}"
    return f"{heading} by {keys}" if keys else heading


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
            number(arm.value(run, comparison.metric), 4),
            number(arm.best_value(run, comparison.metric), 4),
            duration(run.seconds),
        ]
        for arm in comparison.arms
        for first, run in _in_order(arm)
    ]
    return Table(["run", "arm", "seed", "status", comparison.metric, "best", "time"], rows, "Runs")


def _in_order(arm: Arm) -> Iterator[tuple[bool, Run]]:
    """The runs by seed, each with True if it is the first."""
    runs = sorted(arm.runs, key=lambda run: (run.seed, run.folder))
    return ((number == 0, run) for number, run in enumerate(runs))


def _link(run: Run, here: Path) -> str:
    """The address of the run's folder, relative to the page."""
    return quoted(os.path.relpath(run.folder, here)) + "/"
