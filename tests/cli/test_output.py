"""What is said arrives at once, also from a process that ends without any clean-up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bnexp.cli.output import note


def test_a_line_is_there_before_the_process_goes_on():
    program = "import os; from bnexp.cli.output import say; say('there', end='!'); os._exit(3)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "there!", "")


@pytest.mark.parametrize(("at_a_terminal", "told"), [(True, "loading\n"), (False, "")])
def test_what_is_being_done_is_told_at_a_terminal_alone(monkeypatch, capsys, at_a_terminal, told):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: at_a_terminal)
    note("loading")
    assert capsys.readouterr() == ("", told)
