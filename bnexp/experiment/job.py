"""A run to be done: its config, name and folder; and whether its folder says that it is already done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bnexp.config.names import run_name
from bnexp.config.schema import TrainConfig, config_hash, differences, from_dict, to_dict
from bnexp.runs import run_json
from bnexp.runs.longer import Length, require_longer, require_single, shorter
from bnexp.runs.paths import RunPaths, is_sweep


@dataclass(frozen=True)
class Job:
    """A run to be done.

    Attributes:
        config: the settings to train with.
        folder: where its records are written.
        name: its name in tables and curves.
        overrides: the command-line overrides that the user typed.
        notes: further files to write into the folder, name -> text.
        fresh: the folder must be a new one; if it is there already, the run takes the next free name.
        alone: why it trains by itself although jobs like it train in one population.
        longer: its folder may hold the run with another length, which is to get the length of this config.
    """

    config: TrainConfig
    folder: Path
    name: str
    overrides: Sequence[str] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    fresh: bool = False
    alone: str | None = None
    longer: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a run ended (``finished``, ``diverged`` or ``interrupted``), and the contents of its run.json."""

    job: Job
    status: str
    facts: Mapping[str, Any]


def saved_job(folder: Path) -> Job:
    """The job whose records a folder holds.

    Raises:
        ValueError: it is not a run's folder, or this version cannot read its config.
    """
    saved = run_json.read(folder)
    if config_hash(saved["config"]) != saved["config_hash"]:
        raise ValueError(f"{RunPaths(folder).run_json}: its config was changed (the hash belongs to another config)")
    return Job(from_dict(saved["config"]), folder, saved["name"], saved["overrides"])


def with_length(job: Job, wanted: Length) -> Job:
    """The job of a run that is to have another length; the same job if it has that length already.

    Raises:
        ValueError: the length of this run cannot change, or not to this one.
    """
    saved = run_json.read(job.folder)
    config = wanted.of(saved["config"])
    if config_hash(config) == saved["config_hash"]:
        return job
    require_single(job.folder, saved, wanted)
    require_longer(job.folder, saved, wanted)
    words = wanted.typed(job.overrides)
    name = run_name(words) if job.name == run_name(job.overrides) else job.name
    return replace(job, config=from_dict(config), overrides=words, name=name, longer=True)


def already_done(job: Job) -> Outcome | None:
    """How the job ended before, if its folder says that it finished or diverged; else None.

    Raises:
        ValueError: the folder holds a sweep, or a run of another config; the message lists the differences.
    """
    if not job.fresh and is_sweep(job.folder):
        raise ValueError(f"{job.folder}: holds a sweep; a run needs another folder (hydra.run.dir)")
    if job.fresh or not RunPaths(job.folder).run_json.exists():
        return None
    saved = run_json.read(job.folder)
    changes = differences(saved["config"], to_dict(job.config))
    if changes and job.longer and shorter(job.folder, to_dict(job.config)):
        return None
    if changes:
        raise ValueError(f"{job.folder}: holds a run of another config ({'; '.join(changes)}); choose another folder")
    return Outcome(job, saved["status"], saved) if saved["status"] in ("finished", "diverged") else None
