"""How much memory there is, and the refusal of what needs more."""

from __future__ import annotations

import os
from pathlib import Path

# Limits of a container, of cgroups version 2 and 1.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def there() -> int:
    """Bytes of this machine's memory, or of its container's part of it."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *map(_limit, _LIMITS)])


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
