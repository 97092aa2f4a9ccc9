"""A sweep's folder: the command that goes on with it can be typed as it is printed, and what has not begun is told."""

from __future__ import annotations

import pytest

from bnexp.runs import next_command, sweep_json
from bnexp.runs.collect import collect


def write(folder, **facts):
    folder.mkdir()
    sweep_json.write(folder, {"command": [], "launcher": {}, "jobs": [], **facts})


@pytest.mark.parametrize(
    ("facts", "words"),
    [({"programs": ["setup: module load cuda"]}, ["--trust-launcher"]), ({"programs": []}, []), ({}, [])],
)
def test_a_launcher_that_names_programs_has_to_be_trusted(tmp_path, facts, words):
    write(tmp_path / "s", **facts)
    assert next_command.trust(tmp_path / "s") == words


def test_modules_and_strange_folders_are_part_of_it(tmp_path):
    command = next_command.resume(tmp_path / "a b", ["my_norm", "lab.data"], "epochs=9")
    assert command == f"bnexp resume '{tmp_path}/a b' --imports my_norm,lab.data epochs=9"


def test_a_sweep_that_cannot_be_read_names_what_is_known(tmp_path):
    write(tmp_path / "s", programs=["setup: x"])
    (tmp_path / "s" / "sweep.json").write_text("{")
    assert next_command.trust(tmp_path / "s") == []


def test_jobs_that_have_not_begun_are_told_apart_from_those_that_have(tmp_path):
    jobs = [{"name": name, "state": state} for name, state in (("a", "waiting"), ("b", "queued"), ("c", "failed"))]
    write(tmp_path / "s", jobs=jobs)
    runs, skips = collect([tmp_path])
    assert runs == []
    assert [(skip.folder.name, skip.reason) for skip in skips] == [("a", "has not begun"), ("b", "has not begun")]
