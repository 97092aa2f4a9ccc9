"""The example under docs/extending runs as it says, and a fault in such a file is named by file and line."""

from __future__ import annotations

import ast
import csv
import re
import shutil
import sys

import pytest
from conftest import ROOT, own_builders

EXAMPLE = ROOT / "docs" / "extending"
WORDS = ("norm=peak", "model=wide", "data=quadrants", "probes=[kurtosis]", "evaluations=[turned]", "epochs=5")


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A copy of the example, as a user's working folder; what it registers is forgotten afterwards."""
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with own_builders():
        yield tmp_path
    sys.modules.pop("my_lab", None)


def test_the_command_of_the_example(bnexp, own_folder):
    answer = bnexp("train", "--config-dir", "configs", "imports=[my_lab]", *WORDS, "hydra.run.dir=run")
    assert answer.code == 0, answer
    with (own_folder / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    accuracy, quarter, half = (_values(rows, f"test/accuracy{turned}") for turned in ("", "_turned90", "_turned180"))
    assert len(accuracy) == 5
    assert accuracy[-1] > 0.8
    # A quarter turn takes every point to a neighbouring quadrant, which is of the other class; a half turn does not.
    assert quarter[-1] < 0.2
    assert half[-1] > 0.8
    measured = [row for row in rows if row["metric"].startswith("probe/kurtosis/kurtosis/")]
    assert measured[0]["step"] == "1"
    assert all(1 <= float(row["value"]) < 100 for row in measured)
    assert _command() == ["--config-dir", "configs", "imports=[my_lab]", *WORDS]


def _values(rows: list[dict[str, str]], metric: str) -> list[float]:
    return [float(row["value"]) for row in rows if row["metric"] == metric]


def _command() -> list[str]:
    """The words behind ``bnexp train`` in the docstring of the example."""
    said = re.sub(r" \\\n +", " ", ast.get_docstring(ast.parse((EXAMPLE / "my_lab.py").read_text())) or "")
    (command,) = re.findall(r"^ +bnexp train (.+)$", said, re.MULTILINE)
    return command.split()


def test_an_evaluation_of_points_is_refused_on_images(bnexp, own_folder):
    answer = bnexp("train", "--config-dir", "configs", "imports=[my_lab]", "evaluations=[turned]", "hydra.run.dir=run")
    assert answer.complaint == "bnexp: evaluations=[turned]: turns points of a plane, and data=digits has others"
    assert not (own_folder / "run").exists()


def test_a_fault_in_a_users_file_is_named_by_file_and_line(bnexp, own_folder):
    (own_folder / "my_fault.py").write_text('"""A slip."""\n\nfrom bnexp.norms import NORM\n')
    answer = bnexp("train", "imports=[my_fault]", "hydra.run.dir=run")
    assert answer.code == 2
    assert "my_fault.py:3: ImportError" in answer.err
    assert answer.err.count("\n") == 1
    assert not (own_folder / "run").exists()
    sys.modules.pop("my_fault", None)
