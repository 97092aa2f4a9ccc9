"""The page of one claim: its answer, figure, tests, literature, what was changed, and how to run it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bnexp.claims.answers import ALPHA
from bnexp.claims.report import words
from bnexp.claims.report.front import Rows, scale_cell
from bnexp.claims.report.place import Place
from bnexp.claims.report.reading import Reading, Scales
from bnexp.claims.result import Result, SideResult, TestResult
from bnexp.compare.blocks import Block, Box, Cell, Code, Figure, Heading, Items, Links, Table, Text
from bnexp.compare.cells import BLANK, decimals, fixed, number, probability
from bnexp.compare.drawing import Picture
from bnexp.compare.tables import is_cut
from bnexp.config.names import counted

# At this size the text in a figure is as large as the page's text.
_PIXELS_PER_INCH = 110
_ROLES = {"secondary": "Further tests", "control": "Controls", "check": "Checks of the arms"}


def section(scales: Scales, pictures: Sequence[Picture], place: Place) -> Iterator[Block]:
    """Everything about a claim.

    Args:
        scales: the claim's readings, the first of which is told in full.
        pictures: its figures.
        place: of the page.
    """
    reading = next(iter(scales.values()))
    yield Links("", [("all claims", f"{place.up}claims{place.ending}"), *place.further])
    yield Heading(1, reading.claim.sentence)
    yield _answer(reading)
    yield from (_figure(picture, place) for picture in pictures[:1])
    if reading.primary:
        yield _tests(reading, "primary")
    if notes := [*reading.other_regimes(), *_notes(reading, "primary")]:
        yield Items(notes)
    if len(scales) > 1:
        yield Heading(2, "At other scales")
        rows: Rows = [[name, one.sentence, scale_cell(one)] for name, one in scales.items()]
        yield Table(["results in", "answer", "verdict"], rows, kind="prose")
    yield from _exact(reading)
    yield from _background(reading, place)
    for role, heading in _ROLES.items():
        if any(_role(reading, name) == role for name in reading.claim.tests):
            yield Heading(2, heading)
            yield _tests(reading, role)
            if notes := list(_notes(reading, role)):
                yield Items(notes)
    yield from _arms(reading)
    yield from (_figure(picture, place) for picture in pictures[1:])
    yield from _made(reading, place)


def _answer(reading: Reading) -> Box:
    answer = reading.result.answer
    p = f"p (Holm) {probability(answer.p_holm).text}" if answer is not None and answer.p_holm is not None else ""
    facts = "; ".join(filter(None, [reading.word, *reading.marks, *reading.effects, p]))
    told = [f"{words.capital(line)}." for line in (facts, reading.condition)]
    lines = [Text(line, kind="note") for line in [*reading.parts, *told]]
    return Box(f"answer {reading.kind}", [Text(reading.sentence), *lines])


def _figure(picture: Picture, place: Place) -> Figure:
    width = round(_PIXELS_PER_INCH * picture.figure.get_figwidth())
    return Figure("", picture.caption, place.figure(picture.name), width)


def _background(reading: Reading, place: Place) -> Iterator[Block]:
    claim = reading.claim
    yield Heading(2, "What the literature says")
    yield Text(claim.literature)
    yield Text(f"{'; '.join(claim.sources)}.", title="Sources:", kind="note")
    if links := place.articles(claim.articles):
        yield Links("Statements of the source articles:", links)
    yield Heading(2, "Confounds and controls")
    yield Text(claim.confounds)
    yield Heading(2, "What would change the verdict")
    yield Text(claim.would_change)


# --- tests ------------------------------------------------------------------------------------------------------------


def _role(reading: Reading, name: str) -> str:
    """The declared role of a test; primary where it answers the claim in every regime in which it is judged."""
    roles = {test.role for test in reading.result.tests if test.test == name}
    return roles.pop() if len(roles) == 1 else reading.claim.tests[name].role


def _tests(reading: Reading, role: str) -> Table:
    claim = reading.claim
    rows: Rows = [_test(reading, test) for test in reading.result.tests if test.role == role]
    rows += [
        [claim.tests[name].says, Cell(words.UNTRIED), *[""] * 4]
        for name in reading.untried_tests
        if claim.tests[name].role == role
    ]
    return Table(["test", "verdict", "effect", "claimed", "seeds", "p"], rows, kind="tests")


def _test(reading: Reading, test: TestResult) -> list[str | Cell]:
    claim, why = reading.claim, words.reason(reading.claim, test.detail)
    doubts = [*([why] if why else []), *(["hangs on one seed"] if test.hangs_on else [])]
    effect = words.effect(claim, test)
    return [
        Cell(test.says, test.says, note=claim.title_of(test.regime)),
        Cell(
            words.verdict(test.verdict, test.detail),
            test.verdict,
            kind=test.verdict.replace(" ", "-"),
            note="; ".join(doubts),
        ),
        Cell(effect, effect, note=words.compared(claim, test) if effect else ""),
        words.claimed(test),
        number(test.n, 0),
        probability(test.p),
    ]


def _notes(reading: Reading, role: str) -> Iterator[str]:
    """What has to be said beside the numbers of tests."""
    for test in reading.result.tests:
        if test.role == role:
            about = f"{words.capital(test.says)} ({reading.claim.title_of(test.regime)}):"
            for text in test.notes:
                yield f"{about} {words.note(reading.claim, text)}."
            if test.mcnemar is not None and test.mcnemar < ALPHA:
                yield f"{about} the arms diverged unequally often, exact McNemar p = {probability(test.mcnemar).text}."


# --- arms and tuned values --------------------------------------------------------------------------------------------


def _arms(reading: Reading) -> Iterator[Block]:
    claim = reading.claim
    rows: Rows = []
    for (measured, regime, name, unit), side in _sides(reading).items():
        level = Cell(_level(side, unit), side.mean, note=measured)
        rows.append([words.point(claim, name), claim.title_of(regime), level, f"{side.diverged} of {side.runs}"])
    rows += [[name, Cell(words.UNTRIED), "", ""] for name in reading.untried_arms]
    if rows:
        yield Heading(2, "What the arms reach")
        yield Table(["arm", "regime", "mean \u00b1 95 %", "diverged"], rows, kind="tests")
        yield from (Text(text, kind="note") for text in _noise_floor(reading.result.tests))
    if reading.result.tuning:
        yield Heading(2, "Tuned with other seeds")
        yield _tuning(reading)


def _sides(reading: Reading) -> dict[tuple[str, str, str, str], SideResult]:
    """What was measured, regime, name and unit of an arm, once for all tests that use its numbers."""
    return {
        (words.measured(reading.claim, test.test), test.regime, name, words.unit(reading.claim, test)): side
        for test in reading.result.tests
        for name, side in test.sides.items()
    }


def _level(side: SideResult, unit: str) -> str:
    """An arm's mean with half the width of its interval, or with both ends where it is cut off at the metric's."""
    if side.mean is None:
        return BLANK
    times = 100 if unit else 1
    if side.low is None or side.high is None:
        return number(times * side.mean, 3).text + unit
    half = times * max(side.mean - side.low, side.high - side.mean)
    digits = decimals(half, 3)
    mean, low, high = (fixed(times * each, digits).text for each in (side.mean, side.low, side.high))
    ends = f"[{low}, {high}]" if is_cut(vars(side)) else f"\u00b1 {fixed(half, digits).text}"
    return f"{mean} {ends}{unit}"


def _noise_floor(tests: Sequence[TestResult]) -> Iterator[str]:
    """The standard error of accuracies that comes from the number of test images alone."""
    floors = [100 * test.noise_floor for test in tests if test.noise_floor is not None]
    if floors:
        span = " to ".join(dict.fromkeys(f"{end:.2f}" for end in (min(floors), max(floors))))
        yield f"The finite test set gives accuracies a standard error of {span} points, partly shared by the arms."


def _tuning(reading: Reading) -> Table:
    claim = reading.claim
    rows: Rows = [
        [
            words.point(claim, choice.point),
            claim.title_of(choice.regime),
            f"{choice.chosen}{' (the best is on the edge)' if choice.at_edge else ''}",
            ", ".join(f"{value}: {BLANK if mean is None else f'{mean:.3f}'}" for value, mean in choice.means),
        ]
        for choice in reading.result.tuning
    ]
    return Table(["arm", "regime", "chosen", "by value, mean of what tuning goes by"], rows, kind="prose")


# --- exact checks, changes, how to run --------------------------------------------------------------------------------


def _exact(reading: Reading) -> Iterator[Block]:
    rows: Rows = [
        [
            check.replace("_", " "),
            row.name,
            Cell(BLANK) if row.measured is None else Cell(f"{row.measured:.10g}", row.measured),
            Cell(f"{row.expected:.10g}", row.expected),
            Cell(f"{row.tolerance:.2g}", row.tolerance),
            Cell("holds" if row.holds else "does not hold", kind="supported" if row.holds else "contradicted"),
        ]
        for check, numbers in reading.result.exact.items()
        for row in numbers
    ]
    if rows:
        yield Heading(2, "Exact checks")
        yield Table(["check", "number", "measured", "expected", "tolerance", ""], rows, kind="prose")


def _history(result: Result) -> Iterator[str]:
    """When the claim was declared, and when it was declared anew."""
    for place, declared in enumerate(result.declared):
        what = "the declaration was changed" if place else "declared"
        when = f"after {counted(declared.runs, 'run')}" if declared.runs else "before the first run"
        yield f"{declared.date[:10]}: {what} {when} (SHA-256 {declared.digest[:12]})"
    if not result.declared:
        yield "When it was declared is not known."


def _made(reading: Reading, place: Place) -> Iterator[Block]:
    claim, result = reading.claim, reading.result
    if claim.changes:
        yield Heading(2, "Changed after results were seen")
        yield Items([f"{change.date}: {change.what} ({change.why})" for change in claim.changes])
    yield Heading(2, "When it was declared")
    yield Items([*_history(result)])
    yield Heading(2, "How to run it")
    tuning = f" and {len(result.tuning_seeds)} for tuning" if result.tuning_seeds else ""
    failed = f", {result.failed} of them failed" if result.failed else ""
    runs = f"{counted(result.runs, 'run')}{failed}, {words.core_time(result.run_seconds)}"
    seeds = f"{counted(len(result.seeds), 'seed')}{tuning}, {runs}" if result.seeds else "Exact checks, without runs"
    yield Text(f"{words.capital(seeds)}. The second command writes this report.")
    yield Code(
        f"bnexp claim run {result.command or claim.id} --profile {result.profile}\n"
        f"bnexp claim report outputs/claims/{result.profile}"
    )
    yield Links("", [("the whole declaration", place.file(f"declarations/{claim.id}.yaml"))])
