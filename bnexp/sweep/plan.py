"""The plan of a sweep: all jobs with their configs and how they stand, in one file.

What a job has come to is known from its own run.json; the plan says what there is to do, and is brought up to the jobs'
files whenever a sweep starts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bnexp.config import names
from bnexp.config.schema import config_hash, differences, from_dict, shape
from bnexp.runs import run_json
from bnexp.runs.paths import RunPaths, SweepPaths
from bnexp.runs.storage import content, write_atomically
from bnexp.sweep.options import Options, options

FORMAT = 1
# A job that has come to one of these is not run again: divergence is a result.
OVER = ("finished", "diverged")


@dataclass
class Entry:
    """One job.

    Attributes:
        name: what differs from the other jobs; also its folder inside that of the sweep.
        overrides: what was typed for it.
        config, config_hash: what is trained.
        state: waiting, running, finished, diverged, failed, interrupted or refused.
        reason: why it failed, could not go on, or was refused before the start.
        lines: the last ones it wrote before it failed.
        tries: how many times it was started.
    """

    name: str
    overrides: list[str]
    config: dict[str, Any]
    config_hash: str
    state: str = "waiting"
    reason: str | None = None
    lines: list[str] = field(default_factory=list)
    tries: int = 0

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state in OVER

    def facts(self) -> dict[str, Any]:
        """What a run.json must say at least."""
        return {key: getattr(self, key) for key in ("name", "config", "config_hash", "overrides")}


def entries(jobs: Iterable[tuple[Sequence[str], Mapping[str, Any]]]) -> list[Entry]:
    """The jobs of pairs (overrides, config), named; those that ask for the same run are one."""
    unique: dict[str, tuple[Sequence[str], Mapping[str, Any]]] = {}
    for overrides, config in jobs:
        unique.setdefault(config_hash(config), (overrides, config))
    named = names.sweep_names([overrides for overrides, _ in unique.values()])
    again = {name for name, count in Counter(named).items() if count > 1}
    return [
        Entry(f"{name}-{mark[:8]}" if name in again else name, list(overrides), dict(config), mark)
        for name, (mark, (overrides, config)) in zip(named, unique.items(), strict=True)
    ]


@dataclass
class Plan:
    """A sweep.

    Attributes:
        folder: where its file and the folders of its jobs are.
        command: what was typed when it was made.
        options: how it is carried out.
        entries: its jobs, in the order in which they start.
    """

    folder: Path
    command: list[str]
    options: Options
    entries: list[Entry]

    def job(self, entry: Entry) -> RunPaths:
        """The files of a job."""
        return SweepPaths(self.folder).job(entry.name)

    def write(self) -> None:
        """Put the plan on the disk.

        Raises:
            OSError: it could not be written; the old file is untouched.
        """
        jobs = [asdict(entry) for entry in self.entries]
        plan = {"format": FORMAT, "command": self.command, "launcher": self.options.as_dict(), "jobs": jobs}
        write_atomically(SweepPaths(self.folder).sweep_json, run_json.json_text(plan))

    def adopt(self, wanted: Sequence[Entry]) -> list[Entry]:
        """Take jobs into the plan, those that are there already as they stand; returns what was asked for.

        Raises:
            ValueError: a job of another config has the name of a new one.
        """
        by_hash = {entry.config_hash: entry for entry in self.entries}
        by_name = {entry.name: entry for entry in self.entries}
        for new in wanted:
            if new.config_hash not in by_hash:
                _refuse_change(self.folder / new.name, by_name.get(new.name), new.config)
                self.entries.append(new)
                by_hash[new.config_hash] = new
        return [by_hash[new.config_hash] for new in wanted]

    def refresh(self) -> None:
        """Bring all entries up to their run.json.

        Raises:
            ValueError: a folder holds a run of another config.
        """
        for entry in self.entries:
            refresh(self.folder, entry)

    def count(self) -> Counter[str]:
        """State -> number of jobs."""
        return Counter(entry.state for entry in self.entries)


def _refuse_change(folder: Path, there: Entry | None, config: Mapping[str, Any]) -> None:
    if there is not None:
        changes = "; ".join(differences(there.config, config))
        raise ValueError(f"{folder}: holds a run of another config ({changes}); choose another folder for the sweep")


def refresh(sweep: Path, entry: Entry) -> None:
    """Bring one entry up to its run.json.

    Raises:
        ValueError: the folder holds a run of another config.
    """
    folder = sweep / entry.name
    if not RunPaths(folder).run_json.exists():
        entry.state = entry.state if entry.state in ("failed", "refused") else "waiting"
        return
    saved = run_json.read(folder)
    if config_hash(saved["config"]) != entry.config_hash:
        _refuse_change(folder, Entry("", [], saved["config"], ""), entry.config)
    entry.state = "interrupted" if saved["status"] == "running" else saved["status"]
    failure = saved.get("failure") if entry.state == "failed" else None
    entry.reason = failure["reason"] if failure else None
    entry.lines = failure["lines"] if failure else []


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return SweepPaths(folder).sweep_json.exists()


def read(folder: Path) -> Plan:
    """The plan of a sweep's folder.

    Raises:
        ValueError: the file is damaged or of another version.
    """
    path = SweepPaths(folder).sweep_json
    try:
        saved = json.loads(content(path))
        if saved["format"] != FORMAT:
            raise ValueError(f"format {saved['format']}")
        found = [Entry(**job) for job in saved["jobs"]]
        for entry in found:
            from_dict(entry.config)
            _require_inside(entry.name)
        return Plan(folder, saved["command"], options(saved["launcher"]), found)
    except (ValueError, KeyError, TypeError, OSError) as error:
        hint = "delete it and give the sweep's command again with hydra.sweep.dir set to its folder"
        raise ValueError(f"{path}: cannot be read ({error}); {hint}: finished jobs are kept") from None


def _require_inside(name: str) -> None:
    """A plan is a file like others: a name in it must not lead out of the sweep's folder."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise ValueError(f"job name {name!r}")


def stacks(jobs: Iterable[Entry], max_stack: int, unstackable: Collection[str] = ()) -> list[list[Entry]]:
    """Jobs in groups that train as one population, at most ``max_stack`` each, in the order of their first members.

    Args:
        jobs: what is to be run.
        max_stack: 1 puts every job in a group alone.
        unstackable: shapes (``config.schema.shape``) whose jobs train alone.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in jobs:
        common = shape(entry.config)
        key = entry.config_hash if max_stack == 1 or common in unstackable else common
        groups.setdefault(key, []).append(entry)
    return [group[at : at + max_stack] for group in groups.values() for at in range(0, len(group), max_stack)]
