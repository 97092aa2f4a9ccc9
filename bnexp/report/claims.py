"""The results of claims as one page: HTML that needs nothing but itself, and Markdown with pictures beside it."""

from __future__ import annotations

import html
import math
import os
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from bnexp.report import claims_figures as figures
from bnexp.report.blocks import Block, Cell, Figure, Fold, Group, Heading, Items, Table, Text, as_html, as_markdown
from bnexp.report.claims_prose import ARTICLES, ERRATA, GLOSSARY, LEAD, PROTOCOL
from bnexp.report.figures import Picture
from bnexp.report.tables import BLANK, duration

Result = Mapping[str, Any]
_HERE = Path(__file__)
_VERDICTS = ("supported", "contradicted", "inconclusive", "no verdict")
# What a claim says of its effect, and what marks a p that is not of "no difference" in two directions.
_CLAIMED = {"greater": "above {high}", "less": "below {low}", "equal": "{low} to {high}", "at_least": "above {low}"}
_P_MARKS = {"equal": " (=)", "at_least": " (≥)"}
# At this size a figure's text is as large as the page's.
_PIXELS_PER_INCH = 100
_RUNS = "Runs (on the machine that made them)"
_STRIP = (132, 16)  # width and height of the small interval pictures
_STRIP_ENDS = 12  # smallest effects of interest between 0 and their ends, on an asinh scale


def write(folder: Path, results: Sequence[Result], *, runs_at: Path) -> list[Path]:
    """``claims.html``, and ``claims.md`` with a PNG a claim.

    Args:
        folder: where they are put.
        results: contents of ``result.json``, with Holm's p.
        runs_at: what the folders of runs in them are relative to.

    Returns:
        The two pages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {result["claim"]: figures.draw(result) for result in results}
    for picture in filter(None, pictures.values()):
        figures.save(picture, folder)
    blocks = list(_document(results, pictures, os.path.relpath(runs_at, folder)))
    template = string.Template(_HERE.with_name("claims.html").read_text(encoding="utf-8"))
    style = "\n".join(_HERE.with_name(name).read_text(encoding="utf-8") for name in ("page.css", "claims.css"))
    page, text = folder / "claims.html", folder / "claims.md"
    page.write_text(template.substitute(style=style, body=as_html(blocks)), encoding="utf-8")
    text.write_text(as_markdown(blocks), encoding="utf-8")
    return [page, text]


def _document(results: Sequence[Result], pictures: Mapping[str, Picture | None], runs_at: str) -> Iterator[Block]:
    yield Heading(1, "Claims about normalization, tested")
    yield Text(LEAD, kind="lead")
    yield Text(_facts(results), kind="facts")
    yield Heading(2, "Verdicts", "verdicts")
    yield from _summary(results)
    for result in results:
        yield from _claim(result, pictures[result["claim"]], runs_at)
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
    tests = [test for result in results for test in result["tests"]]
    counts = {word: sum(test["verdict"] == word for test in tests) for word in _VERDICTS}
    verdicts = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    exact = [row["holds"] for result in results for rows in result["exact"].values() for row in rows]
    numbers = f" Exact checks: {sum(exact)} of {_counted(len(exact), 'number')} as expected." if exact else ""
    runs, seconds = (sum(result[key] for result in results) for key in ("runs", "run_seconds"))
    return (
        f"{_counted(len(results), 'claim')}, {_counted(len(tests), 'test')}{': ' if verdicts else ''}{verdicts}."
        f"{numbers} {_counted(runs, 'run')}, {_core_time(seconds)}."
    )


def _core_time(seconds: float) -> str:
    return f"{duration(seconds).text} of core time"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# --- the summary ------------------------------------------------------------------------------------------------------


def _summary(results: Sequence[Result]) -> Iterator[Block]:
    header = ["test", "verdict", "regime", "", "effect, 95 % interval", "n", "p (Holm)"]
    rows = [row for result in results for row in _summary_rows(result)]
    yield Table(header, rows, numbers=(4, 5, 6), pictures=(3,), kind="summary")
    yield Text(
        "The bars show the interval against 0 (line) and the smallest effect of interest (dots) on a scale that is "
        "compressed outwards. Core time is the sum over all runs of a claim, each on one core or device.",
        kind="note",
    )


def _summary_rows(result: Result) -> Iterator[list[str | Cell] | Group]:
    time = f" · {_core_time(result['run_seconds'])}" if result["runs"] else ""
    yield Group(result["sentence"], f"#{result['claim']}", f"{result['claim']}{time}")
    for test in result["tests"]:
        yield [
            test["says"],
            _verdict(test),
            test["regime"],
            Cell("", picture=_strip(test)),
            _effect_cell(test),
            str(test["n"]),
            _p(test.get("p_holm")),
        ]
    for check, rows in result["exact"].items():
        holds = all(row["holds"] for row in rows)
        word = Cell("holds exactly" if holds else "does not hold", kind="supported" if holds else "contradicted")
        yield [check.replace("_", " "), word, "exact", "", _counted(len(rows), "number"), "", ""]


def _verdict(test: Result) -> Cell:
    word = f"{test['verdict']} ({test['detail']})" if test["detail"] else test["verdict"]
    return Cell(word, kind=test["verdict"].replace(" ", "-"))


def _effect_cell(test: Result) -> Cell:
    shown = effect(test, lead="")
    return Cell(shown, note=_contrast(test) if shown else "")


def _contrast(test: Result) -> str:
    """Which arm minus which; over which, for ratios."""
    weights = {name: side["weight"] for name, side in test["sides"].items() if side["weight"]}
    if test["scale"] == "linear":
        terms = (f"{'+' if weight > 0 else '-'} {_times(weight)}{name}" for name, weight in weights.items())
        return " ".join(terms).removeprefix("+ ")
    over = " · ".join(f"{name}{_power(weight)}" for name, weight in weights.items() if weight > 0)
    under = [f"{name}{_power(weight)}" for name, weight in weights.items() if weight < 0]
    below = f"({' · '.join(under)})" if len(under) > 1 else "".join(under)
    return f"{over or '1'} / {below}" if below else over


def _times(weight: float) -> str:
    return "" if abs(weight) == 1 else f"{abs(weight):g} "


def _power(weight: float) -> str:
    return "" if abs(weight) == 1 else f"^{abs(weight):g}"


def effect(test: Result, lead: str = ", ") -> str:
    """The mean difference with its interval, in points for accuracies and as a ratio for logarithms."""
    if test["mean"] is None:
        return ""
    convert, unit, before = _unit(test)
    ends = [test[key] for key in ("mean", "low", "high") if test[key] is not None]
    shown = [convert(end) for end in ends]
    digits = _digits(shown)
    sign = "" if before else "+"
    texts = [f"{number:{sign}.{digits}f}" for number in shown]
    interval = f" [{texts[1]}, {texts[2]}]" if len(texts) == 3 else ""
    return f"{lead}{before}{texts[0]}{interval}{unit}"


def _unit(test: Result) -> tuple[Callable[[float], float], str, str]:
    """How a difference is shown: conversion, unit, and what stands before it."""
    if test["scale"] == "log10":
        return lambda x: 10.0 ** min(x, 300), "", "ratio "
    if test["scale"] == "log":
        return lambda x: math.exp(min(x, 690)), "", "ratio "
    if test["is_level"] and "accuracy" in test["metric"].rpartition("/")[2]:
        return lambda x: 100 * x, " pp", ""
    return float, "", ""


def _digits(numbers: Sequence[float]) -> int:
    """Decimals that give the interval (or a lone number) two significant digits."""
    width = (max(numbers) - min(numbers)) / 2 or abs(numbers[0])
    return min(6, max(0, 1 - math.floor(math.log10(width)))) if width > 0 else 1


def _p(p: float | None) -> str:
    if p is None:
        return BLANK
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _strip(test: Result) -> str:
    """The interval as a small bar against 0 and the smallest effect of interest."""
    if test["low"] is None:
        return ""
    width, height = _STRIP
    low, mean, high = (_place(test[key] / test["threshold"]) for key in ("low", "mean", "high"))
    middle = height / 2
    marks = "".join(
        f'<circle cx="{_place(sign):.1f}" cy="{middle}" r="1.1" fill="currentColor" opacity="0.6"/>' for sign in (-1, 1)
    )
    kind = test["verdict"].replace(" ", "-")
    return (
        f'<svg class="strip {kind}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{html.escape(effect(test, lead=""))}">'
        f'<path d="M{_place(0):.1f} 1V{height - 1}" stroke="currentColor" stroke-width="0.8" opacity="0.5"/>{marks}'
        f'<path d="M{low:.1f} {middle}H{max(high, low + 1):.1f}" class="bar"/>'
        f'<circle cx="{mean:.1f}" cy="{middle}" r="3.2" class="mean"/></svg>'
    )


def _place(effects: float) -> float:
    """Where a number of smallest effects of interest stands on a strip, which ends at its edges."""
    width, _ = _STRIP
    place = math.asinh(max(-_STRIP_ENDS, min(_STRIP_ENDS, effects))) / math.asinh(_STRIP_ENDS)
    return 5 + (width - 10) * (1 + place) / 2


# --- a claim ----------------------------------------------------------------------------------------------------------


def _claim(result: Result, picture: Picture | None, runs_at: str) -> Iterator[Block]:
    yield Heading(2, result["sentence"], result["claim"])
    yield Text(_origin(result), kind="meta")
    if picture is not None:
        width = round(_PIXELS_PER_INCH * picture.figure.get_figwidth())
        yield Figure(figures.inline(picture), f"{picture.name}.png", picture.caption, width)
    if result["tests"]:
        yield from _tests(result)
        yield Heading(3, "Arms")
        yield Text(_settings(result), kind="note")
        yield _arms(result)
    if result["tuning"]:
        yield Heading(3, "Tuned with other seeds")
        yield _tuning(result)
    if result["exact"]:
        yield Heading(3, "Exact checks")
        yield _exact(result)
    yield Text(result["literature"], title="What the literature says.")
    yield Text(result["confounds"], title="Confounds and controls.")
    yield Text(result["would_change"], title="What would change the verdict.")
    yield Fold("Declared design", code=result["declaration"])
    if links := _runs(result):
        yield Fold(_RUNS, links=[(Path(to).name, f"{runs_at}/{to}/") for to in links])


def _runs(result: Result) -> list[str]:
    folders = (folder for test in result["tests"] for side in test["sides"].values() for folder in side["folders"])
    return list(dict.fromkeys(folders))


def _origin(result: Result) -> str:
    seeds = f"{len(result['seeds'])} seeds" if result["seeds"] else "exact"
    tuning = f", {len(result['tuning_seeds'])} for tuning" if result["tuning_seeds"] else ""
    articles = f" · articles {', '.join(map(str, result['articles']))}" if result["articles"] else ""
    failed = f", {result['failed']} failed" if result["failed"] else ""
    runs = f", {_counted(result['runs'], 'run')}{failed}, {_core_time(result['run_seconds'])}" if result["runs"] else ""
    return (
        f"{result['claim']} · {'; '.join(result['sources'])}{articles} · profile {result['profile']}: "
        f"{seeds}{tuning}{runs}"
    )


def _tests(result: Result) -> Iterator[Block]:
    header = ["test", "verdict", "regime", "effect, 95 % interval", "BCa", "claimed", "n", "d_z", "p", "p (Holm)"]
    rows = [
        [
            Cell(test["says"], note=test["test"]),
            _verdict(test),
            test["regime"],
            _effect_cell(test),
            _bca(test),
            _threshold(test),
            str(test["n"]),
            BLANK if test["d_z"] is None else f"{test['d_z']:.2f}",
            _p(test["p"]) + (_P_MARKS.get(test["claims"], "") if test["p"] is not None else ""),
            _p(test.get("p_holm")),
        ]
        for test in result["tests"]
    ]
    yield Table(header, rows, numbers=range(3, len(header)), kind="tests")
    notes = [f"{test['test']} ({test['regime']}): {note}." for test in result["tests"] for note in _notes(test)]
    notes += _noise_floor(result)
    if notes:
        yield Items(notes)


def _bca(test: Result) -> str:
    """The bootstrap interval, in the units of the effect."""
    if test["bca"] is None:
        return BLANK
    convert, _, before = _unit(test)
    digits = _digits([convert(test[key]) for key in ("low", "high")])
    return "[" + ", ".join(f"{convert(end):{'' if before else '+'}.{digits}f}" for end in test["bca"]) + "]"


def _threshold(test: Result) -> str:
    convert, unit, before = _unit(test)
    low, high = (f"{convert(sign * test['threshold']):.3g}" for sign in (-1, 1))
    return before + _CLAIMED[test["claims"]].format(low=low, high=high) + unit


def _notes(test: Result) -> Iterator[str]:
    yield from test["notes"]
    if any(side["diverged"] for side in test["sides"].values()) and test["mcnemar"] is not None:
        yield f"diverged equally often: exact McNemar p = {_p(test['mcnemar'])}"


def _noise_floor(result: Result) -> Iterator[str]:
    """What the number of test images alone does to accuracies."""
    floors = [100 * test["noise_floor"] for test in result["tests"] if test["noise_floor"] is not None]
    if floors:
        span = " to ".join(dict.fromkeys(f"{end:.2f}" for end in (min(floors), max(floors))))
        yield f"The finite test set gives an accuracy a standard error of {span} pp, partly shared by arms of a seed."


def _settings(result: Result) -> str:
    """What each arm sets, and what its name with a value means, as declared."""
    declared = _declared(result)
    skipped = declared["profiles"].get(result["profile"], {}).get("skip_arms", [])
    arms = [f"{name}: {_sets(arm)}" for name, arm in declared["arms"].items() if name not in skipped]
    axis = [f"name@value: {declared['axis']['key']}=value"] if "axis" in declared else []
    return f"What each arm sets. {'; '.join([*arms, *axis])}."


def _declared(result: Result) -> Any:
    """The declaration as its yaml has it, all values as words."""
    return yaml.load(result["declaration"], yaml.BaseLoader)


def _sets(arm: Any) -> str:
    """Of an arm as its yaml has it: a list, or a mapping where it starts from another run."""
    given = arm if isinstance(arm, dict) else {"settings": arm}
    start = [f"starts from {given['init_from']}"] if "init_from" in given else []
    return ", ".join([*given["settings"], *start]) or "nothing of its own"


def _arms(result: Result) -> Table:
    measures = {name: test["measure"] for name, test in _declared(result)["tests"].items()}
    rows = [
        [
            test["test"],
            test["regime"],
            name,
            f"{side['weight']:+g}",
            _measured(measures[test["test"]]),
            BLANK if side["mean"] is None else _level(side),
            str(side["n"]),
            f"{side['diverged']}/{side['runs']}",
        ]
        for test in result["tests"]
        for name, side in test["sides"].items()
    ]
    header = ["test", "regime", "arm", "weight", "measured on", "mean ± 95 %", "n", "diverged"]
    return Table(header, rows, numbers=(3, 5, 6, 7))


def _measured(measure: Mapping[str, str]) -> str:
    metric = measure.get("metric") or f"steps to {measure['steps_to']}"
    return f"{metric} - {measure['minus']}" if "minus" in measure else metric


def _level(side: Result) -> str:
    half = None if side["high"] is None else side["high"] - side["mean"]
    digits = _digits([half]) if half else 3
    return f"{side['mean']:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def _tuning(result: Result) -> Table:
    rows = [
        [
            choice["regime"],
            choice["point"],
            f"{choice['chosen']}{' (edge)' if choice['at_edge'] else ''}",
            ", ".join(f"{value}: {BLANK if mean is None else f'{mean:.3f}'}" for value, mean in choice["means"]),
        ]
        for choice in result["tuning"]
    ]
    return Table(["regime", "arm", "chosen", "mean of the tuning metric by value"], rows)


def _exact(result: Result) -> Table:
    rows = [
        [
            check.replace("_", " "),
            row["name"],
            f"{row['measured']:.10g}",
            f"{row['expected']:.10g}",
            f"{row['tolerance']:.2g}",
            Cell("holds" if row["holds"] else "does not hold", kind="supported" if row["holds"] else "contradicted"),
        ]
        for check, numbers in result["exact"].items()
        for row in numbers
    ]
    return Table(["check", "number", "measured", "expected", "tolerance", ""], rows, numbers=(2, 3, 4))


def _made_with(results: Sequence[Result]) -> list[list[str]]:
    facts: dict[str, list[str]] = {}
    for result in results:
        facts.setdefault("profile", []).append(result["profile"])
        facts.setdefault("date", []).append(result["date"][:10])
        for key, value in result["provenance"].items():
            if key != "started" and value not in (None, ""):
                facts.setdefault(key, []).append(str(value))
    seeds = {tuple(result["seeds"]) for result in results if result["seeds"]}
    rows = [[key, ", ".join(sorted(set(values)))] for key, values in facts.items()]
    return [*rows, ["seeds", "; ".join(f"{some[0]} to {some[-1]}" for some in sorted(seeds))]]
