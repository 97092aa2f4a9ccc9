"""The scripts import what there is: they are run by hand, and would otherwise fall behind the package unseen."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.mark.parametrize("name", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_a_script_imports_and_says_what_it_is(name, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    assert module.__doc__
    assert callable(getattr(module, "main", None)) or name == "competitors"


def test_each_mutation_changes_a_line_and_is_python(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    mutate = importlib.import_module("mutate")
    path = Path("bnexp/models/pooling.py")
    source = (SCRIPTS.parent / path).read_bytes()
    found = mutate.mutations(path)
    assert len(found) > 10
    assert all(ast.dump(ast.parse(each.applied(source))) != ast.dump(ast.parse(source)) for each in found)
    assert mutate.drawn([path], 5, 3) == mutate.drawn([path], 5, 3)
    assert mutate.tests_of(path)[0] == "tests/models/test_pooling.py"
