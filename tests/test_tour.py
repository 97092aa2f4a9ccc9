"""The notebook of the tour runs as plain Python, from top to bottom."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_the_cells_of_the_tour_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    book = json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    space: dict[str, object] = {}
    for cell in cells:
        exec(compile(cell, "tour.ipynb", "exec"), space)
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["none", "none", "bn", "bn", "norm=bn", "norm=none", "Sequential"]
    assert len(list((tmp_path / "outputs").rglob("run.json"))) == 4
