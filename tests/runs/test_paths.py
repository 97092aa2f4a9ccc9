"""The names of a run's files, which users and other versions rely on, and that they are spelt in one place."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import ROOT

from bnexp.runs.paths import RunPaths, SweepPaths

NAMES = {
    "run_json": "run.json",
    "metrics": "metrics.csv",
    "timing": "timing.csv",
    "checkpoint": "checkpoint.pt",
    "previous": "checkpoint.previous.pt",
    "damaged": "checkpoint.damaged.pt",
    "train_log": "train.log",
    "error_log": "error.log",
    "output_log": "output.log",
}


def test_files_of_runs_and_sweeps_keep_their_names(tmp_path):
    paths = RunPaths(tmp_path)
    assert {name: getattr(paths, name) for name in NAMES} == {key: tmp_path / name for key, name in NAMES.items()}
    assert SweepPaths(tmp_path).sweep_json == tmp_path / "sweep.json"
    assert SweepPaths(tmp_path).job("norm=bn") == RunPaths(tmp_path / "norm=bn")
    (tmp_path / "events.out.tfevents.0000000001.host.9").touch()
    assert [path.name for path in paths.events] == ["events.out.tfevents.0000000001.host.9"]


def test_no_other_module_spells_them():
    spelt = re.compile("[\"'](" + "|".join(map(re.escape, [*NAMES.values(), "sweep.json", "events.out"])) + ")")
    users = {path.name for path in Path(ROOT, "bnexp").rglob("*.py") if spelt.search(path.read_text(encoding="utf-8"))}
    assert users == {"paths.py"}
