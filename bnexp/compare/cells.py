"""Numbers, probabilities and times as table cells: short text for people, full precision as the value."""

from __future__ import annotations

import math

from bnexp.compare.blocks import Cell

BLANK = "-"


# A number with more decimals is shown with an exponent.
_MOST_DECIMALS = 6


def number(value: float | None, digits: int, sign: str = "") -> Cell:
    """A number with fixed decimals, or with three digits where these would show 0 instead of it."""
    hidden = value and round(value, digits) == 0
    return Cell(f"{value:{sign}.3g}", value) if hidden else fixed(value, digits, sign)


def fixed(value: float | None, digits: int, sign: str = "") -> Cell:
    """A number beside its interval, which needs so many decimals; with three digits if it is huge or they are many."""
    if value is None:
        return Cell(BLANK)
    plain = abs(value) < 1e6 and digits <= _MOST_DECIMALS
    return Cell(f"{value:{sign}.{digits}f}" if plain else f"{value:{sign}.3g}", value)


def decimals(half: float, otherwise: int) -> int:
    """Decimals that give half an interval's width two significant digits; ``otherwise`` where it has no width."""
    return max(0, 1 - math.floor(math.log10(half))) if half > 0 else otherwise


def probability(p: float | None) -> Cell:
    """A p-value, short."""
    if p is None:
        return Cell(BLANK)
    rounded = math.floor(100 * p + 0.5) / 100  # half up: 0.125, the least p of four pairs, is not shown as less
    return Cell("< 0.0001" if p < 0.0001 else f"{p:.2g}" if p < 0.1 else f"{rounded:.2f}", p)


def duration(seconds: float | None) -> Cell:
    """Seconds in the unit that suits them."""
    if seconds is None:
        return Cell(BLANK)
    size, unit = next((size, unit) for size, unit in ((3600, "h"), (60, "min"), (0, "s")) if seconds >= 2 * size)
    amount = seconds / (size or 1)
    return Cell(f"{amount:.1f} {unit}" if 1 <= amount < 1e6 else f"{amount:.2g} {unit}", seconds)
