"""What a run shows while it trains: a bar and its evaluations on a terminal of 80 columns, plain lines in a file."""

from __future__ import annotations

import io
import os
import re
import sys

import pytest

from bnexp.experiment import display
from bnexp.record import Record

NAME = "norm=bn,model=mlp,model.depth=10,optim.lr=0.1,seed=7"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return -1


@pytest.fixture
def clock(monkeypatch):
    """The time that the display reads, in a list so that a test can change it."""
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


def shown(stream: io.StringIO, tmp_path, clock, *, seconds: float) -> list[str]:
    """What is written in a run of 400 steps that evaluates at step 20, where ``seconds`` have passed since step 10."""
    screen = display.RunDisplay(NAME, 0, 400, [tmp_path])
    with display.console(), screen.bar:
        screen.show(Record(10, 0.5, {"train/loss": [1.5]}))
        clock[0] += seconds
        measured = {"train/loss": [0.75], "train/accuracy": [0.5], "test/accuracy": [0.625], "test/loss": [2.0]}
        screen.show(Record(20, 1.0, measured | {"test/accuracy_precise": [0.875]}))
        screen.bar.refresh()
        clock[0] += seconds
        screen.show(Record(30, 1.5, {"train/loss": [0.5]}))
    return [re.sub(r"\x1b\[\w", "", line) for line in re.split(r"[\r\n]", stream.getvalue()) if line.strip()]


EVALUATION = "epoch 1  step 20  loss 0.7500  accuracy 0.5000  test 0.6250  precise 0.8750"


def test_a_terminal_of_80_columns_shows_rate_time_left_accuracy_and_evaluations(tmp_path, monkeypatch, clock):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((80, 24)))
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    lines = shown(terminal, tmp_path, clock, seconds=0.1)
    assert EVALUATION in lines
    bars = [line for line in lines if "%|" in line]
    assert re.fullmatch(r"norm=bn.*\.\.\..*=7: +5%\|.+\| \S+ left, +\S+step/s, loss 0\.7500, test 0\.6250", bars[-2])
    assert "loss 0.5000, test 0.6250" in bars[-1]
    assert max(map(len, lines)) <= 80


def test_a_file_gets_the_evaluations_alone(tmp_path, monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    assert shown(file, tmp_path, clock, seconds=0.1) == [EVALUATION]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (1.5, []),  # 380 steps left are 57 s
        (3.0, ["about 2 minutes to go, at 3.33 steps a second"]),
        (150.0, ["about 1.6 hours to go, at 0.0667 steps a second"]),
        (6000.0, ["about 2.6 days to go, at 0.00167 steps a second"]),
    ],
)
def test_a_long_run_says_once_how_long_it_takes(tmp_path, monkeypatch, clock, seconds, told):
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    assert shown(file, tmp_path, clock, seconds=seconds) == [EVALUATION, *told]
