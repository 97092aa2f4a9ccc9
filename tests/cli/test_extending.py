"""The example under docs/extending runs as it says, and a fault in such a file is named by file and line."""

from __future__ import annotations

import csv
import shutil
import sys

import pytest
from conftest import ROOT

from bnexp.data import DATA
from bnexp.models import MODELS
from bnexp.norms import NORMS
from bnexp.probes import PROBES

EXAMPLE = ROOT / "docs" / "extending"
WORDS = ("norm=peak", "model=wide", "data=quadrants", "probes=[kurtosis]", "epochs=5", "hydra.run.dir=run")


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A copy of the example, as a user's working folder; what it registers is forgotten afterwards."""
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with NORMS.temporarily(), MODELS.temporarily(), DATA.temporarily(), PROBES.temporarily():
        yield tmp_path
    sys.modules.pop("my_lab", None)


def test_the_command_of_the_example(bnexp, own_folder):
    answer = bnexp("train", "--config-dir", "configs", "imports=[my_lab]", *WORDS)
    assert answer.code == 0, answer
    with (own_folder / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    accuracies = [float(row["value"]) for row in rows if row["metric"] == "test/accuracy"]
    assert len(accuracies) == 5
    assert accuracies[-1] > 0.8
    measured = [row for row in rows if row["metric"].startswith("probe/kurtosis/kurtosis/")]
    assert measured[0]["step"] == "1"
    assert all(1 <= float(row["value"]) < 100 for row in measured)
    assert f'"{" ".join(("--config-dir configs imports=[my_lab]", *WORDS[:5]))}' in f'"{_command()}'


def _command() -> str:
    (line,) = [line for line in (EXAMPLE / "my_lab.py").read_text().splitlines() if "bnexp train" in line]
    return line.partition("bnexp train ")[2]


def test_a_fault_in_a_users_file_is_named_by_file_and_line(bnexp, own_folder):
    (own_folder / "my_fault.py").write_text('"""A slip."""\n\nfrom bnexp.norms import NORM\n')
    answer = bnexp("train", "imports=[my_fault]", "hydra.run.dir=run")
    assert answer.code == 2
    assert "my_fault.py:3: ImportError" in answer.err
    assert answer.err.count("\n") == 1
    assert not (own_folder / "run").exists()
    sys.modules.pop("my_fault", None)
