"""How a run ended, as lists and overviews say it."""

from __future__ import annotations

import pytest
from test_compare import write_run

from bnexp.compare.overview import single
from bnexp.compare.terminal import as_text
from bnexp.runs.collect import read
from bnexp.runs.storage import held


@pytest.mark.parametrize("ended", ["finished", "failed", "diverged", "interrupted"])
def test_a_run_that_has_ended_says_how(tmp_path, ended):
    assert read(write_run(tmp_path / "a", status=ended)).status == ended


def test_a_run_whose_process_is_gone_was_interrupted(tmp_path):
    folder = write_run(tmp_path / "a", status="running")
    assert read(folder).status == "interrupted"
    with held(folder):
        assert read(folder).status == "running"


def test_marks_that_move_a_terminal_are_spelled_out(tmp_path):
    mark = "\x1b[2J"
    said = {"overrides": [f"notes={mark}", f"x={mark}"], "failure": {"reason": mark, "lines": [mark]}}
    provenance = {"started": mark, "device": mark, "bnexp": mark}
    folder = write_run(tmp_path / f"a{mark}", norm=mark, status="failed", provenance=provenance, **said)
    text = as_text(single(folder).blocks)
    assert text.count("\\x1b[2J") >= 6
    assert "\x1b" not in text
