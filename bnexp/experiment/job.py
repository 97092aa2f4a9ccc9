"""A run to be done: its config and folder, read from a folder or looked up there."""

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
        config: what to train.
        folder: where its records go.
        name: what it is called in tables and curves.
        overrides: what the user typed.
        notes: further files for the folder, name -> text.
        fresh: the folder is to be a new one; where it is there already, the next free name is taken.
        alone: why it trains by itself, where jobs like it train in one population.
    """

    config: TrainConfig
    folder: Path
    name: str
    overrides: Sequence[str] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    fresh: bool = False
    alone: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``finished``, ``diverged`` or ``interrupted``, and what run.json says of it."""

    job: Job
    status: str
    facts: Mapping[str, Any]


def import_modules(names: Sequence[str]) -> None:
    """Import a user's own modules, which register what they bring; the working folder is on the path.

    Raises:
        ValueError: a module is not there or does not import; the message names the file and line.
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
    """The job whose records stand in a folder.

    Raises:
        ValueError: it is not a run's folder, or its config is not one of this version.
    """
    saved = run_json.read(folder)
    return Job(from_dict(saved["config"]), folder, saved["name"], saved["overrides"])


def already_done(job: Job) -> Outcome | None:
    """How the job ended before, if its folder says that it ran to its end.

    Raises:
        ValueError: the folder holds a run of another config; the message says what differs.
    """
    if job.fresh or not RunPaths(job.folder).run_json.exists():
        return None
    saved = run_json.read(job.folder)
    changes = differences(saved["config"], to_dict(job.config))
    if changes:
        raise ValueError(f"{job.folder}: holds a run of another config ({'; '.join(changes)}); choose another folder")
    return Outcome(job, saved["status"], saved) if saved["status"] in ("finished", "diverged") else None
