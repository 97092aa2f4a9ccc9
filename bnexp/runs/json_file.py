"""The JSON files of runs, sweeps and claims: written strictly, and read as files that anybody may have changed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnexp.runs.storage import content

# A run.json is a few kilobytes; a file beyond this is something else and is not read into memory.
_LARGEST = 16 * 2**20
# Deepest allowed nesting of lists and objects; recursive functions can handle this depth.
_DEEPEST = 50


def read(path: Path, kind: str, version: int, *, most: int = _LARGEST) -> dict[str, Any]:
    """What a file says, if it is the one that was written.

    Args:
        path: the file.
        kind: what it describes (run, sweep, result), for messages.
        version: that its ``format`` must be.
        most: bytes; a larger file is refused.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged or changed, or another program or version wrote it; the message does not name it.
    """
    text = content(path, most + 1)
    try:
        found = json.loads(text) if len(text) <= most else None
    except (ValueError, RecursionError):
        found = None
    if found is None or _is_deeper(found, _DEEPEST):
        raise ValueError("empty, cut or not JSON")
    if not isinstance(found, dict) or "format" not in found:
        raise ValueError("not written by bnexp")
    if found["format"] != version:
        raise ValueError(f"not a {kind} of this version of bnexp (format {found['format']}, not {version})")
    _require_unchanged(found)
    return found


def _is_deeper(node: Any, levels: int) -> bool:
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return levels == 0 or any(_is_deeper(value, levels - 1) for value in inner)


def _require_unchanged(found: Mapping[str, Any]) -> None:
    """Refuse a file that says something else than its digest; files of older versions have no digest."""
    if found.get("digest", written := _digest(found)) != written:
        raise ValueError('changed since it was written; put it back, or delete its entry "digest" if that was meant')


def _digest(found: Mapping[str, Any]) -> str:
    """SHA-256 over what a file says (keys sorted, no spaces), whatever its layout, but for its entry ``digest``."""
    rest = {key: value for key, value in found.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def text(facts: Mapping[str, Any], *, signed: bool = False) -> bytes:
    """Readable, strict JSON; numbers that are not finite become null. If ``signed``, with a digest for ``read``."""
    plain = without_nan(facts)
    if signed:
        plain["digest"] = _digest(plain)
    return json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def without_nan(node: Any) -> Any:
    """The same as plain dicts and lists; None for numbers that are not finite, for which JSON has no word."""
    if isinstance(node, Mapping):
        return {key: without_nan(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [without_nan(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node
