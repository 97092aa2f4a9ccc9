"""run.json read strictly, whatever stands in it, and a run's death entered in it."""

from __future__ import annotations

import json

import pytest

from bnexp.runs import run_json
from bnexp.runs.collect import Run, Skip
from bnexp.runs.collect import read as read_leniently
from bnexp.runs.storage import held

WHOLE = {
    "format": 1,
    "name": "norm=bn",
    "config": {"seed": 3, "norm": {"name": "bn", "eps": 1e-5}},
    "config_hash": "0123456789abcdef",
    "overrides": ["norm=bn"],
    "status": "finished",
    "final": {"test/accuracy": 0.9},
}
MORE = {
    "best": {"test/accuracy": {"value": 0.95, "step": 4}},
    "provenance": {"started": "2026-11-21T08:00:00Z"},
    "classes": 10,
    "failure": {"reason": "it broke", "lines": ["a", "b"]},
}
DEEP = 100_000


def nested(levels: int) -> str:
    return '{"format": 1, "config": ' + '{"a":' * levels + "1" + "}" * (levels + 1)


NOT_A_RUN = {
    "empty": (b"", "empty, cut or not JSON"),
    "cut": (b'{"format": 1, "name": "x"', "empty, cut or not JSON"),
    "binary": (bytes(range(256)), "empty, cut or not JSON"),
    "deeper than the parser": (b"[" * DEEP, "empty, cut or not JSON"),
    "deeper than a config": (nested(300).encode(), "empty, cut or not JSON"),
    "too large": (b"[" + b" " * 16 * 2**20 + b"]", "empty, cut or not JSON"),
    "a list": (b"[1, 2]", "not written by bnexp"),
    "foreign": (b'{"status": "finished"}', "not written by bnexp"),
    "of a later version": (b'{"format": 2}', r"not a run of this version of bnexp \(format 2, not 1\)"),
}
DAMAGED = {
    **{f"no {key}": ({key: ...}, f"{key}: missing") for key in WHOLE if key != "format"},
    **{f"odd {key}": ({key: 3}, f"{key}: expected another kind of value") for key in WHOLE if key != "format"},
    **{f"odd {key}": ({key: "x"}, f"{key}: expected another kind of value") for key in MORE},
    "status": ({"status": "asleep"}, "status: asleep is none of finished, diverged, failed, interrupted, running"),
    "words": ({"overrides": [1]}, "overrides: expected words"),
    "seed": ({"config": {"seed": "x"}}, "config: has no seed, or no hash"),
    "hash": ({"config_hash": ""}, "config: has no seed, or no hash"),
    "failure": ({"failure": {"reason": "x"}}, "failure: expected reason and lines"),
}


def written(folder, **changes):
    facts = WHOLE | changes
    (folder / "run.json").write_text(json.dumps({key: value for key, value in facts.items() if value is not ...}))
    return folder


@pytest.mark.parametrize("more", [{}, MORE, dict.fromkeys(MORE)])
def test_a_whole_file_is_read_with_what_it_may_lack(tmp_path, more):
    assert run_json.read(written(tmp_path, **more)) == WHOLE | more
    run = read_leniently(tmp_path)
    assert isinstance(run, Run)
    assert (run.name, run.seed, run.status, run.value("test/accuracy")) == ("norm=bn", 3, "finished", 0.9)
    assert run.best_value("test/accuracy") == (0.95 if more.get("best") else None)
    assert (run.classes, run.started) == ((10, "2026-11-21T08:00:00Z") if more.get("classes") else (None, ""))


@pytest.mark.parametrize(("content", "said"), NOT_A_RUN.values(), ids=NOT_A_RUN)
def test_what_is_no_run_json_of_ours_is_refused_in_a_line_and_skipped_for_the_same_reason(tmp_path, content, said):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        run_json.read(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/run.json: ")
    assert read_leniently(tmp_path) == Skip(tmp_path, str(error.value).removeprefix(f"{tmp_path}/"))


@pytest.mark.parametrize(("change", "said"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_fact_is_named_by_the_strict_reader_and_in_the_skip(tmp_path, change, said):
    written(tmp_path, **change)
    with pytest.raises(ValueError, match=r"run\.json: damaged") as error:
        run_json.read(tmp_path)
    assert str(error.value) == f"{tmp_path / 'run.json'}: damaged ({said})"
    assert read_leniently(tmp_path) == Skip(tmp_path, f"run.json: damaged ({said})")


def test_a_reason_is_one_printable_line_whatever_the_file_says(tmp_path):
    found = read_leniently(written(tmp_path, status="\x1b[2J\nasleep"))
    assert isinstance(found, Skip)
    assert found.reason.startswith(r"run.json: damaged (status: \x1b[2J\nasleep is none of")


def test_a_folder_without_run_json_is_told_from_a_sweep_and_from_none(tmp_path):
    with pytest.raises(ValueError, match="there is no such folder"):
        run_json.read(tmp_path / "none")
    with pytest.raises(ValueError, match=r"not a run \(it has no run\.json\)"):
        run_json.read(tmp_path)
    (tmp_path / "sweep.json").touch()
    with pytest.raises(ValueError, match=r"a sweep, not a run; name one of the runs in it"):
        run_json.read(tmp_path)


def test_the_death_of_a_process_is_entered_beside_what_it_had_written(tmp_path):
    facts = {key: WHOLE[key] for key in ("name", "config", "config_hash", "overrides")}
    run_json.enter_failure(tmp_path, facts, "killed", ["last line"])
    found = run_json.read(tmp_path)
    assert (found["status"], found["failure"]) == ("failed", {"reason": "killed", "lines": ["last line"]})
    written(tmp_path, status="running")
    run_json.enter_failure(tmp_path, facts, "killed", [])
    assert run_json.read(tmp_path)["final"] == WHOLE["final"]
    with held(tmp_path), pytest.raises(ValueError, match="in use by another"):
        run_json.enter_failure(tmp_path, facts, "killed again", [])


def test_a_group_without_a_name_is_damage(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({**WHOLE, "config": {"seed": 3, "norm": "bn"}}))
    with pytest.raises(ValueError, match="config: norm is no group with a name"):
        run_json.read(tmp_path)
