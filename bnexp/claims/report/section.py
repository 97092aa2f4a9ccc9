"""The page's section on one claim: origin, figure, tests, arms, tuning, exact checks, literature, declaration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from bnexp.claims.report import figures
from bnexp.claims.report.cells import (
    answered,
    claimed,
    core_time,
    counted,
    effect_cell,
    level,
    named,
    robust,
    verdict,
)
from bnexp.claims.result import Result, TestResult
from bnexp.compare.blocks import Block, Cell, Figure, Fold, Heading, Items, Table, Text
from bnexp.compare.cells import BLANK, number, probability
from bnexp.compare.drawing import Picture

Rows = list[list[str | Cell]]
# At this size the text in a figure is as large as the page's text.
_PIXELS_PER_INCH = 100
_RUNS = "Runs (on the machine that made them)"


def section(result: Result, picture: Picture | None, runs_at: str) -> Iterator[Block]:
    """Everything about a claim; ``runs_at`` leads from the page to the folder that run folders are relative to."""
    yield Heading(2, result.sentence, result.claim)
    if result.answer is not None:
        yield Text(f"{answered(result)}. It holds if {' and '.join(result.answer.tests)} does.", title="Answer:")
    yield Text(_origin(result), kind="meta")
    if picture is not None:
        width = round(_PIXELS_PER_INCH * picture.figure.get_figwidth())
        yield Figure(figures.inline(picture), picture.caption, f"{picture.name}.png", width)
    if result.tests:
        yield from _tests(result)
        yield Heading(3, "Arms")
        yield Text(_settings(result), kind="note")
        yield _arms(result)
    if result.tuning:
        yield Heading(3, "Tuned with other seeds")
        yield _tuning(result)
    if result.exact:
        yield Heading(3, "Exact checks")
        yield _exact(result)
    yield Text(result.literature, title="What the literature says.")
    yield Text(result.confounds, title="Confounds and controls.")
    yield Text(result.would_change, title="What would change the verdict.")
    yield Fold("Declared design", code=result.declaration)
    if links := _runs(result):
        yield Fold(_RUNS, links=[(Path(to).name, f"{runs_at}/{to}/") for to in links])


def _runs(result: Result) -> list[str]:
    folders = (folder for test in result.tests for side in test.sides.values() for folder in side.folders)
    return list(dict.fromkeys(folders))


def _origin(result: Result) -> str:
    seeds = f"{len(result.seeds)} seeds" if result.seeds else "exact"
    tuning = f", {len(result.tuning_seeds)} for tuning" if result.tuning_seeds else ""
    articles = f" · articles {', '.join(map(str, result.articles))}" if result.articles else ""
    failed = f", {result.failed} failed" if result.failed else ""
    runs = f", {counted(result.runs, 'run')}{failed}, {core_time(result.run_seconds)}" if result.runs else ""
    return f"{result.claim} · {'; '.join(result.sources)}{articles} · profile {result.profile}: {seeds}{tuning}{runs}"


def _tests(result: Result) -> Iterator[Block]:
    header = ["test", "verdict", "regime", "effect, interval", "Hodges-Lehmann", "claimed", "n", "d_z", "p"]
    rows: Rows = [
        [
            named(test, test.test),
            verdict(test),
            test.regime,
            effect_cell(test),
            robust(test),
            claimed(test),
            number(test.n, 0),
            number(test.d_z, 2),
            probability(test.p),
        ]
        for test in result.tests
    ]
    yield Table(header, rows, kind="tests")
    notes = [f"{test.test} ({test.regime}): {note}." for test in result.tests for note in _notes(test)]
    notes += _noise_floor(result)
    if notes:
        yield Items(notes)


def _notes(test: TestResult) -> Iterator[str]:
    yield from test.notes
    if any(side.diverged for side in test.sides.values()) and test.mcnemar is not None:
        yield f"diverged equally often: exact McNemar p = {probability(test.mcnemar).text}"


def _noise_floor(result: Result) -> Iterator[str]:
    """The standard error of accuracies that comes from the number of test images alone."""
    floors = [100 * test.noise_floor for test in result.tests if test.noise_floor is not None]
    if floors:
        span = " to ".join(dict.fromkeys(f"{end:.2f}" for end in (min(floors), max(floors))))
        yield f"The finite test set gives an accuracy a standard error of {span} pp, partly shared by arms of a seed."


def _settings(result: Result) -> str:
    """The declared settings of each arm, and the setting behind ``name@value``."""
    declared = _declared(result)
    skipped = declared["profiles"].get(result.profile, {}).get("skip_arms", [])
    arms = [f"{name}: {_sets(arm)}" for name, arm in declared["arms"].items() if name not in skipped]
    axis = [f"name@value: {declared['axis']['key']}=value"] if "axis" in declared else []
    return f"What each arm sets. {'; '.join([*arms, *axis])}."


def _declared(result: Result) -> Any:
    """The declaration as written in its yaml; all values are words."""
    return yaml.load(result.declaration, yaml.BaseLoader)


def _sets(arm: Any) -> str:
    """The settings of an arm as declared: a list, or a mapping if the arm starts from another run."""
    given = arm if isinstance(arm, dict) else {"settings": arm}
    start = [f"starts from {given['init_from']}"] if "init_from" in given else []
    return ", ".join([*given["settings"], *start]) or "nothing of its own"


def _arms(result: Result) -> Table:
    measures = {name: test["measure"] for name, test in _declared(result)["tests"].items()}
    rows: Rows = [
        [
            test.test,
            test.regime,
            name,
            Cell(f"{side.weight:+g}", side.weight),
            _measured(measures[test.test]),
            level(side),
            number(side.n, 0),
            Cell(f"{side.diverged}/{side.runs}", side.diverged),
        ]
        for test in result.tests
        for name, side in test.sides.items()
    ]
    header = ["test", "regime", "arm", "weight", "measured on", "mean ± 95 %", "n", "diverged"]
    return Table(header, rows)


def _measured(measure: Mapping[str, str]) -> str:
    metric = measure.get("metric") or f"steps to {measure['steps_to']}"
    return f"{metric} - {measure['minus']}" if "minus" in measure else metric


def _tuning(result: Result) -> Table:
    rows = [
        [
            choice.regime,
            choice.point,
            f"{choice.chosen}{' (edge)' if choice.at_edge else ''}",
            ", ".join(f"{value}: {BLANK if mean is None else f'{mean:.3f}'}" for value, mean in choice.means),
        ]
        for choice in result.tuning
    ]
    return Table(["regime", "arm", "chosen", "mean of the tuning metric by value"], rows)


def _exact(result: Result) -> Table:
    rows: Rows = [
        [
            check.replace("_", " "),
            row.name,
            Cell(BLANK) if row.measured is None else Cell(f"{row.measured:.10g}", row.measured),
            Cell(f"{row.expected:.10g}", row.expected),
            Cell(f"{row.tolerance:.2g}", row.tolerance),
            Cell("holds" if row.holds else "does not hold", kind="supported" if row.holds else "contradicted"),
        ]
        for check, numbers in result.exact.items()
        for row in numbers
    ]
    return Table(["check", "number", "measured", "expected", "tolerance", ""], rows)
