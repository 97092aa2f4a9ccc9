"""Names of runs, usable as folder names: the settings that differ, as ``key=value``. And parts of messages."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence

from bnexp.config.schema import role

# File systems allow 255 bytes for a name; a time and a counter are added to this name.
_LONGEST = 150


def run_name(overrides: Iterable[str]) -> str:
    """``norm=gn,seed=0`` from a command line's overrides, ``default`` if there are none; long names end in a hash."""
    parts = [part.lstrip("+~") for part in overrides]
    kept = [part for part in parts if _is_named(part.partition("=")[0])]
    name = "".join("_" if c in "/\\\0" or not c.isprintable() else c for c in ",".join(kept))
    name = name.replace(" ", "").lstrip(".-") or "default"
    if len(name.encode()) <= _LONGEST:
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name.encode()[: _LONGEST - len(mark) - 1].decode(errors="ignore") + "-" + mark


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural where it needs one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def distinct(names: Sequence[str]) -> list[str]:
    """The names, of which equal ones get a number: marks that no file name may have are left out of names."""
    made: dict[str, None] = {}
    for name in names:
        tries = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        made[next(one for one in tries if one not in made)] = None
    return list(made)


def sweep_names(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Names of a sweep's jobs (lists of overrides): the settings that differ between jobs, or all if none differs."""
    values: dict[str, set[str]] = {}
    for part in itertools.chain(*jobs):
        values.setdefault(part.partition("=")[0], set()).add(part)
    axes = {key for key, parts in values.items() if len(parts) > 1} or set(values)
    return [run_name(part for part in job if part.partition("=")[0] in axes) for job in jobs]


def _is_named(key: str) -> bool:
    return role(key).named and not key.startswith(("hydra.", "hydra/"))


def shortened(name: str, width: int) -> str:
    """A name in at most ``width`` characters, for a screen: where it is longer, its middle is left out."""
    if len(name) <= width:
        return name
    end = max(0, width - 3) // 3  # the seed is there
    return name[: max(0, width - 3 - end)] + "..." + name[len(name) - end :]


def printable(text: str) -> str:
    """A text on one line, in which marks that a terminal would obey are spelled out."""
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in text)


def quoted(text: str) -> str:
    """Quote a value so that Hydra's grammar reads exactly this text."""
    assert "\\" not in text
    return "'" + text.replace("'", "\\'").replace("${", "\\${") + "'"
