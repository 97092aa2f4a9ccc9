"""The command that goes on with a run or a sweep can be typed as it is printed."""

from __future__ import annotations

import pytest

from bnexp.runs import next_command, sweep_json


def write(folder, **facts):
    folder.mkdir()
    sweep_json.write(folder, {"command": [], "launcher": {}, "jobs": [], **facts})


@pytest.mark.parametrize(
    ("facts", "trust"),
    [({"programs": ["setup: module load cuda"]}, " --trust-launcher"), ({"programs": []}, ""), ({}, "")],
)
def test_a_launcher_that_names_programs_has_to_be_trusted(tmp_path, facts, trust):
    write(tmp_path / "s", **facts)
    assert next_command.resume(tmp_path / "s", []) == f"bnexp resume {tmp_path}/s{trust}"


def test_modules_and_strange_folders_are_part_of_it(tmp_path):
    command = next_command.resume(tmp_path / "a b", ["my_norm", "lab.data"], "epochs=9")
    assert command == f"bnexp resume '{tmp_path}/a b' --imports my_norm,lab.data epochs=9"


def test_a_sweep_that_cannot_be_read_names_what_is_known(tmp_path):
    write(tmp_path / "s", programs=["setup: x"])
    (tmp_path / "s" / "sweep.json").write_text("{")
    assert next_command.resume(tmp_path / "s", []) == f"bnexp resume {tmp_path}/s"
