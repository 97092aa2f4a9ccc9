"""The results of claims as one page: a single HTML file, and Markdown with PNG figures beside it."""

from __future__ import annotations

import os
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bnexp.claims.report import figures, seeds
from bnexp.claims.report.cells import answered, core_time, counted, effect_cell, named, strip, verdict
from bnexp.claims.report.prose import ARTICLES, ERRATA, GLOSSARY, LEAD, PROTOCOL
from bnexp.claims.report.section import section
from bnexp.claims.result import Result
from bnexp.compare.blocks import Block, Cell, Group, Heading, Items, Table, Text
from bnexp.compare.cells import number, probability
from bnexp.compare.drawing import Picture
from bnexp.compare.html import as_html
from bnexp.compare.markdown import as_markdown
from bnexp.compare.page import style

_HERE = Path(__file__)
_VERDICTS = ("supported", "contradicted", "negligible", "inconclusive", "no verdict")


def write(folder: Path, results: Sequence[Result], *, runs_at: Path) -> list[Path]:
    """Write ``claims.html``, ``claims.md`` with a PNG a claim, and ``seeds.csv``.

    Args:
        folder: for the files.
        results: as ``store.read_all`` returns them.
        runs_at: the folder that the results' run folders are relative to.

    Returns:
        Paths of the two pages and of the numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {result.claim: figures.draw(result) for result in results}
    for picture in filter(None, pictures.values()):
        figures.save(picture, folder)
    blocks = list(_document(results, pictures, os.path.relpath(runs_at, folder)))
    template = string.Template(_HERE.with_name("claims.html").read_text(encoding="utf-8"))
    css = f"{style()}\n{_HERE.with_name('claims.css').read_text(encoding='utf-8')}"
    page, text = folder / "claims.html", folder / "claims.md"
    page.write_text(template.substitute(style=css, body=as_html(blocks)), encoding="utf-8")
    text.write_text(as_markdown(blocks), encoding="utf-8")
    return [page, text, seeds.write(folder, results)]


def _document(results: Sequence[Result], pictures: Mapping[str, Picture | None], runs_at: str) -> Iterator[Block]:
    yield Heading(1, "Claims about normalization, tested")
    yield Text(LEAD, kind="lead")
    yield Text(_facts(results), kind="facts")
    yield Heading(2, "Verdicts", "verdicts")
    yield from _summary(results)
    for result in results:
        yield from section(result, pictures[result.claim], runs_at)
    yield Heading(2, "How verdicts are reached", "methods")
    yield Items(PROTOCOL, ordered=True)
    yield Heading(2, "Words", "words")
    yield Table(["word", "meaning"], GLOSSARY, kind="prose")
    yield Heading(2, "The source articles and their errata", "errata")
    yield Text(ARTICLES)
    yield Table(["article", "it says", "correct is"], [[Cell(row[0]), *row[1:]] for row in ERRATA], kind="prose")
    yield Heading(2, "Made with", "made-with")
    yield Table(["", ""], _made_with(results), kind="prose")


def _facts(results: Sequence[Result]) -> str:
    tests = [test for result in results for test in result.tests]
    words = [result.answer.word for result in results if result.answer is not None]
    verdicts = ", ".join(f"{words.count(word)} {word}" for word in _VERDICTS if word in words)
    exact = [row.holds for result in results for rows in result.exact.values() for row in rows]
    numbers = f" Exact checks: {sum(exact)} of {counted(len(exact), 'number')} as expected." if exact else ""
    runs, seconds = sum(result.runs for result in results), sum(result.run_seconds for result in results)
    return (
        f"{counted(len(results), 'claim')}{': ' if verdicts else ''}{verdicts}. {counted(len(tests), 'test')}."
        f"{numbers} {counted(runs, 'run')}, {core_time(seconds)}."
    )


# --- the summary ------------------------------------------------------------------------------------------------------


def _summary(results: Sequence[Result]) -> Iterator[Block]:
    header = ["test", "verdict", "regime", "", "effect, interval", "n", "p"]
    rows = [row for result in results for row in _summary_rows(result)]
    yield Table(header, rows, pictures=(3,), kind="summary")
    yield Text(
        "The bars show the interval against 0 (line) and the smallest effect of interest (dots) on a scale that is "
        "compressed outwards. Core time is the sum over all runs of a claim, each on one core or device.",
        kind="note",
    )


def _summary_rows(result: Result) -> Iterator[list[str | Cell] | Group]:
    time = core_time(result.run_seconds) if result.runs else ""
    note = " · ".join(word for word in (result.claim, answered(result), time) if word)
    yield Group(result.sentence, f"#{result.claim}", note)
    for test in result.tests:
        yield [
            named(test),
            verdict(test),
            test.regime,
            Cell("", picture=strip(test)),
            effect_cell(test),
            number(test.n, 0),
            probability(test.p),
        ]
    for check, rows in result.exact.items():
        holds = all(row.holds for row in rows)
        word = Cell("holds exactly" if holds else "does not hold", kind="supported" if holds else "contradicted")
        count = Cell(counted(len(rows), "number"), len(rows))
        yield [check.replace("_", " "), word, "exact", "", count, "", ""]


def _made_with(results: Sequence[Result]) -> list[list[str]]:
    facts: dict[str, list[str]] = {}
    for result in results:
        facts.setdefault("profile", []).append(result.profile)
        facts.setdefault("date", []).append(result.date[:10])
        for key, value in result.provenance.items():
            if key != "started" and value not in (None, ""):
                facts.setdefault(key, []).append(str(value))
    seeds = {tuple(result.seeds) for result in results if result.seeds}
    rows = [[key, ", ".join(sorted(set(values)))] for key, values in facts.items()]
    return [*rows, ["seeds", "; ".join(f"{some[0]} to {some[-1]}" for some in sorted(seeds))]]
