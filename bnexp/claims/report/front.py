"""The first page: ten lessons, and what came out of each claim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bnexp.claims.declaration import Claim
from bnexp.claims.report import words
from bnexp.claims.report.place import Place
from bnexp.claims.report.prose import LEAD, READ
from bnexp.claims.report.reading import Reading, Scales
from bnexp.compare.blocks import Block, Box, Cell, Figure, Group, Heading, Items, Links, Table, Text
from bnexp.compare.cells import probability
from bnexp.compare.drawing import Picture
from bnexp.config.names import counted

Rows = list[list[str | Cell] | Group]


def front(
    scales: Sequence[Scales], pictures: Mapping[str, Picture | None], untried: Sequence[Claim], place: Place
) -> Iterator[Block]:
    """All of the page.

    Args:
        scales: of each claim.
        pictures: claim -> the small figure of a lesson.
        untried: claims that have no result.
        place: of the page.
    """
    readings = [next(iter(some.values())) for some in scales]
    yield Heading(1, "Claims about normalization, tested")
    yield Text(LEAD, kind="lead")
    yield Text(_counts(readings), kind="facts")
    lessons = sorted((one for one in readings if one.claim.lesson is not None), key=lambda one: one.claim.lesson or 0)
    if lessons:
        yield Heading(2, f"{_LESSONS.get(len(lessons), 'The')} lessons", "lessons")
        yield Box("lessons", [_lesson(one, pictures.get(one.claim.id), place) for one in lessons])
    yield Heading(2, "All claims", "claims")
    yield _table(scales, place)
    if untried:
        yield Heading(2, "Declared, without a result here", "untried")
        yield Items([f"{claim.sentence} {_why(claim, readings)}" for claim in untried])
    yield Heading(2, "How to read this page", "reading")
    yield Items(READ)
    yield Links("More:", place.further)
    yield Heading(2, "Made with", "made-with")
    yield Table(["", ""], _made_with(readings), kind="prose")


_LESSONS = {10: "Ten"}


def _counts(readings: Sequence[Reading]) -> str:
    found = [one.word for one in readings]
    counts = "; ".join(words.how_many(found.count(word), word) for word in words.WORDS if word in found)
    runs, seconds = sum(one.result.runs for one in readings), sum(one.result.run_seconds for one in readings)
    lost = sum(one.result.answer is not None and not one.result.answer.survives for one in readings)
    adjusted = f"{lost} of the answers {'does' if lost == 1 else 'do'} not survive the adjustment for all claims. "
    told = f"{counted(runs, 'run')}, {words.core_time(seconds)}."
    return f"{counted(len(readings), 'claim')}: {counts}. {adjusted if lost else ''}{told}"


def _lesson(reading: Reading, picture: Picture | None, place: Place) -> Box:
    number = f"{reading.claim.lesson}. "
    blocks: list[Block] = [Heading(3, number + reading.sentence)]
    if picture is not None:
        blocks.append(Figure("", picture.caption, place.figure(picture.name)))
    marks = [f"{words.capital('; '.join(reading.marks))}."] if reading.marks else []
    notes = [Text(note, kind="note") for note in [*marks, *reading.parts]]
    return Box("lesson", [*blocks, *notes, Links("", [(reading.claim.sentence, place.page(reading.claim.id))])])


# --- the table of claims ----------------------------------------------------------------------------------------------


def _table(scales: Sequence[Scales], place: Place) -> Table:
    names = list(dict.fromkeys(name for some in scales for name in some))
    rows: Rows = []
    for word in words.WORDS:
        held = [some for some in scales if next(iter(some.values())).word == word]
        if held:
            rows.append(Group(words.capital(word), counted(len(held), "claim")))
            rows += [_row(some, names, place) for some in held]
    further = [f"on {name}" for name in names[1:]]
    return Table(["claim", "answer", "verdict", "effect", "p (Holm)", *further], rows, kind="summary")


def _row(some: Scales, names: Sequence[str], place: Place) -> list[str | Cell]:
    first, reading = next(iter(some.items()))
    answer = reading.result.answer
    where = [] if first == names[0] else [f"on {first} alone"]
    return [
        Cell(reading.claim.sentence, reading.claim.sentence, place.page(reading.claim.id)),
        reading.sentence,
        Cell(reading.word, reading.word, kind=reading.kind, note="; ".join([*where, *reading.marks])),
        "; ".join(reading.effects),
        probability(answer.p_holm) if answer is not None else Cell("exact"),
        *(scale_cell(some.get(name)) for name in names[1:]),
    ]


def scale_cell(reading: Reading | None) -> Cell:
    """What came out at a further scale."""
    if reading is None:
        return Cell("not run")
    note = "; ".join([*reading.effects, *reading.marks, reading.scale])
    return Cell(reading.word, reading.word, kind=reading.kind, note=note)


def _why(claim: Claim, readings: Sequence[Reading]) -> str:
    profiles = list(dict.fromkeys(one.result.profile for one in readings))
    missing = [profile for profile in profiles if claim.profiles and profile not in claim.profiles]
    return f"(It has {claim.without(missing[0]).rstrip('.')}.)" if missing else "(Not run.)"


def _made_with(readings: Sequence[Reading]) -> list[list[str]]:
    facts: dict[str, list[str]] = {}
    for result in (one.result for one in readings):
        facts.setdefault("profile", []).append(result.profile)
        facts.setdefault("date", []).append(result.date[:10])
        for key, value in result.provenance.items():
            if key != "started" and value not in (None, ""):
                facts.setdefault(key, []).append(str(value))
    seeds = {tuple(one.result.seeds) for one in readings if one.result.seeds}
    rows = [[key.replace("_", " "), ", ".join(sorted(set(values)))] for key, values in facts.items()]
    return [*rows, ["seeds", "; ".join(f"{some[0]} to {some[-1]}" for some in sorted(seeds))]]
