"""``sweep.json``, the small file that identifies a sweep: its jobs, and how far each of them is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnexp.runs import json_file
from bnexp.runs.paths import SweepPaths
from bnexp.runs.storage import write_atomically

FORMAT = 1
# A job takes some kilobytes.
_LARGEST = 2**30


def read(folder: Path) -> dict[str, Any]:
    """What the file says; ``jobs`` is a list of dicts, each with ``name`` and ``state``, two texts.

    Raises:
        ValueError: the file cannot be read, is damaged or changed, or another version wrote it; the message does not
            name it.
    """
    try:
        sweep = json_file.read(SweepPaths(folder).sweep_json, "sweep", FORMAT, most=_LARGEST)
    except OSError as error:
        raise ValueError(error.strerror) from None
    jobs = sweep.get("jobs")
    if not isinstance(jobs, list) or not all(map(_is_job, jobs)):
        raise ValueError("jobs: expected a list of jobs, each with a name and a state")
    return sweep


def _is_job(job: object) -> bool:
    return isinstance(job, dict) and all(isinstance(job.get(key), str) for key in ("name", "state"))


def write(folder: Path, sweep: Mapping[str, Any]) -> None:
    """Write the file.

    Raises:
        OSError: it could not be written; the old file is unchanged.
    """
    write_atomically(SweepPaths(folder).sweep_json, json_file.text({"format": FORMAT, **sweep}, signed=True))
