"""``run.json``, the small file that identifies a run: reads it, writes it, and records the death of a run's process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnexp.runs import json_file
from bnexp.runs.paths import RUN_JSON, RunPaths, is_sweep
from bnexp.runs.storage import held, write_atomically

FORMAT = 1
STATUSES = ("finished", "diverged", "failed", "interrupted", "running")
# Facts that every run.json must hold, and their types.
_FACTS = {"name": str, "config": dict, "config_hash": str, "overrides": list, "status": str, "final": dict}
# Parts of the config that are chosen by a name.
_GROUPS = ("model", "norm", "init", "data", "optim", "schedule")
# Facts that may be missing, because the process died early; their types.
_MORE_FACTS = {
    **{"best": dict, "provenance": dict, "executor": dict, "classes": int, "failure": dict, "step": int, "steps": int},
    **{"stopped_at": int, "extended": list},
}


def read(folder: Path) -> dict[str, Any]:
    """Read a run's run.json. The required facts are present and have the right types, so callers need not check them.

    Raises:
        ValueError: the folder is not a run's folder, or the file is damaged, or another version wrote it.
    """
    path = RunPaths(folder).run_json
    try:
        run = json_file.read(path, "run", FORMAT)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder}: {_why_no_run(folder)}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    fault = _fault(run)
    if fault:
        raise ValueError(f"{path}: damaged ({fault})")
    return run


def known(folder: Path) -> dict[str, Any]:
    """What a folder's run.json says; nothing where there is none that can be read."""
    try:
        return read(folder)
    except ValueError:
        return {}


def _why_no_run(folder: Path) -> str:
    if not folder.exists():
        return "there is no such folder"
    kind = "a sweep, not a run; name one of the runs in it" if is_sweep(folder) else "not a run"
    return f"{kind} (it has no {RUN_JSON})"


def _fault(run: Mapping[str, Any]) -> str | None:
    """The first fact that is missing or has the wrong type, as a message; None if there is none."""
    for key, kind in (_FACTS | _MORE_FACTS).items():
        if key in _FACTS and key not in run:
            return f"{key}: missing"
        if not isinstance(run.get(key), kind if key in _FACTS else kind | None):
            return f"{key}: expected another kind of value"
    if not all(isinstance(word, str) for word in run["overrides"]):
        return "overrides: expected words"
    if run["status"] not in STATUSES:
        return f"status: {run['status']} is none of {', '.join(STATUSES)}"
    for group in (group for group in _GROUPS if group in run["config"]):
        if not isinstance(run["config"][group], dict) or not isinstance(run["config"][group].get("name"), str):
            return f"config: {group} is no group with a name"
    seed = run["config"].get("seed")
    if not isinstance(seed, int) or not 0 <= seed < 2**63 or not run["config_hash"]:
        return "config: has no seed, or no hash"
    entries = run.get("extended") or ()
    if not all(isinstance(entry, dict) and {"config_hash", "steps"} <= entry.keys() for entry in entries):
        return "extended: expected entries with config_hash and steps"
    if run.get("failure") is not None and not {"reason", "lines"} <= run["failure"].keys():
        return "failure: expected reason and lines"
    return None


def write(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write run.json.

    Raises:
        OSError: it could not be written; the old file is unchanged.
    """
    write_atomically(RunPaths(folder).run_json, json_file.text(facts, signed=True))


def enter_failure(folder: Path, facts: Mapping[str, Any], reason: str, lines: Sequence[str]) -> None:
    """Record in run.json that a run's process died, because the process itself could not do so.

    Args:
        folder: the run's folder.
        facts: the file's facts if the run had not written the file yet.
        reason: why the process died, in words for the user.
        lines: the last lines it printed.

    Raises:
        ValueError: another process holds the folder.
        OSError: it could not be written.
    """
    with held(folder):
        known = read(folder) if RunPaths(folder).run_json.exists() else {"final": {}, "best": {}, **facts}
        failure = {"reason": reason, "lines": list(lines)}
        write(folder, {**known, "format": FORMAT, "status": "failed", "failure": failure})
