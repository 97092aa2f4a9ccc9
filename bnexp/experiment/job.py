"""A run to be done: its config, name and folder; and whether its folder says that it is already done."""

from __future__ import annotations

import importlib
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from bnexp.config.names import run_name
from bnexp.config.schema import TrainConfig, config_hash, differences, from_dict, to_dict
from bnexp.runs import run_json
from bnexp.runs.longer import Length, require_longer, require_single, shorter
from bnexp.runs.paths import RunPaths, SweepPaths


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


def import_modules(names: Sequence[str]) -> None:
    """Import a user's own modules, which register norms, models or data; the working folder is searched first.

    Raises:
        ValueError: a module is missing or fails to import; the message names the file and line.
    """
    _look_here_too(names)
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise _no_module(name, str(error.name)) from None
        except (Exception, SystemExit) as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = f"{frames[-1].filename}:{frames[-1].lineno}"
            raise ValueError(f"imports=[{name}]: {place}: {type(error).__name__}: {error}") from None


def _no_module(name: str, missing: str) -> ValueError:
    where = "looked for in the working folder and on PYTHONPATH"
    return ValueError(f"imports=[{name}]: no module {missing}; {where}")


def _look_here_too(names: Sequence[str]) -> None:
    """Put the working folder on the path, for modules that have a name."""
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"imports=[{name!a}]: no name of a module; expected words and dots, such as my_lab.norms")
    if names and "" not in sys.path:
        sys.path.insert(0, "")


def sources(names: Sequence[str]) -> list[Path]:
    """The files of a user's own modules; nothing is imported.

    Raises:
        ValueError: there is no such module.
    """
    _look_here_too(names)
    found = []
    for name in names:
        files = [path for path in _places(name) if path.suffix == ".py" and path.is_file()]
        if not files:
            raise _no_module(name, name)
        found.append(files[-1])
    return found


def require_typed(folder: Path, named: Sequence[str], typed: Sequence[str], command: Sequence[str]) -> None:
    """``require_named`` for a command line.

    Args:
        folder: of a run or a sweep.
        named: the modules that its records name.
        typed: the modules that the user has named in this command.
        command: the words of this command but for the modules.

    Raises:
        ValueError: see ``require_named``.
    """
    words = ["bnexp", *command, *(["--imports", ",".join(named)] if named else [])]
    require_named(folder, named, typed, shlex.join(words))


def require_named(folder: Path, named: Sequence[str], typed: Sequence[str], remedy: str) -> None:
    """Let nothing be imported because a folder says so: it may come from anywhere, and its modules are programs.

    Args:
        folder: of a run or a sweep.
        named: the modules that its records name.
        typed: the modules that the user has named.
        remedy: what to type instead if the folder's modules are to be imported.

    Raises:
        ValueError: the user has named other modules than the folder, or a file of one lies in the folder.
    """
    _look_here_too(named)
    received = folder.parent if SweepPaths(folder.parent).sweep_json.exists() else folder
    for name in named:
        for place in (Path.cwd(), *_places(name)):
            if _lies_in(place, received):
                raise ValueError(
                    f"{place}: in {received}, whose files are never imported; imports=[{name}] needs another"
                )
    if set(named) != set(typed):
        said = f"it names modules ({', '.join(named) or 'none'}), which are imported only if you type the same"
        raise ValueError(f"{folder}: {said}; if you trust them: {remedy}")


def _places(name: str) -> Iterator[Path]:
    """The files and folders that importing a module would read, found without importing anything."""
    path: list[str] | None = None
    for part in name.split("."):
        spec = PathFinder.find_spec(part, path)
        path = list((spec and spec.submodule_search_locations) or ())
        yield from map(Path, [*([spec.origin] if spec and spec.origin else []), *path])


def _lies_in(place: Path, folder: Path) -> bool:
    """Whether a file is in a folder, by its name or by what it links to."""
    named = place.parent.resolve() / place.name
    return any(path.is_relative_to(folder.resolve()) for path in (named, place.resolve()))


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
    if not job.fresh and SweepPaths(job.folder).sweep_json.exists():
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
