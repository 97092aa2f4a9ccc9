"""A result as readers get it: with its declaration, its answer as one sentence, and what to bear in mind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bnexp.claims import declaration
from bnexp.claims.declaration import Claim
from bnexp.claims.report import words
from bnexp.claims.result import Result, TestResult
from bnexp.claims.verdicts import CONTRADICTED, INCONCLUSIVE, NEGLIGIBLE, NONE, SUPPORTED
from bnexp.config.names import counted

# What is said where a declaration has no sentence for a verdict.
_ANSWERS = {
    SUPPORTED: "It holds here.",
    NEGLIGIBLE: "An effect as large as matters is ruled out.",
    CONTRADICTED: "It does not hold here.",
    INCONCLUSIVE: "These runs do not decide it.",
    NONE: "There is no verdict.",
    "holds": "All numbers are those that the formulas say.",
    "fails": "Some numbers are not those that the formulas say.",
}
_DATA = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


@dataclass(frozen=True)
class Reading:
    """A result with its declaration."""

    result: Result
    claim: Claim

    @property
    def word(self) -> str:
        """The answer as a plain word; one of ``words.WORDS``."""
        if self.result.answer is not None:
            return words.verdict(self.result.answer.word, self.result.answer.detail)
        return words.HOLDS if self._key == "holds" else words.FAILS

    @property
    def kind(self) -> str:
        """The class of the answer in HTML: that of a verdict."""
        word = self.result.answer.word if self.result.answer else {"holds": SUPPORTED}.get(self._key, CONTRADICTED)
        return word.replace(" ", "-")

    @property
    def _key(self) -> str:
        if self.result.answer is not None:
            return self.result.answer.word
        return "holds" if all(row.holds for rows in self.result.exact.values() for row in rows) else "fails"

    @property
    def sentence(self) -> str:
        """The answer as a sentence: the declared one, and what the verdict leaves open."""
        said = self.claim.answers.get(self._key, _ANSWERS[self._key])
        return f"{said} How large the effect is stays open." if self.word == words.SIZE_OPEN else said

    @property
    def primary(self) -> list[TestResult]:
        """The tests that answer the claim."""
        tests = {f"{test.regime}/{test.test}": test for test in self.result.tests}
        return [tests[name] for name in (self.result.answer.tests if self.result.answer else [])]

    @property
    def effects(self) -> list[str]:
        """The effects of the primary tests; without tests, how many numbers are as expected.

        Where several tests came out differently, each with its verdict.
        """
        if self.result.answer is not None:
            effects = [(word, words.effect_of(self.claim, test)) for word, test in self._verdicts]
            return [f"{word}: {effect}" if self._differs else effect for word, effect in effects if effect]
        rows = [row.holds for rows in self.result.exact.values() for row in rows]
        return [f"{sum(rows)} of {counted(len(rows), 'number')} as expected"]

    @property
    def marks(self) -> list[str]:
        """What to bear in mind with the answer."""
        answer = self.result.answer
        if answer is None:
            return []
        why = words.reason(self.claim, answer.detail)
        fragile = [test for test in self.primary if test.hangs_on]
        return [
            *([why] if why else []),
            *([] if answer.survives else ["does not survive the adjustment for all claims"]),
            *(["hangs on one seed"] if fragile else []),
            *(["an opposite effect that matters is not ruled out"] if any(map(_may_be_opposite, self.primary)) else []),
        ]

    @property
    def parts(self) -> list[str]:
        """What came out of each of several tests, where they came out differently: a sentence each."""
        return [f"{words.capital(word)}: {test.says}." for word, test in self._verdicts if self._differs]

    @property
    def _verdicts(self) -> list[tuple[str, TestResult]]:
        return [(words.verdict(test.verdict, test.detail), test) for test in self.primary]

    @property
    def _differs(self) -> bool:
        return len({word for word, _ in self._verdicts}) > 1

    @property
    def condition(self) -> str:
        """Under which settings, on which images and with how many seeds the answer was found."""
        regimes = list(dict.fromkeys(self.claim.title_of(test.regime) for test in self.primary))
        return "; ".join([*([words.capital(words.listed(regimes))] if regimes else []), self.scale])

    @property
    def scale(self) -> str:
        """On which images and with how many seeds it was tried."""
        profile = self.claim.profiles.get(self.result.profile)
        settings = [*self.claim.settings, *(profile.settings if profile else [])]
        given = dict(word.partition("=")[::2] for word in settings)
        data = given.get("data", "").replace("null", "")
        name = _DATA.get(data, data.replace("_", " "))
        limit = given.get("data.train_limit", "null")
        images = f"{int(limit):,} images of {name}" if limit.isdigit() and name else name
        seeds = f"{len(self.result.seeds)} seeds" if self.result.seeds else "exact"
        return ", ".join(filter(None, [images, seeds]))

    @property
    def untried_tests(self) -> list[str]:
        """The tests that the profile leaves out."""
        profile = self.claim.profiles.get(self.result.profile)
        return list(profile.skip_tests) if profile else []

    @property
    def untried_arms(self) -> list[str]:
        """Arms, and arms at values of the axis, that the profile leaves out."""
        profile = self.claim.profiles.get(self.result.profile)
        if profile is None:
            return []
        axis = self.claim.axis if profile.axis else None
        values = (
            [f"{words.setting(axis.key)} {value}" for value in axis.values if value not in profile.axis] if axis else []
        )
        return [*map(self.claim.title_of, profile.skip_arms), *values]

    def other_regimes(self) -> Iterator[str]:
        """A sentence for each primary test that was judged in further regimes: on which the answer stands."""
        for test in self.primary:
            others = [other for other in self.result.tests if other.test == test.test and other.regime != test.regime]
            if others:
                said = "; ".join(self._in_regime(other) for other in others)
                subject = f"\u201c{words.capital(test.says)}\u201d" if len(self.primary) > 1 else "The answer"
                yield f"{subject} stands on the regime \u201c{self.claim.title_of(test.regime)}\u201d; {said}."

    def _in_regime(self, test: TestResult) -> str:
        regime, effect = self.claim.title_of(test.regime), words.effect(self.claim, test)
        if test.same_as is not None:
            return f"under \u201c{regime}\u201d the runs are the same"
        came = {words.UNDECIDED: "it is not decided", words.SMALL: "the effect is less than matters"}
        word = words.verdict(test.verdict, test.detail)
        return f"under \u201c{regime}\u201d {came.get(word, f'it {word}')}{f' ({effect})' if effect else ''}"


def _may_be_opposite(test: TestResult) -> bool:
    """Whether the interval of an effect that is less than matters holds an effect the other way that matters."""
    if test.verdict != NEGLIGIBLE or test.low is None or test.high is None:
        return False
    return test.high >= test.threshold if test.claims == "less" else test.low <= -test.threshold


def reading(result: Result) -> Reading:
    """A result with its declaration.

    Raises:
        ValueError: the declaration in it is not one of this version.
    """
    return Reading(result, declaration.loads(result.claim, result.declaration))


# Name of a folder -> its reading of a claim.
Scales = Mapping[str, Reading]
