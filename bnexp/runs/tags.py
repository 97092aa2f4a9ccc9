"""Tags of a run, changed after it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bnexp.runs import run_json
from bnexp.runs.storage import held


def retag(folder: Path, add: Sequence[str], drop: Sequence[str]) -> list[str]:
    """Add tags to a run, and take others away; returns its tags. No other fact changes, and no hash.

    Raises:
        ValueError: the folder has no usable run, or another process holds it.
        OSError: run.json could not be written; the old file is unchanged.
    """
    run_json.read(folder)  # says what is wrong with a folder that cannot be held
    with held(folder):
        facts = run_json.read(folder)
        before = facts["config"].get("tags") or []
        tags = [tag for tag in dict.fromkeys([*before, *add]) if tag not in drop]
        run_json.write(folder, {**facts, "config": {**facts["config"], "tags": tags}})
    return tags
