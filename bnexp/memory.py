"""How much memory there is, the refusal of what needs more, and the parts that fit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TypeVar

_Item = TypeVar("_Item")
# The share of a GPU's free memory to plan with; the rest is for fragmentation and the libraries' own allocations.
SHARE = 0.9


def there(root: Path = Path("/")) -> int:
    """Bytes of this machine's memory, or of the part of it that this process may use.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *map(_limit, _limits(root))])


def _limits(root: Path) -> Iterator[Path]:
    """The files with the limits of this process's control group and of all groups above it (cgroups 2 and 1).

    A container, a service and a job of a cluster are such groups.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        place = root / ("sys/fs/cgroup/memory" if controllers else "sys/fs/cgroup")
        file = "memory.limit_in_bytes" if controllers else "memory.max"
        # A container may see its group by the name that it has outside, where that folder is missing.
        for each in (PurePosixPath(group), *PurePosixPath(group).parents):
            yield place / each.relative_to("/") / file


def _limit(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # there is no such file, or no limit (``max``)
        return 2**63


def require(setting: str, needed: int, what: str) -> None:
    """Refuse what does not fit into the memory.

    Args:
        setting: what the user can make smaller, as typed.
        needed: bytes.
        what: that takes them.

    Raises:
        ValueError: it does not fit; names both numbers.
    """
    if needed > there():
        sizes = f"{what} need {needed / 2**30:.1f} GiB, and this machine has {there() / 2**30:.1f} GiB of memory"
        raise ValueError(f"{setting}: {sizes}; choose a smaller one")


def even_parts(items: list[_Item], most: int) -> list[list[_Item]]:
    """Items in the fewest parts of at most so many, of nearly equal size."""
    count = -(-len(items) // most)
    return [items[len(items) * part // count : len(items) * (part + 1) // count] for part in range(count)]
