"""A run to be done: its config, name and folder; and whether its folder says that it is already done."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnexp.config.schema import TrainConfig, differences, from_dict, to_dict
from bnexp.runs import run_json
from bnexp.runs.paths import RunPaths


@dataclass(frozen=True)
class Job:
    """A run to be done.

    Attributes:
        config: the settings to train with.
        folder: where its records are written.
        name: its name in tables and curves.
        overrides: the command-line overrides that the user typed.
        notes: further files to write into the folder, name -> text.
    """

    config: TrainConfig
    folder: Path
    name: str
    overrides: Sequence[str] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a run ended (``finished``, ``diverged`` or ``interrupted``), and the contents of its run.json."""

    job: Job
    status: str
    facts: Mapping[str, Any]


def import_modules(names: Sequence[str]) -> None:
    """Import a user's own modules, which register norms, models or data; the working folder is searched first.

    Raises:
        ValueError: a module is missing or fails to import; the message names the file and line.
    """
    if names and "" not in sys.path:
        sys.path.insert(0, "")
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            where = "looked for in the working folder and on PYTHONPATH"
            raise ValueError(f"imports=[{name}]: no module {error.name}; {where}") from None
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = f"{frames[-1].filename}:{frames[-1].lineno}"
            raise ValueError(f"imports=[{name}]: {place}: {type(error).__name__}: {error}") from None


def saved_job(folder: Path) -> Job:
    """The job whose records a folder holds.

    Raises:
        ValueError: it is not a run's folder, or this version cannot read its config.
    """
    saved = run_json.read(folder)
    return Job(from_dict(saved["config"]), folder, saved["name"], saved["overrides"])


def already_done(job: Job) -> Outcome | None:
    """How the job ended before, if its folder says that it finished or diverged; else None.

    Raises:
        ValueError: the folder holds a run of another config; the message lists the differences.
    """
    if not RunPaths(job.folder).run_json.exists():
        return None
    saved = run_json.read(job.folder)
    changes = differences(saved["config"], to_dict(job.config))
    if changes:
        raise ValueError(f"{job.folder}: holds a run of another config ({'; '.join(changes)}); choose another folder")
    return Outcome(job, saved["status"], saved) if saved["status"] in ("finished", "diverged") else None
