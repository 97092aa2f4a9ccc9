"""The scripts import what there is: they are run by hand, and would otherwise fall behind the package unseen."""

from __future__ import annotations

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
