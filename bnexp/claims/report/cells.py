"""Table cells of the report: effects in points or as ratios, verdicts, intervals as text and as small pictures."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

from bnexp.claims.result import Result, SideResult, TestResult
from bnexp.claims.verdicts import DECIDED, LEVELS
from bnexp.compare.blocks import Cell
from bnexp.compare.cells import BLANK, decimals, duration, probability
from bnexp.config.metrics import metric_of

# The effects that a test claims; ``low`` and ``high`` are minus and plus the smallest effect of interest.
_CLAIMED = {
    "greater": "above {high}",
    "less": "below {low}",
    "exceeds": "above {high}",
    "equal": "{low} to {high}",
    "at_least": "above {low}",
}
_USUAL_LEVEL = 0.95
_STRIP = (132, 16)  # width and height of the small interval pictures
_STRIP_ENDS = 12  # smallest effects of interest between 0 and their ends, on an asinh scale


def core_time(seconds: float) -> str:
    """Seconds as core time, with their unit."""
    return f"{duration(seconds).text} of core time"


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural where it needs one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def verdict(test: TestResult) -> Cell:
    """The verdict, with its detail and its doubts in brackets."""
    doubts = ["hangs on one seed"] if test.hangs_on else []
    brackets = "; ".join([*([test.detail] if test.detail else []), *doubts])
    word = f"{test.verdict} ({brackets})" if brackets else test.verdict
    return Cell(word, test.verdict, kind=test.verdict.replace(" ", "-"))


def answered(result: Result) -> str:
    """The answer to a claim's sentence, with the p that is adjusted for all claims; empty for exact checks alone."""
    answer = result.answer
    if answer is None:
        return ""
    word = f"{answer.word} ({answer.detail})" if answer.detail else answer.word
    if answer.word not in DECIDED or answer.p_holm is None:
        return word
    doubt = "" if answer.survives else ", which does not survive the adjustment for all claims"
    return f"{word}{doubt}, p (Holm) {probability(answer.p_holm).text}"


def named(test: TestResult, name: str = "") -> Cell:
    """The test's sentence; as a note its name, and its role where that is not the ordinary one."""
    return Cell(test.says, note=" · ".join(word for word in (name, test.role) if word not in ("", "secondary")))


def effect_cell(test: TestResult) -> Cell:
    """The effect, with the compared arms as a note, and the level of the interval where it is not 95 %."""
    shown, level = effect(test, lead=""), LEVELS[test.claims]
    note = _contrast(test) + (f" · {100 * level:g} %" if level != _USUAL_LEVEL else "")
    return Cell(shown, test.mean, note=note if shown else "")


def _contrast(test: TestResult) -> str:
    """The compared arms: a - b, or a / b for ratios."""
    weights = {name: side.weight for name, side in test.sides.items() if side.weight}
    if test.scale == "linear":
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


def effect(test: TestResult, lead: str = ", ") -> str:
    """The mean difference with its interval, in points for accuracies and as a ratio for logarithms."""
    if test.mean is None:
        return ""
    convert, unit, before = _unit(test)
    ends = [end for end in (test.mean, test.low, test.high) if end is not None]
    shown = [convert(end) for end in ends]
    digits = _digits(shown)
    sign = "" if before else "+"
    texts = [f"{number:{sign}.{digits}f}" for number in shown]
    interval = f" [{texts[1]}, {texts[2]}]" if len(texts) == 3 else ""
    return f"{lead}{before}{texts[0]}{interval}{unit}"


def _unit(test: TestResult) -> tuple[Callable[[float], float], str, str]:
    """How a difference is shown: conversion, unit behind it, word before it."""
    if test.scale == "log10":
        return lambda x: 10.0 ** min(x, 300), "", "ratio "
    if test.scale == "log":
        return lambda x: math.exp(min(x, 690)), "", "ratio "
    if test.is_level and metric_of(test.metric).is_proportion:
        return lambda x: 100 * x, " pp", ""
    return float, "", ""


def _digits(numbers: Sequence[float]) -> int:
    """Decimals for a mean with the ends of its interval, or for a lone number."""
    return decimals((max(numbers) - min(numbers)) / 2 or abs(numbers[0]), 1)


def strip(test: TestResult) -> str:
    """The interval as a small bar against 0 and the smallest effect of interest."""
    if test.mean is None or test.low is None or test.high is None:
        return ""
    width, height = _STRIP
    low, mean, high = (_place(end / test.threshold) for end in (test.low, test.mean, test.high))
    middle = height / 2
    marks = "".join(
        f'<circle cx="{_place(sign):.1f}" cy="{middle}" r="1.1" fill="currentColor" opacity="0.6"/>' for sign in (-1, 1)
    )
    kind = test.verdict.replace(" ", "-")
    return (
        f'<svg class="strip {kind}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{html.escape(effect(test, lead=""))}">'
        f'<path d="M{_place(0):.1f} 1V{height - 1}" stroke="currentColor" stroke-width="0.8" opacity="0.5"/>{marks}'
        f'<path d="M{low:.1f} {middle}H{max(high, low + 1):.1f}" class="bar"/>'
        f'<circle cx="{mean:.1f}" cy="{middle}" r="3.2" class="mean"/></svg>'
    )


def _place(effects: float) -> float:
    """The place on a strip of an effect in units of the smallest effect of interest; the strip's ends are limits."""
    width, _ = _STRIP
    place = math.asinh(max(-_STRIP_ENDS, min(_STRIP_ENDS, effects))) / math.asinh(_STRIP_ENDS)
    return 5 + (width - 10) * (1 + place) / 2


def robust(test: TestResult) -> Cell:
    """The Hodges-Lehmann estimate with its interval, in the units of the effect; as a note another verdict by it."""
    known = [number for number in test.robust if number is not None]
    if not known:
        return Cell(BLANK)
    convert, _, before = _unit(test)
    shown = [convert(number) for number in known]
    texts = [f"{number:{'' if before else '+'}.{_digits(shown)}f}" for number in shown]
    differs = test.robust_verdict not in (None, test.verdict)
    interval = f" [{texts[1]}, {texts[2]}]" if len(texts) == 3 else ""
    return Cell(texts[0] + interval, known[0], note=f"{test.robust_verdict}" if differs else "")


def claimed(test: TestResult) -> Cell:
    """The effects that the test's sentence claims."""
    convert, unit, before = _unit(test)
    low, high = (f"{convert(sign * test.threshold):.3g}" for sign in (-1, 1))
    return Cell(before + _CLAIMED[test.claims].format(low=low, high=high) + unit, test.threshold)


def level(side: SideResult) -> Cell:
    """An arm's mean with half the width of its interval."""
    if side.mean is None:
        return Cell(BLANK)
    half = None if side.high is None else side.high - side.mean
    digits = decimals(half or 0.0, 3)
    return Cell(f"{side.mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}"), side.mean)
