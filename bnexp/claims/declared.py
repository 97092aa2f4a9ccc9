"""``declaration.json``: what was declared before a claim's first run, and every change of it since.

The digest is over the parts of the yaml that decide the verdict. Prose is left out by name, so that a part that is not
known here counts. A later command that finds another digest adds it to the history, with its date and the number of
runs that were there.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bnexp.claims import parse
from bnexp.claims.design import Design
from bnexp.runs import json_file
from bnexp.runs.storage import write_atomically

NAME = "declaration.json"
FORMAT = 1
# What readers see, and what is estimated. It decides no verdict.
_PROSE = (
    *("sentence", "sources", "articles", "literature", "confounds", "would_change", "titles", "answers", "lesson"),
    *("figure", "changes", "no_quick"),
)
_PROSE_OF_TESTS, _PROSE_OF_PROFILES = "says", "minutes"


@dataclass(frozen=True)
class Declared:
    """A declaration, as a command has found it first.

    Attributes:
        digest: SHA-256 of the parts that decide the verdict.
        date: UTC, in ISO 8601.
        runs: that had begun by then; 0 where it was declared before its first run.
        bnexp: the version of this package; ``git_commit`` and ``git_dirty`` where it ran from a checkout.
    """

    digest: str
    date: str
    runs: int
    bnexp: str
    git_commit: str | None
    git_dirty: bool | None


def digest(text: str, profile: str, modules: Mapping[str, str] | None = None) -> str:
    """SHA-256 of the parts of a claim's yaml that decide its verdict under a profile; layout and comments do not count.

    Args:
        text: the yaml.
        profile: its name.
        modules: of the user's that its runs import -> SHA-256.

    Raises:
        ValueError: it is no yaml with keys.
    """
    given = parse.mapping("claim", text)
    profiles, tests = given.get("profiles") or {}, given.get("tests") or {}
    deciding = {
        **{key: value for key, value in given.items() if key not in _PROSE},
        "tests": {name: _without(test, _PROSE_OF_TESTS) for name, test in tests.items()},
        "profiles": {name: _without(one, _PROSE_OF_PROFILES) for name, one in profiles.items() if name == profile},
    }
    deciding |= {"modules": modules} if modules else {}
    return hashlib.sha256(json.dumps(_named(deciding), sort_keys=True).encode()).hexdigest()


def _named(node: Any) -> Any:
    """The same with words for all keys, as a declaration is read."""
    if isinstance(node, Mapping):
        return {str(key): _named(value) for key, value in node.items()}
    return [_named(value) for value in node] if isinstance(node, list) else node


def _without(part: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name != key}


def declare(folder: Path, design: Design, code: Mapping[str, Any]) -> list[Declared]:
    """Write the digest of a claim into its folder, unless it is the last one there, and say so if it is another.

    Args:
        folder: the claim's.
        design: the claim under a profile.
        code: versions and commit of this package, and the ``modules`` of the user's.

    Returns:
        All declarations, the first one first.

    Raises:
        ValueError: the file is damaged, in one line.
    """
    path, mark = folder / NAME, digest(design.claim.text, design.profile, code.get("modules"))
    history = read(path) if path.exists() else []
    if history and history[-1].digest == mark:
        return history
    runs = sum(1 for _ in folder.glob("*/*/run.json"))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made = Declared(mark, now, runs, code["bnexp"], code["git_commit"], code["git_dirty"])
    if history:
        since = f"its declaration of {history[-1].date[:10]} was changed after {runs} runs"
        print(f"{design.claim.id}: {since}; its result will say so", file=sys.stderr, flush=True)
    history.append(made)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"format": FORMAT, "history": [asdict(each) for each in history]}
    write_atomically(path, json_file.text(facts, signed=True))
    return history


def read(path: Path) -> list[Declared]:
    """The declarations that a file holds.

    Raises:
        ValueError: it is damaged or changed, in one line.
    """
    try:
        found = json_file.read(path, "declaration", FORMAT)
        return [parse.parsed("history", each, Declared) for each in found["history"]]
    except (KeyError, OSError, ValueError) as error:
        remedy = "move it away, and its result will say that it was declared after its runs"
        raise ValueError(f"{path}: cannot be read ({error}); {remedy}") from None
