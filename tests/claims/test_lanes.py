"""Work in several processes at once: what comes back, and what becomes of errors, of deaths and of signals."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from processes import until

from bnexp.claims.lanes import side_by_side
from bnexp.config.checks import RunFailedError
from bnexp.stopping import Stop

# The test runner has threads, of which Python 3.12 warns where a process is forked.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def work(task, lane):
    if isinstance(task, type) and issubclass(task, Exception):
        raise task("what is wrong")
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "wait":
        stop = Stop()
        stop()
        with stop.listening():
            Path("listens").touch()
            until(stop, 20)
        return stop.exit_code
    return task, lane, os.getpid()


def test_each_task_is_done_once_by_one_of_the_processes(tmp_path):
    def close():
        (tmp_path / str(os.getpid())).touch()

    found = dict(side_by_side(work, close, range(7), 3, Stop()))
    assert list(sorted(found)) == [number for number, _, _ in map(found.get, sorted(found))] == [*range(7)]
    assert {lane for _, lane, _ in found.values()} == {0, 1, 2}
    assert {path.name for path in tmp_path.iterdir()} == {str(pid) for _, _, pid in found.values()}
    assert len(list(tmp_path.iterdir())) == 3
    assert str(os.getpid()) not in {path.name for path in tmp_path.iterdir()}


def children() -> str:
    """The numbers of this process's children, also of those that have ended and were not collected."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


@pytest.mark.parametrize(
    ("task", "kind", "message"),
    [
        (ValueError, ValueError, "^what is wrong$"),
        (KeyError, RunFailedError, "KeyError: 'what is wrong'"),
        ("die", RunFailedError, "a process was killed"),
    ],
)
def test_an_error_ends_all_and_is_raised_here(task, kind, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = children()
    with pytest.raises(kind, match=message):
        list(side_by_side(work, lambda: None, ["wait", task], 2, Stop()))
    assert children() == before


def test_a_signal_lets_the_tasks_end_and_begins_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stop, found = Stop(), []
    stop()
    with stop.listening():
        for task, code in side_by_side(work, lambda: None, ["now", "wait", "wait", "never"], 2, stop):
            found.append((task, code if task == "wait" else None))
            if task == "now":
                until(Path("listens").exists)
                os.kill(os.getpid(), signal.SIGTERM)
    assert found == [("now", None), ("wait", 143)]
    assert stop.exit_code == 143
