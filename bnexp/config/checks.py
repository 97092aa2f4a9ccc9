"""The allowed values of settings: ranges and choices as annotations, and the function that checks a value.

Standard library only, so that the command line can check a config without importing torch.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


# Exit code of a job's process that could not write a file, for example on a full disk (sysexits.h, EX_IOERR).
STORAGE_FAILED = 74


class RunFailedError(Exception):
    """A run failed, and not because of the user's input; the message is one line, details are in the run's folder."""


@dataclass(frozen=True)
class Range:
    """An interval of numbers; ``above`` and ``below`` are open ends, ``least`` and ``most`` closed ones."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        ends = (("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below))
        return " and ".join(f"{word} {end}" for word, end in ends if end is not None)


@dataclass(frozen=True)
class OneOf:
    """A closed list of words."""

    choices: tuple[str, ...]

    def __contains__(self, value: str) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return "one of " + ", ".join(self.choices)


@dataclass(frozen=True)
class Tag:
    """A word of letters, digits, ``.``, ``-`` and ``_``, which begins with a letter or a digit."""

    def __contains__(self, value: str) -> bool:
        return re.fullmatch(r"\w[\w.-]*", value) is not None

    def __str__(self) -> str:
        return "a word of letters, digits, dots, dashes and underscores"


@dataclass(frozen=True)
class NotEmpty:
    """A list with something in it."""

    def __contains__(self, value: list[Any]) -> bool:
        return len(value) > 0

    def __str__(self) -> str:
        return "a list of one item or more"


Limit = Range | OneOf | Tag | NotEmpty
_FAULTS = {Tag: "no tag", NotEmpty: "empty"}
_Item = TypeVar("_Item")
Some = Annotated[list[_Item], NotEmpty()]
Positive = Annotated[int, Range(least=1, most=10**9)]
# Units of a layer, and layers one after another: beyond these, no machine could build the network in reasonable time.
Width = Annotated[int, Range(least=1, most=10**6)]
Depth = Annotated[int, Range(least=1, most=10_000)]
NonNegative = Annotated[float, Range(least=0)]
PositiveFloat = Annotated[float, Range(above=0)]
Fraction = Annotated[float, Range(least=0, below=1)]


def near_miss(word: str, known: Iterable[str], also: Mapping[str, str] | None = None, *, cutoff: float = 0.5) -> str:
    """``"; did you mean X?"`` when a known word is close to the given one, else an empty string.

    Args:
        word: what was typed.
        known: the words that can be typed.
        also: other name -> the known word that it stands for.
        cutoff: the least likeness that counts as close, from 0 to 1 (equal).
    """
    meant = dict(also or {}) | {each: each for each in known}
    close = difflib.get_close_matches(word, list(meant), n=1, cutoff=cutoff)
    return f"; did you mean {meant[close[0]]}?" if close else ""


def instead(word: str, known: Iterable[str], most: int = 12) -> str:
    """What could have been meant, for the end of a message; the measurements of probes, which are many, last."""
    known = sorted(dict.fromkeys(known), key=lambda each: each.startswith("probe/"))
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return f"{near_miss(word, known)} (there are: {', '.join(known[:most])}{more})"


def unknown(setting: str, word: str, known: Iterable[str], also: Mapping[str, str] | None = None) -> ValueError:
    """The error for a word that is not one of the known words; see ``near_miss``."""
    known = sorted(known)
    return ValueError(f"{setting}={word}: not known{near_miss(str(word), known, also)} (allowed: {', '.join(known)})")


def require_groups(setting: str, groups: Mapping[str, Any]) -> None:
    """Refuse a setting such as ``probes`` that is no list of names, of which each has a group of options.

    Raises:
        ValueError: a name without options, or options without a name, where a yaml does not say its place.
    """
    for word, group in groups.items():
        if not isinstance(group, dict) and "name" in groups:
            name = groups["name"]
            raise ValueError(f"{setting}={name}: its yaml must begin with the line '# @package {setting}.{name}'")
        if not isinstance(group, dict):
            raise ValueError(f"{setting}={word}: expected a list of names, such as {setting}=[{word}]")


def checked(setting: str, value: Any, annotation: Any) -> Any:
    """Return ``value`` as the annotated type, or raise.

    Args:
        setting: the name the user typed, for the message.
        value: the value to check.
        annotation: ``int``, ``float``, ``bool``, ``str``, ``Literal``, ``list[...]``, ``dict[...]`` (its content is not
            checked), ``X | None`` or ``X | Literal[word]``, or ``Annotated`` of one of these with ``Range`` or
            ``OneOf``. A whole number is accepted where a ``float`` is expected.

    Raises:
        ValueError: ``<setting>=<given>: what is wrong; what is allowed``.
    """
    if get_origin(annotation) is Annotated:
        inner, *limits = get_args(annotation)
        if inner is Any:  # Hydra's schema knows no union with a word; the first limit is the type
            inner = limits[0]
        value = checked(setting, value, inner)
        for limit in limits:
            if isinstance(limit, Limit) and value is not None:
                _check_limit(setting, value, limit)
        return value
    if get_origin(annotation) in (Union, types.UnionType):
        return _checked_union(setting, value, get_args(annotation))
    if get_origin(annotation) is Literal:
        return _checked_literal(setting, value, get_args(annotation))
    if get_origin(annotation) is list:
        if not isinstance(value, list):
            raise ValueError(f"{setting}={value}: expected a list, such as [a,b]")
        return [checked(setting, item, *get_args(annotation)) for item in value]
    if get_origin(annotation) is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{setting}={value}: expected a group, such as {{name: ...}}")
        return value
    return _checked_plain(setting, value, annotation)


def _check_limit(setting: str, value: Any, limit: Limit) -> None:
    if isinstance(limit, OneOf) and value not in limit:
        raise unknown(setting, value, limit.choices)
    if value not in limit:
        fault = _FAULTS.get(type(limit), "out of range")
        raise ValueError(f"{setting}={value}: {fault}; allowed is {limit}")


def _checked_union(setting: str, value: Any, members: tuple[Any, ...]) -> Any:
    words = [word for member in members if get_origin(member) is Literal for word in get_args(member)]
    if (value is None and type(None) in members) or (isinstance(value, str) and value in words):
        return value
    (inner,) = (member for member in members if member is not type(None) and get_origin(member) is not Literal)
    try:
        return checked(setting, value, inner)
    except ValueError as error:
        raise ValueError(", or ".join([str(error), *words])) from None


def _checked_literal(setting: str, value: Any, choices: tuple[str, ...]) -> Any:
    if value not in choices:
        raise unknown(setting, value, choices)
    return value


def _checked_plain(setting: str, value: Any, kind: type[Any]) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and whole:
        value = float(value) if abs(value) < sys.float_info.max else math.inf
    if not isinstance(value, kind) or (kind is int and not whole):
        shown = "null" if value is None else value
        raise ValueError(f"{setting}={shown}: expected {_WORDS.get(kind, kind.__name__)}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{setting}={value}: expected a finite number")
    return value
