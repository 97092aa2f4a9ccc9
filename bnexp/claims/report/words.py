"""What came out, in words that need no knowledge of the code: verdicts, effects, arms, and what was measured."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from bnexp.claims.declaration import Claim, Measure, Reduce
from bnexp.claims.result import TestResult
from bnexp.claims.verdicts import CONTRADICTED, INCONCLUSIVE, NEGLIGIBLE, NONE, SUPPORTED
from bnexp.compare.cells import decimals, duration
from bnexp.config.metrics import metric_of, probed_of, title
from bnexp.config.names import counted
from bnexp.runs.collect import short

HOLDS, SIZE_OPEN, SMALL, FAILS, UNDECIDED = (
    "holds",
    "holds, size open",
    "less than matters",
    "does not hold",
    "not decided",
)
# In the order in which the page tells them.
WORDS = (HOLDS, SIZE_OPEN, SMALL, FAILS, UNDECIDED)
# From here on a number is shown with three digits.
_HUGE = 1e5
UNTRIED = "not tried in this profile"
_VERDICTS = {SUPPORTED: HOLDS, NEGLIGIBLE: SMALL, CONTRADICTED: FAILS, INCONCLUSIVE: UNDECIDED, NONE: UNDECIDED}
_SAME = "same runs as "
_REASONS = {
    "size open": "",
    "reversed": "the opposite was seen",
    "higher": "it is more",
    "lower": "it is less",
    "grid edge": "the best value lies at the end of those that were tried",
    "grid step": "the values that were tried lie too far apart",
    "censored": "runs without a number could have spoken against it",
    "near the threshold": "the effect lies near the smallest that matters",
}
_CLAIMED = {
    "greater": "more, by {} at least",
    "less": "less, by {} at least",
    "exceeds": "more than {}",
    "equal": "equal within {}",
    "at_least": "at most {} less",
}
_WHEN = {
    "last": "at the end",
    "mean": "mean over the training",
    "median": "median over the training",
    "max": "largest of the training",
    "min": "smallest of the training",
    "sd": "standard deviation over the training",
}


def how_many(number: int, word: str) -> str:
    """A number of claims with a verdict: "2 hold", "1 does not hold"."""
    plural = {HOLDS: "hold", SIZE_OPEN: "hold, size open", FAILS: "do not hold"}
    return f"{number} {word if number == 1 else plural.get(word, word)}"


def core_time(seconds: float) -> str:
    """Seconds as core time, with their unit."""
    return f"{duration(seconds).text} of core time"


def capital(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def listed(parts: Sequence[str]) -> str:
    """Parts of a sentence, with ``and`` before the last."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


# --- verdicts ---------------------------------------------------------------------------------------------------------


def verdict(word: str, detail: str) -> str:
    """A verdict in plain words."""
    if detail.startswith(_SAME):
        return "same runs"
    return SIZE_OPEN if detail == "size open" else _VERDICTS[word]


def reason(claim: Claim, detail: str) -> str:
    """Why a verdict is what it is, in plain words; empty where there is nothing to say."""
    if detail.startswith("check failed: "):
        checks = detail.removeprefix("check failed: ").split(", ")
        return f"a check failed: {'; '.join(claim.tests[name].says for name in checks)}"
    if detail.startswith(_SAME):
        return f"as under \u201c{claim.title_of(detail.removeprefix(_SAME))}\u201d"
    if seeds := re.fullmatch(r"n = (\d+) for a verdict on the effect seen", detail):
        return f"{seeds[1]} seeds would be needed for the effect seen"
    return _REASONS.get(detail, note(claim, detail))


def note(claim: Claim, text: str) -> str:
    """A note of the protocol, with the titles of arms and settings in place of their names."""
    name = re.split("[:,]", text)[0]
    known = name.partition("@")[0] in claim.arms and name != text
    named = point(claim, name) + text.removeprefix(name) if known else text
    told = re.sub(r"\b(\w+\.\w+)=", lambda found: f"{setting(found[1])} ", named)
    return re.sub(r"it is (\w+)$", lambda found: f"the verdict would be: {_VERDICTS.get(found[1], found[1])}", told)


# --- arms, settings, measures -----------------------------------------------------------------------------------------


def point(claim: Claim, name: str) -> str:
    """An arm, or an arm at a value of the axis, by its title."""
    arm, _, at = name.partition("@")
    return f"{claim.title_of(arm)} ({setting(claim.axis.key)} {at})" if at and claim.axis else claim.title_of(arm)


def setting(key: str) -> str:
    """A setting in words, such as "learning rate"."""
    return title(short(key).rpartition(".")[2])


def compared(claim: Claim, test: TestResult) -> str:
    """Which arms are compared: A against B, or a sum of arms with their weights."""
    weights = {point(claim, name): side.weight for name, side in test.sides.items() if side.weight}
    if is_exponent(test):
        unit = min(map(abs, weights.values()))
        weights = {name: weight / unit for name, weight in weights.items()}
    if sorted(weights.values()) == [-1, 1]:
        first, second = sorted(weights, key=lambda name: -weights[name])
        return f"{first} against {second}"
    plus, minus = ("+", "-") if test.scale == "linear" else ("·", "/")
    terms = [
        f"{plus if weight > 0 else minus} {'' if abs(weight) == 1 else f'{abs(weight):g} '}{name}"
        for name, weight in sorted(weights.items(), key=lambda item: item[1] < 0)
    ]
    return " ".join(terms).removeprefix(f"{plus} ")


def measured(claim: Claim, test: str) -> str:
    """What a test measures of a run, or of the runs along the axis."""
    measure, reduce = claim.tests[test].measure, claim.tests[test].reduce
    words = title(measure.tag) if measure.layers is None else _slope(measure)
    words += f" less {title(measure.minus)}" if measure.minus else ""
    words = _steps(claim, measure, words) if measure.steps_to else f"{words}, {_when(measure)}"
    if measure.above is not None:
        least = f"{100 * measure.above:g} %" if metric_of(measure.tag).is_proportion else f"{measure.above:g}"
        words = f"share of runs with more than {least} ({words})"
    return f"{_over(claim, reduce)} ({words})" if reduce else words


def _steps(claim: Claim, measure: Measure, words: str) -> str:
    arm = measure.target_arm
    goal = f"is that of {claim.title_of(arm)} at the end" if arm else f"is {measure.reaches:g}"
    return f"steps until the {words} {goal}"


def _when(measure: Measure) -> str:
    at = measure.at
    if isinstance(at, dict) and "first" in at:
        return f"where the {title(at['first'])} first falls below {at['below']:g}"
    if isinstance(at, dict):
        return f"after {100 * at['fraction']:g} % of the steps"
    if isinstance(at, int) and probed_of(measure.tag):  # what a step itself is like, before its update
        return f"at step {at}"
    return _WHEN[at] if isinstance(at, str) else f"after {counted(at, 'step')}"


def _over(claim: Claim, reduce: Reduce) -> str:
    axis = setting(claim.axis.key) if claim.axis else ""
    return {
        "largest": f"largest {axis} that works",
        "share": f"share of the values of {axis} that work",
        "count": f"number of values of {axis} that work",
        "slope": f"slope over {axis}",
        "at_best": f"value at the {axis} that is best for the other seeds",
        "best_at": f"{axis} that is best",
        "range": f"best less worst over {axis}",
    }[reduce.kind]


# --- effects ----------------------------------------------------------------------------------------------------------


def in_points(test: TestResult) -> bool:
    """Whether a test's numbers are shown in percent, and their differences in points."""
    return test.is_level and test.scale == "linear" and metric_of(test.metric).is_proportion


def unit(claim: Claim, test: TestResult) -> str:
    """What follows a number of one arm: percent of an accuracy, points of a difference of accuracies, or nothing."""
    if not in_points(test):
        return ""
    measure, reduce = claim.tests[test.test].measure, claim.tests[test.test].reduce
    differs = measure.minus is not None or (reduce is not None and reduce.kind != "at_best")
    return " points" if differs else " %"


def is_ratio(test: TestResult) -> bool:
    """Whether a test's differences are those of logarithms, shown as ratios."""
    return test.scale != "linear" and not is_exponent(test)


def is_exponent(test: TestResult) -> bool:
    """Whether the weights make an exponent of logarithms, such as 0.83 = 1 / log10(16) of a 16 times larger batch."""
    return test.scale != "linear" and any(abs(side.weight) not in (0, 1) for side in test.sides.values())


def shown(test: TestResult, difference: float) -> float:
    """A difference as it is shown: in points, as a ratio, or as it is."""
    if is_ratio(test):
        return float(10.0 ** min(difference, 300) if test.scale == "log10" else math.exp(min(difference, 690)))
    return 100 * difference if in_points(test) else difference


def effect(claim: Claim, test: TestResult) -> str:
    """The effect with its interval: "4 points more, between 3 and 5", "2.1 times the steps, between 1.8 and 2.6"."""
    numbers = [shown(test, number) for number in (test.mean, test.low, test.high) if number is not None]
    if not numbers:
        return ""
    if is_ratio(test):
        return _interval(_texts(test, numbers), f" times the {_quantity(claim, test)}")
    if is_exponent(test):
        mean, *ends = _texts(test, numbers)
        return _interval([f"an exponent of {mean}", *ends], "")
    points = " points" if in_points(test) else ""
    if len({side.weight > 0 for side in test.sides.values() if side.weight}) < 2:  # a level, or a mean of levels
        return _interval(_texts(test, numbers), points)
    sign = -1 if numbers[0] < 0 else 1
    texts = _texts(test, [sign * number for number in numbers])
    word, other = ("less", "more") if sign < 0 else ("more", "less")
    mean, *ends = texts if sign > 0 else [texts[0], *reversed(texts[1:])]
    if ends and ends[0].startswith("-"):
        return f"{mean}{points} {word}, between {ends[0][1:]} {other} and {ends[1]} {word}"
    return _interval([mean, *ends], f"{points} {word}")


def _interval(texts: Sequence[str], noun: str) -> str:
    mean, *ends = texts
    return f"{mean}{noun}" + (f", between {ends[0]} and {ends[1]}" if len(ends) == 2 else "")


def effect_of(claim: Claim, test: TestResult) -> str:
    """The effect, with what it is on where neither a unit nor a ratio says so, and which of two arms comes first."""
    told, named = effect(claim, test), in_points(test) or is_ratio(test) or is_exponent(test)
    if not told:
        return ""
    what = told if named else f"{told} ({_quantity(claim, test)})"
    return f"{what}, {compared(claim, test)}" if sum(bool(side.weight) for side in test.sides.values()) == 2 else what


def _quantity(claim: Claim, test: TestResult) -> str:
    measure, reduce = claim.tests[test.test].measure, claim.tests[test.test].reduce
    if reduce is not None and reduce.kind in ("largest", "best_at") and claim.axis:
        return setting(claim.axis.key)
    if reduce is not None:
        return _over(claim, reduce)
    if measure.layers is not None:
        return _slope(measure)
    if measure.minus:
        return f"gap between {title(measure.tag)} and {title(measure.minus)}"
    return "steps" if measure.steps_to else title(test.metric)


def _slope(measure: Measure) -> str:
    log = "the logarithm of " if "log10" in (measure.layers or "") else ""
    return f"slope over the layers of {log}the {title(measure.tag)}"


def claimed(test: TestResult) -> str:
    """The effects that a test's sentence claims."""
    return _CLAIMED[test.claims].format(matters(test))


def matters(test: TestResult) -> str:
    """The smallest effect that matters."""
    if is_ratio(test):
        return f"a factor of {shown(test, test.threshold):.3g}"
    size = shown(test, test.threshold)
    return f"{size:.3g} {'point' if size == 1 else 'points'}" if in_points(test) else f"{size:.3g}"


def _texts(test: TestResult, numbers: Sequence[float]) -> list[str]:
    """A mean and both ends: half the interval's width has one digit.

    It has more where an end would look like no effect, or like the smallest that matters.
    """
    half = (max(numbers) - min(numbers)) / 2 or abs(numbers[0])
    least = max(0, decimals(half, 1) - 1)

    marks = [shown(test, mark) for mark in (0.0, test.threshold, -test.threshold)]

    def hidden(digits: int) -> bool:
        return any(end != mark and round(end, digits) == round(mark, digits) for end in numbers[1:] for mark in marks)

    digits = next((digits for digits in range(least, least + 3) if not hidden(digits)), least)
    return [f"{number:.3g}" if abs(number) >= _HUGE else f"{number:.{digits}f}" for number in numbers]


def signed(test: TestResult) -> str:
    """The mean difference as a figure shows it, with its sign."""
    if test.mean is None:
        return ""
    numbers = [shown(test, number) for number in (test.mean, test.low, test.high) if number is not None]
    text = _texts(test, numbers)[0]
    return text if is_ratio(test) or text.startswith("-") else f"+{text}"
