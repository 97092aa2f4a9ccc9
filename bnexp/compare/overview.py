"""Runs as documents: many as a list, one on a screen, two side by side, and the jobs of a sweep."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from bnexp.compare.blocks import Block, Cell, Document, Items, Table
from bnexp.compare.cells import BLANK, duration, number
from bnexp.config.defaults import changed, is_shipped, usual
from bnexp.config.schema import completed, flat, role
from bnexp.runs import next_command, run_json
from bnexp.runs.arms import differing
from bnexp.runs.collect import Run, Setting, Skip, plain, read, short, show
from bnexp.runs.json_file import without_nan
from bnexp.runs.paths import RunPaths, is_sweep

Row = list[str | Cell]

_GROUPS = ("model", "norm", "affine", "init", "data", "optim", "schedule")
# Every list says these of every run: the norm, also where all have the same, and the seed, where they differ.
_ALWAYS = ("norm.name", "seed")


def _progress(run: Run) -> str:
    """The status for people; with the step where the run is not over."""
    is_on_its_way = run.status in ("interrupted", "running") and run.steps
    return f"{run.status} at {run.step} of {run.steps}" if is_on_its_way else run.status


def when(started: str) -> str:
    """The local time of a start, to the minute; empty where it is unknown."""
    try:
        return f"{datetime.fromisoformat(started).astimezone():%Y-%m-%d %H:%M}"
    except ValueError:
        return ""


# --- many runs --------------------------------------------------------------------------------------------------------


def listing(runs: Sequence[Run], metric: str, notes: Sequence[str] = (), skips: Sequence[Skip] = ()) -> Document:
    """A row a run, in the given order: when it started, what differs, its result, how it ended, where it is."""
    keys = differing(
        [key for key in dict.fromkeys(key for run in runs for key in run.settings) if _tells(key)],
        [run.settings for run in runs],
    )
    keys = list(dict.fromkeys([_ALWAYS[0], *keys]))
    rows: list[Row] = [
        [when(run.started), _label(run, keys), _value(run, metric), _progress(run), str(run.folder)] for run in runs
    ]
    header = ["started", "what differs", metric, "status", "folder"]
    if any(run.tags for run in runs):
        header.insert(4, "tags")
        for row, run in zip(rows, runs, strict=True):
            row.insert(4, " ".join(run.tags))
    facts = {
        "runs": [_record(run, keys) for run in runs],
        "skipped": [{"folder": str(skip.folder), "reason": skip.reason} for skip in skips],
        "notes": list(notes),
    }
    blocks: list[Block] = [Table(header, rows, whole=[header.index("folder")]), *([Items(notes)] if notes else [])]
    return Document(blocks, _listing_records(runs, keys, metric), facts)


def _tells(key: str) -> bool:
    return role(key).compared or key == "seed"


def _label(run: Run, keys: Sequence[str]) -> str:
    """The norm, and the listed settings that are not the default."""
    defaults = usual(run.settings)
    own = [key for key in keys if key in run.settings and run.settings[key] != plain(defaults.get(key))]
    always = [key for key in _ALWAYS if key in keys]
    return ",".join(f"{short(key)}={show(run.settings.get(key))}" for key in dict.fromkeys([*always, *own]))


def _value(run: Run, metric: str) -> Cell:
    return number(run.final.get(metric), 4)


def _record(run: Run, keys: Sequence[str]) -> dict[str, Any]:
    return {
        "folder": str(run.folder),
        "name": run.name,
        "started": run.started or None,
        "status": run.status,
        "step": run.step,
        "steps": run.steps,
        "seconds": run.seconds,
        "tags": list(run.tags),
        "notes": run.notes,
        "settings": {key: run.settings.get(key) for key in keys},
        "final": dict(run.final),
    }


def _listing_records(runs: Sequence[Run], keys: Sequence[str], metric: str) -> Table:
    header = ["folder", "started", "status", "step", "steps", "seconds", "tags", *map(short, keys), metric]
    rows: list[Row] = [
        [
            *(_cell(value) for value in (str(run.folder), run.started or None, run.status, run.step, run.steps)),
            *(_cell(value) for value in (run.seconds, " ".join(run.tags))),
            *(_cell(run.settings.get(key)) for key in keys),
            _cell(run.final.get(metric)),
        ]
        for run in runs
    ]
    return Table(header, rows)


def _cell(value: Setting) -> Cell:
    """A value for machines: numbers stay numbers, no value is empty."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return Cell(BLANK if value is None else show(value), value)
    return Cell(show(value), show(value))


# --- one run ----------------------------------------------------------------------------------------------------------


def single(folder: Path) -> Document:
    """A run on one screen.

    Raises:
        ValueError: the folder has no usable run.
    """
    facts, run = run_json.read(folder), read(folder)
    assert isinstance(run, Run)
    differs = changed(completed(facts["config"]))
    shown = [f"{short(key)}={show(value)} ({show(usual)})" for key, (value, usual) in differs.items()]
    rows = [
        ["status", _progress(run)],
        ["started", when(run.started)],
        ["command", command(facts)],
        ["differs", ", ".join(shown) or "nothing: all defaults"],
        ["notes", run.notes],
        ["tags", " ".join(run.tags)],
        ["trained", _trained(run, facts)],
        ["failure", str((facts.get("failure") or {}).get("reason", ""))],
    ]
    goes_on = [["go on" if index == 0 else "", line] for index, line in enumerate(_next(run, facts))]
    told: list[Row] = [[label, show(text)] for label, text in rows + goes_on if text]
    table = Table(["run", show(folder)], told)
    results = _results(facts)
    return Document([table, *([results] if results.rows else [])], results, without_nan(_facts(run, facts, differs)))


def command(facts: Mapping[str, Any]) -> str:
    """The command that trains a run again, without what the user has said of this one."""
    config = facts["config"]
    words = [word for word in facts["overrides"] if not word.startswith(("notes=", "tags="))]
    own = [group for group in _GROUPS if not is_shipped(group, (config.get(group) or {}).get("name"))]
    folder = ["--config-dir", "DIR"] if own else []  # the folder of the user's yaml files is not kept
    return shlex.join(["bnexp", "train", *folder, *words])


def _trained(run: Run, facts: Mapping[str, Any]) -> str:
    provenance = facts.get("provenance") or {}
    parts = [
        f"{run.step} of {run.steps} steps" if run.steps else "",
        f"in {duration(run.seconds).text}" if run.seconds is not None else "",
        f"in a stack of {run.members} runs" if run.members > 1 else "",
        f"on {provenance['device']}" if provenance.get("device") else "",
        f"by bnexp {provenance['bnexp']}, torch {provenance.get('torch')}" if provenance.get("bnexp") else "",
    ]
    return " ".join(filter(None, parts))


def _next(run: Run, facts: Mapping[str, Any]) -> list[str]:
    """The commands that follow on a run."""
    folder, named = shlex.quote(str(run.folder)), facts["config"].get("imports", [])
    imports = f" --imports {','.join(named)}" if named else ""
    board = [f"bnexp board {folder}"] if run.has_curve else []
    if run.status == "running":
        return board
    if run.usable:
        kept = bool(RunPaths(run.folder).checkpoints)
        return [*([f"bnexp evaluate {folder}{imports}"] if kept and run.status == "finished" else []), *board]
    if is_sweep(run.folder.parent):
        retry = ["--retry-failed"] if run.status == "failed" else []
        return [next_command.resume(run.folder.parent, named, *next_command.trust(run.folder.parent), *retry), *board]
    return [next_command.resume(run.folder, named), *board]


def _results(facts: Mapping[str, Any]) -> Table:
    """The last and the best value of every metric but those of probes."""
    best = facts.get("best") or {}
    tags = [tag for tag in facts["final"] if not tag.startswith("probe/")]
    points = {tag: best[tag] if isinstance(best.get(tag), dict) else {} for tag in tags}
    rows: list[Row] = [
        [
            tag,
            number(_number(facts["final"][tag]), 4),
            number(_number(points[tag].get("value")), 4),
            number(_number(points[tag].get("step")), 0),
        ]
        for tag in sorted(tags)
    ]
    return Table(["metric", "last", "best", "at step"], rows)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _facts(run: Run, facts: Mapping[str, Any], differs: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    kept = ("config", "config_hash", "final", "best", "images", "parameters", "provenance", "diverged_at", "failure")
    return {
        "folder": str(run.folder),
        "name": run.name,
        "status": run.status,
        "started": run.started or None,
        "step": run.step,
        "steps": run.steps,
        "seconds": run.seconds,
        "tags": list(run.tags),
        "notes": run.notes,
        "command": command(facts),
        "differs": {key: {"value": value, "default": usual} for key, (value, usual) in differs.items()},
        **{key: facts.get(key) for key in kept},
    }


# --- two runs, and a sweep --------------------------------------------------------------------------------------------


def side_by_side(folders: Sequence[Path]) -> Document:
    """The settings in which two runs differ, and their results.

    Raises:
        ValueError: a folder has no usable run.
    """
    configs = [flat(completed(run_json.read(folder)["config"])) for folder in folders]
    one, other = (_usable(folder) for folder in folders)
    keys = [key for key in differing({**configs[0], **configs[1]}, [_hashable(config) for config in configs])]
    settings: list[Row] = [[short(key), *(_setting(config, key) for config in configs)] for key in keys]
    tags = sorted(tag for tag in {**one.final, **other.final} if not tag.startswith("probe/"))
    results: list[Row] = [
        [tag, *(_value(run, tag) for run in (one, other)), _difference(one, other, tag)] for tag in tags
    ]
    names = list(map(str, folders))
    both = Table(["setting or metric", *names], [*settings, *(row[:3] for row in results)])
    facts = {
        "runs": names,
        "status": [one.status, other.status],
        "settings": {key: [config.get(key) for config in configs] for key in keys},
        "final": {tag: [one.final.get(tag), other.final.get(tag)] for tag in tags},
    }
    tables = [Table(["setting", *names], settings), Table(["metric", *names, "difference"], results)]
    nothing = [] if settings else [Items(["The settings are the same."])]
    return Document([*nothing, *(table for table in tables if table.rows)], both, facts)


def _usable(folder: Path) -> Run:
    run = read(folder)
    assert isinstance(run, Run)
    return run


def _hashable(config: Mapping[str, Any]) -> dict[str, Setting]:
    return {key: show(value) for key, value in config.items()}


def _setting(config: Mapping[str, Any], key: str) -> Cell:
    return (
        _cell(config[key] if not isinstance(config[key], list) else show(config[key])) if key in config else Cell(BLANK)
    )


def _difference(one: Run, other: Run, tag: str) -> Cell:
    values = one.final.get(tag), other.final.get(tag)
    return number(None if None in values else values[1] - values[0], 4, sign="+")  # type: ignore[operator]


def jobs(folder: Path, states: Sequence[tuple[str, str, str | None]], trouble: str | None) -> Document:
    """The jobs of a sweep.

    Args:
        folder: the sweep's folder.
        states: name, state and reason of each job.
        trouble: why some jobs were not run.
    """
    runs = {name: read(folder / name) for name, _, _ in states}
    records = [
        {"name": name, "folder": str(folder / name), "status": state, "reason": reason, "final": _final(runs[name])}
        for name, state, reason in states
    ]
    rows: list[Row] = [
        [name, state, number(_final(runs[name]).get("test/accuracy"), 4), reason or "", str(folder / name)]
        for name, state, reason in states
    ]
    table = Table(["job", "status", "test/accuracy", "reason", "folder"], rows)
    return Document([table], table, {"folder": str(folder), "jobs": records, "trouble": trouble})


def _final(run: Run | Skip) -> Mapping[str, float]:
    return run.final if isinstance(run, Run) else {}
