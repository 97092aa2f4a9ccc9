"""Run folders as a training leaves them, but made in a moment."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

from conftest import composed

from bnexp.config import compose
from bnexp.config.schema import config_hash, to_dict
from bnexp.runs import run_json


def make_run(folder: Path, *words: str, accuracy: float = 0.9, hour: int = 8, **facts) -> Path:
    """A folder with a run.json of the words' config; the hour is its start, and decides which run is newer."""
    folder.mkdir(parents=True)
    config = copy.deepcopy(_config(words))
    final = {"test/accuracy": accuracy, "test/loss": 1 - accuracy, "probe/x/y": 1.0}
    run = {
        "format": run_json.FORMAT,
        "name": folder.name,
        "config": config,
        "config_hash": config_hash(config),
        "overrides": list(words),
        "status": "finished",
        "final": final,
        "best": {"test/accuracy": {"value": accuracy, "step": 14}},
        "step": 21,
        "steps": 21,
        "seconds": 2.5,
        "classes": 10,
        "provenance": {"started": f"2026-11-21T{hour:02d}:46:12+00:00", "device": "cpu", "bnexp": "0.1.0"},
        "failure": None,
    }
    run_json.write(folder, run | facts)
    return folder


@cache
def _config(words: tuple[str, ...]) -> dict[str, Any]:
    return to_dict(compose.plain(composed(*words)))
