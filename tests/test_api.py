"""bnexp in Python: what the command line does, in a child process, and runs read back."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT, SMALL

import bnexp


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_train_load_and_find():
    run = bnexp.train(*SMALL, "norm=bn", "steps=5")
    assert run.status == "finished"
    assert run.folder.name.endswith("norm=bn,steps=5")
    assert bnexp.load(run.folder).final == run.final
    runs = bnexp.train_all(*SMALL, "norm=bn,ln", "steps=4", "hydra.sweep.dir=both")
    assert sorted(run.settings["norm.name"] for run in runs) == ["bn", "ln"]
    assert [run.folder.parent.name for run in bnexp.find("both", norm="ln", optim__lr=0.05)] == ["both"]
    assert len(list(bnexp.find(norm="bn"))) == 1
    with pytest.raises(ValueError, match=r"find norm=gn: no run has it.*there are: bn, ln"):
        list(bnexp.find("both", norm="gn"))


def test_what_is_wrong_is_said_as_on_the_command_line(tmp_path):
    with pytest.raises(ValueError, match=r"^norm=bm: not known; did you mean bn\?"):
        bnexp.train("norm=bm")
    with pytest.raises(ValueError, match=r"run\.json"):
        bnexp.load(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_imported_before_it_is_asked_for():
    program = "import bnexp, sys; assert 'bnexp.api' not in sys.modules; bnexp.load; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.stdout == "False\n"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        bnexp.trian  # noqa: B018
