"""Which line of a user's own modules an error comes from."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

# Where the code of others is: this package and Python, and folders of installed libraries, wherever they are.
_OTHERS = (Path(__file__).parents[1], Path(sysconfig.get_path("stdlib")))
_LIBRARIES = {"site-packages", "dist-packages"}


def place_of(error: BaseException) -> str | None:
    """``file:line`` of the last line of a user's module on the way to an error, or None."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
    return f"{_short(Path(own[-1].filename))}:{own[-1].lineno}" if own else None


def told(error: BaseException) -> str:
    """An error in one line, behind the place in a user's module that it comes from."""
    reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    place = place_of(error)
    return f"{place}: {reason}" if place else reason


def _is_own(file: str) -> bool:
    path = Path(file)
    is_others = any(path.is_relative_to(folder) for folder in _OTHERS) or not _LIBRARIES.isdisjoint(path.parts)
    return not (file.startswith("<") or is_others)


def _short(file: Path) -> Path:
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
