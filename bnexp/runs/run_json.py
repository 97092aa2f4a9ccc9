"""``run.json``, the small file by which a run is known: reading it, writing it, and entering a run's death in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnexp.runs.storage import held, write_atomically

NAME = "run.json"
# The plan of a sweep, by which its folder is known (``sweep.plan``).
SWEEP = "sweep.json"
RUN_FORMAT = 1
# What every run.json says, and of which kind it is.
_FACTS = {"name": str, "config": dict, "overrides": list, "status": str, "final": dict}
_STATUSES = ("running", "finished", "diverged", "interrupted", "failed")


def read_run(folder: Path) -> dict[str, Any]:
    """The content of a run's run.json.

    Raises:
        ValueError: the folder is not that of a run, or the file is damaged or of another version.
    """
    path = folder / NAME
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder}: {_why_no_run(folder)}") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    if not isinstance(run, dict) or run.get("format") != RUN_FORMAT or not isinstance(run.get("config"), dict):
        raise ValueError(f"{path}: not a run of this version of bnexp")
    fault = _fault(run)
    if fault:
        raise ValueError(f"{path}: damaged ({fault})")
    return run


def _why_no_run(folder: Path) -> str:
    if not folder.exists():
        return "there is no such folder"
    kind = "a sweep, not a run; name one of the runs in it" if (folder / SWEEP).exists() else "not a run"
    return f"{kind} (it has no {NAME})"


def _fault(run: Mapping[str, Any]) -> str | None:
    """What is missing or of another kind, so that readers need not look again."""
    for key, kind in _FACTS.items():
        if not isinstance(run.get(key), kind):
            return f"{key}: {'expected another kind of value' if key in run else 'missing'}"
    if not all(isinstance(word, str) for word in run["overrides"]):
        return "overrides: expected words"
    if run["status"] not in _STATUSES:
        return f"status: {run['status']} is none of {', '.join(_STATUSES)}"
    failure = run.get("failure")
    if failure is not None and not (isinstance(failure, dict) and {"reason", "lines"} <= failure.keys()):
        return "failure: expected reason and lines"
    return None


def write_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write run.json.

    Raises:
        OSError: it could not be written; the old one is untouched.
    """
    write_atomically(folder / NAME, json_text(facts))


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
        known = read_run(folder) if (folder / NAME).exists() else {"final": {}, "best": {}, **facts}
        failure = {"reason": reason, "lines": list(lines)}
        write_run(folder, {**known, "format": RUN_FORMAT, "status": "failed", "failure": failure})


def json_text(content: Any) -> bytes:
    """Readable, strict JSON; numbers that are not finite are null."""
    return json.dumps(_finite(content), indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def _finite(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node
