"""``run.json``, the small file by which a run is known: reading it, writing it, and entering a run's death in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnexp.runs.paths import RUN_JSON, RunPaths, SweepPaths
from bnexp.runs.storage import content, held, write_atomically

FORMAT = 1
STATUSES = ("finished", "diverged", "failed", "interrupted", "running")
# A run.json is a few kilobytes; a file beyond this is something else and is not read into memory.
_LARGEST = 16 * 2**20
# So deep may lists and objects lie in each other; functions that call themselves go further.
_DEEPEST = 50
# What every run.json says, and of which kind it is.
_FACTS = {"name": str, "config": dict, "config_hash": str, "overrides": list, "status": str, "final": dict}
# What the run.json of a process that died early lacks.
_MORE_FACTS = {"best": dict, "provenance": dict, "classes": int, "failure": dict}


def read(folder: Path) -> dict[str, Any]:
    """What a run's run.json says. Callers need not look again whether facts are there and of their kind.

    Raises:
        ValueError: the folder is not that of a run, or the file is damaged or of another version.
    """
    path = RunPaths(folder).run_json
    try:
        run = _parsed(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder}: {_why_no_run(folder)}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: empty, cut or not JSON") from None
    if not isinstance(run, dict) or "format" not in run:
        raise ValueError(f"{path}: not written by bnexp")
    if run["format"] != FORMAT:
        raise ValueError(f"{path}: not a run of this version of bnexp (format {run['format']}, not {FORMAT})")
    fault = _fault(run)
    if fault:
        raise ValueError(f"{path}: damaged ({fault})")
    return run


def _parsed(path: Path) -> Any:
    text = content(path, _LARGEST + 1)
    if len(text) > _LARGEST:
        raise ValueError("too large")
    found = json.loads(text)
    if _is_deeper(found, _DEEPEST):
        raise RecursionError
    return found


def _is_deeper(node: Any, levels: int) -> bool:
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return levels == 0 or any(_is_deeper(value, levels - 1) for value in inner)


def _why_no_run(folder: Path) -> str:
    if not folder.exists():
        return "there is no such folder"
    kind = "a sweep, not a run; name one of the runs in it" if SweepPaths(folder).sweep_json.exists() else "not a run"
    return f"{kind} (it has no {RUN_JSON})"


def _fault(run: Mapping[str, Any]) -> str | None:
    """What is missing or of another kind."""
    for key, kind in (_FACTS | _MORE_FACTS).items():
        if key in _FACTS and key not in run:
            return f"{key}: missing"
        if not isinstance(run.get(key), kind if key in _FACTS else kind | None):
            return f"{key}: expected another kind of value"
    if not all(isinstance(word, str) for word in run["overrides"]):
        return "overrides: expected words"
    if run["status"] not in STATUSES:
        return f"status: {run['status']} is none of {', '.join(STATUSES)}"
    if not isinstance(run["config"].get("seed"), int) or not run["config_hash"]:
        return "config: has no seed, or no hash"
    if run.get("failure") is not None and not {"reason", "lines"} <= run["failure"].keys():
        return "failure: expected reason and lines"
    return None


def write(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write run.json.

    Raises:
        OSError: it could not be written; the old one is untouched.
    """
    write_atomically(RunPaths(folder).run_json, json_text(facts))


def enter_failure(folder: Path, facts: Mapping[str, Any], reason: str, lines: Sequence[str]) -> None:
    """Enter in a run's file that its process is dead, which the process itself could not do.

    Args:
        folder: the run's folder.
        facts: what the file says where the run had not come to writing one.
        reason: why, for a person.
        lines: the last ones that it wrote.

    Raises:
        ValueError: another process holds the folder.
        OSError: it could not be written.
    """
    with held(folder):
        known = read(folder) if RunPaths(folder).run_json.exists() else {"final": {}, "best": {}, **facts}
        failure = {"reason": reason, "lines": list(lines)}
        write(folder, {**known, "format": FORMAT, "status": "failed", "failure": failure})


def json_text(node: Any) -> bytes:
    """Readable, strict JSON; numbers that are not finite are null."""
    return json.dumps(_without_nan(node), indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def _without_nan(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _without_nan(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_without_nan(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node
