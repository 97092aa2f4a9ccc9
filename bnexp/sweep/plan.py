"""The plan of a sweep: one file with all jobs, their configs and their states.

A job's own run.json records how the job ended. The plan lists the jobs, and its states are updated from the jobs' files
whenever a sweep starts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnexp.config import names
from bnexp.config.schema import config_hash, differences, from_dict
from bnexp.runs import run_json, sweep_json
from bnexp.runs.longer import LENGTHS, Length, require_longer
from bnexp.runs.paths import RunPaths, SweepPaths
from bnexp.sweep.options import Options, brought_up_to_date, options, programs

# A job in one of these states is not run again: divergence is a result.
OVER = ("finished", "diverged")


@dataclass
class Entry:
    """One job.

    Attributes:
        name: the settings that differ from the other jobs; also the job's folder inside the sweep's folder.
        overrides: the overrides typed for it.
        config, config_hash: the settings to train with.
        state: waiting, queued (with an engine), running, finished, diverged, failed, interrupted or refused.
        reason: why it failed, could not be resumed, or was refused before the start.
        lines: the last lines it printed before it failed.
        tries: how many times it was started.
        shorter: hashes of configs of another length that its folder may still hold -> steps of that length.
        ticket: the name that its task has with the engine (``Engine.submit``), while it is there.
        stack: the first member of the population that it last trained in; empty if it trained alone.
    """

    name: str
    overrides: list[str]
    config: dict[str, Any]
    config_hash: str
    state: str = "waiting"
    reason: str | None = None
    lines: list[str] = field(default_factory=list)
    tries: int = 0
    shorter: dict[str, int] = field(default_factory=dict)
    ticket: str | None = None
    stack: str | None = None

    @property
    def over(self) -> bool:
        """True if the job needs no further run."""
        return self.state in OVER

    def facts(self) -> dict[str, Any]:
        """The facts that every run.json must hold."""
        return {key: getattr(self, key) for key in ("name", "config", "config_hash", "overrides")}


def entries(jobs: Iterable[tuple[Sequence[str], Mapping[str, Any]]]) -> list[Entry]:
    """The jobs of pairs (overrides, config), with names; pairs that ask for the same run become one job."""
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
        folder: holds the plan's file and the jobs' folders.
        command: the command line that made the sweep.
        options: how its jobs are run.
        entries: its jobs, in the order in which they start.
        kept: the options that later commands use; None for ``options``, which may be those of this command alone.
    """

    folder: Path
    command: list[str]
    options: Options
    entries: list[Entry]
    kept: Options | None = None

    def job(self, entry: Entry) -> RunPaths:
        """The files of a job."""
        return SweepPaths(self.folder).job(entry.name)

    @property
    def imports(self) -> list[str]:
        """The modules that its jobs name."""
        return list(dict.fromkeys(name for entry in self.entries for name in entry.config.get("imports", ())))

    def write(self) -> None:
        """Write the plan to the disk.

        Raises:
            OSError: it could not be written; the old file is unchanged.
        """
        jobs = [vars(entry) for entry in self.entries]
        kept = self.kept or self.options
        # ``programs`` is for readers that know no launcher, such as ``bnexp show``.
        facts = {"command": self.command, "launcher": kept.as_dict(), "programs": programs(kept), "jobs": jobs}
        sweep_json.write(self.folder, facts)

    def adopt(self, wanted: Sequence[Entry]) -> list[Entry]:
        """Add jobs to the plan; a job that is there already keeps its state. Returns the plan's entries for ``wanted``.

        Such a job gets the config that is typed now: a plan may come from anywhere, and the hash of a config says
        nothing of what is imported and where data are.

        Raises:
            ValueError: a new job has the name of a job with another config.
        """
        by_hash = {entry.config_hash: entry for entry in self.entries}
        by_name = {entry.name: entry for entry in self.entries}
        for new in wanted:
            known = by_hash.get(new.config_hash)
            if known is not None:
                known.config, known.overrides = new.config, new.overrides
            else:
                _refuse_change(self.folder / new.name, by_name.get(new.name), new.config)
                self.entries.append(new)
                by_hash[new.config_hash] = new
        return [by_hash[new.config_hash] for new in wanted]

    def change_length(self, wanted: Length) -> None:
        """Give all jobs another length.

        Raises:
            ValueError: the length of a job cannot change, or not to this one.
        """
        lengths = {tuple(entry.config[setting] for setting in LENGTHS) for entry in self.entries}
        named = [part for entry in self.entries for part in entry.name.split(",") if part.partition("=")[0] in LENGTHS]
        if named or len(lengths) > 1:
            what = f"its jobs are named by their length ({named[0]})" if named else "its jobs differ in their length"
            raise ValueError(f"{wanted}: {self.folder}: {what}; start another sweep")
        for entry in self.entries:
            config = wanted.of(entry.config)
            if config_hash(config) != entry.config_hash:
                folder = self.job(entry).folder
                if self.job(entry).run_json.exists():
                    saved = run_json.read(folder)
                    require_longer(folder, saved, wanted)
                    entry.shorter[saved["config_hash"]] = saved.get("steps") or 0
                entry.config, entry.config_hash = config, config_hash(config)
                entry.overrides = wanted.typed(entry.overrides)

    def refresh(self) -> None:
        """Update the state of every entry from its run.json.

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
    """Update the state and the tags of one entry from its run.json; ``bnexp tag`` may have changed the tags.

    Raises:
        ValueError: the folder holds a run of another config.
    """
    folder = sweep / entry.name
    if not RunPaths(folder).run_json.exists():
        known = entry.state if entry.state in ("failed", "refused") else "waiting"
        entry.state = "queued" if entry.ticket else known
        return
    saved = run_json.read(folder)
    is_shorter = saved["config_hash"] != entry.config_hash and saved["config_hash"] in entry.shorter
    if not is_shorter and config_hash(saved["config"]) != entry.config_hash:
        _refuse_change(folder, Entry("", [], saved["config"], ""), entry.config)
    entry.config = {**entry.config, "tags": saved["config"].get("tags", [])}
    goes_on = saved["status"] == "running" or (is_shorter and saved["status"] in OVER)
    entry.state = "interrupted" if goes_on else saved["status"]
    if entry.ticket and not entry.over:  # what the file says of an earlier try is out of date
        entry.state = "running" if saved["status"] == "running" else "queued"
    failure = saved.get("failure") if entry.state == "failed" else None
    entry.reason = failure["reason"] if failure else None
    entry.lines = failure["lines"] if failure else []


def read(folder: Path) -> Plan:
    """Read the plan in a sweep's folder.

    Raises:
        ValueError: the file is damaged, or another version wrote it.
    """
    try:
        saved = sweep_json.read(folder)
        found = [Entry(**job) for job in saved["jobs"]]
        for entry in found:
            if entry.state != "refused":
                from_dict(entry.config)
            if config_hash(entry.config) != entry.config_hash:
                raise ValueError(f"the config of {entry.name} was changed")
            _require_inside(entry.name)
        return Plan(folder, saved["command"], options(brought_up_to_date(saved["launcher"])), found)
    except (ValueError, KeyError, TypeError) as error:
        hint = "delete it and give the sweep's command again with hydra.sweep.dir set to its folder"
        path = SweepPaths(folder).sweep_json
        raise ValueError(f"{path}: cannot be read ({error}); {hint}: finished jobs are kept") from None


def _require_inside(name: str) -> None:
    """Refuse a job name that leads out of the sweep's folder: anybody may have edited the plan's file."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise ValueError(f"job name {name!r}")
