"""How a run ended, as lists and overviews say it."""

from __future__ import annotations

import pytest
from test_compare import write_run

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
