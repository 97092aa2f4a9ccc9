"""The run or sweep that a command takes when the user names none; standard error says which it is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from bnexp.config.schema import SET_ASIDE
from bnexp.runs.collect import Run, collect, sweeps
from bnexp.runs.paths import is_sweep
from bnexp.runs.storage import in_use
from bnexp.sweep import plan as plans

_OUTPUTS = Path("outputs")
_LEFT = ("waiting", "running", "interrupted")


def newest_run() -> Path:
    """The run that began last; those of claims and smoke tests do not count.

    Raises:
        ValueError: there is none.
    """
    run = max(_runs(), key=_began, default=None)
    if run is None:
        raise ValueError(f"{_OUTPUTS}: no run in there; name the folder of one")
    return _told(run.folder)


def newest_interrupted() -> Path:
    """Of the runs that were interrupted and the sweeps with jobs left to run, the one that began last.

    Raises:
        ValueError: there is none.
    """
    runs = _runs()
    found = {run.folder: _began(run) for run in runs if not is_sweep(run.folder.parent) and _stopped(run)}
    if _OUTPUTS.is_dir():
        for folder in filter(_is_unfinished, sweeps([_OUTPUTS])):
            found[folder] = max((_began(run) for run in runs if run.folder.parent == folder), default=("", ""))
    if not found:
        raise ValueError(f"{_OUTPUTS}: no run or sweep in there was interrupted; name the folder of one")
    return _told(max(found, key=lambda folder: found[folder]))


def _told(folder: Path) -> Path:
    print(f"newest: {folder}", file=sys.stderr)
    return folder


def _runs() -> Sequence[Run]:
    runs = collect([_OUTPUTS])[0] if _OUTPUTS.is_dir() else []
    return [run for run in runs if not set(SET_ASIDE) & set(run.tags)]


def _began(run: Run) -> tuple[str, str]:
    """A key by which runs that began later come later; the folder's name decides within a second."""
    return run.started, str(run.folder)


def _stopped(run: Run) -> bool:
    return run.status == "interrupted"


def _is_unfinished(sweep: Path) -> bool:
    """Whether jobs of a sweep are left to run; not if a process is at it, and not for the sweeps of claims.

    A job that the plan knows as finished is not left, though its folder may have been removed.
    """
    try:
        plan = plans.read(sweep)
        left = [entry for entry in plan.entries if entry.state in _LEFT]
        plan.refresh()
    except ValueError:
        return False
    claimed = any(set(SET_ASIDE) & set(entry.config.get("tags", ())) for entry in left)
    return any(entry.state in _LEFT for entry in left) and not claimed and not in_use(sweep)
