"""From the verdicts of a claim's primary tests to one answer to its sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bnexp.claims.judging import Judged
from bnexp.claims.verdicts import CONTRADICTED, DECIDED, INCONCLUSIVE, NEGLIGIBLE, NONE, SUPPORTED
from bnexp.compare.statistics import holm

# An adjusted p that reaches this is told beside the answer.
ALPHA = 0.05


@dataclass(frozen=True)
class Answer:
    """What came out of a claim.

    Attributes:
        word: as of a verdict.
        detail: as of a verdict; for several tests, that of the one which decides.
        tests: the primary tests, ``regime/test``.
        p: of the answer; see ``answer``.
        p_holm: ``p`` adjusted over the claims of a report. ``result.json`` does not hold it; it is set on reading.
    """

    word: str
    detail: str
    tests: list[str]
    p: float | None
    p_holm: float | None = None

    @property
    def survives(self) -> bool:
        """Whether nothing is said, or what is said stands after the adjustment for all claims."""
        return self.word not in DECIDED or self.p_holm is None or self.p_holm < ALPHA


def answer(primary: Sequence[Judged]) -> Answer:
    """One answer from primary tests that must all hold.

    It is supported if all are, with the largest of their p (an intersection-union test, Berger 1982), and the size is
    open if that of one is. It is contradicted or negligible if one of them is, with the smallest such p times their
    number. Without that, one test without a verdict leaves the claim without one.
    """
    names, ps = [f"{case.regime}/{case.test}" for case in primary], [case.verdict.p for case in primary]
    known = [p for p in ps if p is not None]
    largest = max(known, default=None)
    words = [case.verdict.word for case in primary]
    if set(words) == {SUPPORTED}:
        details = [case.verdict.detail for case in primary]
        return Answer(SUPPORTED, max(details), names, largest)
    for word in (CONTRADICTED, NEGLIGIBLE):
        against = [case for case in primary if case.verdict.word == word]
        if against:
            against_ps = [case.verdict.p for case in against if case.verdict.p is not None]
            return Answer(word, against[0].verdict.detail, names, min(1.0, len(primary) * min(against_ps)))
    word = NONE if NONE in words else INCONCLUSIVE
    return Answer(word, next(case.verdict.detail for case in primary if case.verdict.word == word), names, largest)


def adjusted(answers: Sequence[Answer | None]) -> list[Answer | None]:
    """The answers with Holm's adjustment over all of them; those that decide nothing count as p = 1."""
    asked = [found for found in answers if found is not None]
    ps = iter(holm([1.0 if found.p is None or found.word not in DECIDED else found.p for found in asked]))
    return [None if found is None else replace(found, p_holm=next(ps)) for found in answers]
